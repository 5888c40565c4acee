"""Maintenance of the task queue: aging, purging, health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...checks import MAX_SECONDS, within
from ...execution._async.base import AsyncRepository
from ...execution._async.copy import table_name
from ...models import Task, TaskStatus
from ...models.base import table_of
from ...queries import queues as queue_queries
from ...queries import task_maintenance as queries
from ...values.tasks import QueueHealth

MAX_BATCH = 10_000


class AsyncTaskMaintenance(AsyncRepository):
    """The methods of the task repository that a service calls from time to time."""

    async def age(self, *, after: float = 60.0, limit: int = 1000) -> int:
        """Raise the priority of waiting tasks by one level for each `after` seconds at their level.

        Keeps urgent work from starving the rest; optional. Call it every `after` seconds or more often. The
        priority stays raised.

        Args:
            after: Seconds at one level.
            limit: The maximum number of tasks, 1 to 10,000.

        Returns:
            The number of tasks changed.
        """
        within("after", after, 0, MAX_SECONDS)
        within("limit", limit, 1, MAX_BATCH)
        return len(await self._rows(queries.age(after, limit=limit)))

    async def purge(
        self,
        *,
        older_than: float,
        status: TaskStatus | None = None,
        queue: str | None = None,
        limit: int = 1000,
    ) -> int:
        """Delete tasks that ended more than `older_than` seconds ago, with their results.

        Whole trees are deleted, children before their parents; a parent stays while one of its children does.
        Call it and commit until it returns less than `limit`.

        Args:
            older_than: Seconds since the end.
            status: Only tasks with this status.
            queue: Only tasks of this queue.
            limit: The maximum number of tasks, 1 to 10,000.

        Returns:
            The number of tasks deleted.
        """
        within("older_than", older_than, 0, MAX_SECONDS)
        deleted = await self._in_turns(
            limit, lambda left: queries.purge(older_than, status=status, queue=queue, limit=left or limit)
        )
        return len(deleted)

    async def purgeable(
        self, *, older_than: float, status: TaskStatus | None = None, queue: str | None = None
    ) -> int:
        """Return how many tasks calls of `purge` delete in the end, a tree that must stay left out."""
        within("older_than", older_than, 0, MAX_SECONDS)
        return (await self._rows(queries.purgeable(older_than, status=status, queue=queue)))[0][0]

    async def queue_health(self) -> QueueHealth:
        """Return the state of the queue: waiting, running and stuck tasks, late schedules, and what delays vacuum."""
        name = table_name(self._session, table_of(Task))
        counts = (await self._rows(queries.health(name)))[0]
        oldest = await self._rows(queries.oldest_snapshot())
        snapshot: Sequence[Any] = oldest[0] if oldest else (None, None, None)
        overdue = (await self._rows(queries.overdue_handlers()))[0]
        schedules = (await self._rows(queries.schedules()))[0]
        queues = (await self._rows(queue_queries.figures()))[0]
        values: list[Any] = [*counts, *snapshot, *overdue, *schedules, *queues]
        return QueueHealth(*values)
