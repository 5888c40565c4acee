"""The tenants that a database has, as its catalog shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, exc, text
from sqlalchemy.orm import Session

from ..config import command
from ..engine.session import DirectSession
from ..errors import NotFoundError, shown
from ..server.citus import HAS_CITUS
from ..server.databases import VERSION_TABLE, VERSION_TABLES
from ..sql import literal, qualified

__all__ = ["Tenant", "list_tenants", "require_tenant", "tenant_missing"]

TRIES = 5
"""How often the list is read again, where a tenant is dropped meanwhile."""

AT_ONCE = 500
"""The number of tenants whose revisions are read by one statement."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of a database."""

    name: str
    """The name of its schema."""
    revision: str | None
    """The revision that it is at. None: its first upgrade has not ended, or this role may not read it, or its server does not answer."""
    at_head: bool
    """Whether that is the newest revision that this version of the library knows."""
    size: int | None
    """The bytes of its tables and indexes. None: its server does not answer."""
    owner: str | None
    """The role that owns its schema. None: its server does not answer."""
    node: str | None = None
    """The URL, without a password, of the other server that it was moved to; or the node of Citus that holds it, as host and port.

    None: it is in this database.
    """


_FOUND = text("""
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE CAST(relname AS text) = CAST(:table AS text) AND CAST(nspname AS text) = CAST(:schema AS text)
    )
""")

_TENANTS = text(f"""
    SELECT
        versions.schema AS name,
        CAST(pg_catalog.pg_get_userbyid(nspowner) AS text) AS owner,
        pg_catalog.has_schema_privilege(pg_namespace.oid, 'USAGE')
            AND pg_catalog.has_table_privilege(version.oid, 'SELECT') AS readable,
        (
            SELECT CAST(COALESCE(pg_catalog.sum(pg_catalog.pg_total_relation_size(own.oid)), 0) AS bigint)
            FROM pg_catalog.pg_class AS own
            WHERE own.relnamespace = pg_namespace.oid AND own.relkind IN ('r', 'm')
        ) AS size
    FROM ({VERSION_TABLES}) AS versions
    JOIN pg_catalog.pg_namespace ON nspname = versions.schema
    JOIN pg_catalog.pg_class AS version ON version.relnamespace = pg_namespace.oid AND version.relname = '{VERSION_TABLE}'
    WHERE versions.tenant
    ORDER BY CAST(versions.schema AS text) COLLATE pg_catalog."C"
""")

_ON_CITUS = text("""
    SELECT
        CAST(nspname AS text) AS name,
        (
            SELECT pg_catalog.concat(pg_dist_node.nodename, ':', pg_dist_node.nodeport)
            FROM pg_catalog.pg_dist_partition AS own
            JOIN pg_catalog.pg_dist_shard ON pg_dist_shard.logicalrelid = own.logicalrelid
            JOIN pg_catalog.pg_dist_placement ON pg_dist_placement.shardid = pg_dist_shard.shardid
            JOIN pg_catalog.pg_dist_node ON pg_dist_node.groupid = pg_dist_placement.groupid
            WHERE own.colocationid = pg_dist_schema.colocationid AND pg_dist_node.noderole = 'primary'
            ORDER BY pg_dist_node.nodeid LIMIT 1
        ) AS node,
        (
            SELECT CAST(COALESCE(pg_catalog.sum(pg_catalog.citus_total_relation_size(own.logicalrelid, false)), 0) AS bigint)
            FROM pg_catalog.pg_dist_partition AS own
            JOIN pg_catalog.pg_class ON pg_class.oid = CAST(own.logicalrelid AS oid)
            WHERE own.colocationid = pg_dist_schema.colocationid AND relkind IN ('r', 'm')
        ) AS size
    FROM pg_catalog.pg_dist_schema JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pg_dist_schema.schemaid
""")
"""Where the tenants are that have been distributed, and how large; the coordinator has nothing of them."""


def list_tenants(connection: Connection, head: str) -> list[Tenant]:
    """Return the named tenants by name; the default tenant is not one of them.

    Args:
        connection: A connection to the database, of any role.
        head: The newest revision.
    """
    for last in (False,) * (TRIES - 1) + (True,):
        rows = connection.execute(_TENANTS).all()
        try:
            revisions = _revisions(connection, [row.name for row in rows if row.readable])
            placed = _placed(connection)
        except exc.ProgrammingError:  # a tenant was dropped meanwhile
            if last:
                raise
        else:
            return [
                Tenant(
                    row.name,
                    found := revisions.get(row.name),
                    found == head,
                    placed[row.name].size if row.name in placed else row.size,
                    row.owner,
                    placed[row.name].node if row.name in placed else None,
                )
                for row in rows
            ]
        finally:
            connection.rollback()
    raise AssertionError("not reached")


def _placed(connection: Connection) -> dict[str, Row[Any]]:
    """Return node and size of each tenant that Citus has distributed."""
    if not connection.scalar(text(HAS_CITUS)):
        return {}
    return {row.name: row for row in connection.execute(_ON_CITUS)}


def _revisions(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for place in range(0, len(names), AT_ONCE):
        each = " UNION ALL ".join(
            f"SELECT {literal(name)} AS name, version_num FROM {qualified(name, VERSION_TABLE)}"
            for name in names[place : place + AT_ONCE]
        )
        found |= {row[0]: row[1] for row in connection.exec_driver_sql(each.replace("%", "%%"))}
    return found


def require_tenant(session: Session, schema: str) -> None:
    """Check that a tenant exists, on the connection that the session's next unit of work takes.

    Raises:
        NotFoundError: There is no such tenant.
    """
    if isinstance(session, DirectSession):
        session.take()
    found = session.scalar(_FOUND, {"table": VERSION_TABLE, "schema": schema})
    session.rollback()
    if not found:
        raise tenant_missing(session.get_bind().engine, schema)


def tenant_missing(engine: Engine, name: str) -> NotFoundError:
    """Return the error for a tenant that the database does not have."""
    create = command("tenants create", engine.url, None, name)
    listed = command("tenants list", engine.url)
    return NotFoundError(f"tenant {shown(name)}: not found; {listed} lists the tenants, {create} creates it")
