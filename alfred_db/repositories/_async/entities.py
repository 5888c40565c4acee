"""The entity graph: nodes, dated facts that connect them, and paths."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...checks import check_word, within
from ...errors import InvalidInputError
from ...execution._async.base import MAX_CHUNK
from ...execution._async.driver import in_transaction
from ...execution.missing import not_found
from ...models import EntityEdge, EntityNode
from ...queries import entities as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.entities import EdgeDirection
from .entity_walks import AsyncEntityWalks, check_zone


class AsyncEntityRepository(AsyncEntityWalks):
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

    @in_transaction
    async def delete_node(self, node_id: uuid.UUID, *, limit: int | None = None) -> int:
        """Delete the node and all of its edges, in either direction.

        With a `limit`, call it and commit until it returns less: the last call deletes the node.

        Args:
            node_id: The node.
            limit: The maximum number of edges, 1 to 10,000. None deletes all in this transaction; for many, use
                `Database.in_chunks`.

        Returns:
            The number of edges deleted.

        Raises:
            NotFoundError: The node does not exist.
        """
        if limit is not None:
            within("limit", limit, 1, MAX_CHUNK)
        if await self._first(queries.hold_node(node_id)) is None:
            raise not_found("node", node_id)
        edges = await self._in_turns(limit, lambda left: queries.delete_edges(node_id, limit=left))
        if limit is None or len(edges) < limit:
            await self._write(queries.delete_node(node_id))
        return len(edges)

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
        check_zone("at", at)
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
        check_zone("as_of", as_of)
        check_zone("known_at", known_at)
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


def _check_times(valid_from: datetime | None, valid_to: datetime | None) -> None:
    check_zone("valid_from", valid_from)
    check_zone("valid_to", valid_to)
    if valid_to is not None and (valid_from is None or valid_to <= valid_from):
        raise InvalidInputError(
            "valid_to: expected a time after `valid_from`, which must be passed too; to end a fact that holds,"
            " call end_edge"
        )
