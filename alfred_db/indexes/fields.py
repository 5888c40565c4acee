"""Indexes of fields in JSON columns, which the owner of a database adds for the range filters of searches.

They are not part of the models. `migrate.check` knows them by the beginning of their names, and upgrades keep them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Engine, make_url, text
from sqlalchemy.dialects.postgresql import JSONB

from ..checks import storable, within
from ..config import command
from ..errors import AlfredDBError, InvalidInputError, NotFoundError, SchemaOutdatedError, shown, translated
from ..models import Base
from ..models.base import table_of
from ..sql import OWN_INDEX, literal, qualified, quoted
from .catalog import mapping_of, models
from .rebuilding import LOCK_TIMEOUT, watched
from .results import FieldIndex, Progress

__all__ = ["add_field", "drop_field", "field_indexes"]

_COMMENT = "alfred-db index of "
_NOUNS = {"knowledge_points": "knowledge"}
_dialect = make_url("postgresql+psycopg://").get_dialect()()


def add_field(
    engine: Engine,
    field: str,
    *,
    schema: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    lock_timeout: float = LOCK_TIMEOUT,
) -> FieldIndex:
    """Index a field of a JSON column, such as `documents.metadata.year`, while others read and write.

    The range filter of searches uses the index where few rows lie within the range. Each write of a row that has the
    field then writes the index too. An existing index is returned unchanged; one that a failed attempt has left is
    built again.

    Args:
        engine: An engine of the table's owner.
        field: Noun, column and path: `documents.metadata.year`, `knowledge.payload.author.born`.
        schema: The tenant; by default that of the engine.
        progress: Called twice a second, in another thread.
        lock_timeout: Seconds to wait for other transactions.

    Returns:
        The index.

    Raises:
        InvalidInputError: The field does not name a JSON column of a noun that is searched, and a path in it.
        SchemaOutdatedError: The table is missing.
        ConflictError: The wait took longer than `lock_timeout`.
    """
    noun, model, inside = _parsed(field)
    name = _name(model, field)
    with (
        _owner(engine, lock_timeout) as connection,
        _watched(engine, connection, name, progress),
    ):
        home, table, partitions = _place(connection, model, schema)
        standing = {one.name: one for one in field_indexes(connection, schema)}
        if name in standing and standing[name].valid:
            return standing[name]
        expression = str(inside.compile(dialect=_dialect, compile_kwargs={"literal_binds": True}))
        expression = expression.removeprefix(f"{table_of(model).name}.").removeprefix(
            f"{table_of(model).fullname}."
        )
        target = qualified(home, table)
        _drop(connection, home, name, partitions)
        try:
            if partitions is None:
                _run(connection, f"CREATE INDEX CONCURRENTLY {quoted(name)} ON {target} (({expression}))")
            else:
                _run(connection, f"CREATE INDEX {quoted(name)} ON ONLY {target} (({expression}))")
                for part in partitions:
                    own = _of_partition(name, part)
                    on = f"{qualified(home, part)} (({expression}))"
                    _run(connection, f"CREATE INDEX CONCURRENTLY {quoted(own)} ON {on}")
                    _run(
                        connection,
                        f"ALTER INDEX {qualified(home, quoted(name))} ATTACH PARTITION {qualified(home, quoted(own))}",
                    )
            comment = literal(f"{_COMMENT}{noun}{field[field.index('.') :]}")
            _run(connection, f"COMMENT ON INDEX {qualified(home, quoted(name))} IS {comment}")
        except AlfredDBError:
            _drop(connection, home, name, partitions)  # an invalid index costs writes, and serves no search
            raise
        _run(connection, f"ANALYZE {target}")  # the planner wants to know the values of the field
        return next(one for one in field_indexes(connection, schema) if one.name == name)


def drop_field(
    engine: Engine, field: str, *, schema: str | None = None, lock_timeout: float = LOCK_TIMEOUT
) -> None:
    """Drop the index of a field that `add_field` built.

    Args:
        engine: An engine of the table's owner.
        field: The field that was passed to `add_field`.
        schema: The tenant; by default that of the engine.
        lock_timeout: Seconds to wait for other transactions.

    Raises:
        InvalidInputError: The field names no JSON column.
        NotFoundError: The field has no index.
        ConflictError: The wait took longer than `lock_timeout`.
    """
    _, model, _ = _parsed(field)
    name = _name(model, field)
    with _owner(engine, lock_timeout) as connection:
        home, _, partitions = _place(connection, model, schema)
        if not any(one.name == name for one in field_indexes(connection, schema)):
            run = command("indexes list", connection.engine.url, schema)
            raise NotFoundError(f"field {shown(field)}: it has no index; {run} shows those that exist")
        _drop(connection, home, name, partitions)


def field_indexes(connection: Connection, schema: str | None = None) -> list[FieldIndex]:
    """Return the indexes that `add_field` has built in a tenant.

    Args:
        connection: A connection to the database.
        schema: The tenant; by default that of the connection.
    """
    mapping = mapping_of(schema, connection.get_execution_options())
    tables = {
        qualified(mapping.get(table.schema, table.schema), table.name): table.name
        for table in map(table_of, models().values())
    }
    with translated():
        rows = connection.execute(_CATALOG, {"tables": list(tables), "prefix": OWN_INDEX}).all()
    return [
        FieldIndex(
            row.field.removeprefix(_COMMENT) if row.field else None,
            row.name,
            row.schema,
            row.table,
            row.valid,
            row.size,
            row.scans,
        )
        for row in rows
    ]


def _parsed(field: str) -> tuple[str, type[Base], ColumnElement[Any]]:
    """Return noun, model and expression of a field; the expression is that of the filters."""
    storable("field", field)
    noun, _, rest = field.partition(".")
    name, *path = rest.split(".")
    known = {_NOUNS.get(table, table): model for table, model in models().items()}
    columns = {found: _json_columns(model) for found, model in known.items()}
    if noun not in known or name not in columns[noun] or not path or not all(path):
        expected = ", ".join(f"{found}.{column}.KEY" for found in sorted(known) for column in columns[found])
        raise InvalidInputError(
            f"field {shown(field)}: no such field can be indexed; expected one of {expected}"
        )
    inside: Any = columns[noun][name]
    for key in path:
        inside = inside[key]
    return noun, known[noun], inside


def _json_columns(model: type[Base]) -> dict[str, Column[Any]]:
    return {column.name: column for column in table_of(model).c if isinstance(column.type, JSONB)}


def _name(model: type[Base], field: str) -> str:
    """Name an index; a name that is long or unusual ends with a digest of the field."""
    rest = field.partition(".")[2].replace(".", "_")
    name = f"{OWN_INDEX}{table_of(model).name}_{rest}"
    if re.fullmatch(r"[a-z0-9_]{1,63}", name) and field.count("_") == field.partition(".")[0].count("_"):
        return name
    digest = sha256(field.encode()).hexdigest()[:12]
    return f"{OWN_INDEX}{table_of(model).name}_{re.sub(r'[^a-z0-9_]', '', rest)[:24]}_{digest}"


def _of_partition(name: str, partition: str) -> str:
    return f"{name[:30]}_{sha256(f'{name} {partition}'.encode()).hexdigest()[:12]}_{partition[-18:]}"


@contextmanager
def _owner(engine: Engine, lock_timeout: float) -> Generator[Connection]:
    within("lock_timeout", lock_timeout, 0.001, 86400)
    with translated(), engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.detach()  # its settings are changed
        settings = {"lock_timeout": f"{int(lock_timeout * 1000)}ms", "statement_timeout": "0"}
        for name, value in settings.items():
            _run(connection, f"SET {name} = '{value}'")
        yield connection


@contextmanager
def _watched(
    engine: Engine, worker: Connection, name: str, progress: Callable[[Progress], None] | None
) -> Generator[None]:
    """Report what `worker` builds, through another connection."""
    if progress is None:
        yield
        return
    with (
        engine.execution_options(isolation_level="AUTOCOMMIT").connect() as watcher,
        watched(worker, watcher, name, progress),
    ):
        yield


def _place(
    connection: Connection, model: type[Base], schema: str | None
) -> tuple[str, str, Sequence[str] | None]:
    """Return schema and table of a model, and its partitions if it has some."""
    mapping = mapping_of(schema, connection.get_execution_options())
    table = table_of(model)
    name = qualified(mapping.get(table.schema, table.schema), table.name)
    row = connection.execute(_PLACE, {"table": name}).one_or_none()
    if row is None:
        run = command("upgrade", connection.engine.url, schema)
        raise SchemaOutdatedError(f"table {name} does not exist: run {run}")
    return row.schema, row.table, row.partitions if row.partitioned else None


def _drop(connection: Connection, home: str, name: str, partitions: Sequence[str] | None) -> None:
    if partitions is None:
        _run(connection, f"DROP INDEX CONCURRENTLY IF EXISTS {qualified(home, quoted(name))}")
        return
    _run(connection, f"DROP INDEX IF EXISTS {qualified(home, quoted(name))}")  # with those of the partitions
    for part in partitions:
        own = _of_partition(name, part)
        _run(connection, f"DROP INDEX CONCURRENTLY IF EXISTS {qualified(home, quoted(own))}")


def _run(connection: Connection, statement: str) -> None:
    with translated():
        connection.exec_driver_sql(statement.replace("%", "%%"))


_PLACE = text("""
    SELECT n.nspname AS schema, c.relname AS table, c.relkind = CAST('p' AS "char") AS partitioned,
        ARRAY(
            SELECT CAST(p.relname AS text) FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS p ON p.oid = i.inhrelid
            WHERE i.inhparent = c.oid ORDER BY 1
        ) AS partitions
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = CAST(pg_catalog.to_regclass(:table) AS oid)
""")

_CATALOG = text("""
    SELECT n.nspname AS schema, t.relname AS table, i.relname AS name, x.indisvalid AS valid,
        pg_catalog.obj_description(i.oid, 'pg_class') AS field,
        (
            SELECT CAST(pg_catalog.sum(pg_catalog.pg_relation_size(leaf.oid)) AS bigint)
            FROM (SELECT i.oid UNION SELECT h.inhrelid FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = i.oid) AS leaf (oid)
        ) AS size,
        (
            SELECT CAST(pg_catalog.sum(pg_catalog.pg_stat_get_numscans(leaf.oid)) AS bigint)
            FROM (SELECT i.oid UNION SELECT h.inhrelid FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = i.oid) AS leaf (oid)
        ) AS scans
    FROM pg_catalog.unnest(CAST(:tables AS text[])) AS wanted (name)
    JOIN pg_catalog.pg_class AS t ON t.oid = CAST(pg_catalog.to_regclass(wanted.name) AS oid)
    JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
    JOIN pg_catalog.pg_index AS x ON x.indrelid = t.oid
    JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
    WHERE pg_catalog.starts_with(CAST(i.relname AS text), CAST(:prefix AS text))
    ORDER BY n.nspname, t.relname, i.relname
""")
