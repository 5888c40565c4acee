"""What a database is to this library: its encoding, and the schemas that hold its tables."""

from __future__ import annotations

from sqlalchemy import Connection, text

from ..sql import MADE_HERE, qualified

__all__ = ["VERSION_TABLE", "VERSION_TABLES", "mark_version_table", "moved_tenants", "not_utf8"]

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


_READABLE = text("""
    SELECT pg_catalog.has_table_privilege(pg_class.oid, 'SELECT')
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = 'alfred_db_servers' AND nspname = 'extensions' AND pg_catalog.has_schema_privilege(pg_namespace.oid, 'USAGE')
""")


def moved_tenants(connection: Connection) -> dict[str, str]:
    """Return the URLs, without passwords, of the tenants that the directory has on other servers.

    None are known where the directory does not exist yet, or this role may not read it.
    """
    if not connection.scalar(_READABLE):
        return {}
    rows = connection.execute(
        text("SELECT tenant, url FROM extensions.alfred_db_servers WHERE state = 'moved'")
    )
    return {row.tenant: row.url for row in rows}


def not_utf8(database: str, encoding: str) -> str:
    """Return the error text for a database in another encoding than UTF-8."""
    return (
        f"database {database!r}: its encoding is {encoding}, which cannot hold every text; make one with"
        " CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and restore a dump there"
    )
