"""The revisions are one chain, stand alone, and stay as they were released; nothing orders their ids as text."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import alembic
import pytest
from alembic import command
from alembic.config import Config

from alfred_db import migrate
from alfred_db.migrate import operations_v1, version

ROOT = Path(__file__).parent.parent.parent
VERSIONS = sorted((ROOT / "alembic" / "versions").glob("*.py"))
OPERATIONS = sorted((ROOT / "alfred_db" / "migrate").glob("operations_v*.py"))
SOURCES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("alfred_db", "alembic", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "_sync" not in path.parts
}
FROZEN = re.compile(r"(alfred_db\.migrate)?\.operations_v\d+")
ALLOWED = {*sys.stdlib_module_names, "alembic", "sqlalchemy"} - {"importlib", "pkgutil", "runpy"}


def test_the_revisions_are_one_chain_in_the_order_of_their_numbers() -> None:
    assert [int(file.name[:4]) for file in VERSIONS] == list(range(1, len(VERSIONS) + 1))
    before = "None"
    for file in VERSIONS:
        source = file.read_text(encoding="utf-8")
        assert re.findall(r'^down_revision = "?(\w+)"?$', source, re.MULTILINE) == [before], file.name
        before = f"alfred_{file.stem}"
    assert migrate.head() == before


# Released files


@pytest.fixture
def released() -> ModuleType:
    spec = importlib.util.spec_from_file_location("released", ROOT / "tools" / "released.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_released_files_are_as_they_were_released(released: ModuleType) -> None:
    assert released.changed() == [], "released files are never edited: write a new revision"


def test_all_that_a_released_revision_runs_is_released(released: ModuleType, tmp_path: Path) -> None:
    recorded = list(released.recorded())
    revisions = [path for path in recorded if path.startswith("alembic/")]
    assert revisions == [file.relative_to(ROOT).as_posix() for file in VERSIONS[: len(revisions)]]
    for path in recorded:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    assert sorted(released.frozen(tmp_path)) == sorted(recorded)


def test_a_change_of_a_released_file_is_seen(released: ModuleType, tmp_path: Path) -> None:
    for path in [*released.recorded(), released.TABLE]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    assert released.changed(tmp_path) == []
    edited, removed = VERSIONS[7].relative_to(ROOT), OPERATIONS[0].relative_to(ROOT)
    with (tmp_path / edited).open("a") as file:
        file.write("\n")
    (tmp_path / removed).unlink()
    assert sorted(released.changed(tmp_path)) == sorted([edited.as_posix(), removed.as_posix()])


# What they import


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Name) and node.id in ("__import__", "exec", "eval"):
            yield node.id


def living(source: str) -> list[str]:
    """What a source imports that may change."""
    return [
        name
        for name in imports(source)
        if FROZEN.fullmatch(name) is None and name.partition(".")[0] not in ALLOWED
    ]


@pytest.mark.parametrize("path", [*VERSIONS, *OPERATIONS], ids=lambda path: path.stem)
def test_a_revision_imports_nothing_that_may_change(path: Path) -> None:
    assert living(path.read_text(encoding="utf-8")) == [], (
        "a revision imports from alfred_db.migrate.operations_v1 (or a newer version of the operations), alembic, sqlalchemy and the"
        " standard library alone; constants are copied"
    )


@pytest.mark.parametrize(
    "line",
    [
        "from alfred_db.migrate.operations import ddl",
        "from alfred_db import models",
        "import alfred_db.models as m",
        "def upgrade():\n    from alfred_db.models.base import MADE_HERE",
        "from . import operations_v1",
        "import numpy",
        "import importlib",
        "__import__('alfred_db.models')",
    ],
)
def test_an_import_of_what_may_change_is_seen(line: str) -> None:
    assert living(line) != []


def test_a_new_revision_follows_the_rules(tmp_path: Path) -> None:
    shutil.copytree(migrate.location(), tmp_path / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "alembic"))
    command.revision(config, "What it does", rev_id="alfred_9999_what")
    (made,) = (tmp_path / "alembic" / "versions").glob("alfred_9999_what*.py")
    source = made.read_text(encoding="utf-8")
    assert living(source) == []
    assert "alfred_db.migrate.operations_v1" in set(imports(source))
    assert f'down_revision = "{migrate.head()}"' in source.replace("'", '"')


# Tables that came after the operations


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TABLE later (id int REFERENCES other (id))", 'CREATE TABLE "Home".later (id int REFERENCES "Home".other (id))'),
        ("CREATE TABLE IF NOT EXISTS later ()", 'CREATE TABLE IF NOT EXISTS "Home".later ()'),
        ("CREATE TABLE IF NOT EXISTS auth.later ()", "CREATE TABLE IF NOT EXISTS auth.later ()"),
        ("CREATE TABLE later_default PARTITION OF later DEFAULT", 'CREATE TABLE "Home".later_default PARTITION OF "Home".later DEFAULT'),
        ("ALTER TABLE later ADD COLUMN a int", 'ALTER TABLE "Home".later ADD COLUMN a int'),
        ("DROP TABLE later", 'DROP TABLE "Home".later'),
        ("CREATE UNIQUE INDEX i ON later (a)", 'CREATE UNIQUE INDEX i ON "Home".later (a)'),
        ("CREATE INDEX i ON later USING gin (a)", 'CREATE INDEX i ON "Home".later USING gin (a)'),
        ("CREATE TRIGGER t BEFORE UPDATE ON later FOR EACH ROW", 'CREATE TRIGGER t BEFORE UPDATE ON "Home".later FOR EACH ROW'),
        ("CREATE TRIGGER t BEFORE UPDATE ON wm.later WHEN (a) ON b", "CREATE TRIGGER t BEFORE UPDATE ON wm.later WHEN (a) ON b"),
        ("INSERT INTO later (a) SELECT a FROM tasks", 'INSERT INTO "Home".later (a) SELECT a FROM "Home".tasks'),
        ("UPDATE later SET a = 1", 'UPDATE "Home".later SET a = 1'),
        ("DELETE FROM later", 'DELETE FROM "Home".later'),
        ("DROP INDEX i", 'DROP INDEX "Home".i'),
        ("SELECT extensions.make_month_partitions('later')", "SELECT extensions.make_month_partitions('\"Home\".later')"),
        ("ALTER TABLE wm.working_memory ADD COLUMN a int", "ALTER TABLE wm.working_memory ADD COLUMN a int"),
        ("CREATE TABLE later (at timestamptz DEFAULT now() ON CONFLICT)", 'CREATE TABLE "Home".later (at timestamptz DEFAULT now() ON CONFLICT)'),
    ],
)  # fmt: skip
def test_a_table_of_any_name_is_found_in_the_schema_of_the_default_tenant(
    monkeypatch: pytest.MonkeyPatch, sql: str, expected: str
) -> None:
    executed: list[str] = []
    monkeypatch.setattr(operations_v1, "context", Run(home="Home"))
    monkeypatch.setattr(operations_v1, "op", Run(executed=executed))
    operations_v1.ddl(sql)
    assert executed == [expected]


class Run:
    """What the operations use of Alembic, online."""

    def __init__(self, executed: list[str] | None = None, **attributes: str) -> None:
        self.config = self
        self.attributes = attributes
        self.execute = (executed if executed is not None else []).append

    def get_x_argument(self, as_dictionary: bool) -> dict[str, str]:
        return {}

    def is_offline_mode(self) -> bool:
        return False


# Order by ancestry


def test_what_a_database_has_run_is_found_by_ancestry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "alembic"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text("")
    before = None
    for name in ("z_first", "a_second", "m_third"):
        (folder / "versions" / f"{name}.py").write_text(
            f'"""{name}."""\nrevision = "{name}"\ndown_revision = {before!r}\n'
        )
        before = name
    monkeypatch.setattr(version, "location", lambda: folder)
    names = ("z_first", "a_second", "m_third")
    for place, found in enumerate(names):
        assert [version.reached(name, found) for name in names] == [i <= place for i in range(3)]
    assert not version.reached("z_first", None)
    assert version.reached("z_first", "0_of_a_newer_version")


def compared(tree: ast.AST) -> Iterator[str]:
    """Comparisons by order in which the id of a revision takes part."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(
            isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for operator in node.ops
        ):
            source = ast.unparse(node)
            if re.search(r"\balfred_\d|\b(made_by|revision|revisions|down_revision|head)\b", source):
                yield source


def test_a_comparison_by_order_is_seen() -> None:
    for source in (
        "(current(connection, schema) or '') >= 'alfred_0016'",
        "start is not None and str(start) >= made_by",
        "a.revision < b",
    ):
        assert list(compared(ast.parse(source)))


def test_no_id_of_a_revision_is_compared_by_order() -> None:
    assert {path.name: found for path, tree in SOURCES.items() if (found := [*compared(tree)])} == {}


# Alembic's public names


def private_names(folder: Path) -> set[str]:
    """Attributes, functions and modules with a leading underscore that a library has anywhere."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        found.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Attribute(attr=name):
                    found.add(name)
                case ast.Name(id=name):
                    found.add(name)
                case _:
                    pass
    return {name for name in found if re.match("_[^_]", name)}


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names with a leading underscore that are taken from another object or from a library."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.ImportFrom(module=str(module), level=0):
                yield from ((node.lineno, part) for part in module.split("."))
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                yield node.lineno, name
            case _:
                pass


def test_private_names_are_seen() -> None:
    source = (
        "a._migrations_fn\na.b()._ensure_version_table()\nfrom alembic.util.sqla_compat import _ensure_scope_for_ddl\n"
        "getattr(a, '_version')\nself._version\n"
    )
    seen = {name for _, name in uses(ast.parse(source))} & private_names(Path(alembic.__file__).parent)
    assert seen == {"_migrations_fn", "_ensure_version_table", "_ensure_scope_for_ddl", "_version"}


def test_alembic_is_used_by_its_public_names() -> None:
    private = private_names(Path(alembic.__file__).parent)
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in SOURCES.items()
        if "alembic" in path.read_text(encoding="utf-8")
        for line, name in uses(tree)
        if name in private
    ]
    assert found == []


# What Citus refuses of a distributed table

ACTION = r"(?:ADD|DROP|ALTER|RENAME|SET|VALIDATE|ATTACH|DETACH)"
REFUSED = {
    "a constraint is renamed": r"\bRENAME\s+CONSTRAINT\b",
    "an identity in a column that is added": r"\bADD\s+COLUMN\b[^,]*\b(IDENTITY|(BIG|SMALL)?SERIAL)\b",
    "an identity is added or dropped": r"\bALTER\s+COLUMN\s+\w+\s+(ADD\s+GENERATED|DROP\s+IDENTITY)\b",
    "the storage of a column": r"\bALTER\s+COLUMN\s+\w+\s+SET\s+(STORAGE|STATISTICS)\b",
    "a partition is detached beside others": r"\bDETACH\s+PARTITION\b.*\bCONCURRENTLY\b",
    "inheritance": r"\bINHERITS?\s*\(|\bINHERIT\s+\w",
    "several indexes in one DROP": r"\bDROP\s+INDEX\b[^;]*,",
    "several actions in one ALTER TABLE": rf"\bALTER\s+TABLE\b[^;]*\b{ACTION}\b[^;]*,\s*{ACTION}\s+(?!DEFAULT|NULL|NOT)\w",
}
"""Statements of revisions that run on an ordinary server, and not on a coordinator."""


def refused_by_citus(script: str) -> list[tuple[str, str]]:
    """What a script has of them, apart from texts in quotes."""
    bare = re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--[^\n]*", "", script))
    return [
        (what, " ".join(statement.split())[:200])
        for statement in re.split(r";", bare)
        for what, pattern in REFUSED.items()
        if re.search(pattern, statement, re.IGNORECASE | re.DOTALL)
    ]


@pytest.mark.parametrize("schema", [None, "acme"])
def test_no_revision_needs_what_citus_refuses(schema: str | None) -> None:
    assert refused_by_citus(migrate.sql(schema=schema)) == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("ALTER TABLE a RENAME CONSTRAINT b TO c", "a constraint is renamed"),
        ("ALTER TABLE a ADD COLUMN b bigint GENERATED ALWAYS AS IDENTITY", "an identity in a column that is added"),
        ("ALTER TABLE a ADD COLUMN b bigserial", "an identity in a column that is added"),
        ("ALTER TABLE a ALTER COLUMN b ADD GENERATED ALWAYS AS IDENTITY", "an identity is added or dropped"),
        ("ALTER TABLE a ALTER COLUMN b SET STORAGE MAIN", "the storage of a column"),
        ("ALTER TABLE a DETACH PARTITION b CONCURRENTLY", "a partition is detached beside others"),
        ("CREATE TABLE a () INHERITS (b)", "inheritance"),
        ("DROP INDEX a, b", "several indexes in one DROP"),
        ("ALTER TABLE a ADD COLUMN b int, ADD CONSTRAINT c CHECK (b > 0)", "several actions in one ALTER TABLE"),
        ("ALTER TABLE a DROP COLUMN b,\n DROP COLUMN c", "several actions in one ALTER TABLE"),
    ],
)  # fmt: skip
def test_what_citus_refuses_is_seen(statement: str, what: str) -> None:
    assert what in dict(refused_by_citus(f"SELECT 1;\n{statement};\nSELECT 2;"))
