"""The entity graph: things, facts about them that hold for a time, and the ways between them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...checks import check_word, within
from ...errors import InvalidInputError, NotFoundError
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import fetch_rows
from ...models import EntityEdge, EntityNode
from ...queries import entities as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.entities import EdgeDirection, GraphNeighbour, GraphNode, GraphPath, Subgraph

MAX_DEPTH = 10
"""The farthest that a walk goes."""

MAX_FAN_OUT = 1_000
"""The most edges of one node, in one direction, that a walk follows."""

MAX_NODES = 10_000
"""The most nodes, and the most edges, that a walk gives."""


class AsyncEntityRepository(AsyncRepository):
    """Nodes by type and key, and the edges between them. Without `as_of`, what holds now by the database's clock."""

    async def upsert_node(
        self,
        node_type: str,
        key: str,
        *,
        name: str | None = None,
        description: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> EntityNode:
        """File the node; of a known one, what is not given stays, and `properties` are merged key by key."""
        node = await self._write(
            queries.upsert_node(
                node_type, key, name=name, description=description, properties=properties or {}
            )
        )
        assert node is not None
        return node

    async def get_node(self, node_id: uuid.UUID) -> EntityNode | None:
        """The node of that id."""
        return await self._first(queries.get_node(node_id))

    async def find_node(self, node_type: str, key: str) -> EntityNode | None:
        """The node of that type and key."""
        return await self._first(queries.find_node(node_type, key))

    async def list_nodes(
        self,
        *,
        node_type: str | None = None,
        properties: Mapping[str, Any] | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[EntityNode]:
        """The nodes by type and key, a page at a time; those that have all of `properties`, with types: 1 is not "1"."""
        rows = await self._all(
            queries.list_nodes(node_type=node_type, properties=properties or {}, after=after, limit=limit)
        )
        return as_page(rows, queries.NODES_KEY, limit)

    async def delete_node(self, node_id: uuid.UUID) -> None:
        """Remove the node and every edge it has, in either direction; raises NotFoundError."""
        held = await self._first(queries.hold_node(node_id))
        if held is None or await self._write(queries.delete_node(node_id)) is None:
            raise NotFoundError(f"node {node_id}: there is none; it may have been deleted already")

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
        """State a fact; `properties` of a known one are merged key by key.

        Without `valid_from` it is the one that holds, or a new one from now on; with it, the one that began then.
        Raises ConflictError when a node is missing, or when the relation holds already since another time.
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
        """The edge of that id."""
        return await self._first(queries.get_edge(edge_id))

    async def end_edge(self, edge_id: uuid.UUID, *, at: datetime | None = None) -> EntityEdge:
        """Say that the fact ceased to hold, now or `at`; raises NotFoundError when it is unknown or superseded."""
        _check_zone("at", at)
        edge = await self._write(queries.end_edge(edge_id, at))
        if edge is None:
            raise _no_edge(edge_id)
        return edge

    async def supersede_edge(self, edge_id: uuid.UUID) -> EntityEdge:
        """Say that the fact was a mistake: it stays for `known_at` and `history`, and frees its place for another.

        Raises NotFoundError when it is unknown or superseded.
        """
        edge = await self._write(queries.supersede_edge(edge_id))
        if edge is None:
            raise _no_edge(edge_id)
        return edge

    async def delete_edge(self, edge_id: uuid.UUID) -> None:
        """Remove the edge for good; raises NotFoundError. To keep the record, end or supersede it."""
        if await self._write(queries.delete_edge(edge_id)) is None:
            raise _no_edge(edge_id)

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
        """The edges of a node that held at `as_of`, a page at a time; `known_at` is what the database said then."""
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
        """All that was ever stated of a relation, by its beginning: what ended or was superseded too."""
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
        """The nodes within `depth` edges, nearest first, each once and without the node itself.

        Of each node the `fan_out` edges of greatest weight are followed, in each direction.
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
        """A way of the fewest edges, whatever their weights; None when there is none of at most `max_depth`."""
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
        """The nodes, those within `depth` edges of any of them, and the edges between all these.

        At most `limit` nodes are added, and 10,000 edges given: `truncated` says whether there are more.
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
    """The shape of a walk's statement, and the parameters that this shape has."""
    check_word("direction", direction, EdgeDirection)
    _check_zone("as_of", as_of)
    parameters: dict[str, Any] = {}
    if edge_types is not None:
        parameters["edge_types"] = list(edge_types)
    if as_of is not None:
        parameters["as_of"] = as_of
    return {"typed": edge_types is not None, "dated": as_of is not None}, parameters


def _check_zone(name: str, time: datetime | None) -> None:
    if time is not None and time.tzinfo is None:
        raise InvalidInputError(f"{name}: a time without time zone; give one, such as datetime.now(UTC)")


def _check_times(valid_from: datetime | None, valid_to: datetime | None) -> None:
    _check_zone("valid_from", valid_from)
    _check_zone("valid_to", valid_to)
    if valid_to is not None and (valid_from is None or valid_to <= valid_from):
        raise InvalidInputError(
            "valid_to: expected a time after `valid_from`, which is to be given too; to end a fact that holds,"
            " call end_edge"
        )


def _no_edge(edge_id: uuid.UUID) -> NotFoundError:
    return NotFoundError(f"edge {edge_id}: there is none that stands; look at its relation's history")
