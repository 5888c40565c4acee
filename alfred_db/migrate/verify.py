"""Compare the live schema with the models, whatever revision the database is at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Index, Table, make_url, text

from .. import migrate
from ..config import command
from ..errors import SchemaDriftError, SchemaOutdatedError, SchemaTooNewError
from ..models import Base
from ..models.functions import FUNCTIONS, OWN_FUNCTIONS
from ..server import requirements
from ..sql import SHARED_SCHEMAS, qualified, quoted, schema_translate_map

__all__ = ["Problem", "problems", "verify"]

_dialect = make_url("postgresql+psycopg://").get_dialect()()
_MANY = 10
_OTHERS = "the service that owns the table"


@dataclass(frozen=True, slots=True)
class Problem:
    """One difference between the models and the live schema."""

    what: str
    expected: str
    found: str
    revision: str
    """The revision that should have made it."""

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, found {self.found} (made by {self.revision})"


def verify(connection: Connection, schema: str | None = None) -> None:
    """Raise a SchemaError unless extensions, revision and live schema are what this version needs."""
    facts = requirements.probe(connection)
    requirements.require(facts)
    revisions = _revisions()
    newest = revisions[-1]
    home = migrate.home(connection) if schema is None else None
    found = migrate.current(connection, schema)
    if found is not None and found not in revisions:
        raise SchemaTooNewError(
            f"the database is at revision {found!r}, which this version of alfred-db does not know:"
            " upgrade alfred-db, or connect to another database"
        )
    wrong = problems(connection, schema, facts, home)
    upgrade = command("upgrade", connection.engine.url, schema)
    if found not in (None, newest):
        raise SchemaOutdatedError(
            f"the database is at {found}, this version of alfred-db needs {newest}: run {upgrade}"
        )
    if wrong and found is None:
        raise SchemaOutdatedError(
            f"the database has no schema of alfred-db ({len(wrong)} things are missing): run {upgrade}"
        )
    if wrong:
        advice = "restore it, or downgrade below the named revision and upgrade again"
        if all(problem.revision == _OTHERS for problem in wrong):
            advice = "alfred-db leaves it alone; upgrade that service"
        raise SchemaDriftError(
            f"the database is at {found}, but differs from the models: {_listed(wrong)}; {advice}"
        )


def require_shared(connection: Connection) -> None:
    """Raise SchemaOutdatedError unless the shared catalogs exist, which every tenant refers to."""
    wrong = [
        problem
        for problem in problems(connection, None)
        if problem.what.split(" ")[1].startswith(SHARED_SCHEMAS)
    ]
    if wrong:
        raise SchemaOutdatedError(
            f"the shared catalogs are incomplete ({_listed(wrong)}): run {command('upgrade', connection.engine.url)}"
            " without a schema first"
        )


def problems(
    connection: Connection,
    schema: str | None = None,
    facts: requirements.Facts | None = None,
    home: str | None = None,
) -> list[Problem]:
    """Return all differences between the live schema and the models, tables first.

    `home` is the schema of the default tenant's unqualified tables; None leaves it to the search_path.
    """
    facts = facts or requirements.probe(connection)
    mapping = schema_translate_map(schema) or {}
    tables: dict[str, Table] = {}
    external: set[str] = set()
    for table in Base.metadata.sorted_tables:
        place = mapping.get(table.schema, table.schema) or home
        name = qualified(place, table.name)
        tables[name] = table
        if not facts.shared_tables.get(table.fullname, True):
            external.add(name)
    catalog = [name for name, table in tables.items() if table.schema == "brk_registry"]
    external |= set(connection.scalars(text(_LINKED), {"names": catalog}))
    live = _live(connection, list(tables))
    found: list[Problem] = []
    for name, table in tables.items():
        if name not in live.columns:
            found.append(
                Problem(
                    f"table {table.fullname}", "it to exist", "nothing", _made_by("CREATE TABLE", table.name)
                )
            )
            continue
        if name in external:
            found += _read_columns(table, live.columns[name])
        else:
            found += _columns(table, live.columns[name])
            found += _indexes(table, live.indexes.get(name, {}))
            found += _constraints(table, live.constraints.get(name, {}))
    present = {name: table for name, table in tables.items() if name in live.columns}
    found += _triggers(present, external, live.triggers)
    found += _functions(connection)
    if home is not None:
        found += _hidden(
            connection, [(name, table) for name, table in present.items() if table.schema is None]
        )
    return found


_LINKED = """
    SELECT wanted.name FROM pg_catalog.unnest(CAST(:names AS text[])) AS wanted (name)
    JOIN pg_catalog.pg_class ON pg_class.oid = CAST(pg_catalog.to_regclass(wanted.name) AS oid) AND relkind = 'v'
"""
"""Views: the catalog that is linked from another database, where it has its indexes and constraints."""


def _hidden(connection: Connection, tables: Sequence[tuple[str, Table]]) -> Iterator[Problem]:
    """Return the default tenant's tables that the search_path hides behind others of the same names."""
    numbers = connection.scalars(
        text(
            "SELECT number FROM unnest(CAST(:full AS text[]), CAST(:short AS text[])) WITH ORDINALITY AS requested (name, short, number)"
            " WHERE CAST(pg_catalog.to_regclass(short) AS oid) IS DISTINCT FROM CAST(pg_catalog.to_regclass(name) AS oid)"
        ),
        {"full": [name for name, _ in tables], "short": [quoted(table.name) for _, table in tables]},
    )
    for number in numbers:
        name, table = tables[int(number) - 1]
        yield Problem(
            f"table {table.fullname}",
            f"the search_path to find {name}",
            "another one before it; put its schema first in the search_path",
            _made_by("TABLE", table.name),
        )


@dataclass(frozen=True, slots=True)
class _Live:
    """The catalog's rows about our tables, by table and name."""

    columns: dict[str, dict[str, tuple[str, bool]]]
    indexes: dict[str, dict[str, tuple[bool, str]]]
    constraints: dict[str, dict[str, bool]]
    triggers: dict[str, dict[str, bool]]


def _live(connection: Connection, names: Sequence[str]) -> _Live:
    def read(select: str) -> dict[str, dict[str, Any]]:
        rows = connection.execute(
            text(
                f"{select} FROM pg_catalog.unnest(CAST(:names AS text[])) AS wanted (name) {_JOINS[select]}"
            ),
            {"names": list(names)},
        )
        result: dict[str, dict[str, Any]] = {}
        for table, item, *facts in rows:
            result.setdefault(table, {})[item] = tuple(facts) if len(facts) > 1 else facts[0]
        return result

    return _Live(*(read(select) for select in _JOINS))


_JOINS = {
    "SELECT wanted.name, attname, pg_catalog.concat(pg_catalog.format_type(atttypid, atttypmod), (SELECT pg_catalog.concat(' collate ', collname)"
    " FROM pg_catalog.pg_collation, pg_catalog.pg_type WHERE pg_collation.oid = attcollation AND pg_type.oid = atttypid"
    " AND attcollation <> typcollation)), attnotnull": (
        "JOIN pg_catalog.pg_attribute ON attrelid = CAST(pg_catalog.to_regclass(wanted.name) AS oid) AND attnum > 0 AND NOT attisdropped"
    ),
    "SELECT wanted.name, relname, indisvalid, pg_catalog.pg_get_indexdef(indexrelid)": (
        "JOIN pg_catalog.pg_index ON indrelid = CAST(pg_catalog.to_regclass(wanted.name) AS oid) JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid"
    ),
    "SELECT wanted.name, conname, convalidated": "JOIN pg_catalog.pg_constraint ON conrelid = CAST(pg_catalog.to_regclass(wanted.name) AS oid)",
    "SELECT wanted.name, tgname, tgenabled <> 'D'": (
        "JOIN pg_catalog.pg_trigger ON tgrelid = CAST(pg_catalog.to_regclass(wanted.name) AS oid) AND NOT tgisinternal"
    ),
}


def _read_columns(table: Table, live: dict[str, tuple[str, bool]]) -> Iterator[Problem]:
    """Check the columns that repositories read of another service's table; the rest is that service's."""
    for mapper in Base.registry.mappers:
        for attribute in mapper.column_attrs if mapper.local_table is table else ():
            column = attribute.columns[0]
            if not attribute.deferred and column.name not in live:
                yield Problem(
                    f"column {table.fullname}.{column.name}",
                    column.type.compile(dialect=_dialect).lower(),
                    "nothing",
                    _OTHERS,
                )


def _columns(table: Table, live: dict[str, tuple[str, bool]]) -> Iterator[Problem]:
    for column in table.c:
        what = f"column {table.fullname}.{column.name}"
        expected = type_name(column.type.compile(dialect=_dialect))
        if column.name not in live:
            yield Problem(what, expected, "nothing", _made_by("TABLE", table.name, column.name))
            continue
        found, not_null = live[column.name]
        if type_name(found) != expected:
            yield Problem(what, expected, found, _made_by("TABLE", table.name, column.name))
        if not_null == column.nullable:
            wanted, got = ("NULL allowed", "NOT NULL") if column.nullable else ("NOT NULL", "NULL allowed")
            yield Problem(what, wanted, got, _made_by("TABLE", table.name, column.name))


def type_name(name: str) -> str:
    """Return one spelling for SQLAlchemy's and the catalog's names of a type."""
    name = name.lower().replace(", ", ",").replace('"', "")  # quoted with quote_all_identifiers
    name = re.sub(r"^(\w+\.)(?=(vector|halfvec|sparsevec)\b)", "", name)
    return {"float": "double precision"}.get(name, name)


def _indexes(table: Table, live: dict[str, tuple[bool, str]]) -> Iterator[Problem]:
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        what = f"index {index.name} on {table.fullname}"
        if index.name not in live:
            yield Problem(what, "it to exist", "nothing", _made_by("INDEX", str(index.name)))
            continue
        valid, definition = live[str(index.name)]
        if not valid:
            invalid = "an invalid one: REINDEX INDEX CONCURRENTLY it"
            yield Problem(what, "a valid index", invalid, _made_by("INDEX", str(index.name)))
        for wanted in _index_traits(index):
            if wanted not in definition.replace('"', ""):
                yield Problem(what, wanted, definition, _made_by("INDEX", str(index.name)))


def _index_traits(index: Index) -> Iterator[str]:
    options: Any = index.dialect_options["postgresql"]
    yield f"USING {options['using'] or 'btree'}"
    yield from (options["ops"] or {}).values()
    storage: dict[str, Any] = options["with"] or {}
    yield from (f"{name}='{value}'" for name, value in storage.items())
    if index.unique:
        yield "UNIQUE"


def _constraints(table: Table, live: dict[str, bool]) -> Iterator[Problem]:
    for constraint in table.constraints:
        name = _dialect.identifier_preparer.format_constraint(constraint)
        if name is not None and not live.get(name.strip('"')):
            expected, found = ("it to exist", "nothing")
            if name.strip('"') in live:
                expected, found = ("a valid constraint", "one that is not validated")
            made_by = _made_by("TABLE", table.name, name)
            yield Problem(f"constraint {name} on {table.fullname}", expected, found, made_by)


_TRIGGERS = {
    "set_updated_at": ("updated_by_trigger", "CREATE TABLE", ""),
    "set_status_times": ("status_times_by_trigger", "CREATE FUNCTION", "set_status_times"),
}
"""The mark of the tables that have a trigger, and what its revision makes."""


def _triggers(
    tables: dict[str, Table], external: set[str], live: dict[str, dict[str, bool]]
) -> Iterator[Problem]:
    """None at all in a tenant, or in the shared catalogs, is a choice (Citus distributes none); some is a loss."""
    marks = [mark for mark, _, _ in _TRIGGERS.values()]
    wanted = [
        (name, table)
        for name, table in tables.items()
        if any(table.info.get(mark) for mark in marks) and name not in external
    ]
    for shared in (True, False):
        group = [pair for pair in wanted if (pair[1].schema in SHARED_SCHEMAS) is shared]
        if not any(trigger in live.get(name, {}) for trigger in _TRIGGERS for name, _ in group):
            wanted = [pair for pair in wanted if pair not in group]
    for trigger, (mark, kind, function) in _TRIGGERS.items():
        for name, table in wanted:
            enabled = live.get(name, {}).get(trigger)
            if table.info.get(mark) and not enabled:
                state = "nothing" if enabled is None else "a disabled one"
                made_by = _made_by(kind, function or table.name)
                yield Problem(f"trigger {trigger} on {table.fullname}", "it to exist", state, made_by)


def _functions(connection: Connection) -> Iterator[Problem]:
    rows = connection.execute(
        text(
            "SELECT wanted.name, pg_catalog.md5(prosrc) AS digest FROM pg_catalog.unnest(CAST(:names AS text[])) AS wanted (name)"
            " JOIN pg_catalog.pg_proc ON pg_proc.oid = CAST(pg_catalog.to_regprocedure(wanted.name) AS oid)"
        ),
        {"names": [*FUNCTIONS, *OWN_FUNCTIONS]},
    )
    live: dict[str, str] = {row.name: row.digest for row in rows}
    for name in (*FUNCTIONS, *OWN_FUNCTIONS):
        found = None
        if name not in live:
            found = ("it to exist", "nothing")
        elif live[name] != OWN_FUNCTIONS.get(name, live[name]):
            found = ("the body of the revision", "another body")
        if found is not None:
            function = name.split("(")[0].removeprefix("extensions.")
            yield Problem(f"function {name}", *found, _made_by("FUNCTION", function))


def _listed(wrong: Sequence[Problem]) -> str:
    more = f"; and {len(wrong) - _MANY} more" if len(wrong) > _MANY else ""
    return "; ".join(str(problem) for problem in wrong[:_MANY]) + more


@cache
def _sources() -> dict[str, str]:
    """Revision id -> the text of its file, oldest first; read only when something is wrong or compared."""
    sources: dict[str, str] = {}
    after: dict[str, tuple[str, str]] = {}
    for path in (migrate.location() / "versions").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        ids = dict(re.findall(r'^(revision|down_revision) = "?(\w+)"?$', source, re.MULTILINE))
        if "revision" in ids:
            after[ids["down_revision"]] = ids["revision"], source
    revision = "None"
    while revision in after:
        revision, source = after[revision]
        sources[revision] = source
    return sources


def _revisions() -> list[str]:
    return list(_sources())


def _made_by(kind: str, name: str, part: str = "") -> str:
    """The last revision that makes or alters a table, index or function, and names a part of it."""
    for revision, source in reversed(_sources().items()):
        if re.search(rf"\b{kind} (\w+\.)?{re.escape(name)}\b", source) and re.search(
            rf"\b{re.escape(part)}\b", source
        ):
            return revision
    return "no revision"
