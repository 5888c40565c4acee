"""Memories: told once however often they are told, recalled by meaning, importance and recency, forgotten in time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from datetime import datetime, timedelta
from typing import Any

from ...checks import check_values, within
from ...errors import InvalidInputError, NotFoundError
from ...execution._async.driver import affected
from ...execution._async.paging import AsyncPagedRepository
from ...execution._async.search import candidates, hybrid_search, search
from ...models import Memory, MemoryBank
from ...queries import memories as queries
from ...queries import memory_banks
from ...queries.shapes.filters import Where, expression
from ...queries.shapes.memories import MAX_IMPORTANCE, content_hash, lasting, seconds
from ...queries.shapes.paging import as_page
from ...queries.shapes.words import Match
from ...search.params import SearchParams, SearchWeights
from ...search.results import Hit, SearchCandidates, SearchResult
from ...values import Page
from ...values.memories import (
    MemoryOutcome,
    MemoryRecallResult,
    MemoryRecallWeights,
    NewMemory,
    RememberedMemory,
)
from ...vectors.formats import VectorLike
from .memory_banks import id_of, unknown_bank
from .memory_batches import remember_many
from .memory_consolidation import consolidate
from .memory_recall import recall

HALF_LIFE = timedelta(days=30)
"""After so long without use a memory counts half as recent."""

NEAR = 0.08
"""Cosine distance up to which two texts are taken to mean the same; calibrate it for the embedding model."""


class AsyncMemoryRepository(AsyncPagedRepository):
    """What agents remember, bank by bank. Vectors have 384 dimensions; what has expired is not there."""

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
    ) -> RememberedMemory:
        """Store a memory; a text that the bank has, but for case and white space, is counted and not stored twice.

        Of what is told again the newest text, vector and metadata stay, the greatest importance, and the later
        expiry. Importance is 1 to 10, and more counts as 10. Raises NotFoundError for an unknown bank.
        """
        within("importance", importance, 1, MAX_IMPORTANCE)
        parameters = {
            "bank": id_of(bank),
            "new_content": content,
            "new_content_hash": content_hash(content),
            "new_embedding": embedding,
            "new_importance": importance,
            "new_metadata": None if metadata is None else dict(metadata),
            "ttl": lasting(ttl),
            "new_embedding_model": embedding_model,
        }
        rows = await self._rows(queries.remember(), parameters)
        if not rows:
            raise unknown_bank(id_of(bank))
        return RememberedMemory(
            rows[0].id, MemoryOutcome.STORED if rows[0].seen_count == 1 else MemoryOutcome.SEEN
        )

    async def remember_many(
        self,
        bank: MemoryBank | int,
        memories: Sequence[NewMemory],
        *,
        embeddings: Sequence[VectorLike] | None = None,
        near: float | None = None,
    ) -> Sequence[RememberedMemory]:
        """Store several; gives what became of each, in order. `embeddings` is their vectors as one column.

        With `near`, such as 0.08, one that has no more than this cosine distance to a memory of the bank or to
        one before it in the batch is merged into that: counted there, which keeps its text and its vector.
        """
        return await remember_many(self._session, id_of(bank), memories, embeddings, near)

    async def get(self, memory_id: int) -> Memory | None:
        """The memory of that id."""
        return await self._first(queries.get(memory_id))

    async def update(self, memory_id: int, values: Mapping[str, Any]) -> Memory:
        """Change attributes of a memory, by their names; raises NotFoundError.

        A new content without a new embedding takes the old one away, as it means something else.
        """
        check_values(Memory, values)
        if "content" in values:
            values = {"embedding": None, **values, "content_hash": content_hash(values["content"])}
        memory = await self._write(queries.change(memory_id, values))
        if memory is None:
            raise _unknown(memory_id)
        return memory

    async def forget(self, memory_id: int) -> None:
        """Remove a memory; raises NotFoundError."""
        if not await self._rows(queries.remove([memory_id])):
            raise _unknown(memory_id)

    async def search(
        self,
        bank: MemoryBank | int,
        embedding: VectorLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        explain: bool = False,
    ) -> SearchResult:
        """The bank's memories nearest to a vector, by cosine distance; raises NotFoundError for an unknown bank."""
        condition = queries.in_bank(id_of(bank))
        if (given := expression(Memory, where)) is not None:
            condition &= given
        found = await search(
            self._session, Memory, embedding, limit=limit, where=condition, params=params, explain=explain
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
    ) -> SearchCandidates:
        """The bank's memories nearest to a vector by id and distance, up to 1000: `page` gives their rows."""
        condition = queries.in_bank(id_of(bank))
        if (given := expression(Memory, where)) is not None:
            condition &= given
        found = await candidates(
            self._session, Memory, embedding, limit=limit, where=condition, params=params
        )
        await self._known(bank, found)
        return found

    async def hybrid_search(
        self,
        bank: MemoryBank | int,
        text: str,
        embedding: VectorLike,
        *,
        limit: int = 10,
        weights: SearchWeights = SearchWeights(),
        match: Match = "any",
    ) -> SearchResult:
        """The bank's best memories by meaning and by English word, fused by rank."""
        found = await hybrid_search(
            self._session,
            Memory,
            text,
            embedding,
            tsvector=queries.TSVECTOR,
            limit=limit,
            where=queries.in_bank(id_of(bank)),
            weights=weights,
            match=match,
        )
        await self._known(bank, found)
        return found

    async def recall(
        self,
        bank: MemoryBank | int,
        embedding: VectorLike,
        *,
        limit: int = 10,
        half_life: timedelta = HALF_LIFE,
        weights: MemoryRecallWeights = MemoryRecallWeights(),
        now: datetime | None = None,
        exact: bool | None = None,
    ) -> MemoryRecallResult:
        """The bank's best memories by similarity x importance x recency; it touches nothing.

        score = similarity * (1 - w_i + w_i * importance / 10) * (1 - w_r + w_r * 2^(-age / half_life)), age being
        the time from the last use to `now`, by default the database's time. The index gives the nearest; their
        number is doubled until no other memory can have a better score, and `certified` says that none can.
        `exact` compares the whole bank, or with False never does. Raises NotFoundError for an unknown bank.
        """
        found = await recall(
            self._session,
            id_of(bank),
            embedding,
            limit=limit,
            half_life=seconds("half_life", half_life),
            weights=weights,
            now=now,
            exact=exact,
        )
        await self._known(bank, found)
        return found

    async def duplicates(
        self, bank: MemoryBank | int, embedding: VectorLike, *, within: float = NEAR, limit: int = 10
    ) -> Sequence[Hit]:
        """The bank's memories that mean nearly the same as a vector, nearest first."""
        params = SearchParams(max_distance=within)
        return (await self.search(bank, embedding, limit=limit, params=params)).hits

    async def touch(self, memory_ids: Sequence[int]) -> int:
        """Say that memories were used; gives their number. Neither the vector nor an index is written."""
        return await affected(self._session, queries.touch(), {"ids": sorted(set(memory_ids))})

    async def sweep(self, limit: int = 1000) -> int:
        """Remove at most `limit` expired memories, whatever their bank; gives their number."""
        within("limit", limit, 1, 100_000)
        return len(await self._rows(queries.sweep(limit)))

    async def prune(
        self,
        bank: MemoryBank | int,
        *,
        keep: int | None = None,
        below: float | None = None,
        half_life: timedelta = HALF_LIFE,
    ) -> int:
        """Remove the least alive memories of a bank; gives their number.

        A memory's life is importance * 2^(-age / half_life), age being the time since its last use. Either all
        but the `keep` most alive go, or those with a life below `below`.
        """
        if (keep is None) == (below is None):
            raise InvalidInputError("prune: give either `keep` or `below`")
        if keep is not None:
            within("keep", keep, 0, 2**63 - 1)
        if below is not None:
            within("below", below, 1e-300, 1e300)
        half_life_seconds = seconds("half_life", half_life)
        return len(
            await self._rows(queries.prune(id_of(bank), half_life=half_life_seconds, keep=keep, below=below))
        )

    async def consolidate(
        self,
        bank: MemoryBank | int,
        *,
        within: float = NEAR,
        merge: Callable[[Sequence[Memory]], str] | None = None,
    ) -> int:
        """Merge memories that mean nearly the same into the newest of them; gives the number of those removed.

        Each one that goes was within that cosine distance of the one that stays, which counts what they all
        counted, with the greatest importance and the latest use and expiry. `merge` gets the group, newest
        first, and gives the text that stays; the vector remains that of the newest. It looks at the whole bank.
        """
        return await consolidate(self._session, id_of(bank), within, merge)

    async def list(
        self, bank: MemoryBank | int, *, after: str | None = None, limit: int = 100
    ) -> Page[Memory]:
        """The bank's memories, in the order that they were stored, a page at a time."""
        rows = await self._all(queries.list_(id_of(bank), after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def _known(self, bank: MemoryBank | int, found: Sized) -> None:
        """Tell an empty bank from none."""
        if not len(found) and await self._first(memory_banks.get(id_of(bank))) is None:
            raise unknown_bank(id_of(bank))


def _unknown(memory_id: int) -> NotFoundError:
    return NotFoundError(f"memory {memory_id}: does not exist, or has expired")
