// Runs the search of the theme, as the browser does in a worker: `node search.js SITE`, queries as JSON on standard input.
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const site = process.argv[2];
const workers = path.join(site, "assets/javascripts/workers");
const [worker] = fs.readdirSync(workers).filter((name) => /^search\..*\.js$/.test(name));
const index = JSON.parse(fs.readFileSync(path.join(site, "search/search_index.json"), "utf8"));
const queries = JSON.parse(fs.readFileSync(0, "utf8"));

let listener, answered;
const scope = vm.createContext({
  console,
  addEventListener: (_, found) => (listener = found),
  postMessage: (message) => answered(message),
});
vm.runInContext("var self = globalThis; self.location = {href: ''};", scope);
vm.runInContext(fs.readFileSync(path.join(workers, worker), "utf8"), scope);

const ask = (type, data) =>
  new Promise((resolve) => {
    answered = resolve;
    listener({ data: { type, data } });
  });

(async () => {
  await ask(0, { ...index, options: { suggest: false } });
  const found = {};
  for (const query of queries) {
    const { data } = await ask(2, query);
    found[query] = data.items.map((group) => group[0].location.replace(/#.*/, ""));
  }
  process.stdout.write(JSON.stringify(found));
})();
