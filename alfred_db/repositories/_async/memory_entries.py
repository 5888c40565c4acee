"""Memory entries: the knowledge agent's memory, by namespace."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ...checks import within
from ...execution._async.hybrid_search import Within, hybrid_search
from ...execution._async.paging import AsyncPagedRepository
from ...execution._async.space_search import candidates, search
from ...execution._async.spaces import take_vectors
from ...execution.missing import not_found
from ...models import MemoryEntry
from ...queries import memory_entries as queries
from ...queries.shapes.filters import Where, scoped
from ...queries.shapes.hybrid_search import Legs
from ...queries.shapes.memories import indexed_text, ranked_text
from ...queries.shapes.paging import as_page
from ...queries.shapes.words import LANGUAGE, Match
from ...search.params import SearchParams, SearchWeights
from ...search.results import SearchCandidates, SearchResult
from ...values import Page
from ...values.memory_entries import MemoryEntryRow
from ...vectors.formats import VectorLike


class AsyncMemoryEntryRepository(AsyncPagedRepository[MemoryEntryRow, uuid.UUID]):
    """The entries of the knowledge agent.

    Vectors have the length of their embedding space: 768 dimensions in `builtin`. All methods except those by id work within one namespace.
    """

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
        space: str | None = None,
    ) -> MemoryEntry:
        """Store an entry, or update the one with this text.

        Texts are compared without case and white space. An argument that is None keeps the stored value, the
        metadata is replaced, and the later of two expiries is kept.

        Args:
            namespace: The namespace.
            content: The text.
            embedding: A vector of the space, of 768 dimensions in `builtin`.
            agent: The agent that it comes from.
            source: Where it comes from.
            metadata: Any JSON.
            ttl: The time until it expires; None is never.
            embedding_model: The model of the vector.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The space does not exist.
            ConflictError: The space is retired.
        """
        taken: dict[str, Any] = {"embedding": embedding, "embedding_model": embedding_model}
        vectors = await take_vectors(self._session, MemoryEntry, space, taken)
        entry = await self._write(
            queries.remember(
                namespace,
                content,
                embedding=taken.get("embedding"),
                agent=agent,
                source=source,
                metadata=metadata,
                ttl=ttl,
                embedding_model=taken.get("embedding_model"),
            )
        )
        assert entry is not None
        if vectors is not None:
            await vectors.store(self._session, entry.id)
        return entry

    async def get(self, entry_id: uuid.UUID) -> MemoryEntry | None:
        """Return the entry with this id, unless it has expired."""
        return await self._first(queries.get(entry_id))

    async def forget(self, entry_id: uuid.UUID) -> None:
        """Delete an entry.

        Raises:
            NotFoundError: The entry does not exist.
        """
        if await self._write(queries.remove(entry_id)) is None:
            raise not_found("memory entry", entry_id)

    async def forget_all(self, namespace: str, *, limit: int | None = None) -> int:
        """Delete all entries of a namespace; return their number.

        With a `limit`, call it and commit until it returns less.

        Args:
            namespace: The namespace.
            limit: The maximum number of entries, 1 to 10,000. None deletes all in this transaction; for many, use
                `Database.in_chunks`.
        """
        return len(await self._in_turns(limit, lambda left: queries.empty(namespace, limit=left)))

    async def search(
        self,
        namespace: str,
        embedding: VectorLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        explain: bool = False,
        space: str | None = None,
    ) -> SearchResult[MemoryEntryRow]:
        """Return the entries of a namespace nearest to a vector, by cosine distance.

        Args:
            namespace: The namespace.
            embedding: A vector of the space, of 768 dimensions in `builtin`.
            limit: The maximum number of hits.
            where: Only entries that match this filter.
            params: Settings of the search.
            explain: Add the plan of the statement to the result.
            space: The embedding space; None is the default one.
        """
        condition = scoped(queries.in_namespace(namespace), MemoryEntry, where)
        return await search(
            self._session,
            MemoryEntry,
            embedding,
            space=space,
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
        space: str | None = None,
    ) -> SearchCandidates[MemoryEntryRow, uuid.UUID]:
        """Return the ids and distances of up to 1000 entries nearest to a vector; `page` returns their rows."""
        condition = scoped(queries.in_namespace(namespace), MemoryEntry, where)
        return await candidates(
            self._session, MemoryEntry, embedding, space=space, limit=limit, where=condition, params=params
        )

    async def hybrid_search(
        self,
        namespace: str,
        text: str,
        embedding: VectorLike | None,
        *,
        limit: int = 10,
        weights: SearchWeights = SearchWeights(),
        language: str = LANGUAGE,
        match: Match = "any",
        space: str | None = None,
    ) -> SearchResult[MemoryEntryRow]:
        """Return the best entries of a namespace by meaning and by word, ranked together.

        Args:
            namespace: The namespace.
            text: The words to search for.
            embedding: A vector of the space, of 768 dimensions in `builtin`; None ranks by words alone.
            limit: The maximum number of hits.
            weights: The weight of each leg, and how they are ranked together.
            language: The text search configuration, such as `english`, `german` or `simple`. The index is English: for
                another one the words of all texts of the namespace are read.
            match: Whether any or all of the words must occur.
            space: The embedding space; None is the default one.

        Raises:
            InvalidInputError: The server has no such text search configuration.
        """
        legs = Legs(
            MemoryEntry,
            indexed_text(MemoryEntry, language),
            ranked=ranked_text(MemoryEntry, language),
            vector=embedding is not None,
            match=match,
            fusion=weights.fusion,
            indexed=language == LANGUAGE,
        )
        return await hybrid_search(
            self._session,
            legs,
            text,
            embedding,
            limit=limit,
            where=queries.in_namespace(namespace),
            within=Within(queries.IN_NAMESPACE, {"namespace": namespace}),
            space=space,
            weights=weights,
            language=language,
        )

    async def sweep(self, limit: int = 1000) -> int:
        """Delete at most `limit` expired entries of all namespaces; return their number."""
        within("limit", limit, 1, 100_000)
        return len(await self._rows(queries.sweep(limit)))

    async def purgeable(self) -> int:
        """Return how many entries calls of `sweep` delete in the end."""
        return (await self._rows(queries.purgeable()))[0][0]

    async def list(
        self, namespace: str = "default", *, after: str | None = None, limit: int = 100
    ) -> Page[MemoryEntry]:
        """Return a page of the entries of a namespace, the oldest first."""
        rows = await self._all(queries.list_(namespace, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)
