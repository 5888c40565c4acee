"""The documentation is true: its code runs, and what it names exists."""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import URL

from alfred_db import Database
from alfred_db.cli import main

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(
            ROOT / name
            for name in (
                "README.md",
                "CHANGELOG.md",
                "CONTRIBUTING.md",
                "SECURITY.md",
                "examples/data/README.md",
                ".github/PULL_REQUEST_TEMPLATE.md",
            )
        ),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
ROOMS = (".github/", "alembic/", "alfred_db/", "benchmarks/", "docs/", "examples/", "tests/", "tools/")
NOT_RUN = re.compile(r"<!-- not run: .+ -->$")
NEEDS = re.compile(r"<!-- needs: (\w+) -->$")
HOME = "https://github.com/alfred-db/alfred-db/blob/main/"
"""Links of the README are absolute, so that they work on the package index too."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


FOLDERS = sorted({page.parent for page in PAGES})


def pages_in(folder: Path) -> list[Path]:
    """The pages of a folder: one test for all of them costs less than one for each."""
    return [page for page in PAGES if page.parent == folder]


def folder_name(folder: Path) -> str:
    return folder.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[tuple[int, str, bool]]:
    """Line, text, and whether it is to be run, of each block of Python.

    A block that needs a package runs where that is installed. Blocks with a title are files of the tutorial.
    """
    lines = page.read_text(encoding="utf-8").split("\n")
    for start, line in enumerate(lines):
        if line == "```python":
            end, mark = lines.index("```", start), lines[start - 1]
            needs = NEEDS.match(mark)
            run = not NOT_RUN.match(mark) and (needs is None or bool(importlib.util.find_spec(needs[1])))
            yield start + 1, "\n".join(lines[start + 1 : end]), run


def command_blocks(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and commands of each block of `sh` that has nothing but commands of ours, and is to be run."""
    lines = page.read_text(encoding="utf-8").split("\n")
    for start, line in enumerate(lines):
        if line == "```sh" and not NOT_RUN.match(lines[start - 1]):
            found = [one for one in lines[start + 1 : lines.index("```", start)] if one.strip()]
            if all(one.startswith("alfred-db ") for one in found):
                yield start + 1, found


def run_command(line: str) -> None:
    """Run a command as on a terminal, on the database of ALFRED_DB_URL."""
    done = CliRunner().invoke(main, shlex.split(line, comments=True)[1:])
    # A doctor may have a warning about the server of the tests.
    assert done.exit_code in ({0, 1} if line.startswith("alfred-db doctor") else {0}), (
        f"{line}\n{done.output}"
    )


def link_target(page: Path, link: str) -> Path:
    """The file that a link to a page of the project leads to."""
    path = link.partition("#")[0]
    return ROOT / path.removeprefix(HOME) if path.startswith(HOME) else page.parent / path


def code(page: Path) -> Iterator[str]:
    """Each line of a block of code, and each piece of code in a line of text."""
    for number, part in enumerate(re.split(r"^```.*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)):
        yield from part.splitlines() if number % 2 else re.findall(r"`([^`\n]+)`", part)


RUN = [
    page
    for page in PAGES
    if page.name != "tutorial.md" and (any(run for *_, run in blocks(page)) or any(command_blocks(page)))
]
"""The pages with something to run; the tutorial has a test of its own."""


def known_loggers() -> list[logging.Logger]:
    named = logging.root.manager.loggerDict.values()
    return [logging.root, *(one for one in named if isinstance(one, logging.Logger))]


@pytest.fixture
def loggers() -> Iterator[None]:
    """Leaves the loggers as they were: pages show how to set them."""
    before = {one: (one.level, one.propagate, one.disabled, [*one.handlers]) for one in known_loggers()}
    yield
    for one in known_loggers():
        level, one.propagate, one.disabled, handlers = before.get(one, (logging.NOTSET, True, False, []))
        one.setLevel(level)
        one.handlers[:] = handlers


@pytest.mark.parametrize("page", RUN, ids=name)
@pytest.mark.usefixtures("loggers")
def test_code_runs(page: Path, database_url: URL, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The blocks of a page run in order, in one namespace, on a migrated database; commands of ours between them."""
    monkeypatch.setenv("ALFRED_DB_URL", database_url.render_as_string(hide_password=False))
    monkeypatch.chdir(tmp_path)
    made: list[Database] = []
    init = Database.__init__

    def remember(self: Database, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Database, "__init__", remember)
    module = types.ModuleType(
        "page"
    )  # what a block names by its path, such as a middleware of Django, is found
    monkeypatch.setitem(sys.modules, "page", module)
    namespace = module.__dict__
    try:
        code = [(line, [text], False) for line, text, run in blocks(page) if run]
        commands = [(line, lines, True) for line, lines in command_blocks(page)]
        for line, texts, typed in sorted(code + commands):
            for text in texts:
                if typed:
                    run_command(text)
                else:
                    exec(compile("\n" * line + text, str(page), "exec"), namespace)
    finally:
        for database in made:
            database.close()


@pytest.mark.parametrize("folder", FOLDERS, ids=folder_name)
def test_code_that_is_not_run_is_python(folder: Path) -> None:
    for page in pages_in(folder):
        for line, text, run in blocks(page):
            if not run:
                compile("\n" * line + text, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("folder", FOLDERS, ids=folder_name)
def test_links_lead_somewhere(folder: Path) -> None:
    for page in pages_in(folder):
        links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        local = [link for link in links if "://" not in link or link.startswith(HOME)]
        assert [link for link in local if link[0] != "#" and not link_target(page, link).exists()] == []


def test_code_is_run_or_is_a_file_of_the_tutorial() -> None:
    """A fence with anything behind `python` is read by the test of the tutorial alone."""
    titled = {
        name(page) for page in PAGES if re.search(r"^```python .", page.read_text("utf-8"), re.MULTILINE)
    }
    assert titled == {"docs/tutorial.md"}


def test_links_of_the_readme_work_on_the_package_index() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 40
    assert [link for link in links if "://" not in link and not link.startswith("#")] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=folder_name)
def test_files_exist(folder: Path) -> None:
    for page in pages_in(folder):
        words = {
            word.rstrip(".,:;") for line in code(page) for word in line.split() if word.startswith(ROOMS)
        }
        paths = {word for word in words if not re.search(r"[<>]|0023|alfred_db/migrations", word)}
        assert [path for path in sorted(paths) if not any(ROOT.glob(path))] == []


def test_tests_exist() -> None:
    """The page of faults names the test of each case."""
    named = set(code(ROOT / "docs/concepts/faults.md"))
    files = [word for word in named if word.endswith(".py")]
    assert [file for file in files if not (ROOT / "tests" / file).is_file()] == []
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    tests = [word for word in named if word.startswith("test_") and word not in files]
    assert len(tests) > 30
    assert [test for test in tests if f"def {test}(" not in sources] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=folder_name)
def test_commands_exist(folder: Path) -> None:
    for page in pages_in(folder):
        for line in code(page):
            if line.startswith("alfred-db "):
                check_command(line)


def test_all_commands_are_on_their_page() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    shown = {name for name, command in main.commands.items() if not command.hidden}
    assert {name for name in shown if f"`alfred-db {name}" not in page} == set()
    served = {option for parameter in main.commands["mcp"].params for option in parameter.opts}
    assert {option for option in served if option not in page} == set()


def check_command(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, line
        command = command.commands[words.pop(0)]
    known = {"--help"}.union(*([*option.opts, *option.secondary_opts] for option in command.params))
    if command.name != "psql":
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("folder", FOLDERS, ids=folder_name)
def test_make_targets_exist(folder: Path) -> None:
    for page in pages_in(folder):
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        named = {line.split()[1] for line in code(page) if re.match(r"make [a-z]", line)}
        assert named <= set(targets)


def test_variables_are_read() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "alfred_db").rglob("*.py"))
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = {variable for page in PAGES for variable in re.findall(r"\bALFRED_DB_[A-Z_]+", page.read_text())}
    assert {variable for variable in named if variable not in sources + tests} == set()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if not re.search(rf"\b{re.escape(page)}$", navigation, re.MULTILINE)] == []


def test_the_quickstart_names_what_to_do_before_the_migration(empty_url: URL) -> None:
    done = run_quickstart(empty_url)
    assert done.returncode == 1
    assert "`alfred-db upgrade`" in done.stderr


def test_the_quickstart_works_twice(database_url: URL) -> None:
    first, second = run_quickstart(database_url), run_quickstart(database_url)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "2,000 stored with their vectors, 0 known" in first.stdout
    assert "0 stored with their vectors, 2,000 known" in second.stdout
    assert first.stdout.count("enqueued and completed; memory seen 1 x") == 5
    assert second.stdout.count("completed by an earlier run; memory seen 2 x") == 5
    assert first.stdout.count(" * ") == second.stdout.count(" * ") == 6


def run_quickstart(url: URL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py"],
        capture_output=True,
        text=True,
        env=os.environ
        | {"ALFRED_DB_URL": url.render_as_string(hide_password=False), "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
def test_a_stranger_finds_every_guide_from_the_first_page(start: str) -> None:
    page = ROOT / start
    linked = {
        link_target(page, link).resolve()
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    }
    guides = [*(ROOT / "docs/howto").glob("*.md"), *(ROOT / "docs/concepts").glob("*.md")]
    assert [guide.name for guide in sorted(guides) if guide not in linked] == []


def test_the_answers_of_the_layout_page_are_in_the_files_that_it_names() -> None:
    text = (ROOT / "docs/concepts/layout.md").read_text(encoding="utf-8")
    table = text.split("## Frequent questions")[1].split("## All modules")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 7
    for row in rows:
        named = re.findall(r"`([^`]+)`", row)
        places = [ROOT / word for word in named if "/" in word]
        assert places, row
        sources = "".join(place.read_text(encoding="utf-8") for place in places)
        assert [word for word in named if "/" not in word and not re.search(rf"\b{word}\b", sources)] == [], (
            row
        )
