"""Change the code in small ways, one at a time, and see whether its tests notice: `make mutants`.

    python tools/mutants.py [--count 200] [--seed 1] [--workers 1] [--timeout 180] [--again] [--only queries/tasks]

The changes are those of cosmic-ray; `tools/mutants.toml` selects them, says which tests belong to a module,
and explains the survivors that no test can notice. Each mutant is made in a copy of the checkout and tested there
against the tests of its noun, on one server for all. The copy's sync half is generated anew where it changes.
The results are kept in `.venv/mutants`: an interrupted run continues, and a run after a change of the code tests what is new.
`--again` tests the survivors once more. The exit status is 1 when fewer than `killed` percent are killed.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parent.parent
KEPT = ROOT / ".venv" / "mutants"
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text(encoding="utf-8"))
# Without its parameters, whose text may hold anything.
NONE_SELECTED = 5
"""The exit status of pytest that has found no test to run."""
FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+\.py[^\s\[]*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A change of one module: an operator of cosmic-ray, applied to the place with this number."""

    path: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str
    rank: str

    @property
    def text(self) -> str:
        """The change in one line."""
        return f"{self.path}:{self.line}: {self.before}  ->  {self.after}"


def modules() -> list[str]:
    """The modules that are changed: written, not generated, and not released."""
    found = [
        path.relative_to(ROOT).as_posix() for room in CONFIG["rooms"] for path in (ROOT / room).rglob("*.py")
    ]
    return sorted(path for path in found if not re.search(CONFIG["skip"], path))


def places(path: str, seed: int) -> Iterator[tuple[str, str, str, int]]:
    """The rank, path, operator and number of all changes of a module that something depends on.

    They are ranked by what they change, not where: a sample changes little when the code around it does.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    source = (ROOT / path).read_text(encoding="utf-8")
    lines = source.splitlines()
    nodes = [(node, _meaningless(node)) for node in ast_nodes(get_ast(source))]
    seen: Counter[str] = Counter()
    for name in CONFIG["operators"]:
        operator = get_operator(f"core/{name}")()
        found = ((node, skipped) for node, skipped in nodes for _ in operator.mutation_positions(node))
        for occurrence, (node, skipped) in enumerate(found):
            if not skipped:
                same = f"{seed} {path} {name} {lines[node.start_pos[0] - 1].strip()}"
                seen[same] += 1
                yield sha256(f"{same} {seen[same]}".encode()).hexdigest(), path, name, occurrence


def mutated(source: str, operator: str, occurrence: int) -> str | None:
    """The source with the change, or None where the operator does not understand the code."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    try:
        result = mutate_code(source, get_operator(f"core/{operator}")(), occurrence)
        compile(result or "", "mutant", "exec")
    except (AttributeError, SyntaxError):
        return None
    return None if result is None else str(result)


def _meaningless(node: Any) -> bool:
    """Whether nothing that runs depends on the node."""
    inner, outer = node, node.parent
    while outer is not None:
        if (
            outer.type in {"annassign", "tfpdef"}
            and inner is outer.children[1 if outer.type == "annassign" else -1]
        ):
            return True
        if outer.type == "funcdef" and "->" in outer.children and inner is outer.annotation:
            return True
        if outer.type in {"raise_stmt", "assert_stmt", "decorator", "decorated_type"}:
            return True
        if outer.type in {"power", "atom_expr"} and re.match(
            CONFIG["messages"], outer.get_code(include_prefix=False)
        ):
            return True
        if outer.type == "if_stmt" and outer.children[1].get_code().strip() == "TYPE_CHECKING":
            return True
        inner, outer = outer, outer.parent
    return False


def _changed(source: str, other: str) -> tuple[int, str, str]:
    """The first lines that differ: their number, and their text before and after."""
    old, new = source.splitlines(), other.splitlines()
    line = next(number for number, pair in enumerate(zip_longest(old, new)) if pair[0] != pair[1])
    same = next(n for n, pair in enumerate(zip(old[::-1], new[::-1], strict=False)) if pair[0] != pair[1])
    before, after = (" ".join(map(str.strip, text[line : len(text) - same])) for text in (old, new))
    return line + 1, before, after


def sample(count: int, seed: int, only: str = "") -> list[Mutant]:
    """A sample of the mutants, the same for the same seed and code."""
    found = sorted(place for path in modules() if only in path for place in places(path, seed))
    print(f"{len(found)} mutants, of which {min(count, len(found))} are tested", flush=True)
    chosen: list[Mutant] = []
    for rank, path, operator, occurrence in found:
        source = (ROOT / path).read_text(encoding="utf-8")
        if len(chosen) < count and (result := mutated(source, operator, occurrence)) not in (None, source):
            chosen.append(Mutant(path, operator, occurrence, *_changed(source, result or ""), rank))
    return chosen


@cache
def tests_of(path: str, root: Path) -> list[str]:
    """The test files of a module: those that start with its noun, and what `mutants.toml` adds; the narrowest first."""
    noun = re.sub(r"(ies|s)$", "", Path(path).stem.split("_")[0])
    listed = [pattern for key, given in CONFIG["tests"].items() if re.search(key, path) for pattern in given]
    patterns = [f"tests/**/test_{Path(path).stem}*.py", *(listed or [f"tests/**/test_{noun}*.py"])]
    found = [
        file.relative_to(root).as_posix()
        for pattern in [*patterns, *CONFIG["always"]]
        for file in sorted(root.glob(pattern))
    ]
    return [file for file in dict.fromkeys(found) if not re.search(CONFIG["skip_tests"], file)]


ZYGOTE = """
import json, os, sys
import alembic.command, click.testing, cronsim, numpy, pgvector, psycopg, pytest
import sqlalchemy.dialects.postgresql.psycopg, sqlalchemy.ext.asyncio, sqlalchemy.orm
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        printed = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, stream in enumerate((nothing, printed, printed)):
            os.dup2(stream, number)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.path[:0] = [asked["folder"], asked["folder"] + "/tools"]
        sys.dont_write_bytecode = True
        status = 70
        try:
            status = int(pytest.main(asked["arguments"]))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported what all tests import, and forks one of its kind for each run."""


class Zygote:
    """Runs pytest in forks of one process."""

    def __init__(self, stack: ExitStack) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(self._process.kill)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def run(
        self, folder: Path, environment: dict[str, str], arguments: list[str], timeout: float
    ) -> tuple[int, str]:
        """Return the exit status of pytest, or -1 if it took too long, and what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.NamedTemporaryFile(prefix="alfred-mutants-") as output:
            asked = {
                "folder": str(folder),
                "environment": environment,
                "arguments": arguments,
                "output": output.name,
            }
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            child = int(self._process.stdout.readline())
            late = threading.Event()

            def end() -> None:
                late.set()
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)

            timer = threading.Timer(timeout, end)
            timer.start()
            status = int(self._process.stdout.readline())
            timer.cancel()
            with suppress(ProcessLookupError):  # what it has started
                os.killpg(child, signal.SIGKILL)
            return -1 if late.is_set() else status, Path(output.name).read_text("utf-8", "replace")


class Place:
    """A copy of the checkout, and how tests run in it."""

    def __init__(self, folder: Path, url: str, template: str, timeout: float, zygote: Zygote) -> None:
        self.zygote = zygote
        self.folder = folder
        self.timeout = timeout
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ALFRED_DB_")},
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ALFRED_DB_TEST_URL": url,
        }
        self.template = template
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        for file in filter(None, files):
            if (ROOT / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, folder / file)
        (folder / ".venv").symlink_to(ROOT / ".venv")
        # Compiled by content: a mutant may have the length and the second of what it replaces.
        command = ["-m", "compileall", "-qq", "--invalidation-mode", "checked-hash", "alfred_db", "tests"]
        subprocess.run([sys.executable, *command], cwd=folder, check=True)

    def run(
        self, files: Iterable[str], *, without: Iterable[str] = (), path: str = "", words: Iterable[str] = ()
    ) -> tuple[int, str]:
        """Run tests; the exit status of pytest, or -1 if they took too long, and what was printed."""
        environment = dict(self.environment)
        if not path.startswith("alfred_db/migrate/"):
            environment["ALFRED_DB_TEST_TEMPLATE"] = self.template
        environment["MUTANT_WORDS"] = " ".join(words)
        arguments = [
            "-x", "-q", "-p", "no:cacheprovider", "-p", "mutants_order", "--no-header", "--tb=line", "--assert=plain",
            *(f"--deselect={test}" for test in without), *files,
        ]  # fmt: skip
        return self.zygote.run(self.folder, environment, arguments, self.timeout)

    def test(self, mutant: Mutant, without: Iterable[str] = ()) -> dict[str, Any]:
        """Make the mutant, run its tests, and undo it."""
        source = (self.folder / mutant.path).read_text(encoding="utf-8")  # the checkout may change meanwhile
        try:
            self._write(mutant.path, mutated(source, mutant.operator, mutant.occurrence) or source)
            status, printed = 0, ""
            files = tests_of(mutant.path, self.folder)
            for some in (
                files[:1],
                files[1:],
            ):  # most die in the first file, and to collect the others takes seconds
                if some and status in (0, NONE_SELECTED):
                    status, printed = self.run(
                        some, without=without, path=mutant.path, words=around(source, mutant.line)
                    )
        finally:
            self._write(mutant.path, source)
        by = FAILED.search(printed)
        if status not in (-1, 0, NONE_SELECTED) and by is None and "while loading conftest" not in printed:
            # Neither a test nor an import has failed: to count that as a death would praise the tests for nothing.
            raise RuntimeError(f"{mutant.text}: pytest ended with status {status}\n{printed[-2000:]}")
        status = 0 if status == NONE_SELECTED else status
        killed = {-1: "timeout", 0: ""}.get(status, by.group(1) if by else f"exit status {status}")
        return {**dataclasses.asdict(mutant), "killed": killed, "printed": printed[-600:] if killed else ""}

    def _write(self, path: str, source: str) -> None:
        (self.folder / path).write_text(source, encoding="utf-8")
        if "/_async/" in path:
            subprocess.run(
                [sys.executable, "tools/unasync.py"], cwd=self.folder, check=False, capture_output=True
            )


class Server:
    """A server in a folder of its own, with a migrated template."""

    template = "alfred_mutants"

    def __init__(self, stack: ExitStack) -> None:
        from sqlalchemy import NullPool, create_engine, make_url, text

        from alfred_db import embedded, migrate

        sys.path.insert(0, str(ROOT / "tests"))
        from servers import place  # type: ignore[import-not-found]

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alfred-db-", dir=place())))
        folder.chmod(0o755)
        url = make_url(embedded.start(folder).url or "").set(database="postgres")
        stack.callback(embedded.stop, folder)
        self.url = url.render_as_string(hide_password=False)
        self._engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with self._engine.connect() as connection:
            for statement in (
                "ALTER SYSTEM SET fsync = off",
                "SELECT pg_reload_conf()",
                f"CREATE DATABASE {self.template}",
            ):
                connection.execute(text(statement))
        migrate.upgrade(url.set(database=self.template))
        migrate.upgrade(url.set(database=self.template), schema="acme")

    def clean(self) -> None:
        """Drop the databases that killed tests left behind."""
        from sqlalchemy import text

        with self._engine.connect() as connection:
            names = connection.scalars(
                text("SELECT datname FROM pg_database WHERE datname LIKE 'alfred\\_test\\_%'")
            )
            for name in names.all():
                connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


def around(source: str, line: int) -> list[str]:
    """The names of the functions and classes around a line, the innermost first; tests that name them run first."""
    names = [
        node.name.strip("_")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return [name for name in reversed(names) if name]


class Session:
    """The results, one a line in a file, by the mutant's rank and the module's content."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.results: dict[str, dict[str, Any]] = {}
        for line in lines:
            result = json.loads(line)
            self.results[result["rank"]] = result

    def add(self, result: dict[str, Any]) -> None:
        """Keep a result at once, so that an interrupted run goes on after it."""
        with self._lock, self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(result) + "\n")
            self.results[result["rank"]] = result


def explained(mutant: Mutant) -> str | None:
    """Why no test can notice the mutant, if `mutants.toml` explains it."""
    for entry in CONFIG.get("equivalent", []):
        if (entry["path"], entry["before"], entry["after"]) == (mutant.path, mutant.before, mutant.after):
            return str(entry["why"])
    return None


def report(chosen: list[Mutant], session: Session) -> float:
    """Print what survived and the counts by room; return the percentage that was killed."""
    done = [mutant for mutant in chosen if mutant.rank in session.results]
    dead = [mutant for mutant in done if session.results[mutant.rank]["killed"]]
    left = [mutant for mutant in done if mutant not in dead]
    equivalent = [mutant for mutant in left if explained(mutant)]
    for mutant in left:
        print(f"{'explained' if mutant in equivalent else 'SURVIVED ':9} {mutant.operator}: {mutant.text}")
    for room in CONFIG["rooms"]:
        of = [mutant for mutant in done if mutant.path.startswith(room)]
        print(f"{room}: {sum(mutant in dead for mutant in of)} of {len(of)} killed")
    percent = 100 * len(dead) / max(1, len(done) - len(equivalent))
    print(
        f"{len(done)} of {len(chosen)} tested: {len(dead)} killed, {len(left) - len(equivalent)} survived, "
        f"{len(equivalent)} explained; {percent:.1f}% killed of those not explained"
    )
    return percent


def test_all(chosen: list[Mutant], session: Session, workers: int, timeout: float) -> None:
    """Test the mutants, and count no death by a test that fails without the mutant as well."""
    with ExitStack() as stack:
        places: Queue[tuple[Place, Server]] = Queue()
        for _ in range(workers):
            server = Server(stack)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alfred-mutants-")))
            places.put((Place(folder, server.url, server.template, timeout, Zygote(stack)), server))
        broken: list[str] = []

        def one(mutant: Mutant) -> None:
            place, server = places.get()
            try:
                result = place.test(mutant, broken)
                server.clean()
            finally:
                places.put((place, server))
            session.add(result)
            print(
                f"{'killed' if result['killed'] else 'SURVIVED':8} {mutant.text}  {result['killed']}",
                flush=True,
            )

        while chosen:
            with ThreadPoolExecutor(workers) as pool:
                try:
                    list(pool.map(one, chosen))
                except BaseException:  # do not start what is waiting
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            by = {str(session.results[mutant.rank]["killed"]) for mutant in chosen}
            place, server = places.get()
            new: list[str] = []
            while suspects := sorted({test for test in by if ".py" in test and test not in new}):
                status, printed = place.run(suspects)
                server.clean()
                failing = FAILED.search(printed)
                if status == 0 or failing is None or failing.group(1) not in suspects:
                    break
                print(f"fails without a mutant: {failing.group(1)}", flush=True)
                new.append(failing.group(1))
            places.put((place, server))
            broken += new
            chosen = [mutant for mutant in chosen if session.results[mutant.rank]["killed"] in new]


def main(arguments: list[str]) -> int:
    """Test a sample of mutants; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="size of the sample")
    parser.add_argument("--seed", type=int, default=1, help="another seed takes another sample")
    parser.add_argument(
        "--workers", type=int, default=1, help="mutants at a time, each on a server of its own"
    )
    parser.add_argument(
        "--timeout", type=float, default=180, help="seconds after which a mutant counts as killed"
    )
    parser.add_argument("--only", default="", help="mutate the modules whose path contains this")
    parser.add_argument("--again", action="store_true", help="test the survivors again")
    parser.add_argument("--list", action="store_true", help="print the sample and the tests, and run nothing")
    given = parser.parse_args(arguments)
    chosen = sample(given.count, given.seed, given.only)
    if given.list:
        for mutant in chosen:
            print(mutant.operator, mutant.text, "|", *tests_of(mutant.path, ROOT))
        return 0
    session = Session(KEPT / "session.jsonl")
    todo = [
        mutant
        for mutant in chosen
        if (result := session.results.get(mutant.rank)) is None
        or (given.again and not result["killed"] and not explained(mutant))
    ]
    # Started in the background, a process ignores Ctrl-C; and its servers must not outlive it.
    for stopped in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stopped, signal.default_int_handler)
    try:
        test_all(todo, session, given.workers, given.timeout)
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from here")
    return int(report(chosen, session) < CONFIG["killed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
