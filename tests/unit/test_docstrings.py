"""The English of docstrings, comments and messages, held by what the source files contain."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ROOMS = (
    "alfred_db/__init__.py",
    "alfred_db/checks.py",
    "alfred_db/cli",
    "alfred_db/config.py",
    "alfred_db/cron.py",
    "alfred_db/database",
    "alfred_db/embedded",
    "alfred_db/engine",
    "alfred_db/errors.py",
    "alfred_db/execution",
    "alfred_db/failures",
    "alfred_db/indexes",
    "alfred_db/interchange",
    "alfred_db/migrate",
    "alfred_db/models",
    "alfred_db/queries",
    "alfred_db/repositories",
    "alfred_db/search",
    "alfred_db/server",
    "alfred_db/sql.py",
    "alfred_db/types.py",
    "alfred_db/values",
    "alfred_db/vectors",
    "alfred_db/worker",
    "docs/benchmarks",
    "docs/concepts",
    "docs/decisions",
    "docs/howto",
    "docs/index.md",
    "docs/internals",
    "docs/quickstart.md",
    "docs/reference",
    "docs/troubleshooting.md",
    "docs/tutorial.md",
    "CONTRIBUTING.md",
    "README.md",
)
"""The rooms that are done; all of `alfred_db` and of `docs` in the end."""

FROZEN = {ROOT / "alfred_db/migrate/operations_v1.py"}
"""Files that released revisions depend on and that no change of wording may touch."""

LAYOUT = ROOT / "docs/concepts/layout.md"
"""Its tables are made from the first lines of docstrings, which are tested there."""

LONGEST = 110

# Words that the documentation of psycopg, SQLAlchemy or Django would not use in these places.
HOUSE_WORDS = re.compile(
    r"""\b(?:
        gives? | given | gave | told | tells? | says? | said
        | comes?\ about | there\ (?:is|are)\ none | (?:is|are)\ there\ none | what\ is\ there | (?:is|are)\ over
        | colours? | so\ many | whoever | as\ it\ (?:is|stands)(?=[.,;:)]|$) | in\ the\ place\ of | of\ (?:its|their)\ own
        | filed | files?\ (?:again|an?\ task)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
RAISES = re.compile(r"\b(?:[Rr]aises|raise)\s+(?:an?\s+)?`?[A-Z]\w+")
SECTION = re.compile(r"^(?:Args|Returns|Raises|Yields|Attributes):$", re.MULTILINE)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def files(room: str, suffix: str) -> list[Path]:
    """The files of a room: one test for all of them costs less than one for each."""
    path = ROOT / room
    found = [path] if path.is_file() else sorted(path.rglob(f"*{suffix}"))
    left_out = {*FROZEN, LAYOUT}
    # `_sync` is generated from `_async`.
    return [one for one in found if one.suffix == suffix and one not in left_out and "_sync" not in one.parts]


SOURCES = [room for room in ROOMS if files(room, ".py")]
PAGES = [room for room in ROOMS if files(room, ".md")]
SUITE = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").iterdir() if path.suffix in ("", ".py")
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def documented(tree: ast.Module) -> Iterator[tuple[Documented, bool, str]]:
    """Each module, class and function that has a docstring, whether it is public, and the docstring."""

    def walk(node: Documented, public: bool) -> Iterator[tuple[Documented, bool, str]]:
        text = ast.get_docstring(node)
        if text is not None:
            yield node, public, text
        for inner in node.body:
            if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from walk(inner, public and not inner.name.startswith("_"))

    yield from walk(tree, True)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """The comments and the strings of a file, docstrings among them, with the lines where they begin."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value  # without a space it is a key or a name
    first, comment = 0, ""
    lines = iter(source.splitlines(keepends=True))
    for token in tokenize.generate_tokens(lambda: next(lines, "")):
        if token.type == tokenize.COMMENT:
            first, comment = first or token.start[0], f"{comment} {token.string.lstrip('# ')}"
        elif comment and token.type not in (tokenize.NL, tokenize.NEWLINE):
            yield first, comment
            first, comment = 0, ""


def house_words(text: str) -> list[str]:
    return HOUSE_WORDS.findall(" ".join(text.split()))


@pytest.mark.parametrize("room", SOURCES)
def test_a_docstring_begins_with_one_short_sentence(room: str) -> None:
    for path in files(room, ".py"):
        for node, _, text in documented(parsed(path)):
            first = text.splitlines()[0]
            where = f"{name(path)}, {getattr(node, 'name', 'module')}: {first}"
            assert first.endswith("."), where
            assert len(first) <= LONGEST, where


@pytest.mark.parametrize("room", SOURCES)
def test_errors_are_in_their_section(room: str) -> None:
    for path in files(room, ".py"):
        for node, public, text in documented(parsed(path)):
            if public and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                prose = " ".join(SECTION.split(text)[0].split())
                assert not RAISES.search(prose), f"{name(path)}, {node.name}: {prose}"


@pytest.mark.parametrize("room", SOURCES)
def test_the_words_of_code_are_the_fields(room: str) -> None:
    found = [
        f"{name(path)}:{line}: {', '.join(words)}: {' '.join(text.split())[:100]}"
        for path in files(room, ".py")
        for line, text in texts(path.read_text())
        if (words := house_words(text))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", PAGES)
def test_the_words_of_pages_are_the_fields(room: str) -> None:
    found = [
        f"{name(path)}:{number}: {', '.join(words)}: {line[:100]}"
        for path in files(room, ".md")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        # The plan of a statement has the names of its parts.
        if not line.startswith("WITH ") and (words := house_words(line))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", SUITE)
def test_the_names_of_tests_are_the_fields(room: str) -> None:
    names = [
        node.name
        for path in files(room, ".py")
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.lower().startswith("test")
    ]
    assert [one for one in names if house_words(one.replace("_", " "))] == []


def test_house_words_are_found_in_each_kind_of_text() -> None:
    source = '"""Nothing is\nover."""\nx = f"told {1}"  # It gives\n# so\n# many.\ny = 1\n'
    assert sorted(word for _, text in texts(source) for word in house_words(text)) == [
        "gives",
        "is over",
        "so many",
        "told",
    ]


def test_prose_about_errors_is_recognised() -> None:
    for text in ("Raises NotFoundError.", "It raises a ConflictError when", "Both raise `LeaseLost`"):
        assert RAISES.search(text)
    assert not RAISES.search("Raise the priority of tasks")
