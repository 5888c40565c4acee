"""The entity graph: nodes, dated facts that connect them, and paths."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...checks import aware, check_word, within
from ...errors import InvalidInputError
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import fetch_rows
from ...execution.missing import not_found
from ...models import EntityEdge, EntityNode
from ...queries import entities as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.entities import EdgeDirection, GraphNeighbour, GraphNode, GraphPath, Subgraph

MAX_DEPTH = 10
"""The maximum depth of a walk, in edges."""

MAX_FAN_OUT = 1_000
"""The maximum number of edges that a walk follows from one node in one direction."""

MAX_NODES = 10_000
"""The maximum number of nodes, and of edges, that a walk returns."""


class AsyncEntityRepository(AsyncRepository):
    """Nodes by type and key, and the edges between them.

    Without `as_of`, methods see the edges that hold now, by the database's clock.
    """

    async def upsert_node(
        self,
        node_type: str,
        key: str,
        *,
        name: str | None = None,
        description: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> EntityNode:
        """Create the node, or update the one with this type and key.

        Args:
            node_type: The kind of node.
            key: The unique key within the type.
            name: The name for people; None keeps the stored one.
            description: A text for people; None keeps the stored one.
            properties: Any JSON, merged key by key with the stored one.
        """
        node = await self._write(
            queries.upsert_node(
                node_type, key, name=name, description=description, properties=properties or {}
            )
        )
        assert node is not None
        return node

    async def get_node(self, node_id: uuid.UUID) -> EntityNode | None:
        """Return the node with this id."""
        return await self._first(queries.get_node(node_id))

    async def find_node(self, node_type: str, key: str) -> EntityNode | None:
        """Return the node with this type and key."""
        return await self._first(queries.find_node(node_type, key))

    async def list_nodes(
        self,
        *,
        node_type: str | None = None,
        properties: Mapping[str, Any] | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[EntityNode]:
        """Return a page of the nodes, by type and key.

        `properties` selects nodes that have all of these values; types count, so that 1 is not "1".
        """
        rows = await self._all(
            queries.list_nodes(node_type=node_type, properties=properties or {}, after=after, limit=limit)
        )
        return as_page(rows, queries.NODES_KEY, limit)

    async def delete_node(self, node_id: uuid.UUID) -> None:
        """Delete the node and all of its edges, in either direction.

        Raises:
            NotFoundError: The node does not exist.
        """
        held = await self._first(queries.hold_node(node_id))
        if held is None or await self._write(queries.delete_node(node_id)) is None:
            raise not_found("node", node_id)

    async def upsert_edge(
        self,
        source_id: uuid.UUID,
        target_id: uuid.UUID,
        edge_type: str,
        *,
        weight: float = 1.0,
        properties: Mapping[str, Any] | None = None,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
    ) -> EntityEdge:
        """Create a fact, or update it: `properties` of a known one are merged key by key.

        Args:
            source_id: The node where the edge begins.
            target_id: The node where the edge ends.
            edge_type: The kind of relation.
            weight: A finite number; walks follow the edges of greatest weight.
            properties: Any JSON.
            valid_from: The beginning that identifies the fact. None updates the fact that holds now, or
                creates one that begins now.
            valid_to: The end; it needs `valid_from`.

        Raises:
            ConflictError: A node does not exist, or the relation already holds since another time.
        """
        _check_times(valid_from, valid_to)
        if not math.isfinite(weight):
            raise InvalidInputError(f"weight: expected a finite number, got {weight}")
        edge = await self._write(
            queries.upsert_edge(
                source_id,
                target_id,
                edge_type,
                weight=weight,
                properties=properties or {},
                valid_from=valid_from,
                valid_to=valid_to,
            )
        )
        assert edge is not None
        return edge

    async def get_edge(self, edge_id: uuid.UUID) -> EntityEdge | None:
        """Return the edge with this id."""
        return await self._first(queries.get_edge(edge_id))

    async def end_edge(self, edge_id: uuid.UUID, *, at: datetime | None = None) -> EntityEdge:
        """End the fact, now or `at` a time.

        Raises:
            NotFoundError: The edge is unknown or superseded.
        """
        _check_zone("at", at)
        edge = await self._write(queries.end_edge(edge_id, at))
        if edge is None:
            raise not_found("edge", edge_id)
        return edge

    async def supersede_edge(self, edge_id: uuid.UUID) -> EntityEdge:
        """Mark the fact as a mistake.

        It remains visible to `known_at` and `history`, and another fact can take its place.

        Raises:
            NotFoundError: The edge is unknown or superseded.
        """
        edge = await self._write(queries.supersede_edge(edge_id))
        if edge is None:
            raise not_found("edge", edge_id)
        return edge

    async def delete_edge(self, edge_id: uuid.UUID) -> None:
        """Delete the edge permanently. To keep the record, end or supersede it.

        Raises:
            NotFoundError: The edge is unknown or superseded.
        """
        if await self._write(queries.delete_edge(edge_id)) is None:
            raise not_found("edge", edge_id)

    async def facts(
        self,
        node_id: uuid.UUID,
        *,
        direction: EdgeDirection = "both",
        edge_types: Sequence[str] | None = None,
        as_of: datetime | None = None,
        known_at: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[EntityEdge]:
        """Return a page of the edges of a node.

        Args:
            node_id: The node.
            direction: Edges that begin at the node, that end at it, or both.
            edge_types: Only edges of these types.
            as_of: The time at which the edges held; None is now.
            known_at: Read the edges as the database contained them at this time.
            after: `next` of the previous page.
            limit: The maximum number of edges.
        """
        check_word("direction", direction, EdgeDirection)
        _check_zone("as_of", as_of)
        _check_zone("known_at", known_at)
        rows = await self._all(
            queries.facts(
                node_id,
                direction=direction,
                edge_types=edge_types,
                as_of=as_of,
                known_at=known_at,
                after=after,
                limit=limit,
            )
        )
        return as_page(rows, queries.FACTS_KEY, limit)

    async def history(
        self,
        source_id: uuid.UUID,
        target_id: uuid.UUID,
        edge_type: str,
        *,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[EntityEdge]:
        """Return a page of all edges of a relation, by their beginning, including ended and superseded ones."""
        rows = await self._all(queries.history(source_id, target_id, edge_type, after=after, limit=limit))
        return as_page(rows, queries.HISTORY_KEY, limit)

    async def neighbours(
        self,
        node_id: uuid.UUID,
        *,
        depth: int = 1,
        direction: EdgeDirection = "out",
        edge_types: Sequence[str] | None = None,
        as_of: datetime | None = None,
        fan_out: int = 100,
        limit: int = 1_000,
    ) -> Sequence[GraphNeighbour]:
        """Return the nodes within `depth` edges, the nearest first, each once and without the node itself.

        Args:
            node_id: The node where the walk begins.
            depth: The maximum number of edges, 1 to 10.
            direction: The direction in which edges are followed.
            edge_types: Only edges of these types.
            as_of: Only edges that held at this time.
            fan_out: The number of edges of greatest weight that are followed from each node in each
                direction.
            limit: The maximum number of nodes.
        """
        statement, parameters = _walk(direction, edge_types, as_of)
        within("depth", depth, 1, MAX_DEPTH)
        within("fan_out", fan_out, 1, MAX_FAN_OUT)
        within("limit", limit, 1, MAX_NODES)
        parameters |= {"start": node_id, "depth": depth, "cap": fan_out, "limit": limit}
        rows = await fetch_rows(self._session, queries.neighbours(direction, **statement), parameters)
        return [GraphNeighbour(GraphNode._make(row[:6]), *row[6:]) for row in rows]

    async def shortest_path(
        self,
        source_id: uuid.UUID,
        target_id: uuid.UUID,
        *,
        max_depth: int = 6,
        direction: EdgeDirection = "out",
        edge_types: Sequence[str] | None = None,
        as_of: datetime | None = None,
    ) -> GraphPath | None:
        """Return a path with the fewest edges, whatever their weights.

        Args:
            source_id: The node where the path begins.
            target_id: The node where the path ends.
            max_depth: The maximum number of edges, 1 to 10.
            direction: The direction in which edges are followed.
            edge_types: Only edges of these types.
            as_of: Only edges that held at this time.

        Returns:
            The path; None without one of at most `max_depth` edges.
        """
        statement, parameters = _walk(direction, edge_types, as_of)
        within("max_depth", max_depth, 1, MAX_DEPTH)
        parameters |= {"source": source_id, "target": target_id}
        parameters |= {"ahead": (max_depth + 1) // 2, "back": max_depth // 2}
        rows = await self._rows(queries.shortest_path(direction, **statement), parameters)
        return GraphPath([node for node, _ in rows], [edge for _, edge in rows[:-1]]) if rows else None

    async def subgraph(
        self,
        node_ids: Sequence[uuid.UUID],
        *,
        depth: int = 1,
        direction: EdgeDirection = "both",
        edge_types: Sequence[str] | None = None,
        as_of: datetime | None = None,
        fan_out: int = 100,
        limit: int = 1_000,
    ) -> Subgraph:
        """Return the nodes, those within `depth` edges of any of them, and all edges between these.

        Args:
            node_ids: The nodes where the walk begins.
            depth: The maximum number of edges, 0 to 10.
            direction: The direction in which edges are followed.
            edge_types: Only edges of these types.
            as_of: Only edges that held at this time.
            fan_out: The number of edges of greatest weight that are followed from each node in each
                direction.
            limit: The maximum number of nodes added.

        Returns:
            The nodes and at most 10,000 edges; `truncated` is true if there are more.
        """
        statement, parameters = _walk(direction, edge_types, as_of)
        within("node_ids", len(node_ids), 1, MAX_NODES)
        within("depth", depth, 0, MAX_DEPTH)
        within("fan_out", fan_out, 1, MAX_FAN_OUT)
        within("limit", limit, 1, MAX_NODES)
        parameters |= {"start": list(node_ids), "depth": depth, "cap": fan_out, "limit": limit}
        parameters |= {"most": MAX_NODES + 1}
        rows = await self._rows(queries.subgraph(direction, **statement), parameters)
        nodes = [node for node, _, _ in rows if node is not None]
        edges = [edge for _, edge, _ in rows if edge is not None]
        more = any(more for _, _, more in rows[:1])
        return Subgraph(nodes, edges[:MAX_NODES], more or len(edges) > MAX_NODES)


def _walk(
    direction: EdgeDirection, edge_types: Sequence[str] | None, as_of: datetime | None
) -> tuple[dict[str, bool], dict[str, Any]]:
    """Return the arguments that select the walk's statement, and the parameters of that statement."""
    check_word("direction", direction, EdgeDirection)
    _check_zone("as_of", as_of)
    parameters: dict[str, Any] = {}
    if edge_types is not None:
        parameters["edge_types"] = list(edge_types)
    if as_of is not None:
        parameters["as_of"] = as_of
    return {"typed": edge_types is not None, "dated": as_of is not None}, parameters


def _check_zone(name: str, time: datetime | None) -> None:
    if time is not None:
        aware(name, time)


def _check_times(valid_from: datetime | None, valid_to: datetime | None) -> None:
    _check_zone("valid_from", valid_from)
    _check_zone("valid_to", valid_to)
    if valid_to is not None and (valid_from is None or valid_to <= valid_from):
        raise InvalidInputError(
            "valid_to: expected a time after `valid_from`, which must be passed too; to end a fact that holds,"
            " call end_edge"
        )
