"""Memories: stored once for each text, recalled by meaning, importance and recency, expired in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ...checks import check_values, within
from ...errors import InvalidInputError
from ...execution._async.driver import affected
from ...execution._async.hybrid_search import Within, hybrid_search
from ...execution._async.paging import AsyncPagedRepository
from ...execution._async.space_search import candidates, search
from ...execution._async.spaces import clear_vectors, take_vectors
from ...execution.missing import not_found
from ...models import Memory, MemoryBank
from ...queries import memories as queries
from ...queries.shapes.filters import Where, scoped
from ...queries.shapes.hybrid_search import Legs
from ...queries.shapes.memories import (
    MAX_IMPORTANCE,
    content_hash,
    indexed_text,
    lasting,
    ranked_text,
    seconds,
)
from ...queries.shapes.paging import as_page
from ...queries.shapes.words import LANGUAGE, Match
from ...search.params import SearchParams, SearchWeights
from ...search.results import Hit, SearchCandidates, SearchResult
from ...values import Page
from ...values.memories import (
    MemoryChanges,
    MemoryOutcome,
    MemoryRow,
    RememberedMemory,
)
from ...vectors.formats import VectorLike
from .memory_banks import id_of
from .memory_base import HALF_LIFE, NEAR
from .memory_batches import AsyncMemoryBatches
from .memory_consolidation import AsyncMemoryConsolidation
from .memory_recall import AsyncMemoryRecall


class AsyncMemoryRepository(
    AsyncMemoryBatches, AsyncMemoryRecall, AsyncMemoryConsolidation, AsyncPagedRepository[MemoryRow, int]
):
    """The memories of agents, by bank.

    Vectors have the length of their embedding space: 384 dimensions in `builtin`. Expired memories are not returned.
    """

    _model = Memory

    async def remember(
        self,
        bank: MemoryBank | int,
        content: str,
        *,
        embedding: VectorLike | None = None,
        importance: int = 1,
        metadata: Mapping[str, Any] | None = None,
        ttl: timedelta | None = None,
        embedding_model: str | None = None,
        space: str | None = None,
    ) -> RememberedMemory:
        """Store a memory. A text that the bank has already is counted and not stored again.

        Texts are compared without case and white space. A stored memory keeps the newest text, vector and
        metadata, the highest importance, and the later expiry.

        Args:
            bank: The bank or its id.
            content: The text.
            embedding: Its vector.
            importance: 1 to 10; a higher value counts as 10.
            metadata: Any JSON.
            ttl: The time until it expires; None is never.
            embedding_model: The model of the vector.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The bank does not exist, or the space.
            ConflictError: The space is retired.
        """
        within("importance", importance, 1, MAX_IMPORTANCE)
        taken: dict[str, Any] = {"embedding": embedding, "embedding_model": embedding_model}
        vectors = await take_vectors(self._session, Memory, space, taken)
        parameters = {
            "bank": id_of(bank),
            "new_content": content,
            "new_content_hash": content_hash(content),
            "new_embedding": taken.get("embedding"),
            "new_importance": importance,
            "new_metadata": None if metadata is None else dict(metadata),
            "ttl": lasting(ttl),
            "new_embedding_model": taken.get("embedding_model"),
        }
        rows = await self._rows(queries.remember(), parameters)
        if not rows:
            raise not_found("memory bank", id_of(bank))
        if vectors is not None:
            await vectors.store(self._session, rows[0].id)
        return RememberedMemory(
            rows[0].id, MemoryOutcome.STORED if rows[0].seen_count == 1 else MemoryOutcome.SEEN
        )

    async def get(self, memory_id: int) -> Memory | None:
        """Return the memory with this id."""
        return await self._first(queries.get(memory_id))

    async def update(self, memory_id: int, values: MemoryChanges, *, space: str | None = None) -> Memory:
        """Change attributes of a memory, by their names.

        A new content without a new embedding removes the old embeddings, which belong to another text.

        Args:
            memory_id: The memory.
            values: The new values; `embedding` is that of the space.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The memory does not exist, or has expired; or the space does not exist.
            ConflictError: The space is retired.
        """
        given: dict[str, Any] = {**values}
        vectors = await take_vectors(self._session, Memory, space, given, removes=True)
        new = check_values(Memory, given)
        if "content" in new:
            new = {"embedding": None, **new, "content_hash": content_hash(new["content"])}
        memory = await self._write(queries.change(memory_id, new))
        if memory is None:
            raise not_found("memory", memory_id)
        if "content" in new:
            await clear_vectors(self._session, Memory, memory_id)
        if vectors is not None:
            await vectors.store(self._session, memory_id)
        return memory

    async def forget(self, memory_id: int) -> None:
        """Delete a memory.

        Raises:
            NotFoundError: The memory does not exist, or has expired.
        """
        if not await self._rows(queries.remove([memory_id])):
            raise not_found("memory", memory_id)

    async def search(
        self,
        bank: MemoryBank | int,
        embedding: VectorLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        explain: bool = False,
        space: str | None = None,
    ) -> SearchResult[MemoryRow]:
        """Return the bank's memories nearest to a vector, by cosine distance.

        Args:
            bank: The bank or its id.
            embedding: A vector of the space, of 384 dimensions in `builtin`.
            limit: The maximum number of hits.
            where: Only memories that match this filter.
            params: Settings of the search.
            explain: Add the plan of the statement to the result.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The bank does not exist.
        """
        condition = scoped(queries.in_bank(id_of(bank)), Memory, where)
        found = await search(
            self._session,
            Memory,
            embedding,
            space=space,
            limit=limit,
            where=condition,
            params=params,
            explain=explain,
        )
        await self._known(bank, found)
        return found

    async def candidates(
        self,
        bank: MemoryBank | int,
        embedding: VectorLike,
        *,
        limit: int = 1000,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        space: str | None = None,
    ) -> SearchCandidates[MemoryRow, int]:
        """Return the ids and distances of up to 1000 memories nearest to a vector; `page` returns their rows.

        Raises:
            NotFoundError: The bank does not exist.
        """
        condition = scoped(queries.in_bank(id_of(bank)), Memory, where)
        found = await candidates(
            self._session, Memory, embedding, space=space, limit=limit, where=condition, params=params
        )
        await self._known(bank, found)
        return found

    async def hybrid_search(
        self,
        bank: MemoryBank | int,
        text: str,
        embedding: VectorLike | None,
        *,
        limit: int = 10,
        weights: SearchWeights = SearchWeights(),
        language: str = LANGUAGE,
        match: Match = "any",
        space: str | None = None,
    ) -> SearchResult[MemoryRow]:
        """Return the bank's best memories by meaning and by word, ranked together.

        Args:
            bank: The bank or its id.
            text: The words to search for.
            embedding: A vector of the space, of 384 dimensions in `builtin`; None ranks by words alone.
            limit: The maximum number of hits.
            weights: The weight of each leg, and how they are ranked together.
            language: The text search configuration, such as `english`, `german` or `simple`. The index is English: for
                another one the words of all texts of the bank are read.
            match: Whether any or all of the words must occur.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The bank does not exist.
            InvalidInputError: The server has no such text search configuration.
        """
        legs = Legs(
            Memory,
            indexed_text(Memory, language),
            ranked=ranked_text(Memory, language),
            vector=embedding is not None,
            match=match,
            fusion=weights.fusion,
            indexed=language == LANGUAGE,
        )
        found = await hybrid_search(
            self._session,
            legs,
            text,
            embedding,
            limit=limit,
            where=queries.in_bank(id_of(bank)),
            within=Within(queries.IN_BANK, {"bank": id_of(bank)}),
            space=space,
            weights=weights,
            language=language,
        )
        await self._known(bank, found)
        return found

    async def duplicates(
        self,
        bank: MemoryBank | int,
        embedding: VectorLike,
        *,
        within: float = NEAR,
        limit: int = 10,
        space: str | None = None,
    ) -> Sequence[Hit[MemoryRow]]:
        """Return the bank's memories that mean nearly the same as a vector, the nearest first.

        `within` is the greatest cosine distance.

        Raises:
            NotFoundError: The bank does not exist.
        """
        params = SearchParams(max_distance=within)
        return (await self.search(bank, embedding, limit=limit, params=params, space=space)).hits

    async def touch(self, memory_ids: Sequence[int]) -> int:
        """Record that memories were used; return the number of memories. Writes neither vectors nor indexes."""
        return await affected(self._session, queries.touch(), {"ids": sorted(set(memory_ids))})

    async def sweep(self, limit: int = 1000) -> int:
        """Delete at most `limit` expired memories of all banks; return their number."""
        within("limit", limit, 1, 100_000)
        return len(await self._rows(queries.sweep(limit)))

    async def purgeable(self) -> int:
        """Return how many memories calls of `sweep` delete in the end."""
        return (await self._rows(queries.purgeable()))[0][0]

    async def prune(
        self,
        bank: MemoryBank | int,
        *,
        keep: int | None = None,
        below: float | None = None,
        half_life: timedelta = HALF_LIFE,
        limit: int | None = None,
    ) -> int:
        """Delete the memories of a bank that are least alive.

        A memory's life is importance * 2^(-age / half_life), where age is the time since its last use. With a
        `limit`, call it and commit until it returns less.

        Args:
            bank: The bank or its id.
            keep: The number of memories that stay, those with the longest life. Pass either `keep` or
                `below`.
            below: Memories with a shorter life than this are deleted.
            half_life: The age at which a memory's life has halved.
            limit: The maximum number of memories to delete, 1 to 10,000. None deletes all in this transaction; for many, use
                `Database.in_chunks`.

        Returns:
            The number of memories deleted.
        """
        if (keep is None) == (below is None):
            raise InvalidInputError("prune: pass either `keep` or `below`")
        if keep is not None:
            within("keep", keep, 0, 2**63 - 1)
        if below is not None:
            within("below", below, 1e-300, 1e300)
        half_life_seconds = seconds("half_life", half_life)
        return len(
            await self._in_turns(
                limit,
                lambda left: queries.prune(
                    id_of(bank), half_life=half_life_seconds, keep=keep, below=below, limit=left
                ),
            )
        )

    async def list(
        self, bank: MemoryBank | int, *, after: str | None = None, limit: int = 100
    ) -> Page[Memory]:
        """Return a page of the bank's memories, in the order in which they were stored."""
        rows = await self._all(queries.list_(id_of(bank), after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)
