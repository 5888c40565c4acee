"""Walks through the entity graph: neighbours, paths, and subgraphs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import aware, check_word, within
from ...errors import ConflictError, LimitReached
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import fetch, fetch_rows
from ...queries import entity_walks as queries
from ...values.entities import EdgeDirection, GraphNeighbour, GraphNode, GraphPath, Subgraph

MAX_DEPTH = 10
"""The maximum depth of a walk, in edges."""

MAX_FAN_OUT = 1_000
"""The maximum number of edges that a walk follows from one node in one direction."""

MAX_NODES = 10_000
"""The maximum number of nodes, and of edges, that a walk returns."""

MAX_EDGES = 10_000_000
"""The maximum number of edges that the search of a path reads."""

FIRST, MORE = 250, 8
"""How many edges the search first reads at one end, and how many times more when neither end has so few."""

TRIES = 3
"""How often a path is searched while others delete its edges."""


class AsyncEntityWalks(AsyncRepository):
    """The part of the entity repository that follows edges."""

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
        shape, parameters = _walk(direction, edge_types, as_of)
        within("depth", depth, 1, MAX_DEPTH)
        within("fan_out", fan_out, 1, MAX_FAN_OUT)
        within("limit", limit, 1, MAX_NODES)
        parameters |= {"start": node_id, "depth": depth, "cap": fan_out, "limit": limit}
        rows = await fetch_rows(self._session, queries.neighbours(direction, **shape), parameters)
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
        max_edges: int = 1_000_000,
    ) -> GraphPath | None:
        """Return a path with the fewest edges, whatever their weights.

        The search goes from both ends, edge by edge, and prefers the end where fewer edges leave. Each step is a
        statement: without REPEATABLE READ, it sees what others commit meanwhile.

        Args:
            source_id: The node where the path begins.
            target_id: The node where the path ends.
            max_depth: The maximum number of edges, 1 to 10.
            direction: The direction in which edges are followed.
            edge_types: Only edges of these types.
            as_of: Only edges that held at this time.
            max_edges: The maximum number of edges to read, which takes a second for about a million.

        Returns:
            The path; None without one of at most `max_depth` edges.

        Raises:
            LimitReached: The search has read `max_edges` edges, and there may be a path.
            ConflictError: Other transactions keep deleting the edges of the path.
        """
        shape, parameters = _walk(direction, edge_types, as_of)
        within("max_depth", max_depth, 1, MAX_DEPTH)
        within("max_edges", max_edges, 1, MAX_EDGES)
        for _ in range(TRIES):
            search = _Search(self._session, direction, shape, parameters, max_edges)
            nodes = await search.path(source_id, target_id, max_depth)
            if nodes is None:
                return None
            rows = await self._rows(
                queries.way(direction, **shape), {**parameters, "nodes": nodes, "following": nodes[1:]}
            )
            edges = [edge for _, edge in rows[:-1] if edge is not None]
            if len(rows) == len(nodes) == len(edges) + 1:
                return GraphPath([node for node, _ in rows], edges)
            if len(nodes) == 1:
                return None
        raise ConflictError(
            "shortest_path: other transactions keep deleting the edges of the path; try again", retryable=True
        )

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
        shape, parameters = _walk(direction, edge_types, as_of)
        within("node_ids", len(node_ids), 1, MAX_NODES)
        within("depth", depth, 0, MAX_DEPTH)
        within("fan_out", fan_out, 1, MAX_FAN_OUT)
        within("limit", limit, 1, MAX_NODES)
        parameters |= {"start": list(node_ids), "depth": depth, "cap": fan_out, "limit": limit}
        parameters |= {"most": MAX_NODES + 1}
        rows = await self._rows(queries.subgraph(direction, **shape), parameters)
        nodes = [node for node, _, _ in rows if node is not None]
        edges = [edge for _, edge, _ in rows if edge is not None]
        more = any(more for _, _, more in rows[:1])
        return Subgraph(nodes, edges[:MAX_NODES], more or len(edges) > MAX_NODES)


@dataclass
class _End:
    """What a search has found from one end of the path."""

    direction: EdgeDirection
    frontier: Sequence[uuid.UUID]
    """The nodes of the last level, whose edges come next."""
    before: dict[uuid.UUID, uuid.UUID | None]
    """All nodes found, each with the one before it on the way from the end."""
    reading: float = FIRST
    """How many edges may be read for the next level: more than this leave the frontier, unless it is `FIRST`."""

    def way_to(self, node: uuid.UUID) -> list[uuid.UUID]:
        """The nodes from this one back to the end."""
        found = [node]
        while (node_before := self.before[found[-1]]) is not None:
            found.append(node_before)
        return found


class _Search:
    """A search of the shortest path from both of its ends."""

    def __init__(
        self,
        session: AsyncSession,
        direction: EdgeDirection,
        shape: Mapping[str, bool],
        parameters: Mapping[str, Any],
        max_edges: int,
    ) -> None:
        self._session = session
        self._direction: EdgeDirection = direction
        self._shape = shape
        self._parameters = parameters
        self._max_edges = self._left = max_edges

    async def path(self, source: uuid.UUID, target: uuid.UUID, max_depth: int) -> list[uuid.UUID] | None:
        """Return the nodes of a shortest path."""
        if source == target:
            return [source]
        ahead = _End(self._direction, [source], {source: None})
        back = _End(queries.REVERSED[self._direction], [target], {target: None})
        depth = 0
        while depth < max_depth and ahead.frontier and back.frontier:
            # A hub at one end costs no more than a few times what the other end does: reading stops early, and goes
            # on at the other end.
            end = min(ahead, back, key=lambda end: (end.reading, len(end.frontier)))
            other = back if end is ahead else ahead
            found, whole = await self._level(end)
            # All shorter paths are excluded, so that a node that both ends have found is on a shortest one.
            if met := found.keys() & other.before.keys():
                end.before |= found
                node = min(met)
                return [*reversed(ahead.way_to(node)), *back.way_to(node)[1:]]
            if whole:
                end.before |= found
                end.frontier, end.reading, depth = list(found), FIRST, depth + 1
        return None

    async def _level(self, end: _End) -> tuple[dict[uuid.UUID, uuid.UUID | None], bool]:
        """Return new nodes that one more edge leads to, with the nodes before them, and whether these are all."""
        cap = min(end.reading, self._left - 1)
        if cap < 0:
            raise LimitReached(
                f"shortest_path: no path found after reading {self._max_edges} edges; pass `edge_types`, a smaller"
                " `max_depth`, or more `max_edges`"
            )
        parameters = {**self._parameters, "frontier": end.frontier, "cap": int(cap) + 1}
        rows = await fetch(self._session, queries.steps(end.direction, **self._shape), parameters, reads=True)
        self._left -= len(rows)
        whole = len(rows) <= cap
        if not whole:
            end.reading *= MORE
        found: dict[uuid.UUID, uuid.UUID | None] = {}
        for node, place in rows:
            if node not in end.before:
                found.setdefault(node, end.frontier[place - 1])
        return found, whole


def _walk(
    direction: EdgeDirection, edge_types: Sequence[str] | None, as_of: datetime | None
) -> tuple[dict[str, bool], dict[str, Any]]:
    """Return the arguments that select the walk's statement, and the parameters of that statement."""
    check_word("direction", direction, EdgeDirection)
    check_zone("as_of", as_of)
    parameters: dict[str, Any] = {}
    if edge_types is not None:
        parameters["edge_types"] = list(edge_types)
    if as_of is not None:
        parameters["as_of"] = as_of
    return {"typed": edge_types is not None, "dated": as_of is not None}, parameters


def check_zone(name: str, time: datetime | None) -> None:
    """Refuse a time without a zone."""
    if time is not None:
        aware(name, time)
