"""Consolidation of memories that mean nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import within as check
from ...errors import translated
from ...execution._async.search import estimate, scan_settings, set_local
from ...execution.missing import not_found
from ...models import Memory, MemoryBank
from ...queries import memories as queries
from ...queries import memory_banks
from ...queries.shapes.memories import content_hash
from .memory_banks import id_of
from .memory_base import NEAR, AsyncMemoryBase
from .memory_batches import AT_ONCE, EFFORT
from .memory_recall import COMPARED

NEIGHBOURS = 20
"""The number of near duplicates of a memory that are compared."""

_options = {"populate_existing": True, "synchronize_session": False}


class AsyncMemoryConsolidation(AsyncMemoryBase):
    """The part of the memory repository that merges memories."""

    async def consolidate(
        self,
        bank: MemoryBank | int,
        *,
        within: float = NEAR,
        merge: Callable[[Sequence[Memory]], str] | None = None,
    ) -> int:
        """Merge memories that mean nearly the same into the newest of them; compares the whole bank.

        The newest memory keeps its vector. It gets the sum of the counts, the highest importance, and the
        latest use and expiry of its group.

        Args:
            bank: The bank or its id.
            within: The greatest cosine distance of a memory to the newest one of its group.
            merge: Called with a group, the newest first; returns the text to keep. None keeps the newest
                text.

        Returns:
            The number of memories deleted.

        Raises:
            NotFoundError: The bank does not exist.
        """
        check("within", within, 0, 2)
        session, bank_id = self._session, id_of(bank)
        removed = 0
        with translated():
            if await session.scalar(memory_banks.hold(bank_id, for_removal=False)) is None:
                raise not_found("memory bank", bank_id)
            groups = _stars(await _pairs(session, bank_id, within))
            ids = [memory_id for group in groups for memory_id in group]
            held = await session.scalars(queries.hold(ids), execution_options=_options)
            memories = {memory.id: memory for memory in held}
            for newest, *others in groups:
                group = [memories[memory_id] for memory_id in (newest, *others) if memory_id in memories]
                if newest not in memories or len(group) < 2:
                    continue  # deleted by another transaction meanwhile
                values = _together(group)
                if merge is not None:
                    content = merge(group)
                    values |= {"content": content, "content_hash": content_hash(content)}
                await session.execute(queries.remove(others), execution_options=_options)
                await session.execute(queries.change(newest, values), execution_options=_options)
                removed += len(group) - 1
        return removed


async def _pairs(session: AsyncSession, bank_id: int, near: float) -> list[tuple[int, int]]:
    matches, _ = await estimate(session, Memory, queries.in_bank(bank_id))
    await set_local(session, scan_settings(NEIGHBOURS, EFFORT, iterative=True))
    pairs: list[tuple[int, int]] = []
    after = -1
    while True:
        statement = queries.neighbours(
            bank_id, after=after, rows=AT_ONCE, limit=NEIGHBOURS + 1, exact=matches <= COMPARED
        )
        rows = (await session.execute(statement)).all()
        if not rows:
            return pairs
        after = max(row.id for row in rows)
        pairs += [
            (row.id, row.other)
            for row in rows
            if row.other not in (None, row.id) and row.distance is not None and row.distance <= near
        ]


def _stars(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return groups around their newest member, which is near to all others.

    A chain of neighbours is not one group.
    """
    near: dict[int, set[int]] = defaultdict(set)
    for one, other in pairs:
        near[one].add(other)
        near[other].add(one)
    taken: set[int] = set()
    groups: list[tuple[int, ...]] = []
    for newest in sorted(near, reverse=True):
        others = sorted(near[newest] - taken, reverse=True)
        if newest not in taken and others:
            taken |= {newest, *others}
            groups.append((newest, *others))
    return groups


def _together(group: Sequence[Memory]) -> dict[str, Any]:
    """Return the combined counts, times and importance of a group."""
    expiries = [memory.expires_at for memory in group]
    return {
        "importance": max(memory.importance for memory in group),
        "seen_count": sum(memory.seen_count for memory in group),
        "access_count": sum(memory.access_count for memory in group),
        "last_accessed": max(filter(None, (memory.last_accessed for memory in group)), default=None),
        "expires_at": None if None in expiries else max(expiry for expiry in expiries if expiry is not None),
    }
