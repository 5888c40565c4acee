"""The leases that handlers work under."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ..checks import MAX_SECONDS, within
from ..errors import ConfigurationError, lease_lost, shown
from ..repositories import AsyncUnitOfWork, UnitOfWork
from ..values.scheduler import ClaimedExecution
from ..values.tasks import ClaimedTask, NewTaskResult, check_progress
from ..values.workflows import ClaimedWorkflow
from ._log import log
from .retry import Retry

__all__ = ["AnyLease", "AsyncLease", "ClaimedT", "Held", "Lease", "TaskFailed"]

ClaimedT = TypeVar("ClaimedT", ClaimedTask, ClaimedExecution, ClaimedWorkflow)

PATIENCE = 5.0
"""Seconds that a handler waits until its progress is stored; then it goes on without."""


class TaskFailed(Exception):
    """Raised by a handler to choose how its attempt fails.

    Args:
        message: The error message of the task.
        code: The error code of the task.
        retry: Whether the task is tried again; False ends it at once.
        delay: Seconds until the next attempt; None uses the worker's back-off.
    """

    def __init__(
        self, message: str, *, code: str = "handler", retry: bool = True, delay: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry
        self.delay = delay


class Held(Generic[ClaimedT]):
    """What a worker holds while a handler works on it. The worker's threads write it, the handler reads it."""

    noun = "task"
    """What is held, in error messages."""
    timeout = "timeout_seconds"
    """The setting that limits an attempt, in the log."""

    def __init__(self, claimed: ClaimedT) -> None:
        self.claimed: ClaimedT = claimed
        """What is held, as of the last heartbeat. For the worker only."""
        # The local time at which the reaper may end the attempt: its distance from the end of the lease is measured by
        # the database's clock alone.
        deadline = claimed.attempt_deadline_at
        self._deadline = (
            math.inf
            if deadline is None
            else claimed.held_until + (deadline - claimed.lease_expires_at).total_seconds()
        )
        self.source: Any = None
        """The kind of work that it is. For the loop only."""
        self.policy: Retry | None = None
        """When the task is tried again, if its function decides that. For the worker only."""
        self.snoozed: float | None = None
        """Seconds for which the handler put the work off. For the worker only."""
        self._taken = False
        self.began = time.monotonic()
        """The local time at which the worker passed the task to the handler. For the worker only."""
        self.took: float | None = None
        """Seconds until the handler returned or raised; None while it runs. For the worker only."""
        self.ended = False
        """Whether the handler has returned or raised. For the worker only."""
        self.again_at: float | None = None
        """The local time at which the handler is interrupted again. For the worker only."""
        self.overdue = False
        """Whether the handler goes on though it was to end, and has been logged. For the worker only."""
        self.completing = False
        """Whether the handler began to complete the task in the handler's own transaction."""
        self.given_back = False
        """Whether the worker stops, and cannot wait for the handler."""
        self._lock = threading.Lock()
        self._interrupted = False
        self._on_interrupt: Callable[[], None] | None = None

    @property
    def label(self) -> str:
        """The kind and the key of the work, for the log."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """What names the work in an error message."""
        raise NotImplementedError

    @property
    def lost(self) -> bool:
        """Whether another worker may hold the task by now: stop, and write nothing for it any more.

        True when a heartbeat reported it, when none got through in time, when the attempt has exceeded the task's
        `timeout_seconds`, and when the worker released the task because it has to stop. Needs no round trip.
        """
        return self._taken or self.claimed.is_over or self.time_left <= 0

    @property
    def cancel_requested(self) -> bool:
        """Whether the task's cancellation was requested: stop and raise. A return still completes the task."""
        return self.claimed.cancel_requested

    @property
    def time_left(self) -> float:
        """Seconds until the attempt exceeds the task's `timeout_seconds`."""
        return self._deadline - time.monotonic()

    def check(self) -> None:
        """Raise if the handler should stop.

        Raises:
            LeaseLost: The lease is lost.
            TaskFailed: The task's cancellation was requested.
        """
        self._check_lost()
        if self.cancel_requested:
            raise TaskFailed("its cancellation was asked for", code="cancelled", retry=False)

    def snooze(self, seconds: float) -> None:
        """Put the task off: when the handler returns, it is released, to be claimed again in `seconds`.

        No attempt is counted, and what the handler returns is not stored. If the handler raises, it fails as usual.

        Raises:
            InvalidInputError: `seconds` is out of range.
        """
        within("seconds", seconds, 0, MAX_SECONDS)
        self.snoozed = seconds

    def revoke(self, *, again: bool = False) -> None:
        """Mark the lease as lost, and interrupt the handler, or do so `again`. For the worker only."""
        self._taken = True
        self.interrupt(again=again)

    def give_back(self) -> None:
        """Revoke the lease because the worker stops: the attempt does not count as failed. For the worker only."""
        self.given_back = True
        self.revoke()

    @property
    def ends_at(self) -> float:
        """The local time at which the handler must end: the deadline, or 0 once revoked. For the worker only."""
        return 0.0 if self._taken else self._deadline

    @property
    def can_be_interrupted(self) -> bool:
        """Whether the handler can be interrupted. For the worker only."""
        return self._on_interrupt is not None

    def interrupt(self, *, again: bool = False) -> None:
        """Interrupt the handler if it can be: once, unless `again`. For the worker only."""
        with self._lock:
            first, self._interrupted = not self._interrupted, True
            interrupt = self._on_interrupt if first or again else None
        if interrupt is not None:
            interrupt()

    def interruptible(self, interrupt: Callable[[], None]) -> None:
        """Set the function that interrupts the handler; call it at once if that is due. For the worker only."""
        with self._lock:
            self._on_interrupt = interrupt
            late = self._interrupted
        if late:
            interrupt()

    def _check_lost(self) -> None:
        if self.lost:
            raise lease_lost(f"{self.noun} {self.key}")

    def _begin_to_complete(self) -> None:
        self._check_lost()
        self.completing = True


class AnyLease(Held[ClaimedTask]):
    """The base of `Lease` and `AsyncLease`."""

    report: Callable[[Any, float, str | None], Future[bool]] | None = None
    """Stores progress that the handler reports, and returns whether the task was held. For the worker only."""

    @property
    def task(self) -> ClaimedTask:
        """The task, as of the last heartbeat."""
        return self.claimed

    @property
    def label(self) -> str:
        """The intent and the `task_id` of the task, for the log."""
        return f"{self.claimed.intent} {self.claimed.task_id}"

    @property
    def key(self) -> str:
        """The `task_id`, for error messages."""
        return shown(self.claimed.task_id)

    def _report(self, fraction: float, note: str | None) -> Future[bool]:
        check_progress(fraction, note)
        self._check_lost()
        if self.report is None:
            raise ConfigurationError("progress: the lease is not one of a worker; call `uow.tasks.progress`")
        return self.report(self, fraction, note)

    def _unreported(self) -> None:
        log(logging.WARNING, "%s: its progress is not stored: the database does not answer", self.label)

    def _reported(self, held: bool) -> None:
        if not held:
            raise lease_lost(f"{self.noun} {self.key}")


class Lease(AnyLease):
    """The lease of a task that a handler works on."""

    def complete(self, uow: UnitOfWork, results: Sequence[NewTaskResult] = ()) -> None:
        """Complete the task in the handler's own transaction, whose effects then happen exactly once.

        Make it the last statement of the transaction, and return: no heartbeat extends the lease any more, because
        it would wait for the transaction.

        Raises:
            LeaseLost: Another worker may hold the task. Nothing has been written.
        """
        self._begin_to_complete()
        uow.tasks.complete(self.task, results)

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Report how far the task has come, for `uow.tasks.get_progress`, which sees it as soon as this returns.

        Waits for no lock on the task, and for no heartbeat. Reports that handlers of the worker make at the same moment
        share one statement, and of several about one task the last is stored. One that cannot be stored within five
        seconds, because the database is unavailable, is left out with a line in the log, and the handler goes on.

        Args:
            fraction: How much is done, from 0 to 1. It may be less than before.
            note: What is being done, for people; at most 2000 bytes.

        Raises:
            LeaseLost: Another worker may hold the task. Nothing has been written.
            InvalidInputError: The fraction or the note is invalid.
            ConfigurationError: The lease is not one of a worker.
        """
        stored = self._report(fraction, note)
        try:
            held = stored.result(PATIENCE)
        except TimeoutError:
            stored.cancel()
            self._unreported()
            return
        self._reported(held)


class AsyncLease(AnyLease):
    """The lease of a task that an asynchronous handler works on."""

    async def complete(self, uow: AsyncUnitOfWork, results: Sequence[NewTaskResult] = ()) -> None:
        """Complete the task in the handler's own transaction, whose effects then happen exactly once.

        Make it the last statement of the transaction, and return: no heartbeat extends the lease any more, because
        it would wait for the transaction.

        Raises:
            LeaseLost: Another worker may hold the task. Nothing has been written.
        """
        self._begin_to_complete()
        await uow.tasks.complete(self.task, results)

    async def progress(self, fraction: float, note: str | None = None) -> None:
        """Report how far the task has come; see `Lease.progress`.

        Args:
            fraction: How much is done, from 0 to 1. It may be less than before.
            note: What is being done, for people; at most 2000 bytes.

        Raises:
            LeaseLost: Another worker may hold the task. Nothing has been written.
            InvalidInputError: The fraction or the note is invalid.
            ConfigurationError: The lease is not one of a worker.
        """
        stored = self._report(fraction, note)
        try:
            held = await asyncio.wait_for(asyncio.wrap_future(stored), PATIENCE)
        except TimeoutError:
            self._unreported()
            return
        self._reported(held)
