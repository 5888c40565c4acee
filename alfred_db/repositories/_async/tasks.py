"""Tasks: enqueued once, claimed by one worker at a time, ended once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...checks import within
from ...engine.session import state_of
from ...errors import InvalidTransition
from ...execution._async.cancelling import announce
from ...execution._async.driver import together
from ...execution._async.settling import requeued, settle
from ...execution.missing import not_found
from ...models import Task, TaskResult, TaskStatus
from ...queries import tasks as queries
from ...queries.shapes.paging import as_page
from ...queries.task_leases import TASKS
from ...values import Page
from ...values.tasks import MOST_COUNTED, TaskCount
from .task_batches import AsyncTaskBatches
from .task_enqueueing import AsyncTaskEnqueueing
from .task_leases import AsyncTaskLeases
from .task_maintenance import MAX_BATCH, AsyncTaskMaintenance
from .task_reports import AsyncTaskReports


class AsyncTaskRepository(
    AsyncTaskEnqueueing, AsyncTaskBatches, AsyncTaskLeases, AsyncTaskReports, AsyncTaskMaintenance
):
    """The tasks of the platform, with priorities from 1, the least urgent, to 5, the most urgent."""

    async def get(self, id: uuid.UUID) -> Task | None:
        """Return the task with this `id`."""
        return await self._first(queries.get(id))

    async def get_by_task_id(self, task_id: str) -> Task | None:
        """Return the task with this `task_id`, the caller's key."""
        return await self._first(queries.get_by_task_id(task_id))

    async def results(self, id: uuid.UUID) -> Sequence[TaskResult]:
        """Return the results stored when the task was completed, in their order."""
        return await self._all(queries.results(id))

    async def children(self, id: uuid.UUID, *, after: str | None = None, limit: int = 100) -> Page[Task]:
        """Return a page of the tasks that are parts of this one, the latest first."""
        rows = await self._all(queries.list_(parent=id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def cancel(
        self, id: uuid.UUID, *, children: bool = True, limit: int | None = None
    ) -> Mapping[uuid.UUID, TaskStatus]:
        """Cancel a task and, unless `children` is False, all parts of it.

        Waiting tasks are `cancelled` at once. The worker of a `processing` task is notified at the commit, or sees it in
        its next heartbeat if it does not listen, and may still complete it. No more parts can be enqueued. Waits for transactions that are
        enqueueing parts, and cancels these too. With a `limit`, call it and commit until it returns less; tasks whose
        cancellation is requested already are left out.

        Args:
            id: The task.
            children: Whether its parts are cancelled too, and theirs.
            limit: The maximum number of tasks, 1 to 10,000. None cancels all in this transaction; for many, use
                `Database.in_chunks`.

        Returns:
            The status of each task concerned, by `id`.

        Raises:
            NotFoundError: The task does not exist.
            InvalidTransition: The task has ended, and no part of it can be cancelled. With a `limit`, only if it
                has no parts that were cancelled before.
        """
        found: Mapping[uuid.UUID, TaskStatus] = await together(
            self._session, lambda: self._cancel(id, children=children, limit=limit), joins=True
        )
        if not found:
            task = await self._existing(id)
            requested = task.status is TaskStatus.PROCESSING and task.cancel_requested_at is not None
            if not (task.status is TaskStatus.CANCELLED or requested) and not (
                limit and children and await self._first(queries.cancelled_parts(id)) is not None
            ):
                raise InvalidTransition(f"task {id}: is {task.status} and cannot be cancelled any more")
        return found

    async def requeue(self, id: uuid.UUID) -> Task:
        """Enqueue a failed or cancelled task again with no attempts; its last error is kept.

        It waits for no dependencies any more. With an `ordering_key` it waits until no other task of the key is open, and
        a batch that has not ended waits for it again. What was cancelled because it failed stays cancelled.

        Raises:
            NotFoundError: The task does not exist.
            InvalidTransition: The task has neither failed nor been cancelled.
            ConflictError: Another live task has its `dedupe_key`.
        """
        state_of(self._session).enqueued.add(None)
        task: Task | None = await together(self._session, lambda: self._requeue(id), joins=True)
        if task is None:
            status = (await self._existing(id)).status
            raise InvalidTransition(
                f"task {id}: is {status}; only failed and cancelled tasks can be requeued"
            )
        return task

    async def requeue_failed(
        self, *, queue: str | None = None, intent: str | None = None, limit: int = 1000
    ) -> Sequence[uuid.UUID]:
        """Requeue failed tasks, the oldest first.

        Of several tasks with the same `dedupe_key` at most one is requeued.

        Args:
            queue: Only tasks of this queue.
            intent: Only tasks with this intent.
            limit: The maximum number of tasks, 1 to 10,000.

        Returns:
            Their ids.
        """
        within("limit", limit, 1, MAX_BATCH)
        state_of(self._session).enqueued.add(None)
        statement = queries.requeue_failed(queue=queue, intent=intent, limit=limit)

        async def again() -> list[uuid.UUID]:
            rows = await self._rows(statement)
            await requeued(self._session, [(id, key, batch) for id, key, batch in rows])
            return [row[0] for row in rows]

        ids: list[uuid.UUID] = await together(self._session, again, joins=True)
        return ids

    async def count(
        self,
        *,
        status: TaskStatus | None = None,
        queue: str | None = None,
        intent: str | None = None,
        assigned_to: str | None = None,
        parent: uuid.UUID | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        up_to: int | None = MOST_COUNTED,
    ) -> TaskCount:
        """Return the number of tasks that match all filters, which are those of `list`.

        To count is to read every task that matches, so that the count stops at `up_to`. The attribute `exact` of the
        returned number is False if there are more.

        Args:
            status: Only tasks with this status.
            queue: Only tasks of this queue.
            intent: Only tasks with this intent.
            assigned_to: Only tasks assigned to this agent.
            parent: Only parts of the task with this `id`.
            created_after: Only tasks created at this time or later.
            created_before: Only tasks created before this time.
            up_to: The number to stop at, 1 to 1,000,000,000; None counts all, in a time that grows with their number.
        """
        if up_to is not None:
            within("up_to", up_to, 1, 1_000_000_000)
        statement = queries.count(
            up_to=up_to,
            status=status,
            queue=queue,
            intent=intent,
            assigned_to=assigned_to,
            parent=parent,
            created_after=created_after,
            created_before=created_before,
        )
        return TaskCount(await self._first(statement) or 0, up_to)

    async def list(
        self,
        *,
        status: TaskStatus | None = None,
        queue: str | None = None,
        intent: str | None = None,
        assigned_to: str | None = None,
        parent: uuid.UUID | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Task]:
        """Return a page of the tasks that match all filters, the latest first.

        The order is that of their ids: tasks that other software has created with random ids can be anywhere
        in it.

        Args:
            status: Only tasks with this status.
            queue: Only tasks of this queue.
            intent: Only tasks with this intent.
            assigned_to: Only tasks assigned to this agent.
            parent: Only parts of the task with this `id`.
            created_after: Only tasks created at this time or later.
            created_before: Only tasks created before this time.
            after: `next` of the previous page.
            limit: The maximum number of tasks.
        """
        statement = queries.list_(
            status=status,
            queue=queue,
            intent=intent,
            assigned_to=assigned_to,
            parent=parent,
            created_after=created_after,
            created_before=created_before,
            after=after,
            limit=limit,
        )
        return as_page(await self._all(statement), queries.LIST_KEY, limit)

    async def _requeue(self, id: uuid.UUID) -> Task | None:
        task = await self._write(queries.requeue(id))
        if task is None or (task.ordering_key is None and task.batch_id is None):
            return task
        await requeued(self._session, [(id, task.ordering_key, task.batch_id)])
        return await self._existing(id)

    async def _cancel(
        self, id: uuid.UUID, *, children: bool, limit: int | None
    ) -> dict[uuid.UUID, TaskStatus]:
        found: dict[uuid.UUID, TaskStatus] = {}
        if limit is not None:
            rows = await self._in_turns(limit, lambda left: queries.cancel(id, children=children, limit=left))
            found = {row[0]: row[1] for row in rows}
            await self._settle_cancelled(rows)
        while limit is None and (
            new := [
                row for row in await self._rows(queries.cancel(id, children=children)) if row[0] not in found
            ]
        ):
            found |= {row[0]: row[1] for row in new}
            await self._settle_cancelled(new)
            if not children:
                break
        running = [id for id, status in found.items() if status == TaskStatus.PROCESSING]
        await announce(self._session, TASKS.noun, running)
        return found

    async def _settle_cancelled(self, rows: Sequence[Sequence[Any]]) -> None:
        """Release what waited for tasks that were cancelled; a running one has not ended yet."""
        if ended := [id for id, status, awaited_by in rows if status == TaskStatus.CANCELLED and awaited_by]:
            await settle(self._session, ended)

    async def _existing(self, id: uuid.UUID) -> Task:
        task = await self.get(id)
        if task is None:
            raise not_found("task", id)
        return task
