"""Tasks are enqueued: one by one, or many by COPY."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm.attributes import instance_dict

from ...engine.session import state_of
from ...execution._async.driver import fetch
from ...models import Task, TaskStatus
from ...models.tasks import DEFAULT_QUEUE
from ...queries import tasks as queries
from ...values.task_columns import as_text, columns_of
from ...values.tasks import AfterFailure, NewTask
from .task_base import ATTEMPTS, ORDERED_ATTEMPTS, AsyncTaskBase, changing, takes_no_children


@cache
def _instances() -> Any:
    """Return what creates tasks without their constructor."""
    Task.registry.configure()
    return inspect(Task).class_manager


class AsyncTaskEnqueueing(AsyncTaskBase):
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
        ordering_key: str | None = None,
        after: Sequence[uuid.UUID | str] = (),
        after_failure: AfterFailure = "cancel",
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
            ordering_key: Tasks with the same key run one after the other, in the order of this call. The next one can
                be claimed when the one before it has completed, failed finally or been cancelled.
            after: Tasks that have to end before this one can be claimed, by `id` or by `task_id`.
            after_failure: What happens when one of them fails or is cancelled: `"cancel"` cancels this task with the
                `error_code` `dependency_failed`, `"run"` runs it nevertheless.

        Returns:
            The task and whether this call created it. An existing task is returned unchanged.

        Raises:
            InvalidTransition: The parent is cancelled or being cancelled.
            NotFoundError: A task of `after` does not exist.
            ConfigurationError: There are tasks in `after`, but no transaction: the connection is in AUTOCOMMIT.
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
        if ordering_key is not None:
            task["ordering_key"] = ordering_key
        if after or after_failure != "cancel":
            task["after"], task["after_failure"] = after, after_failure
            [(id, created)] = await self._file([task])
            filed = await self._first(queries.get(id))
            assert filed is not None
            return filed, created
        columns = columns_of([task], every=True)
        values = {name: column[0] for name, column in as_text(columns).items()}
        ordered = ordering_key is not None
        statement = queries.enqueue(child=parent_task_id is not None, ordered=ordered)
        for _ in range(ORDERED_ATTEMPTS if ordered else ATTEMPTS):
            rows = await fetch(self._session, statement, values)
            if rows:
                state_of(self._session).enqueued.add((queue, intent))
                return self._loaded(rows[0]), True
            # A separate statement: the first one does not see a task that was committed while it waited for it.
            if standing := await self._first(queries.standing(values["task_id"], dedupe_key)):
                return standing, False
            if await self._refusing([parent_task_id]):
                raise takes_no_children(parent_task_id)
        raise changing()

    async def enqueue_many(self, tasks: Sequence[NewTask]) -> list[tuple[uuid.UUID, bool]]:
        """Enqueue tasks, more than 1000 of them by COPY.

        Tasks with the same priority are claimed in their order. The rules of `enqueue` for `task_id`, `dedupe_key` and
        `ordering_key` also hold between the tasks of one call, and `after` may have the `task_id` of any of them.

        Args:
            tasks: Mappings whose keys are the arguments of `enqueue`.

        Returns:
            For each task, in order, its `id` and whether this call created it.

        Raises:
            InvalidTransition: A parent is cancelled or being cancelled.
            NotFoundError: A task of `after` does not exist.
            InvalidInputError: Tasks wait for each other in a circle.
            ConfigurationError: Tasks wait for others, but the connection is in AUTOCOMMIT.
            ConflictError: Concurrent transactions keep creating and deleting tasks with these keys; retry.
        """
        return await self._file(tasks)

    def _loaded(self, row: Sequence[Any]) -> Task:
        """Return the task of a row that the driver has read, attached to the session as if loaded by SQLAlchemy."""
        values = dict(zip(queries.FIELDS, row, strict=True))
        values["status"] = TaskStatus(values["status"])
        # The constructor would record a change of each attribute, which takes longer than the rest.
        task: Task = _instances().new_instance()
        instance_dict(task).update(values)
        make_transient_to_detached(task)
        self._session.add(task)
        return task
