"""The vector indexes of the models, compared with the catalog of the database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, make_url, text
from sqlalchemy.schema import CreateIndex

from ..config import command, tenant_schema
from ..errors import SchemaDriftError, SchemaOutdatedError, translated
from ..models import Base
from ..models.base import table_of
from ..queries.shapes.vector_search import VectorIndex, vector_index
from ..server import requirements
from ..sql import qualified, quoted, schema_translate_map
from .results import IndexState, IndexStatus

__all__ = ["mapping_of", "models", "require", "status"]

_LEFT = re.compile(r"_cc(new|old)\d*")


def status(connection: Connection, schema: str | None = None) -> list[IndexStatus]:
    """Return every vector index of a tenant.

    Other vector indexes on the same tables, and leftovers of failed rebuilds, are included.

    Args:
        connection: A connection to the database.
        schema: The tenant; by default that of the connection.

    Raises:
        SchemaOutdatedError: A table is missing.
    """
    mapping = mapping_of(schema, connection.get_execution_options())
    schema = schema or mapping.get(None)
    tables = [table_of(model) for model in models().values()]
    names = [qualified(mapping.get(table.schema, table.schema), table.name) for table in tables]
    with translated():
        facts = requirements.probe(connection)
        rows = connection.execute(_CATALOG, {"tables": names}).all()
    found: list[IndexStatus] = []
    faults = tuple(
        line for line in requirements.warnings(facts) if line.startswith("vector ") and "before" in line
    )
    for number, (name, model) in enumerate(zip(names, models().values(), strict=True), 1):
        known, own = vector_index(model), [row for row in rows if row.number == number]
        if not own[0].there:
            run = command("upgrade", connection.engine.url, schema)
            raise SchemaOutdatedError(f"table {name} does not exist: run {run}")
        for row in own:
            if row.name is not None:
                rebuild = command("vectors rebuild", connection.engine.url, schema, "--index", row.name)
                found.append(_status(row, facts, faults, rebuild))
        for home in dict.fromkeys((row.schema, row.table) for row in own if row.table is not None):
            here = [row for row in own if (row.schema, row.table) == home]
            if not any(known.name in (row.name, row.parent) for row in here):
                found.append(_missing(*home, here[0].rows, model, known))
    return found


def _status(row: Any, facts: requirements.Facts, faults: tuple[str, ...], rebuild: str) -> IndexStatus:
    state, warnings = IndexState.VALID, faults
    if row.building:
        state = IndexState.BUILDING
    elif not row.valid and _LEFT.search(row.name):
        state = IndexState.LEFTOVER
        warnings = (f"left of a rebuild that failed; {rebuild} drops it",)
    elif not row.valid:
        state = IndexState.INVALID
        warnings = (f"invalid, so that no search uses it: {rebuild}", *faults)
    # The coordinator of Citus holds no rows and reads no index: its workers do.
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


def _missing(schema: str, table: str, rows: float, model: type[Base], known: VectorIndex) -> IndexStatus:
    made = str(CreateIndex(known.index).compile(dialect=make_url("postgresql+psycopg://").get_dialect()()))
    using = made[made.index(" USING ") :]
    partition = table != table_of(model).name
    name = f"{table[-49:]}_{known.column.name}_idx" if partition else known.name
    home, command = f"{quoted(schema)}.", "CREATE INDEX CONCURRENTLY"
    command += f" {quoted(name)} ON {home}{quoted(table)}{using}"
    if partition:
        command += (
            f"; CREATE INDEX IF NOT EXISTS {quoted(known.name)} ON ONLY {home}{quoted(table_of(model).name)}{using}"
            f"; ALTER INDEX {home}{quoted(known.name)} ATTACH PARTITION {home}{quoted(name)}"
        )
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


def require(index: IndexStatus, *states: IndexState) -> None:
    """Check that the index is in one of the states.

    Raises:
        SchemaDriftError: It is in another state; the message names the command to run.
    """
    if index.state not in states:
        reason = index.warnings[0] if index.warnings else f"is {index.state}: wait until it is built"
        raise SchemaDriftError(f"index {index.name} on {index.schema}.{index.table}: {reason}")


@cache
def models() -> dict[str, type[Base]]:
    """Return the models with a vector index, by the names of their tables."""

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


def mapping_of(schema: str | None, options: Mapping[str, Any]) -> Mapping[str | None, str | None]:
    """Return the schema translation of the tenant `schema`, or that in the engine's options."""
    if schema is not None:
        return schema_translate_map(tenant_schema(schema)) or {}
    return options.get("schema_translate_map") or {}


_CATALOG = text("""
    SELECT
        wanted.number, pg_catalog.to_regclass(wanted.name) IS NOT NULL AS there,
        n.nspname AS schema, t.relname AS table, CAST(t.reltuples AS double precision) AS rows,
        i.relname AS name, x.indisvalid AS valid, parent.relname AS parent,
        pg_catalog.pg_relation_size(i.oid) AS size, pg_catalog.pg_stat_get_numscans(i.oid) AS scans,
        EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index AS now WHERE now.index_relid = i.oid) AS building,
        (SELECT stats_reset FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()) AS since
    FROM pg_catalog.unnest(CAST(:tables AS text[])) WITH ORDINALITY AS wanted (name, number)
    CROSS JOIN LATERAL (
        SELECT CAST(pg_catalog.to_regclass(wanted.name) AS oid) AS oid
        UNION SELECT CAST(relid AS oid) FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(wanted.name))
    ) AS part
    LEFT JOIN pg_catalog.pg_class AS t ON t.oid = part.oid AND t.relkind = 'r'
    LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = t.relnamespace
    LEFT JOIN (
        pg_catalog.pg_index AS x
        JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
        JOIN pg_catalog.pg_am ON pg_am.oid = i.relam AND pg_am.amname IN ('hnsw', 'ivfflat')
    ) ON x.indrelid = t.oid
    LEFT JOIN pg_catalog.pg_inherits AS h ON h.inhrelid = i.oid
    LEFT JOIN pg_catalog.pg_class AS parent ON parent.oid = h.inhparent
    ORDER BY wanted.number, n.nspname, t.relname, i.relname
""")
