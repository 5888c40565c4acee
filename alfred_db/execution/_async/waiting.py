"""Waiting for the end of a task without holding a connection."""

from __future__ import annotations

import time
import uuid
from typing import Any, TypeVar, overload

from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import MAX_SECONDS, within
from ...engine.ends import AsyncSignal, TaskEnds
from ...errors import NotFoundError, WaitTimeout
from ...models import TaskStatus
from ...queries import task_waits as queries
from ...values.task_outcomes import TaskOutcome, outcome_of
from .driver import fetch

__all__ = ["AsyncTaskWaiter"]

T = TypeVar("T")

LISTENING = 5.0
"""Seconds between two looks at a task while a notification is expected."""

POLLING, SLOWEST = 0.05, 1.0
"""Seconds before the first and the last look without notifications; each is twice as long as the one before."""


class AsyncTaskWaiter:
    """Waits for tasks; from the attribute `tasks` of a database.

    A connection is taken from the pool for each look, and held by none who waits.
    """

    def __init__(self, session: AsyncSession, ends: TaskEnds | None, *, marks: bool = True) -> None:
        self._session = session
        self._ends = ends
        self._marks = marks

    @overload
    async def wait(
        self, id: uuid.UUID, timeout: float | None = None
    ) -> TaskOutcome[dict[str, Any] | None]: ...

    @overload
    async def wait(
        self, id: uuid.UUID, timeout: float | None = None, *, result: type[T]
    ) -> TaskOutcome[T]: ...

    async def wait(
        self, id: uuid.UUID, timeout: float | None = None, *, result: Any = None
    ) -> TaskOutcome[Any]:
        """Wait until a task has completed, failed finally or been cancelled.

        Looks at the task when it is notified of its end, and every few seconds. A database with `notify=True` notifies of the
        tasks that it ends, as that of a worker does. Behind a pooler in transaction mode it looks every second.

        Args:
            id: The task.
            timeout: Seconds to wait; None is for ever.
            result: The type of the last result: a dataclass, a TypedDict, a model of pydantic, or any type that
                `read_result` reads. None leaves it as JSON. Of a decorated function it is what the function has returned.

        Returns:
            How the task has ended. A failure is returned too, and raises nothing.

        Raises:
            NotFoundError: The task does not exist.
            WaitTimeout: The task has not ended in time.
            InvalidInputError: The result is not of the type.
        """
        if timeout is not None:
            within("timeout", timeout, 0, MAX_SECONDS)
        until = None if timeout is None else time.monotonic() + timeout
        signal = AsyncSignal()
        if self._ends is not None:
            self._ends.add(id, signal.set)
        try:
            return outcome_of(await self._ended(id, until, signal), await self._results(id), result)
        finally:
            if self._ends is not None:
                self._ends.remove(id, signal.set)

    async def _ended(self, id: uuid.UUID, until: float | None, signal: AsyncSignal) -> tuple[Any, ...]:
        pause = POLLING if self._ends is None else LISTENING
        if self._ends is not None and self._marks:
            # From now on the end of the task is notified.
            await fetch(self._session, queries.mark_waited(), {"id": id})
        while True:
            rows = await fetch(self._session, queries.outcome(), {"id": id}, reads=True)
            if not rows:
                raise NotFoundError(f"task {id}: not found; check its id, or whether it was purged")
            if rows[0][2] not in (TaskStatus.PENDING, TaskStatus.PROCESSING):
                return rows[0]
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise WaitTimeout(
                    f"task {id}: is {rows[0][2]} and has not ended in time; wait again, or cancel it"
                )
            await signal.wait(pause if left is None else min(pause, left))
            if self._ends is None:
                pause = min(2 * pause, SLOWEST)

    async def _results(self, id: uuid.UUID) -> list[tuple[Any, ...]]:
        return list(await fetch(self._session, queries.outcome_results(), {"id": id}, reads=True))
