"""Consolidation of memories that mean nearly the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import within as check
from ...errors import InvalidInputError, translated
from ...execution._async.driver import in_transaction
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
        latest use and expiry of its group. The search, which takes most of the time, locks nothing. To merge in
        short transactions, call `find_groups`, and `merge_groups` by `Database.in_chunks_of`.

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
        groups = await self.find_groups(bank, within=within)
        return await self.merge_groups(groups, within=within, merge=merge)

    async def find_groups(
        self,
        bank: MemoryBank | int,
        *,
        within: float = NEAR,
        progress: Callable[[int], None] | None = None,
    ) -> Sequence[Sequence[int]]:
        """Return groups of memories that mean nearly the same, as ids, the newest first; compares the whole bank.

        Only reads: while it runs, it holds back neither writers nor the readers of events.

        Args:
            bank: The bank or its id.
            within: The greatest cosine distance of a memory to the newest one of its group.
            progress: Called with the number of memories compared so far.

        Raises:
            NotFoundError: The bank does not exist.
        """
        check("within", within, 0, 2)
        session, bank_id = self._session, id_of(bank)
        with translated():
            if await session.scalar(memory_banks.known(bank_id)) is None:
                raise not_found("memory bank", bank_id)
            return _stars(await _pairs(session, bank_id, within, progress))

    @in_transaction
    async def merge_groups(
        self,
        groups: Sequence[Sequence[int]],
        *,
        within: float = NEAR,
        merge: Callable[[Sequence[Memory]], str] | None = None,
    ) -> int:
        """Merge groups that `find_groups` has returned.

        Memories that were deleted, have expired or mean something else by now are left out.

        Args:
            groups: The groups, or some of them.
            within: The same distance as in `find_groups`.
            merge: Called with a group, the newest first; returns the text to keep. None keeps the newest
                text.

        Returns:
            The number of memories deleted.

        Raises:
            InvalidInputError: A memory is named twice.
        """
        check("within", within, 0, 2)
        named = [memory_id for group in groups for memory_id in group]
        if len(set(named)) < len(named):
            raise InvalidInputError(
                "groups: one memory is named twice; pass groups of `find_groups`, each once"
            )
        pairs = [(newest, other) for newest, *others in filter(None, groups) for other in others]
        if not pairs:
            return 0
        with translated():
            # The locks last until the end of the transaction: nobody changes what is compared here.
            held = await self._all(queries.hold([memory_id for pair in pairs for memory_id in pair]))
            memories = {memory.id: memory for memory in held}
            near: dict[int, list[Memory]] = {}
            for newest, other in await self._rows(queries.still_near(pairs, within)):
                near.setdefault(newest, [memories[newest]]).append(memories[other])
            changes = [_together(group, merge) for group in near.values()]
            removed = [memory.id for _, *others in near.values() for memory in others]
            if removed:
                await self._rows(queries.remove(removed))
                await self._rows(queries.merge(changes))
        return len(removed)


async def _pairs(
    session: AsyncSession, bank_id: int, near: float, progress: Callable[[int], None] | None
) -> list[tuple[int, int]]:
    matches, _ = await estimate(session, Memory, queries.in_bank(bank_id))
    await set_local(session, scan_settings(NEIGHBOURS, EFFORT, iterative=True))
    pairs: list[tuple[int, int]] = []
    after, compared = -1, 0
    while True:
        statement = queries.neighbours(
            bank_id, after=after, rows=AT_ONCE, limit=NEIGHBOURS + 1, exact=matches <= COMPARED
        )
        rows = (await session.execute(statement)).all()
        if not rows:
            return pairs
        ids = {row.id for row in rows}
        after, compared = max(ids), compared + len(ids)
        if progress is not None:
            progress(compared)
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


def _together(group: Sequence[Memory], merge: Callable[[Sequence[Memory]], str] | None) -> dict[str, Any]:
    """Return the new values of the newest memory of a group."""
    expiries = [memory.expires_at for memory in group]
    content = None if merge is None else merge(group)
    return {
        "id": group[0].id,
        "importance": max(memory.importance for memory in group),
        "seen_count": sum(memory.seen_count for memory in group),
        "access_count": sum(memory.access_count for memory in group),
        "last_accessed": max(filter(None, (memory.last_accessed for memory in group)), default=None),
        "expires_at": None if None in expiries else max(expiry for expiry in expiries if expiry is not None),
        "content": content,
        "content_hash": None if content is None else content_hash(content),
    }
