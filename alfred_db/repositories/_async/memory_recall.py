"""Recall: by comparing the whole bank, or by the nearest memories that the index finds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from ...errors import translated
from ...execution._async.driver import commits_alone, fetch_rows
from ...execution._async.search import MAX_COMPARED, OWN_PLAN, SMALL_PART, estimate, scan_settings, set_local
from ...execution._async.spaces import space_of
from ...models import Memory, MemoryBank
from ...queries import memory_recall as queries
from ...queries.memories import in_bank
from ...queries.shapes.memories import seconds
from ...queries.shapes.spaces import Space
from ...search.params import MAX_EF_SEARCH, SearchParams
from ...search.results import Hit, SearchPath
from ...values.memories import MemoryRecallResult, MemoryRecallWeights
from ...vectors.formats import VectorLike
from .memory_banks import id_of
from .memory_base import HALF_LIFE, AsyncMemoryBase

FIRST, MORE, MOST = 50, 4, 1000
"""The initial number of candidates, five for each hit if that is more; its factor, as each number costs a scan; the maximum."""

COMPARED = 2_000
"""Banks with at most this many memories are compared without the index, which would save no time."""

KEPT, EFFORT = 500, 5
"""The size of the index's candidate list: at least, and for each candidate. It sets the recall of the index."""

WHOLE = 10_000
"""Banks with at most this many memories are compared whole: that takes no longer than the index, and is exact."""

AT_LAST, TRIED = 100_000, 200
"""The largest bank that is compared whole when this many candidates were not enough: more of them would take longer."""


class AsyncMemoryRecall(AsyncMemoryBase):
    """The part of the memory repository that ranks memories by meaning, importance and recency."""

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
        space: str | None = None,
    ) -> MemoryRecallResult:
        """Return the bank's best memories by similarity x importance x recency; it touches nothing.

        score = similarity * (1 - w_i + w_i * importance / 10) * (1 - w_r + w_r * 2^(-age / half_life)), where
        age is the time from the last use to `now`. A bank of up to 10,000 memories is compared whole: the index
        finds some near memories, and of all others only those that are similar enough to be better are scored. In a
        larger bank only memories that the index finds are scored. Their number is increased until no memory that is
        farther away can have a better score; the index may miss a nearer one. A bank of up to 100,000
        memories is compared whole if 200 are not enough.

        Args:
            bank: The bank or its id.
            embedding: The vector.
            limit: The maximum number of hits.
            half_life: The age at which recency counts half.
            weights: The weights w_i of importance and w_r of recency.
            now: The time for ages; None is the database's time.
            exact: True compares the whole bank, False scores what the index finds, None decides by its size.
            space: The embedding space; None is the default one. In another than `builtin` the whole bank is
                compared.

        Returns:
            The hits; `certified` is true if the whole bank was compared, so that no other memory has a better score.

        Raises:
            NotFoundError: The bank does not exist, or the space.
        """
        found = await _recalled(
            self._session,
            id_of(bank),
            embedding,
            limit=limit,
            half_life=seconds("half_life", half_life),
            weights=weights,
            now=now,
            exact=exact,
            space=await space_of(self._session, Memory, space),
        )
        await self._known(bank, found)
        return found


async def _recalled(
    session: AsyncSession,
    bank_id: int,
    embedding: VectorLike,
    *,
    limit: int,
    half_life: float,
    weights: MemoryRecallWeights,
    now: datetime | None,
    exact: bool | None,
    space: Space | None,
) -> MemoryRecallResult:
    """Compare the bank, or take more candidates of the index until no memory farther away can be better."""
    parameters = {
        "bank": bank_id,
        "embedding": embedding,
        "importance_weight": float(weights.importance),
        "recency_weight": float(weights.recency),
        "half_life": half_life,
        "now": now,
    }
    with translated():
        if space is not None:
            found = await fetch_rows(session, queries.recall_exactly(limit, space), parameters)
            return _result(found, SearchPath.EXACT)
        matches, rows = await estimate(session, Memory, in_bank(bank_id))
        part, candidates = matches / max(rows, 1.0), min(max(FIRST, 5 * limit), MOST)
        small = matches <= max(COMPARED, min(MAX_COMPARED, rows * SMALL_PART))
        first = None if small else candidates
        whole = exact is not False and matches <= AT_LAST
        most = min(TRIED, MOST) if whole else MOST
        while not (exact or (exact is None and (small or matches <= WHOLE))):
            found = await _nearest(session, limit, candidates, part, parameters)
            compared = found[0].compared if found else 0
            enough = compared == candidates and len(found) == limit and found[-1].score >= found[0].bound
            last = candidates >= most or compared < candidates
            if enough or (last and not whole):
                return _result(found, SearchPath.HNSW_ITERATIVE)
            if last:
                break
            candidates = min(MORE * candidates, most)
        found = await _compared(session, limit, first, part, parameters)
    return _result(found, SearchPath.EXACT)


async def _compared(
    session: AsyncSession, limit: int, candidates: int | None, part: float, parameters: dict[str, Any]
) -> Sequence[Row[Any]]:
    """Compare a bank that has `part` of all memories; None as `candidates` does without the index."""
    if candidates is not None:
        # As many as leave enough of the bank; where the index finds fewer, the scan only takes longer.
        read = int(min(2 * candidates / max(part, 0.01), MAX_EF_SEARCH))
        settings = scan_settings(candidates, SearchParams(ef_search=read), iterative=False)
        if not await commits_alone(session):  # else the index finds what it finds by its default settings
            await set_local(session, {**settings, **OWN_PLAN})
    return await fetch_rows(session, queries.recall_exactly(limit, None, candidates), parameters)


async def _nearest(
    session: AsyncSession, limit: int, candidates: int, part: float, parameters: dict[str, Any]
) -> Sequence[Row[Any]]:
    """Return the best of the nearest `candidates` in a bank that has `part` of all memories."""
    kept = min(max(KEPT, EFFORT * candidates), MAX_EF_SEARCH)
    params = SearchParams(ef_search=kept)
    found: Sequence[Row[Any]] = ()
    # An iterative scan takes longer, and for a large bank the first scan usually finds enough.
    for iterative in (False, True) if kept * part >= 2 * candidates else (True,):
        settings = scan_settings(candidates, params, iterative=iterative)
        await set_local(session, {**settings, **OWN_PLAN})
        found = await fetch_rows(session, queries.recall(limit, candidates), parameters)
        if found and found[0].compared == candidates:
            break
    return found


def _result(rows: Sequence[Row[Any]], path: SearchPath) -> MemoryRecallResult:
    hits: list[Hit[Any]] = [Hit(row, row.distance, row.score) for row in rows]
    return MemoryRecallResult(hits, path, path is SearchPath.EXACT, rows[0].compared if rows else 0)
