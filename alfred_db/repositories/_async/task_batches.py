"""Batches of tasks, and what tasks wait for."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from ...execution._async.driver import fetch
from ...execution._async.settling import released
from ...models import Task, TaskStatus
from ...queries import task_releases
from ...queries import task_waits as queries
from ...values.task_columns import new_ids
from ...values.tasks import NewTask, TaskBatch, TaskBatchProgress
from .task_base import AsyncTaskBase


class AsyncTaskBatches(AsyncTaskBase):
    """The methods of the task repository for batches and dependencies."""

    async def batch(self, tasks: Sequence[NewTask], *, then: NewTask | None = None) -> TaskBatch:
        """Enqueue tasks that belong together, and one that runs once all of them have ended.

        The task `then` can be claimed when the last of the others has completed, failed finally or been cancelled, and
        at once if the batch is empty. Its handler gets how they ended from `batch_progress`, with its own `id`. A task that
        existed before, by its `task_id` or `dedupe_key`, is waited for too, but not counted by `batch_progress`.

        Args:
            tasks: The tasks, as for `enqueue_many`.
            then: The task that waits for them; None if nothing does.

        Returns:
            The batch. If the task `then` exists, by its `task_id` or `dedupe_key`, nothing is enqueued.

        Raises:
            NotFoundError: A task of `after` does not exist.
            InvalidInputError: Tasks wait for each other in a circle.
            ConfigurationError: There is no transaction: the connection is in AUTOCOMMIT.
            ConflictError: Concurrent transactions keep creating and deleting tasks with these keys; retry.
        """
        if then is None:
            batch = new_ids(1)[0]
            filed = await self._file(tasks, batch=batch)
            return TaskBatch(batch, [id for id, _ in filed], None, created=True)
        [(last, created)] = await self._file([then], held=len(tasks))
        if not created:
            return TaskBatch(last, [], last, created=False)
        filed = await self._file(tasks, batch=last, awaited=True)
        own = {id for id, new in filed if new}
        others = {id for id, _ in filed} - own
        await self._depend([(last, other, True) for other in sorted(others)], frozenset())
        if less := len(tasks) - len(own) - len(others):
            rows = await fetch(self._session, task_releases.wait_less(), {"id": last, "less": less})
            await released(self._session, rows)
        return TaskBatch(last, [id for id, _ in filed], last, created=True)

    async def batch_progress(self, id: uuid.UUID) -> TaskBatchProgress:
        """Return how many tasks of a batch have which status, by the `id` of the batch."""
        counts = {str(status): count for status, count in await self._rows(queries.batch_progress(id))}
        numbers = {str(status): counts.get(status, 0) for status in TaskStatus}
        return TaskBatchProgress(total=sum(counts.values()), **numbers)

    async def dependencies(self, id: uuid.UUID) -> Sequence[Task]:
        """Return the tasks that a task waits for, or has waited for, by `after`; deleted ones are missing."""
        return await self._all(queries.dependencies(id))

    async def dependents(self, id: uuid.UUID) -> Sequence[Task]:
        """Return the tasks that wait for a task, or have waited for it, by `after`."""
        return await self._all(queries.dependents(id))
