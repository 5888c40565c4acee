"""The house: which modules stand where, who may import what, and whether the layout page shows it."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from inspect import isfunction
from pathlib import Path

import pytest

from alfred_db.repositories import _async as repositories

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "alfred_db"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "_sync" not in path.parts]
TOP = {"__init__", "fastapi", "config", "errors", "checks", "cron", "sql", "types"}

NOUNS = {
    "agents": "agent",
    "auth": "auth",
    "broker": "broker",
    "cache": "cache",
    "conversations": "conversation",
    "documents": "document",
    "entities": "entity",
    "events": "event",
    "knowledge": "knowledge",
    "leases": "lease",
    "memories": "memory",
    "messages": "message",
    "model_registry": "model_registry",
    "queues": "queue",
    "rag": "rag",
    "rate_limits": "rate_limit",
    "scheduler": "scheduler",
    "spaces": "space",
    "storage": "storage",
    "tasks": "task",
    "validation": "validation",
    "web_sessions": "web_session",
    "workflows": "workflow",
    "working_memory": "working_memory",
}
"""The nouns, with the word that the names of their parts begin with."""

BESIDE = {
    "models": {"base", "capabilities", "functions", "servers"},
    "queries": set[str](),
    "repositories/_async": {"unit_of_work"},
    "values": {"page", "partitions"},
}
"""The rooms of nouns, and what else stands in each."""


def imports(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """What a module imports from the package: where from, as names of folders and modules, and what."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split("."))]
            yield base, [alias.name for alias in node.names]


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore; the halves of a generated pair do, and are no secret."""
    return name.startswith("_") and not name.startswith("__") and name not in ("_async", "_sync")


def test_the_top_level_holds_what_the_design_names() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_private_means_private_to_the_folder(path: Path) -> None:
    mine = list(path.relative_to(PACKAGE).parts[:-1])
    for base, names in imports(path):
        for depth, part in enumerate(base):
            assert not is_private(part) or base[:depth] == mine, f"{'.'.join(base)} is private to its folder"
        is_module = (PACKAGE.joinpath(*base)).is_dir()
        for name in names:
            assert not is_private(name) or (is_module and base == mine), (
                f"{'.'.join(base)}: {name} is private"
            )


@pytest.mark.parametrize("room", BESIDE)
def test_a_noun_has_the_same_file_name_in_every_room(room: str) -> None:
    for path in sorted((PACKAGE / room).glob("*.py")):
        if path.stem.startswith("_") or path.stem in BESIDE[room]:
            continue
        known = path.stem in NOUNS or any(path.stem.startswith(f"{word}_") for word in NOUNS.values())
        assert known, f"{room}/{path.name}: name it after a noun, or after a noun and a role"


@pytest.mark.parametrize("noun", sorted(NOUNS.keys() - {"leases"}))
def test_a_noun_has_its_models_its_repository_and_its_test(noun: str) -> None:
    word = NOUNS[noun]
    for folder in ("alfred_db/models", "alfred_db/queries", "alfred_db/repositories/_async"):
        found = {path.stem for path in (ROOT / folder).glob("*.py")}
        assert noun in found or any(name.startswith(f"{word}_") for name in found), (
            f"{folder} has nothing of it"
        )
    assert list((ROOT / "tests/_async").glob(f"test_{noun}.py")) or list(
        (ROOT / "tests/_async").glob(f"test_{word}_*.py")
    )


REPOSITORIES = PACKAGE / "repositories/_async"


@cache
def repository_classes() -> dict[str, tuple[str, list[str]]]:
    """The public classes of the repositories: the module, and the names of the bases."""
    return {
        node.name: (
            path.stem,
            [name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name)],
        )
        for path in sorted(REPOSITORIES.glob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(REPOSITORIES.glob("*.py")) if path.stem not in ("__init__", "unit_of_work")],
    ids=lambda path: path.stem,
)
def test_a_repository_is_split_in_one_way(path: Path) -> None:
    mine = [name for name, (module, _) in repository_classes().items() if module == path.stem]
    assert len(mine) == 1, "one public class in each file: a repository, or a part of one"
    functions = [
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    assert functions == [], "what runs statements for a repository is a method of a part"
    if not mine[0].endswith("Repository"):
        assert mine[0] == "Async" + "".join(word.title() for word in path.stem.split("_")), (
            "named after its file"
        )


def test_parts_belong_to_one_repository_and_to_no_other_part() -> None:
    classes = repository_classes()
    parts = {name for name in classes if not name.endswith(("Repository", "Base", "UnitOfWork"))}
    assert len(parts) >= 10
    for part in parts:
        owners = [name for name, (_, bases) in classes.items() if part in bases]
        assert len(owners) == 1, f"{part}: is a base of {owners}; expected one repository"
        assert owners[0].endswith("Repository"), f"{part}: is a base of the part {owners[0]}"
        assert not parts & set(classes[part][1]), f"{part}: derives from another part"


@pytest.mark.parametrize(
    "name", [name for name in repositories.__all__ if name.endswith("Repository")], ids=str
)
def test_a_method_is_defined_in_one_part(name: str) -> None:
    own = [
        kind
        for kind in getattr(repositories, name).__mro__
        if kind.__module__.startswith("alfred_db.repositories.")
    ]
    names = [method for kind in own for method in vars(kind) if isfunction(vars(kind)[method])]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("page", ["docs/concepts/layout.md", "CONTRIBUTING.md"])
def test_the_page_shows_the_whole_house(page: str) -> None:
    text = (ROOT / page).read_text()
    rooms = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    missing = [f"{room}/" for room in rooms if f"{room}/" not in text]
    missing += [f"{name}.py" for name in TOP - {"__init__"} if f"{name}.py" not in text]
    assert missing == []


def drawn(root: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "tools/layout.py", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_page_and_the_picture_are_drawn_from_the_code() -> None:
    assert drawn(ROOT, "--check") == (0, ""), "run `make docs`"


def test_a_new_module_makes_the_page_stale(tmp_path: Path) -> None:
    for folder in ("alfred_db", "docs/concepts", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "alfred_db/search/spelling.py").write_text(
        '"""How a word is spelled."""\nfrom ..errors import AlfredDBError\n'
    )
    status, output = drawn(tmp_path, "--check")
    assert (status, "layout.md: is stale" in output) == (1, True)
