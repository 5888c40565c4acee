"""Care of the vector indexes: their state, rebuilding them beside running work, and how much of the truth they find.

with db.engine.connect() as connection:
    for index in status(connection): ...      # reads the catalog only
rebuild(db.engine)                             # what is invalid, or the one that is named
recall(db.engine, Document, target=0.95).ef    # smallest hnsw.ef_search that is good enough
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, make_url, text
from sqlalchemy.schema import CreateIndex

from . import extensions
from .config import tenant_schema
from .errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    SchemaDriftError,
    SchemaOutdatedError,
    translated,
)
from .models import Base
from .models.base import schema_translate_map, table_of
from .queries._search import VectorIndex, vector_index
from .queries._shared import within
from .statements import qualified, quoted
from .vectors_recall import measure, measured
from .vectors_results import EfRecall, IndexState, IndexStatus, Progress, Rebuilt, RecallReport

__all__ = [
    "EfRecall",
    "IndexState",
    "IndexStatus",
    "Progress",
    "Rebuilt",
    "RecallReport",
    "rebuild",
    "recall",
    "status",
]

LOCK_TIMEOUT = 600.0
"""Seconds that a rebuild waits for other transactions; it keeps nobody from reading or writing meanwhile."""

POLLED_EVERY = 0.5
"""Seconds between two looks at the progress of a rebuild."""

_LEFT = re.compile(r"_cc(new|old)\d*")


def status(connection: Connection, schema: str | None = None) -> list[IndexStatus]:
    """Every vector index of the tenant `schema`, by default of the connection's own tenant.

    Others on the same tables, and leftovers of rebuilds that failed, are listed too. Raises SchemaOutdatedError
    when a table is missing.
    """
    mapping = _mapping(schema, connection.get_execution_options())
    tables = [table_of(model) for model in _models().values()]
    names = [qualified(mapping.get(table.schema, table.schema), table.name) for table in tables]
    with translated():
        facts = extensions.probe(connection)
        rows = connection.execute(_CATALOG, {"tables": names}).all()
    found: list[IndexStatus] = []
    faults = tuple(
        line for line in extensions.warnings(facts) if line.startswith("vector ") and "before" in line
    )
    tenant = "" if schema is None else f" --schema {schema}"
    for number, (name, model) in enumerate(zip(names, _models().values(), strict=True), 1):
        known, own = vector_index(model), [row for row in rows if row.number == number]
        if not own[0].there:
            command = "alembic upgrade head" if schema is None else f"alembic -x schema={schema} upgrade head"
            raise SchemaOutdatedError(f"table {name} does not exist: run `{command}`")
        for row in own:
            if row.name is not None:
                found.append(_status(row, facts, faults, tenant))
        for home in dict.fromkeys((row.schema, row.table) for row in own if row.table is not None):
            here = [row for row in own if (row.schema, row.table) == home]
            if not any(known.name in (row.name, row.parent) for row in here):
                found.append(_missing(home, here[0].rows, model, known))
    return found


def _status(row: Any, facts: extensions.Facts, faults: tuple[str, ...], tenant: str) -> IndexStatus:
    state, warnings = IndexState.VALID, faults
    command = f"`alfred-db vectors rebuild{tenant} --index {row.name}`"
    if row.building:
        state = IndexState.BUILDING
    elif not row.valid and _LEFT.search(row.name):
        state = IndexState.LEFTOVER
        warnings = (f"left of a rebuild that failed; {command} drops it",)
    elif not row.valid:
        state = IndexState.INVALID
        warnings = (f"invalid, so that no search uses it: {command}", *faults)
    # The coordinator of Citus holds no rows, and reads no index: the workers do.
    elsewhere = facts.citus and row.rows <= 0
    return IndexStatus(
        row.name,
        row.schema,
        row.table,
        state,
        row.parent,
        size=None if elsewhere else row.size,
        rows=None if row.rows < 0 or elsewhere else int(row.rows),
        scans=None if elsewhere else row.scans,
        since=row.since,
        warnings=warnings,
    )


def _missing(home: tuple[str, str], rows: float, model: type[Base], known: VectorIndex) -> IndexStatus:
    schema, table = home
    (index,) = (index for index in table_of(model).indexes if index.name == known.name)
    made = str(CreateIndex(index).compile(dialect=make_url("postgresql+psycopg://").get_dialect()()))
    partition = table != table_of(model).name
    name = f"{table[:40]}_{known.column.name}_idx" if partition else known.name
    command = f"CREATE INDEX CONCURRENTLY {quoted(name)} ON {quoted(schema)}.{quoted(table)}{made[made.index(' USING ') :]}"
    if partition:
        attached = f"{quoted(schema)}.{quoted(known.name)} ATTACH PARTITION {quoted(schema)}.{quoted(name)}"
        command += f"; ALTER INDEX {attached}"
    warning = f"missing, so that every search compares all rows: {command}"
    return IndexStatus(
        known.name,
        schema,
        table,
        IndexState.MISSING,
        known.name if partition else None,
        size=None,
        rows=int(rows) if rows > 0 else None,
        scans=None,
        since=None,
        warnings=(warning,),
    )


def rebuild(
    engine: Engine,
    index: str | None = None,
    *,
    schema: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    maintenance_work_mem: str | None = None,
    lock_timeout: float = LOCK_TIMEOUT,
) -> list[Rebuilt]:
    """Build an index anew while others read and write, or, without a name, all that are invalid.

    The index of a partitioned table is rebuilt partition by partition. What earlier attempts left behind is
    dropped. `maintenance_work_mem` (such as "2GB") should hold the whole index: beyond it, building takes many
    times as long. `progress` is called in another thread, twice a second. Needs the tables' owner and a direct
    connection, not one through a transaction pooler. Raises ConflictError when other transactions kept it
    waiting for `lock_timeout` seconds, SchemaDriftError for an index that is missing.
    """
    settings = {"lock_timeout": f"{_milliseconds(lock_timeout)}ms", "statement_timeout": "0"}
    if maintenance_work_mem is not None:
        settings["maintenance_work_mem"] = _memory(maintenance_work_mem)
    with translated(), _two(engine) as (worker, watcher):
        for name, value in settings.items():
            worker.execute(text(f"SET {name} = '{value}'"))
        found = status(worker, schema)
        done = [_drop(worker, left) for left in _leftovers(found, index)]
        for wanted in _wanted(found, index):
            done.append(_rebuild(worker, watcher, wanted, progress, schema))
        return done


def _leftovers(found: Sequence[IndexStatus], index: str | None) -> list[IndexStatus]:
    tables = {(one.schema, one.table) for one in found if index is None or _is(one, index)}
    return [one for one in found if one.state is IndexState.LEFTOVER and (one.schema, one.table) in tables]


def _wanted(found: Sequence[IndexStatus], index: str | None) -> list[IndexStatus]:
    if index is None:
        return [one for one in found if one.state is IndexState.INVALID]
    named = [one for one in found if _is(one, index)]
    if not named:
        known = ", ".join(dict.fromkeys(one.parent or one.name for one in found))
        raise InvalidInputError(
            f"index {index[:80]!r}: no vector index has this name; expected one of {known}"
        )
    for one in named:
        require(one, IndexState.VALID, IndexState.INVALID, IndexState.BUILDING, IndexState.LEFTOVER)
    return [one for one in named if one.state is not IndexState.LEFTOVER]


def _is(one: IndexStatus, index: str) -> bool:
    return index in (one.name, one.parent, f"{one.schema}.{one.name}")


def require(index: IndexStatus, *states: IndexState) -> None:
    """Raise SchemaDriftError, with what to do, unless the index is in one of the states."""
    if index.state not in states:
        told = index.warnings[0] if index.warnings else f"is {index.state}: wait until it is built"
        raise SchemaDriftError(f"index {index.name} on {index.schema}.{index.table}: {told}")


def _drop(worker: Connection, left: IndexStatus) -> Rebuilt:
    started = time.monotonic()
    worker.execute(_named("DROP INDEX CONCURRENTLY IF EXISTS", left))
    seconds = time.monotonic() - started
    return Rebuilt(left.name, left.schema, left.table, seconds, left.size, None, dropped=True)


def _rebuild(
    worker: Connection,
    watcher: Connection,
    index: IndexStatus,
    progress: Callable[[Progress], None] | None,
    schema: str | None,
) -> Rebuilt:
    started = time.monotonic()
    with _watched(worker, watcher, index.name, progress):
        try:
            with translated():
                worker.execute(_named("REINDEX INDEX CONCURRENTLY", index))
        except ConflictError as error:
            raise ConflictError(
                f"index {index.name}: {error}; it is as before, and the next rebuild drops what this one left",
                retryable=error.retryable,
            ) from error
    (now,) = (one for one in status(worker, schema) if (one.schema, one.name) == (index.schema, index.name))
    require(now, IndexState.VALID)
    seconds = time.monotonic() - started
    return Rebuilt(now.name, now.schema, now.table, seconds, index.size, now.size, dropped=False)


@contextmanager
def _two(engine: Engine) -> Generator[tuple[Connection, Connection]]:
    """A connection that works, for good apart from the pool as it is given settings, and one that looks on."""
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as worker, autocommit.connect() as watcher:
        worker.detach()
        asked = (worker, worker, watcher, worker)
        one, two, other, three = (connection.scalar(text("SELECT pg_backend_pid()")) for connection in asked)
        if len({one, two, three}) > 1 or one == other:
            raise ConfigurationError(
                "this connection goes through a transaction pooler, where the settings of a rebuild do not hold:"
                " use the server's own address, as in ALFRED_DB_MIGRATION_URL"
            )
        yield worker, watcher


@contextmanager
def _watched(
    worker: Connection, watcher: Connection, index: str, progress: Callable[[Progress], None] | None
) -> Generator[None]:
    if progress is None:
        yield
        return
    pid, over = worker.scalar(text("SELECT pg_backend_pid()")), threading.Event()

    def watch() -> None:
        while not over.wait(POLLED_EVERY):
            for row in watcher.execute(_PROGRESS, {"pid": pid}):
                progress(Progress(index, row.phase, row.blocks_done, row.blocks_total))

    with ThreadPoolExecutor(1) as thread:
        watching = thread.submit(watch)
        try:
            yield
        finally:
            over.set()
    watching.result()


def _named(command: str, index: IndexStatus) -> TextClause:
    name = f"{quoted(index.schema)}.{quoted(index.name)}"
    return text(f"{command} {name}".replace(":", r"\:"))


def _milliseconds(seconds: float) -> int:
    within("lock_timeout", seconds, 0.001, 86400)
    return int(seconds * 1000)


def _memory(value: str) -> str:
    if re.fullmatch(r"[1-9][0-9]{0,9}(kB|MB|GB|TB)", value, re.ASCII) is None:
        raise InvalidInputError(
            f"maintenance_work_mem: expected a size such as 512MB or 2GB, got {value[:40]!r}"
        )
    return value


def recall(
    engine: Engine,
    table: type[Base] | str,
    *,
    schema: str | None = None,
    target: float = 0.95,
    k: int = 10,
    samples: int = 200,
    ef: Sequence[int] = (10, 20, 40, 80, 160, 320),
) -> RecallReport:
    """Measure what part of the k truly nearest a search finds, and how fast, at each hnsw.ef_search.

    `table` is a model, its table, or a partition of it: knowledge is searched one collection at a time. The
    queries are stored vectors, the same ones each time for the same rows; vectors unlike the stored ones are
    harder to search for. Each is compared with the exact answer within one read-only snapshot. Raises
    InvalidInputError, NotFoundError when there are fewer than two vectors, and SchemaDriftError when the index
    is missing or invalid.
    """
    _check(target, k, samples, ef)
    options = _mapping(schema, engine.get_execution_options())
    with translated(), engine.connect() as connection:
        # Its cached plans, made for settings of this measurement, must not be anybody else's.
        connection.detach()
        connection = connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True, schema_translate_map=options
        )
        with connection.begin():
            found = [one for one in status(connection, schema) if one.state is not IndexState.LEFTOVER]
            model, searched = measured(
                connection, table, _models(), {one.table for one in found if one.parent}
            )
        name = table_of(model).name if searched is None else searched.table.name
        known = vector_index(model).name
        (index,) = (one for one in found if one.table == name and known in (one.name, one.parent))
        require(index, IndexState.VALID)
        return measure(connection, model, searched, index.name, target, k, samples, sorted(set(ef)))


def _check(target: float, k: int, samples: int, ef: Sequence[int]) -> None:
    if not 0 < target <= 1:
        raise InvalidInputError(f"target: expected more than 0, at most 1, got {target}")
    within("k", k, 2, 1000)
    within("samples", samples, 1, 100_000)
    if not ef:
        raise InvalidInputError("ef: expected at least one value of hnsw.ef_search, such as 40")
    for one in ef:
        within("ef", one, 1, 1000)


@cache
def _models() -> dict[str, type[Base]]:
    """The models with a vector index, by the names of their tables."""

    def with_index() -> Iterator[type[Base]]:
        for mapper in Base.registry.mappers:
            model: type[Base] = mapper.class_
            try:
                vector_index(model)
            except LookupError:
                continue
            yield model

    return {
        model.__tablename__: model for model in sorted(with_index(), key=lambda model: model.__tablename__)
    }


def _mapping(schema: str | None, options: Mapping[str, Any]) -> Mapping[str | None, str | None]:
    if schema is not None:
        return schema_translate_map(tenant_schema(schema)) or {}
    return options.get("schema_translate_map") or {}


_CATALOG = text("""
    SELECT
        wanted.number, to_regclass(wanted.name) IS NOT NULL AS there,
        n.nspname AS schema, t.relname AS table, CAST(t.reltuples AS double precision) AS rows,
        i.relname AS name, x.indisvalid AS valid, parent.relname AS parent,
        pg_relation_size(i.oid) AS size, pg_stat_get_numscans(i.oid) AS scans,
        EXISTS (SELECT FROM pg_stat_progress_create_index AS now WHERE now.index_relid = i.oid) AS building,
        (SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()) AS since
    FROM unnest(CAST(:tables AS text[])) WITH ORDINALITY AS wanted (name, number)
    CROSS JOIN LATERAL (
        SELECT CAST(to_regclass(wanted.name) AS oid) AS oid
        UNION SELECT CAST(relid AS oid) FROM pg_partition_tree(to_regclass(wanted.name))
    ) AS part
    LEFT JOIN pg_class AS t ON t.oid = part.oid AND t.relkind = 'r'
    LEFT JOIN pg_namespace AS n ON n.oid = t.relnamespace
    LEFT JOIN (
        pg_index AS x
        JOIN pg_class AS i ON i.oid = x.indexrelid
        JOIN pg_am ON pg_am.oid = i.relam AND pg_am.amname IN ('hnsw', 'ivfflat')
    ) ON x.indrelid = t.oid
    LEFT JOIN pg_inherits AS h ON h.inhrelid = i.oid
    LEFT JOIN pg_class AS parent ON parent.oid = h.inhparent
    ORDER BY wanted.number, n.nspname, t.relname, i.relname
""")

_PROGRESS = text("""
    SELECT phase, blocks_done, blocks_total FROM pg_stat_progress_create_index
    WHERE pid = :pid AND phase IS NOT NULL
""")
