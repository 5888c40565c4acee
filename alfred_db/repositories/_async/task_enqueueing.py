"""Tasks are enqueued: one by one, or many by COPY."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import make_transient_to_detached

from ...engine.session import state_of
from ...errors import ConflictError, InvalidTransition
from ...execution._async.base import AsyncRepository
from ...execution._async.copy import copy_rows
from ...execution._async.driver import commits_alone, fetch
from ...models import Task, TaskStatus
from ...models.base import table_of
from ...models.tasks import DEFAULT_QUEUE
from ...queries import tasks as queries
from ...values.task_columns import as_text, at, columns_of, firsts, keys_at, named
from ...values.tasks import NewTask

COPIED = 1000
"""More tasks than this are enqueued by COPY."""

ATTEMPTS = 5

_columns = table_of(Task).c


class AsyncTaskEnqueueing(AsyncRepository):
    """The methods of the task repository that enqueue tasks."""

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
        concurrency_key: str | None = None,
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
            concurrency_key: What the limit per key of its queue counts by, 1 to 2000 bytes.
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
            concurrency_key=concurrency_key,
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

    async def _refusing(self, parents: Sequence[uuid.UUID | None]) -> set[uuid.UUID]:
        """Return the parents that take no more children.

        The others are locked: until this transaction ends they cannot be cancelled.
        """
        ids = sorted({parent for parent in parents if parent})
        return {row[0] for row in await self._rows(queries.lock_parents(ids)) if row[1]} if ids else set()

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
