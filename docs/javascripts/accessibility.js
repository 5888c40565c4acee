// What axe asks for beyond the theme: a name for the search, and tables and code that the keyboard can scroll.
window.addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const scrolled of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    scrolled.tabIndex = 0;
  }
});
