"""What `distribute` does: the shared catalogs as reference tables of Citus, and each named tenant on one node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, text

from ..config import command, migration_url
from ..engine.pool import passing_engine
from ..errors import ConfigurationError, SchemaOutdatedError, translated
from ..server import requirements
from ..server.citus import CATALOGS, cluster, refuse_worker
from ..sql import literal, quoted
from .version import current, head, home

__all__ = ["Stage", "distribute", "distribution"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Statements that are run in one transaction."""

    name: str
    statements: tuple[str, ...]


def distribute(
    url: str | URL | None = None,
    *,
    dry_run: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Stage]:
    """Distribute what is not distributed yet. Run it again after it was stopped.

    The default tenant stays on the coordinator: Citus can distribute neither `public` nor the several schemas that a
    default tenant has.

    Args:
        url: The coordinator; None is ALFRED_DB_MIGRATION_URL, ALFRED_DB_URL, DATABASE_URL.
        dry_run: Change nothing.
        progress: Called with the name of each stage that begins.

    Returns:
        The stages, in order; empty if nothing was to do.

    Raises:
        ConfigurationError: The database has no Citus, or the server is a worker.
        SchemaOutdatedError: The default tenant or a named one is not at the newest revision.
    """
    engine = passing_engine(migration_url(url), "alfred-db distribute")
    with translated(), engine.connect() as connection:
        stages = distribution(connection)
        connection.rollback()
        for stage in () if dry_run else stages:
            if progress is not None:
                progress(stage.name)
            with connection.begin():
                driver: Any = connection.connection.driver_connection
                for statement in stage.statements:
                    driver.execute(statement)
    return stages


def distribution(connection: Connection) -> list[Stage]:
    """Return what is to do; changes nothing."""
    refuse_worker(connection)
    found = cluster(connection)
    if found is None:
        raise ConfigurationError(
            "the database has no Citus; create the extension citus, which the server must preload, or do without"
        )
    _require_head(connection, None)
    for tenant in found.local_tenants:
        _require_head(connection, tenant)
    facts = requirements.probe(connection)
    ours = [
        table.fullname
        for table in CATALOGS
        if table.fullname in found.local_catalogs and facts.shared_tables.get(table.fullname, True)
    ]
    stages: list[Stage] = []
    if ours:
        stages.append(Stage("shared catalogs", tuple(_catalogs(connection, ours))))
    stages += [
        Stage(f"tenant {tenant}", tuple(_tenant(connection, tenant))) for tenant in found.local_tenants
    ]
    return stages


# Citus runs the parts of one transaction on the same connections to its nodes only with this setting.
_IN_TURN = "SET LOCAL citus.multi_shard_modify_mode = 'sequential'"


def _catalogs(connection: Connection, names: Sequence[str]) -> Iterator[str]:
    yield _IN_TURN
    yield from _without_triggers(connection, [_oid(connection, name) for name in names])
    # A partitioned table that is not distributed cannot be in one graph of foreign keys with reference tables.
    keys = [_Key(*row) for row in connection.execute(text(_KEYS), {"names": list(names)})]
    for key in keys:
        yield f"ALTER TABLE {key.table} DROP CONSTRAINT {key.name}"
    for name in names:  # those that others refer to first
        yield f"SELECT pg_catalog.create_reference_table({literal(name)})"
        yield from _comments(connection, [_oid(connection, name)])
    for key in keys:
        yield f"ALTER TABLE {key.table} ADD CONSTRAINT {key.name} {key.definition}"


def _tenant(connection: Connection, schema: str) -> Iterator[str]:
    tables = connection.scalars(text(_TABLES), {"schema": schema}).all()
    yield _IN_TURN
    yield from _without_triggers(connection, tables)
    yield f"SELECT pg_catalog.citus_schema_distribute({literal(quoted(schema))})"
    yield from _comments(connection, tables)


def _without_triggers(connection: Connection, tables: Sequence[int]) -> Iterator[str]:
    """Citus distributes no table with a trigger; those of the library are for raw SQL alone."""
    for name, relation in connection.execute(text(_TRIGGERS), {"tables": list(tables)}):
        yield f"DROP TRIGGER {name} ON {relation}"


def _comments(connection: Connection, tables: Sequence[int]) -> Iterator[str]:
    """Citus makes a distributed table anew, without the comment by which this library knows it."""
    for relation, comment in connection.execute(text(_COMMENTS), {"tables": list(tables)}):
        yield f"COMMENT ON TABLE {relation} IS {literal(comment)}"


@dataclass(frozen=True, slots=True)
class _Key:
    table: str
    name: str
    definition: str


def _oid(connection: Connection, name: str) -> int:
    found: int = connection.scalar(
        text("SELECT CAST(CAST(pg_catalog.to_regclass(:name) AS oid) AS bigint)"), {"name": name}
    )
    return found


def _require_head(connection: Connection, schema: str | None) -> None:
    at = current(connection, schema if schema is not None else home(connection))
    if at != head():
        who = "the default tenant" if schema is None else f"the tenant {schema}"
        raise SchemaOutdatedError(
            f"{who} is at {at or 'no revision'}, this version of alfred-db needs {head()}: run"
            f" {command('upgrade', connection.engine.url, schema)} first"
        )


_NAME = """
    pg_catalog.concat(pg_catalog.quote_ident(CAST(nspname AS text)), '.', pg_catalog.quote_ident(CAST(relname AS text)))
"""

_TABLES = """
    SELECT CAST(pg_class.oid AS bigint) FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = CAST(:schema AS name) AND relkind IN ('r', 'p') ORDER BY relname
"""

_TRIGGERS = f"""
    SELECT pg_catalog.quote_ident(CAST(tgname AS text)), {_NAME} FROM pg_catalog.pg_trigger
    JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE tgname IN ('set_updated_at', 'set_status_times') AND NOT tgisinternal AND tgparentid = CAST(0 AS oid)
        AND CAST(tgrelid AS bigint) = ANY (CAST(:tables AS bigint[]))
    ORDER BY 2
"""

_COMMENTS = f"""
    SELECT {_NAME}, pg_catalog.obj_description(pg_class.oid, 'pg_class') FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE CAST(pg_class.oid AS bigint) = ANY (CAST(:tables AS bigint[]))
        AND pg_catalog.obj_description(pg_class.oid, 'pg_class') IS NOT NULL
    ORDER BY 1
"""

_KEYS = f"""
    SELECT {_NAME}, pg_catalog.quote_ident(CAST(conname AS text)), pg_catalog.pg_get_constraintdef(pg_constraint.oid)
    FROM pg_catalog.pg_constraint
    JOIN pg_catalog.pg_class ON pg_class.oid = conrelid JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE contype = 'f' AND conparentid = CAST(0 AS oid)
        AND confrelid IN (
            SELECT CAST(pg_catalog.to_regclass(name) AS oid) FROM pg_catalog.unnest(CAST(:names AS text[])) AS name
        )
        AND conrelid NOT IN (
            SELECT CAST(pg_catalog.to_regclass(name) AS oid) FROM pg_catalog.unnest(CAST(:names AS text[])) AS name
        )
    ORDER BY 1, 2
"""
