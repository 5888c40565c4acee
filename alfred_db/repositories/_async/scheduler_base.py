"""The slots that enqueue a task instead of being run by a handler."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from ...engine.session import state_of
from ...execution._async.base import AsyncRepository
from ...queries import scheduler_enqueueing as queries
from ...values.task_columns import new_ids


class AsyncSchedulerBase(AsyncRepository):
    """What several parts of the scheduler's repository need to enqueue tasks."""

    async def _enqueue(self, executions: Sequence[int]) -> list[uuid.UUID]:
        """Enqueue a task for each of these executions, which are stored as skipped; return the ids of the tasks.

        What has a task is stored as completed. An execution whose task would have the key of a live one stays skipped.
        """
        ids = new_ids(len(executions))
        rows = await self._rows(queries.enqueue(executions, ids))
        state_of(self._session).enqueued.update((row[2], row[3]) for row in rows)
        created = {row[0] for row in rows}
        pairs = [(execution, id) for execution, id in zip(executions, ids, strict=True) if id in created]
        if pairs:
            await self._rows(queries.ended(*map(list, zip(*pairs, strict=True))))
        return [id for _, id in pairs]

    async def _enqueue_now(self, task_id: int) -> uuid.UUID | None:
        """Enqueue a task of a schedule for this moment; None if a live task has its key."""
        (id,) = new_ids(1)
        rows = await self._rows(queries.enqueue_now(task_id, id))
        state_of(self._session).enqueued.update((row[2], row[3]) for row in rows)
        return id if rows else None
