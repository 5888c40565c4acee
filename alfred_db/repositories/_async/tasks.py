"""Tasks: enqueued once, claimed by one worker at a time, ended once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import make_transient_to_detached

from ...checks import within
from ...engine.session import state_of
from ...errors import ConflictError, InvalidTransition
from ...execution._async.copy import copy_rows
from ...execution._async.driver import commits_alone, fetch
from ...execution.missing import not_found
from ...models import Task, TaskResult, TaskStatus
from ...models.base import table_of
from ...models.tasks import DEFAULT_QUEUE
from ...queries import tasks as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.task_columns import as_text, at, columns_of, firsts, keys_at, named
from ...values.tasks import MOST_COUNTED, NewTask, TaskCount
from .task_leases import AsyncTaskLeases
from .task_maintenance import MAX_BATCH, AsyncTaskMaintenance

COPIED = 1000
"""More tasks than this are enqueued by COPY."""

ATTEMPTS = 5

_columns = table_of(Task).c


class AsyncTaskRepository(AsyncTaskLeases, AsyncTaskMaintenance):
    """The tasks of the platform, with priorities from 1, the least urgent, to 5, the most urgent."""

    async def enqueue(
        self,
        intent: str,
        content: Mapping[str, Any] | None = None,
        *,
        queue: str = DEFAULT_QUEUE,
        task_id: str | None = None,
        priority: int = 1,
        delay: float = 0.0,
        available_at: datetime | None = None,
        max_retries: int = 3,
        timeout_seconds: int = 300,
        assigned_to: str | None = None,
        created_by: str | None = None,
        parent_task_id: uuid.UUID | None = None,
        dedupe_key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> tuple[Task, bool]:
        """Enqueue a task, unless one with this `task_id` exists or a live one has this `dedupe_key`.

        Args:
            intent: The kind of work.
            content: The input of the work, as JSON.
            queue: The queue, 1 to 200 bytes.
            task_id: The caller's key; None generates one.
            priority: 1 to 5.
            delay: Seconds before the task can be claimed.
            available_at: The time before which it cannot be claimed; the later of both holds.
            max_retries: How many failed attempts are followed by another one.
            timeout_seconds: Seconds that an attempt may take.
            assigned_to: The agent that it is assigned to.
            created_by: Who has created it.
            parent_task_id: The `id` of the task that it is a part of.
            dedupe_key: At most one task that has not ended has this key.
            metadata: Any JSON.

        Returns:
            The task and whether this call created it. An existing task is returned unchanged.

        Raises:
            InvalidTransition: The parent is cancelled or being cancelled.
            ConflictError: Concurrent transactions keep creating and deleting tasks with these keys; retry.
        """
        task = NewTask(
            intent=intent,
            content=content,
            queue=queue,
            task_id=task_id,
            priority=priority,
            delay=delay,
            available_at=available_at,
            max_retries=max_retries,
            timeout_seconds=timeout_seconds,
            assigned_to=assigned_to,
            created_by=created_by,
            parent_task_id=parent_task_id,
            dedupe_key=dedupe_key,
            metadata=metadata,
        )
        columns = columns_of([task], every=True)
        values = {name: column[0] for name, column in as_text(columns).items()}
        statement = queries.enqueue(child=parent_task_id is not None)
        for _ in range(ATTEMPTS):
            rows = await fetch(self._session, statement, values)
            if rows:
                state_of(self._session).enqueued.add((queue, intent))
                return self._loaded(rows[0]), True
            # A separate statement: the first one does not see a task that was committed while it waited for it.
            if standing := await self._first(queries.standing(values["task_id"], dedupe_key)):
                return standing, False
            if await self._refusing([parent_task_id]):
                raise _takes_no_children(parent_task_id)
        raise _changing()

    async def enqueue_many(self, tasks: Sequence[NewTask]) -> list[tuple[uuid.UUID, bool]]:
        """Enqueue tasks, more than 1000 of them by COPY.

        Tasks with the same priority are claimed in their order. The rules of `enqueue` for `task_id` and
        `dedupe_key` also hold between the tasks of one call.

        Args:
            tasks: Mappings whose keys are the arguments of `enqueue`.

        Returns:
            For each task, in order, its `id` and whether this call created it.

        Raises:
            InvalidTransition: A parent is cancelled or being cancelled.
            ConflictError: Concurrent transactions keep creating and deleting tasks with these keys; retry.
        """
        if not tasks:
            return []
        copied = len(tasks) > COPIED and not await commits_alone(self._session)
        columns = columns_of(tasks, every=not copied)
        ids: list[uuid.UUID] = columns["id"]
        parents: Sequence[uuid.UUID | None] = columns.get("parent_task_id", [None] * len(ids))
        left: Sequence[int] = range(len(ids))
        created: set[int] = set()
        standing: dict[int, uuid.UUID] = {}
        # Of more than that the kinds are not collected, and every worker is woken.
        kinds = [None] if copied else zip(columns["queue"], columns["intent"], strict=True)
        state_of(self._session).enqueued.update(kinds)
        for _ in range(ATTEMPTS):
            conflict: ConflictError | None = None
            try:
                places = firsts(columns, left) if named(tasks) else left
                created |= await (self._copy if copied else self._insert)(columns, places)
            except ConflictError as error:
                # A refused COPY leaves the transaction unchanged. The next attempt omits the tasks that exist.
                if not copied or error.retryable:
                    raise
                conflict = error
            if len(created) == len(ids):
                return [(own, True) for own in ids]
            left = [place for place in left if place not in created]
            found = await self._standing(keys_at(columns, left))
            standing |= {place: known for place, known in zip(left, found, strict=True) if known}
            left = [place for place in left if place not in standing]
            if not left:
                return [(standing.get(place, own), place in created) for place, own in enumerate(ids)]
            if refusing := await self._refusing([parents[place] for place in left]):
                raise _takes_no_children(next(iter(refusing)))
            if conflict is not None and not any(found):
                raise conflict
        raise _changing()

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

    async def cancel(self, id: uuid.UUID, *, children: bool = True) -> Mapping[uuid.UUID, TaskStatus]:
        """Cancel a task and, unless `children` is False, all parts of it.

        Waiting tasks are `cancelled` at once. The worker of a `processing` task is notified by its next
        heartbeat, and may still complete it. No more parts can be enqueued. Waits for transactions that are
        enqueueing parts, and cancels these too.

        Returns:
            The status of each task concerned, by `id`.

        Raises:
            NotFoundError: The task does not exist.
            InvalidTransition: The task has ended, and no part of it can be cancelled.
        """
        found: dict[uuid.UUID, TaskStatus] = {}
        while rows := [
            row for row in await self._rows(queries.cancel(id, children=children)) if row[0] not in found
        ]:
            found |= {row[0]: row[1] for row in rows}
            if not children:
                break
        if not found:
            task = await self._existing(id)
            if task.status is not TaskStatus.CANCELLED:
                raise InvalidTransition(f"task {id}: is {task.status} and cannot be cancelled any more")
        return found

    async def requeue(self, id: uuid.UUID) -> Task:
        """Enqueue a failed or cancelled task again with no attempts; its last error is kept.

        Raises:
            NotFoundError: The task does not exist.
            InvalidTransition: The task has neither failed nor been cancelled.
            ConflictError: Another live task has its `dedupe_key`.
        """
        state_of(self._session).enqueued.add(None)
        task = await self._write(queries.requeue(id))
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
        return [row[0] for row in await self._rows(statement)]

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

    async def _refusing(self, parents: Sequence[uuid.UUID | None]) -> set[uuid.UUID]:
        """Return the parents that take no more children.

        The others are locked: until this transaction ends they cannot be cancelled.
        """
        ids = sorted({parent for parent in parents if parent})
        return {row[0] for row in await self._rows(queries.lock_parents(ids)) if row[1]} if ids else set()

    async def _existing(self, id: uuid.UUID) -> Task:
        task = await self.get(id)
        if task is None:
            raise not_found("task", id)
        return task

    def _loaded(self, row: Sequence[Any]) -> Task:
        """Return the task of a row that the driver has read, attached to the session as if loaded by SQLAlchemy."""
        values = dict(zip(queries.FIELDS, row, strict=True))
        task = Task(**{**values, "status": TaskStatus(values["status"])})
        make_transient_to_detached(task)
        self._session.add(task)
        return task

    async def _insert(self, columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> set[int]:
        """Insert the tasks at these places; return the places of the new ones."""
        given = at(columns, places)
        statement = queries.enqueue_many(children=any(given["parent_task_id"]))
        rows = await fetch(self._session, statement, as_text(given))
        new = {row[0] for row in rows}
        return {place for place, id in zip(places, given["id"], strict=True) if id in new}

    async def _copy(self, columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> set[int]:
        """Insert the tasks at these places by COPY; return all places, or none if a parent takes no more children."""
        values = at(columns, places)
        if await self._refusing(values.get("parent_task_id", ())):
            return set()
        delays = values.pop("delay", None)
        if delays is not None or "available_at" in values:
            now = await self._first(queries.now())
            assert now is not None
            given = values.get("available_at") or [None] * len(places)
            values["available_at"] = [
                max(at or now, now + delay)
                for at, delay in zip(given, delays or [timedelta(0)] * len(given), strict=True)
            ]
        targets = [_columns[name.rstrip("_")] for name in values]
        await copy_rows(self._session, table_of(Task), targets, zip(*values.values(), strict=True))
        return set(places)

    async def _standing(self, keys: Sequence[tuple[str, str | None]]) -> Sequence[uuid.UUID | None]:
        """Return the id of the existing task for each pair of `task_id` and `dedupe_key`."""
        if not keys:
            return []
        by_task_id = {row[1]: row[0] for row in await self._rows(queries.known([key[0] for key in keys]))}
        live = [key for _, key in keys if key is not None]
        by_key = {row[1]: row[0] for row in await self._rows(queries.deduplicated(live))} if live else {}
        return [by_task_id.get(task_id) or by_key.get(key) for task_id, key in keys]


def _takes_no_children(parent: uuid.UUID | None) -> InvalidTransition:
    return InvalidTransition(
        f"task {parent}: is cancelled or being cancelled, and takes no more children; enqueue them without"
        " `parent_task_id`, or requeue the parent first"
    )


def _changing() -> ConflictError:
    return ConflictError(
        "concurrent transactions keep creating and deleting tasks with these keys; retry the transaction",
        retryable=True,
    )
