"""What a database is to this library: its encoding, and the schemas that hold its tables."""

from __future__ import annotations

from ..sql import MADE_HERE, qualified

__all__ = ["VERSION_TABLE", "VERSION_TABLES", "mark_version_table", "not_utf8"]

VERSION_TABLE = "alfred_db_version"
"""Ours alone, in the tenant's schema: a host application's `alembic_version` is not touched."""

_OF_TENANT = f"{MADE_HERE}: a tenant"
_OF_DEFAULT = f"{MADE_HERE}: the default tenant"

# A version table without a comment comes from an earlier release: a named tenant has all tables in its one schema.
VERSION_TABLES = f"""
    SELECT
        nspname AS schema,
        CASE pg_catalog.obj_description(version.oid, 'pg_class')
            WHEN '{_OF_TENANT}' THEN true
            WHEN '{_OF_DEFAULT}' THEN false
            ELSE EXISTS (
                SELECT FROM pg_catalog.pg_class AS own
                WHERE own.relnamespace = version.relnamespace AND own.relname = 'working_memory'
            )
        END AS tenant,
        pg_catalog.array_position(pg_catalog.current_schemas(false), nspname) AS place
    FROM pg_catalog.pg_class AS version
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = version.relnamespace
    WHERE version.relname = '{VERSION_TABLE}' AND version.relkind IN ('r', 'p')
"""
"""The version tables of a database: their schemas, whether these are named tenants', and their place in the search_path."""


def mark_version_table(home: str | None, *, tenant: bool) -> str:
    """Return the statement that marks a version table as the default tenant's or a named tenant's.

    With the mark, a search_path cannot make one tenant pass for another.
    """
    comment = _OF_TENANT if tenant else _OF_DEFAULT
    return f"COMMENT ON TABLE {qualified(home, VERSION_TABLE)} IS '{comment}'"


def not_utf8(database: str, encoding: str) -> str:
    """Return the error text for a database in another encoding than UTF-8."""
    return (
        f"database {database!r}: its encoding is {encoding}, which cannot hold every text; make one with"
        " CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and restore a dump there"
    )
