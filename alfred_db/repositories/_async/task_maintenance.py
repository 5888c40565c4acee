"""The upkeep of the queue of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...checks import within
from ...execution._async.base import AsyncRepository
from ...execution._async.copy import table_name
from ...models import Task, TaskStatus
from ...models.base import table_of
from ...queries import task_maintenance as queries
from ...values.task_columns import MAX_SECONDS
from ...values.tasks import QueueHealth

MAX_BATCH = 10_000


class AsyncTaskUpkeep(AsyncRepository):
    """The part of the repository of tasks that a service calls now and then."""

    async def age(self, *, after: float = 60.0, limit: int = 1000) -> int:
        """Raise the priority of tasks by one level for each `after` seconds that they have waited at it.

        Keeps urgent work from starving the rest; optional. Changes at most `limit` (1 to 10,000), and gives their
        number: call it every `after` seconds or oftener. The priority stays raised.
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
        """Delete at most `limit` (1 to 10,000) tasks that ended more than `older_than` seconds ago, with their results.

        Gives their number: call it, and commit, until that is less than `limit`. Whole trees go, the children before
        their parents; a parent stays while one of its children does. `status` and `queue` leave out other tasks.
        """
        within("older_than", older_than, 0, MAX_SECONDS)
        within("limit", limit, 1, MAX_BATCH)
        deleted = 0
        while deleted < limit:
            statement = queries.purge(older_than, status=status, queue=queue, limit=limit - deleted)
            if not (rows := await self._rows(statement)):
                break
            deleted += len(rows)
        return deleted

    async def queue_health(self) -> QueueHealth:
        """How the queue is doing: what waits, runs and is stuck, and what keeps vacuum from its work."""
        name = table_name(self._session, table_of(Task))
        counts = (await self._rows(queries.health(name)))[0]
        oldest = await self._rows(queries.oldest_snapshot())
        snapshot: Sequence[Any] = oldest[0] if oldest else (None, None, None)
        overdue = (await self._rows(queries.overdue_handlers()))[0]
        values: list[Any] = [*counts, *snapshot, *overdue]
        return QueueHealth(*values)
