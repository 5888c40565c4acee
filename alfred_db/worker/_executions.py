"""Executions of schedules as a kind of work of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from ..database import Database
from ..repositories import UnitOfWork
from ..values.scheduler import ClaimedExecution
from ._lease import Held
from ._outcome import RESULT, SNOOZED, Ended, Failure, plain
from ._runner import Runner
from ._settle import completed, failed_as, one_by_one
from ._source import End, Source
from .settings import Settings

__all__ = ["ExecutionLease", "ExecutionSource"]

MAX_NAME = 200


class ExecutionLease(Held[ClaimedExecution]):
    """The lease of an execution of a schedule that a handler works on."""

    noun = "execution"
    timeout = "timeout"

    @property
    def execution(self) -> ClaimedExecution:
        """The execution, as of the last heartbeat."""
        return self.claimed

    @property
    def label(self) -> str:
        """The name of the schedule and the slot, for the log."""
        return f"{self.claimed.name} {self.claimed.scheduled_at.isoformat(' ', 'seconds')}"

    @property
    def key(self) -> str:
        """The id, for error messages."""
        return str(self.claimed.id)


class ExecutionSource(Source[ClaimedExecution]):
    """The executions of schedules whose commands have handlers.

    It does not poll: executions are due at the times of their schedules, and the upkeep, which creates them, looks for
    those that can be claimed.
    """

    noun = "execution"
    polls = False

    def __init__(
        self, worker: str, handlers: Mapping[str, Callable[..., Any]], runner: Runner, settings: Settings
    ) -> None:
        super().__init__()
        self._worker = worker
        self._handlers = handlers
        self._runner = runner
        self._settings = settings

    def claim(self, uow: UnitOfWork, limit: int) -> Sequence[ClaimedExecution]:
        """Claim executions of the commands that have handlers."""
        return uow.scheduler.claim(
            self._worker, limit=limit, lease=self._settings.lease, commands=list(self._handlers)
        )

    def start(self, claimed: ClaimedExecution, end: End) -> ExecutionLease:
        """Start the handler of the command."""
        lease = ExecutionLease(claimed)
        self._runner.run(self._handlers[claimed.command], (claimed, lease), lease, end, _returned)
        return lease

    def heartbeat(self, uow: UnitOfWork, claimed: Sequence[ClaimedExecution]) -> Sequence[ClaimedExecution]:
        """Extend the leases."""
        return uow.scheduler.heartbeat_many(claimed, lease=self._settings.lease)

    def settled(self, db: Database) -> Iterator[Held[Any]]:
        """Complete, fail or release the executions that have ended."""
        return one_by_one(db, self.ended, _write)


def _returned(lease: Held[Any], value: object) -> Ended:
    """Return the end of a handler that returned: the output of the execution is the text that it returned."""
    if lease.snoozed is not None:
        return Ended(lease, failure=SNOOZED)
    if value is None or issubclass(type(value), str):
        return Ended(lease, value=None if value is None else str.__str__(cast("str", value)))
    refused = f"the handler returned {plain(type(value).__name__, MAX_NAME)}: expected text or None"
    return Ended(lease, failure=Failure(refused, RESULT, retry=False))


def _write(uow: UnitOfWork, one: Ended) -> str:
    """End the execution and return the text to log about it."""
    claimed, failure = one.lease.claimed, one.failure
    if failure is None:
        uow.scheduler.complete(claimed, one.value)
        return completed(one)
    if one.lease.given_back:
        return f"released, now {uow.scheduler.release(claimed)}"
    if failure is SNOOZED:
        status = uow.scheduler.release(claimed, delay=one.lease.snoozed or 0.0)
        return f"put off for {one.lease.snoozed:g} s, now {status}"
    status = uow.scheduler.fail(claimed, failure.message, code=failure.code, retry=failure.retry)
    return failed_as(one, failure.code, status)
