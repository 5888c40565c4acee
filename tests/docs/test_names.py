"""Modules, functions, methods and tests that the guides, records and concepts name exist: prose cannot go stale unseen."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
from docs.test_docs import FOLDERS, PAGES, ROOT, code, folder_name, name, pages_in

import alfred_db
from alfred_db import UnitOfWork

READ = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "benchmarks"]
GUIDES = sorted((ROOT / "docs" / "internals").glob("*.md"))
PACKAGE = Path(alfred_db.__file__).parent
ROOMS = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
# Rooms that only exist in a wheel, and dotted names of other things that begin like a room.
NOT_OURS = ("migrations",)
DOTTED = re.compile(r"(?:alfred_db\.)?[a-z_]\w*(?:\.\w+)+")


def read_in(folder: Path) -> list[Path]:
    return [page for page in pages_in(folder) if page in READ]


def words(page: Path) -> set[str]:
    """What stands in backticks or in blocks, without the calls' arguments."""
    return {re.sub(r"\(.*", "", part.strip()) for part in code(page)}


def names(page: Path) -> Iterator[str]:
    """The dotted names below the package."""
    for word in sorted(words(page)):
        if DOTTED.fullmatch(word) and not word.endswith(
            (".py", ".md", ".json", ".yml", ".toml", ".txt", ".csv")
        ):
            below = word.removeprefix("alfred_db.")
            first = below.split(".")[0]
            if word != below or (first in ROOMS and first not in NOT_OURS):
                yield below


def found(dotted: str) -> bool:
    """Whether a name leads somewhere: through modules as far as they go, then through attributes."""
    parts = dotted.split(".")
    thing: Any = alfred_db
    for number, part in enumerate(parts):
        if inspect.ismodule(thing) and not hasattr(thing, part):
            try:
                thing = importlib.import_module(".".join(["alfred_db", *parts[: number + 1]]))
            except ModuleNotFoundError:
                return False
            continue
        if inspect.isclass(thing) and not hasattr(thing, part):
            # A field without a default: only its annotation is there.
            return number == len(parts) - 1 and any(
                part in inspect.get_annotations(base) for base in thing.__mro__
            )
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
        if isinstance(thing, cached_property):
            return number == len(parts) - 1
    return True


@pytest.mark.parametrize("folder", FOLDERS, ids=folder_name)
def test_modules_and_functions_exist(folder: Path) -> None:
    for page in read_in(folder):
        assert [dotted for dotted in names(page) if not found(dotted)] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=folder_name)
def test_methods_of_a_unit_of_work_exist(folder: Path) -> None:
    for page in read_in(folder):
        for word in words(page):
            called = re.fullmatch(r"uow\.(\w+)\.(\w+)", word)
            if called is None or called[1] == "session":  # SQLAlchemy's
                continue
            repository = inspect.get_annotations(getattr(UnitOfWork, called[1]).func, eval_str=False)[
                "return"
            ]
            kind = getattr(importlib.import_module("alfred_db.repositories"), str(repository), None)
            assert kind is not None, word
            assert hasattr(kind, called[2]), word


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_what_guides_call_by_its_bare_name_is_in_the_sources(page: Path) -> None:
    named = {word for word in words(page) if re.fullmatch(r"[A-Za-z_]\w*", word)}
    assert sorted(named - _identifiers()) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=folder_name)
def test_tests_exist(folder: Path) -> None:
    for page in read_in(folder):
        sources = _tests()
        named = [word for word in words(page) if re.fullmatch(r"test_\w+", word) and word not in _TABLES]
        assert [test for test in sorted(named) if f"def {test}(" not in sources] == []


def test_the_guides_name_much_of_the_code() -> None:
    """What looks for names finds them; a page that names none is no guide."""
    assert len(GUIDES) > 8
    for page in GUIDES:
        if page.name != "index.md":
            paths = {
                word
                for word in words(page)
                if word.startswith(("alfred_db/", "tests/", "tools/", "alembic/"))
            }
            assert len({*names(page), *paths}) > 3, page
            assert len([word for word in words(page) if word.startswith("test_")]) > 3, page


@pytest.mark.parametrize(
    ("dotted", "there"),
    [
        ("checks.within", True),
        ("checks.without", False),
        ("queries.tasks.get", True),
        ("queries.nothing.get", False),
        ("nothing.at_all", False),
        ("models.Task.task_id", True),
        ("models.Task.task_number", False),
        ("repositories.AsyncTaskRepository.claim", True),
        ("repositories.AsyncTaskRepository.claims", False),
        ("values.ClaimedTask.lease_token", True),
        ("database.Database.begin", True),
    ],
)
def test_a_name_is_found_if_it_leads_somewhere(dotted: str, there: bool) -> None:
    assert found(dotted) is there


@cache
def _identifiers() -> set[str]:
    """Each word of the code."""
    folders = ("alfred_db", "alembic", "tests", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    return {found for path in files for found in re.findall(r"\w+", path.read_text("utf-8"))}


_TABLES = {"test_suites", "test_cases", "test_runs", "test_results"}


@cache
def _tests() -> str:
    return "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))
