"""What a database has that was made by a platform: its tables, wherever they are, and their columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Table

from ..errors import ConfigurationError
from ..sql import MADE_HERE, quoted
from .casts import SourceColumn
from .driver import Driver
from .platforms import NAMES, TABLES
from .reading import Found

__all__ = ["LEGACY", "find", "move_aside", "refuse_old", "stand_in_functions", "zone_of"]

LEGACY = "legacy"
"""The schema that the tables of a platform are moved to."""

_RELATIONS = """
    SELECT c.oid::bigint, n.nspname, c.relname, c.relkind,
        greatest(c.reltuples, 0)::bigint
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
        AND (n.nspname, c.relname) IN (SELECT * FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS wanted)
"""

_COLUMNS = """
    WITH RECURSIVE base AS (
        SELECT t.oid, t.oid AS base, t.typbasetype FROM pg_catalog.pg_type AS t
        UNION ALL
        SELECT base.oid, t.oid, t.typbasetype FROM base JOIN pg_catalog.pg_type AS t ON t.oid = base.typbasetype
    )
    SELECT a.attname, CASE WHEN t.typname IN ('vector', 'halfvec') THEN t.typname::text ELSE pg_catalog.format_type(t.oid, NULL) END,
        CASE WHEN t.typname IN ('vector', 'halfvec') AND a.atttypmod > 0 THEN a.atttypmod END, a.attnotnull
    FROM pg_catalog.pg_attribute AS a
    JOIN base ON base.oid = a.atttypid AND base.typbasetype = 0
    JOIN pg_catalog.pg_type AS t ON t.oid = base.base
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

_KEY = """
    SELECT a.attname FROM pg_catalog.pg_index AS i
    CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (number, place)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
    WHERE i.indrelid = %s AND i.indisprimary ORDER BY k.place
"""

_SEQUENCE = """
    SELECT s.seqrelid::regclass::text FROM pg_catalog.pg_depend AS d
    JOIN pg_catalog.pg_sequence AS s ON s.seqrelid = d.objid
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
        AND d.refobjid = %s AND d.refobjsubid > 0
"""


def zone_of(connection: Driver) -> str:
    """Return the time zone that the server gives a new session, in which CURRENT_TIMESTAMP was stored without one."""
    return str(
        connection.one("SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'") or "UTC"
    )


def refuse_old(connection: Driver) -> None:
    """Refuse a server that cannot run the statements.

    Raises:
        ConfigurationError: It is older than PostgreSQL 12.
    """
    if connection.version < 120000:
        found = connection.version // 10000
        raise ConfigurationError(f"source: PostgreSQL {found} is not supported; upgrade it to 12 or later")


def find(
    connection: Driver,
    *,
    homes: Sequence[str],
    schema: str | None = None,
    only: Collection[str] = (),
    ours: bool = False,
) -> list[Found]:
    """Return the tables of a platform, parents first.

    Args:
        connection: The source; its search_path is pg_catalog.
        homes: Where tables without a schema are looked for, the first that has one is taken.
        schema: The schema that has all tables; None looks for each where the models have it.
        only: The full names of the tables to look for; empty is all.
        ours: Leave out the tables that are read where they are, as those of Supabase.
    """
    wanted = [table for table in TABLES if not only or table.fullname in only]
    places = [(place, table) for table in wanted for place in _places(table, homes, schema)]
    rows = connection.rows(_RELATIONS, [[place[0] for place, _ in places], [place[1] for place, _ in places]])
    known = {(row[1], row[2]): row for row in rows}
    found: list[Found] = []
    for table in wanted:
        if ours and table.schema == "auth":
            continue
        row = next((known[place] for place, of in places if of is table and place in known), None)
        if row is not None:
            found.append(_read(connection, table, row))
    return found


def _places(table: Table, homes: Sequence[str], schema: str | None) -> Iterable[tuple[str, str]]:
    names = (table.name, *NAMES.get(table.name, ()))
    if schema is not None:
        return [(schema, name) for name in names]
    return [(home, name) for home in ([table.schema] if table.schema else homes) for name in names]


def _read(connection: Driver, table: Table, row: Sequence[Any]) -> Found:
    oid, schema, name, kind, rows = row
    columns = tuple(
        SourceColumn(column, type_, dimensions, not_null)
        for column, type_, dimensions, not_null in connection.rows(_COLUMNS, [oid])
    )
    key = tuple(column for (column,) in connection.rows(_KEY, [oid]))
    last = None
    for (sequence,) in connection.rows(_SEQUENCE, [oid]):
        got = connection.one(f"SELECT last_value FROM {sequence} WHERE is_called")
        last = max(last or 0, got) if got is not None else last
    return Found(table, schema, name, kind, columns, key, rows, last)


def move_aside(found: Found, schema: str) -> str:
    """Return the statement that moves a table to another schema, with its indexes and sequences."""
    kind = {"v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}.get(found.kind, "TABLE")
    return f"ALTER {kind} {found.full_name} SET SCHEMA {quoted(schema)}"


_FUNCTIONS = """
    SELECT pg_catalog.format('%%I.%%I(%%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = 'extensions' AND p.proname ~ '^(uuid_.*|sign|verify|algorithm_sign|url_encode|url_decode)$'
        AND pg_catalog.obj_description(p.oid, 'pg_proc') IS DISTINCT FROM %s
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_depend AS d
            WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        )
"""


def stand_in_functions(connection: Driver) -> list[str]:
    """Return the functions that a platform made where an extension, or the migrations, make theirs."""
    return [name for (name,) in connection.rows(_FUNCTIONS, [MADE_HERE])]
