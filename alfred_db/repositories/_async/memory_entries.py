"""Memory entries: the knowledge agent's pieces of knowledge, by namespace."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ...checks import within
from ...errors import NotFoundError
from ...execution._async.paging import AsyncPagedRepository
from ...execution._async.search import candidates, hybrid_search, search
from ...models import MemoryEntry
from ...queries import memory_entries as queries
from ...queries.shapes.filters import Where, expression
from ...queries.shapes.paging import as_page
from ...queries.shapes.words import Match
from ...search.params import SearchParams, SearchWeights
from ...search.results import SearchCandidates, SearchResult
from ...values import Page
from ...vectors.formats import VectorLike


class AsyncMemoryEntryRepository(AsyncPagedRepository):
    """What the knowledge agent knows; each method but those by id is within one namespace."""

    _model = MemoryEntry

    async def remember(
        self,
        namespace: str,
        content: str,
        *,
        embedding: VectorLike | None = None,
        agent: str | None = None,
        source: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: timedelta | None = None,
        embedding_model: str | None = None,
    ) -> MemoryEntry:
        """Store an entry, of 768 dimensions; one whose text is known but for case and white space is brought up to date.

        What is not given this time stays, the metadata is replaced, and of two expiries the later one counts.
        """
        entry = await self._write(
            queries.remember(
                namespace,
                content,
                embedding=embedding,
                agent=agent,
                source=source,
                metadata=metadata,
                ttl=ttl,
                embedding_model=embedding_model,
            )
        )
        assert entry is not None
        return entry

    async def get(self, entry_id: uuid.UUID) -> MemoryEntry | None:
        """The entry of that id, unless it has expired."""
        return await self._first(queries.get(entry_id))

    async def forget(self, entry_id: uuid.UUID) -> None:
        """Remove an entry; raises NotFoundError."""
        if await self._write(queries.remove(entry_id)) is None:
            raise NotFoundError(f"memory entry {entry_id}: does not exist")

    async def forget_all(self, namespace: str) -> int:
        """Remove all entries of a namespace; gives their number."""
        return len(await self._rows(queries.empty(namespace)))

    async def search(
        self,
        namespace: str,
        embedding: VectorLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        explain: bool = False,
    ) -> SearchResult:
        """The entries of a namespace nearest to a vector of 768 dimensions, by cosine distance."""
        condition = queries.in_namespace(namespace)
        if (given := expression(MemoryEntry, where)) is not None:
            condition &= given
        return await search(
            self._session,
            MemoryEntry,
            embedding,
            limit=limit,
            where=condition,
            params=params,
            explain=explain,
        )

    async def candidates(
        self,
        namespace: str,
        embedding: VectorLike,
        *,
        limit: int = 1000,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
    ) -> SearchCandidates:
        """The entries nearest to a vector by id and distance, up to 1000: `page` gives their rows."""
        condition = queries.in_namespace(namespace)
        if (given := expression(MemoryEntry, where)) is not None:
            condition &= given
        return await candidates(
            self._session, MemoryEntry, embedding, limit=limit, where=condition, params=params
        )

    async def hybrid_search(
        self,
        namespace: str,
        text: str,
        embedding: VectorLike,
        *,
        limit: int = 10,
        weights: SearchWeights = SearchWeights(),
        match: Match = "any",
    ) -> SearchResult:
        """The best entries of a namespace by meaning and by English word, fused by rank."""
        return await hybrid_search(
            self._session,
            MemoryEntry,
            text,
            embedding,
            tsvector=queries.TSVECTOR,
            limit=limit,
            where=queries.in_namespace(namespace),
            weights=weights,
            match=match,
        )

    async def sweep(self, limit: int = 1000) -> int:
        """Remove at most `limit` expired entries, whatever their namespace; gives their number."""
        within("limit", limit, 1, 100_000)
        return len(await self._rows(queries.sweep(limit)))

    async def list(
        self, namespace: str = "default", *, after: str | None = None, limit: int = 100
    ) -> Page[MemoryEntry]:
        """The entries of a namespace, the oldest first, a page at a time."""
        rows = await self._all(queries.list_(namespace, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)
