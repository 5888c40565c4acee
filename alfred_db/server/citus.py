"""What a database with Citus is: which node this is, the other nodes, and what is distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from ..config import command
from ..errors import ConfigurationError
from ..models import Base
from ..sql import SHARED_SCHEMAS
from .databases import VERSION_TABLES

__all__ = ["CATALOGS", "HAS_CITUS", "Cluster", "Node", "cluster", "refuse_worker"]

CATALOGS = tuple(
    table
    for table in Base.metadata.sorted_tables
    if table.schema in SHARED_SCHEMAS and table.schema != "extensions"
)
"""The tables that all tenants read, those that others refer to first; on Citus they are reference tables."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster."""

    name: str
    port: int
    coordinator: bool
    active: bool
    tenants: int
    """How many tenants it holds."""

    def __str__(self) -> str:
        kind = "coordinator" if self.coordinator else f"worker with {self.tenants} tenants"
        return f"{self.name}:{self.port}, {kind}{'' if self.active else ', not active'}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, as the connected node knows it."""

    coordinator: bool
    """Whether the connected node is the coordinator."""
    nodes: tuple[Node, ...]
    local_catalogs: tuple[str, ...]
    """Tables of the shared catalogs that are not reference tables."""
    local_tenants: tuple[str, ...]
    """Named tenants whose schemas are not distributed."""
    default_tenant: bool
    """Whether there is a default tenant, which stays on the coordinator: Citus cannot distribute `public`."""
    command: str
    """The command that distributes what is left."""

    @property
    def warnings(self) -> Sequence[str]:
        """What keeps the cluster from being used, in words."""
        found: list[str] = []
        if not self.coordinator:
            found.append(
                "Citus: this server is a worker; connect to the coordinator, or events would be lost"
            )
        elif not any(node for node in self.nodes if not node.coordinator):
            found.append("Citus: the cluster has no worker; add one by citus_add_node")
        found += [f"Citus: the node {node} does not answer to it" for node in self.nodes if not node.active]
        local = [*(f"tenant {name}" for name in self.local_tenants), *self.local_catalogs]
        if self.coordinator and local:
            some = ", ".join(local[:10]) + (f" and {len(local) - 10} more" if len(local) > 10 else "")
            found.append(f"Citus: not distributed: {some}; run {self.command}")
        return found


def cluster(connection: Connection) -> Cluster | None:
    """Return the cluster, or None without Citus."""
    if not connection.scalar(text(HAS_CITUS)):
        return None
    names = [table.fullname for table in CATALOGS]
    row = connection.execute(text(_STATE), {"names": names}).one()
    nodes = tuple(Node(*found) for found in connection.execute(text(_NODES)))
    return Cluster(
        coordinator=row.groupid == 0,
        nodes=nodes,
        local_catalogs=tuple(row.catalogs or ()),
        local_tenants=tuple(row.tenants or ()),
        default_tenant=bool(row.default_tenant),
        command=command("distribute", connection.engine.url),
    )


def refuse_worker(connection: Connection) -> None:
    """Refuse a worker of Citus, on which nothing can be created.

    Raises:
        ConfigurationError: The connected server is one.
    """
    if connection.scalar(text(HAS_CITUS)) and connection.scalar(
        text("SELECT groupid <> 0 FROM pg_catalog.pg_dist_local_group")
    ):
        raise ConfigurationError(
            "this server is a worker of Citus, on which nothing can be created or changed; connect to the coordinator"
        )


HAS_CITUS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')"

_STATE = f"""
    WITH versions AS MATERIALIZED ({VERSION_TABLES})
    SELECT
        (SELECT groupid FROM pg_catalog.pg_dist_local_group) AS groupid,
        ARRAY(
            SELECT name FROM pg_catalog.unnest(CAST(:names AS text[])) WITH ORDINALITY AS wanted (name, place)
            JOIN pg_catalog.pg_class ON pg_class.oid = CAST(pg_catalog.to_regclass(name) AS oid) AND relkind = 'r'
            WHERE NOT EXISTS (
                SELECT FROM pg_catalog.pg_dist_partition
                WHERE CAST(logicalrelid AS oid) = pg_class.oid AND repmodel = 't'
            )
            ORDER BY place
        ) AS catalogs,
        ARRAY(
            SELECT CAST(schema AS text) FROM versions JOIN pg_catalog.pg_namespace ON nspname = schema
            WHERE tenant AND NOT EXISTS (SELECT FROM pg_catalog.pg_dist_schema WHERE schemaid = pg_namespace.oid)
            ORDER BY schema
        ) AS tenants,
        EXISTS (SELECT FROM versions WHERE NOT tenant) AS default_tenant
"""

_NODES = """
    SELECT nodename, nodeport, groupid = 0, isactive,
        (
            SELECT pg_catalog.count(DISTINCT pg_dist_schema.schemaid) FROM pg_catalog.pg_dist_schema
            JOIN pg_catalog.pg_dist_partition ON pg_dist_partition.colocationid = pg_dist_schema.colocationid
            JOIN pg_catalog.pg_dist_shard ON pg_dist_shard.logicalrelid = pg_dist_partition.logicalrelid
            JOIN pg_catalog.pg_dist_placement ON pg_dist_placement.shardid = pg_dist_shard.shardid
            WHERE pg_dist_placement.groupid = pg_dist_node.groupid
        )
    FROM pg_catalog.pg_dist_node WHERE noderole = 'primary' ORDER BY groupid, nodename, nodeport
"""
