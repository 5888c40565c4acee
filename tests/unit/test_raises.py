"""The `Raises:` of a public method, held by the errors that it and the helpers that it calls raise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from alfred_db import errors

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "alfred_db"

EVERYWHERE = {"AlfredDBError", "DatabaseUnavailable", "InvalidInputError", "UnreadableRow"}
"""What nearly every method can raise, for its arguments or the server: `docs/concepts/errors.md` describes these."""

DECIDED = {
    name
    for name in errors.__all__
    if name not in EVERYWHERE
    and isinstance(kind := getattr(errors, name), type)
    and not issubclass(kind, errors.InvalidInputError)
}
"""What a caller decides by: missing, conflicting and lost rows, and what is wrong with the database or its schema."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
        if "_sync" not in path.parts
    }


def functions(tree: ast.Module | ast.ClassDef) -> dict[str, Function]:
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@cache
def classes() -> dict[str, ast.ClassDef]:
    return {
        node.name: node for tree in modules().values() for node in tree.body if isinstance(node, ast.ClassDef)
    }


@cache
def makers() -> dict[str, str]:
    """The functions that return an error, with its class."""
    return {
        node.name: node.returns.id
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, Function) and isinstance(node.returns, ast.Name) and node.returns.id in DECIDED
    }


def raised(function: Function) -> set[str]:
    """The errors that the body of a function raises itself."""
    found: set[str] = set()
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and isinstance(node.exc.func, ast.Name)
        ):
            found.add(makers().get(node.exc.func.id, node.exc.func.id))
    return found & DECIDED


def documented(function: Function) -> set[str]:
    section = re.search(r"^Raises:\n((?: .*\n?|\n)*)", ast.get_docstring(function) or "", re.MULTILINE)
    return set(re.findall(r"^ +([A-Z]\w+):", section[1], re.MULTILINE)) if section else set()


def imported(path: Path, name: str) -> Function | None:
    """The function that a module has or imports by this name."""
    tree = modules()[path]
    if name in functions(tree):
        return functions(tree)[name]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                    found = modules().get(folder.with_suffix(".py"))
                    return None if found is None else functions(found).get(alias.name)
    return None


def method(owner: str, name: str) -> Function | None:
    """The method of a class or of its bases."""
    node = classes().get(owner)
    if node is None:
        return None
    bases = [base.id for each in node.bases for base in ast.walk(each) if isinstance(base, ast.Name)]
    return functions(node).get(name) or next(filter(None, (method(base, name) for base in bases)), None)  # type: ignore[return-value]


def helpers(path: Path, owner: str, function: Function) -> Iterator[Function]:
    """What a method calls directly: functions of the package, methods of its own, and the leases of its table."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        found = None
        match node.func:
            case ast.Name(id=name):
                found = imported(path, name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                found = method(owner, name)
            case ast.Attribute(value=ast.Attribute(attr="_leases"), attr=name):
                found = method("AsyncLeases", name)
            case _:
                pass
        if found is not None:
            yield found


def public_methods() -> list[tuple[Path, str, Function]]:
    return [
        (path, node.name, function)
        for path, tree in modules().items()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for function in functions(node).values()
        if not function.name.startswith("_") and ast.get_docstring(function)
    ]


def name(case: tuple[Path, str, Function]) -> str:
    return f"{case[1]}.{case[2].name}"


def test_a_method_documents_what_it_and_its_helpers_raise() -> None:
    missing: list[str] = []
    for path, owner, function in public_methods():
        expected = raised(function)
        for helper in helpers(path, owner, function):
            expected |= raised(helper) | (documented(helper) & DECIDED)
        if lacking := sorted(expected - documented(function)):
            missing.append(f"{owner}.{function.name}: {', '.join(lacking)}")
    assert missing == []


def test_helpers_are_followed() -> None:
    cases = {name(case): case for case in public_methods()}
    path, owner, function = cases["AsyncKnowledgePoints.count"]
    assert "NotFoundError" in {
        error for one in helpers(path, owner, function) for error in documented(one) | raised(one)
    } | {
        error
        for one in helpers(path, owner, function)
        for two in helpers(path, owner, one)
        for error in raised(two)
    }
    path, owner, function = cases["AsyncLeaseHolder.heartbeat"]
    assert "LeaseLost" in {error for one in helpers(path, owner, function) for error in raised(one)}
    assert len(cases) > 250
