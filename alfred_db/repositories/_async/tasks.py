"""Tasks: filed once, held by one worker at a time, ended once."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import make_transient_to_detached

from ...checks import within
from ...engine.notifications import FILED
from ...errors import ConflictError, InvalidTransition, NotFoundError
from ...execution._async.copy import copy_rows
from ...execution._async.driver import driver_of, fetch
from ...models import Task, TaskResult, TaskStatus
from ...models.base import table_of
from ...models.tasks import DEFAULT_QUEUE
from ...queries import tasks as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.task_columns import as_text, at, columns_of, firsts, keys_at, named
from ...values.tasks import NewTask
from .task_leases import AsyncHeldTasks
from .task_maintenance import MAX_BATCH, AsyncTaskUpkeep

COPIED = 1000
"""More tasks than this are filed by COPY."""

ATTEMPTS = 5

_columns = table_of(Task).c


class AsyncTaskRepository(AsyncHeldTasks, AsyncTaskUpkeep):
    """The tasks of the platform, from 1, the least urgent, to 5, the most urgent."""

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
        """File a task; gives it, and whether this call did so: one of that `task_id` is given as it stands.

        The same if a task that is not over has that `dedupe_key`. It can be claimed after `delay` seconds or at
        `available_at`, whichever is later. `queue` is 1 to 200 bytes. `parent_task_id` is the parent's `id`. Raises
        InvalidTransition when the parent is cancelled or is to be.
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
                self._session.info[FILED] = True
                return self._loaded(rows[0]), True
            # A statement of its own: the first one does not see what was committed while it waited.
            if standing := await self._first(queries.standing(values["task_id"], dedupe_key)):
                return standing, False
            if await self._refusing([parent_task_id]):
                raise _takes_no_children(parent_task_id)
        raise _changing()

    async def enqueue_many(self, tasks: Sequence[NewTask]) -> list[tuple[uuid.UUID, bool]]:
        """File tasks, more than 1000 of them by COPY; gives for each, in order, its `id` and whether it was filed now.

        Tasks of one priority that are filed together are claimed in order. The keys of a task are the arguments of
        `enqueue`; what is said there of `task_id` and `dedupe_key` holds within the call too.
        """
        if not tasks:
            return []
        copied = len(tasks) > COPIED and not (await driver_of(self._session)).autocommit
        columns = columns_of(tasks, every=not copied)
        ids: list[uuid.UUID] = columns["id"]
        parents: Sequence[uuid.UUID | None] = columns.get("parent_task_id", [None] * len(ids))
        left: Sequence[int] = range(len(ids))
        filed: set[int] = set()
        standing: dict[int, uuid.UUID] = {}
        self._session.info[FILED] = True
        for _ in range(ATTEMPTS):
            conflict: ConflictError | None = None
            try:
                places = firsts(columns, left) if named(tasks) else left
                filed |= await (self._copy if copied else self._insert)(columns, places)
            except ConflictError as error:
                # A refused COPY leaves the transaction as it was; what stood in its way is left out of the next.
                if not copied or error.retryable:
                    raise
                conflict = error
            if len(filed) == len(ids):
                return [(own, True) for own in ids]
            left = [place for place in left if place not in filed]
            found = await self._standing(keys_at(columns, left))
            standing |= {place: known for place, known in zip(left, found, strict=True) if known}
            left = [place for place in left if place not in standing]
            if not left:
                return [(standing.get(place, own), place in filed) for place, own in enumerate(ids)]
            if refusing := await self._refusing([parents[place] for place in left]):
                raise _takes_no_children(next(iter(refusing)))
            if conflict is not None and not any(found):
                raise conflict
        raise _changing()

    async def get(self, id: uuid.UUID) -> Task | None:
        """The task of that `id`."""
        return await self._first(queries.get(id))

    async def get_by_task_id(self, task_id: str) -> Task | None:
        """The task of that `task_id`, the key that the caller of `enqueue` gave it."""
        return await self._first(queries.get_by_task_id(task_id))

    async def results(self, id: uuid.UUID) -> Sequence[TaskResult]:
        """What was stored when the task was completed, in that order."""
        return await self._all(queries.results(id))

    async def children(self, id: uuid.UUID, *, after: str | None = None, limit: int = 100) -> Page[Task]:
        """The tasks that are parts of this one, the latest first, a page at a time."""
        rows = await self._all(queries.list_(parent=id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def cancel(self, id: uuid.UUID, *, children: bool = True) -> Mapping[uuid.UUID, TaskStatus]:
        """Cancel a task, with all parts of it unless `children` is False; gives the status of each that it concerns.

        What waits is `cancelled` at once. The holder of what is `processing` sees it in its next heartbeat, and may
        still complete it. No more parts of these can be enqueued; it waits for transactions that are enqueueing some,
        and cancels them too. Raises NotFoundError, and InvalidTransition when nothing of it can be cancelled any more.
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
        """File a failed or cancelled task again, as if it had never been tried; its last error stays to be read.

        Raises NotFoundError, InvalidTransition when it is neither, and ConflictError when another live task has
        its `dedupe_key` by now.
        """
        self._session.info[FILED] = True
        task = await self._write(queries.requeue(id))
        if task is None:
            status = (await self._existing(id)).status
            raise InvalidTransition(
                f"task {id}: is {status}; only failed and cancelled tasks are filed again"
            )
        return task

    async def requeue_failed(
        self, *, queue: str | None = None, intent: str | None = None, limit: int = 1000
    ) -> Sequence[uuid.UUID]:
        """File at most `limit` (1 to 10,000) failed tasks again, the oldest first; gives their ids.

        Of tasks with one `dedupe_key` at most one becomes live.
        """
        within("limit", limit, 1, MAX_BATCH)
        self._session.info[FILED] = True
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
    ) -> int:
        """How many tasks `list` has with these filters."""
        statement = queries.count(
            status=status,
            queue=queue,
            intent=intent,
            assigned_to=assigned_to,
            parent=parent,
            created_after=created_after,
            created_before=created_before,
        )
        return await self._first(statement) or 0

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
        """The tasks that pass every filter given, the latest first, a page at a time.

        The order is that of their ids: tasks that were filed by other means than this library, with random ids, are
        anywhere in it. `created_after` is part of its range, `created_before` is not.
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
        """Those of the parents that take no more children; the others take them until the transaction ends."""
        ids = sorted({parent for parent in parents if parent})
        return {row[0] for row in await self._rows(queries.lock_parents(ids)) if row[1]} if ids else set()

    async def _existing(self, id: uuid.UUID) -> Task:
        task = await self.get(id)
        if task is None:
            raise NotFoundError(f"task {id}: there is none; pass the `id` of a task, not its `task_id`")
        return task

    def _loaded(self, row: Sequence[Any]) -> Task:
        """The task of a row that the driver has read, in the session as if SQLAlchemy had loaded it."""
        values = dict(zip(queries.FIELDS, row, strict=True))
        task = Task(**{**values, "status": TaskStatus(values["status"])})
        make_transient_to_detached(task)
        self._session.add(task)
        return task

    async def _insert(self, columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> set[int]:
        """File the tasks at these places; gives the places of those that were new."""
        given = at(columns, places)
        statement = queries.enqueue_many(children=any(given["parent_task_id"]))
        rows = await fetch(self._session, statement, as_text(given))
        new = {row[0] for row in rows}
        return {place for place, id in zip(places, given["id"], strict=True) if id in new}

    async def _copy(self, columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> set[int]:
        """The same by COPY: all of them, or ConflictError; none when a parent takes no more children."""
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
        """For each pair of `task_id` and `dedupe_key` the id of the task that has one of them."""
        if not keys:
            return []
        by_task_id = {row[1]: row[0] for row in await self._rows(queries.known([key[0] for key in keys]))}
        live = [key for _, key in keys if key is not None]
        by_key = {row[1]: row[0] for row in await self._rows(queries.deduplicated(live))} if live else {}
        return [by_task_id.get(task_id) or by_key.get(key) for task_id, key in keys]


def _takes_no_children(parent: uuid.UUID | None) -> InvalidTransition:
    return InvalidTransition(
        f"task {parent}: is cancelled, or is to be, and takes no more children; enqueue them without `parent_task_id`, or"
        " requeue the parent first"
    )


def _changing() -> ConflictError:
    return ConflictError(
        "tasks with these keys come and go while they are filed: run the transaction again", retryable=True
    )
