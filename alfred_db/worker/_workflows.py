"""Executions of workflows as a kind of work of the loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from ..database import AsyncDatabase, Database
from ..durable import WorkflowFunction, WorkflowOutcome, WorkflowRun
from ..durable._async.runner import run_workflow as run_async
from ..durable._sync.registration import register
from ..durable._sync.runner import run_workflow
from ..durable.registry import function_of, unique
from ..errors import ConfigurationError, InvalidTransition, LeaseLost, lease_lost, shown
from ..repositories import UnitOfWork
from ..values.workflows import ClaimedWorkflow
from ._lease import Held
from ._log import log
from ._outcome import Ended, Failure, raised
from ._runner import Runner
from ._settle import completed, failed_as, one_by_one
from ._source import End, Source
from .settings import Settings

__all__ = ["WorkflowLease", "WorkflowSource"]

REGISTER_EVERY = 60.0
"""Seconds between two looks for new versions, and for versions that nobody here can run."""


class WorkflowLease(Held[ClaimedWorkflow]):
    """The lease of an execution of a workflow that a durable function runs for."""

    noun = "workflow execution"

    def __init__(self, claimed: ClaimedWorkflow) -> None:
        super().__init__(claimed)
        self.outcome: WorkflowOutcome | None = None
        """How the run ended."""

    @property
    def label(self) -> str:
        """The name of the workflow and the id of the execution, for the log."""
        return f"{self.claimed.name} {self.claimed.id}"

    @property
    def key(self) -> str:
        """The id, for error messages."""
        return str(self.claimed.id)

    def check(self) -> None:
        """Raise if the run should stop before its next step.

        Raises:
            LeaseLost: The lease is lost.
            InvalidTransition: The cancellation of the execution was requested.
        """
        self._check_lost()
        if self.cancel_requested:
            raise InvalidTransition(f"{self.noun} {self.key}: its cancellation was requested")


class WorkflowSource(Source[ClaimedWorkflow]):
    """The executions of workflows whose code the worker has.

    It polls: executions sleep, and wait for a retry, until a time.
    """

    noun = "workflow execution"

    def __init__(
        self,
        worker: str,
        db: Database | AsyncDatabase,
        runner: Runner,
        settings: Settings,
    ) -> None:
        super().__init__()
        self._worker = worker
        self._db = db
        self._functions = unique(settings.workflows)
        self._runner = runner
        self._settings = settings
        self._ids: list[int] = []
        self._registered: float | None = None
        self._without_code: set[int] = set()  # what the log has named
        for function in self._functions:
            if function.is_asynchronous != isinstance(db, AsyncDatabase):
                wanted = "AsyncWorker" if function.is_asynchronous else "Worker"
                raise ConfigurationError(
                    f"worker: workflow {function.name!r} is {'' if function.is_asynchronous else 'not '}asynchronous; pass"
                    f" it to {wanted}"
                )

    def claim(self, uow: UnitOfWork, limit: int) -> Sequence[ClaimedWorkflow]:
        """Claim executions of the versions that have code here; register them first."""
        if self._registered is None or time.monotonic() - self._registered >= REGISTER_EVERY:
            self._ids = register(uow, self._functions)
            self._registered = time.monotonic()
            self._warn(uow)
        if not self._ids:
            return []
        return uow.workflows.claim(self._worker, self._ids, limit=limit, lease=self._settings.lease)

    def start(self, claimed: ClaimedWorkflow, end: End) -> WorkflowLease:
        """Start the function of the version."""
        lease = WorkflowLease(claimed)
        function = cast(
            "WorkflowFunction[..., Any]", function_of(self._functions, claimed.name, claimed.version)
        )
        self._runner.run(self._run_of(function), (claimed, lease), lease, end, _returned)
        return lease

    def heartbeat(self, uow: UnitOfWork, claimed: Sequence[ClaimedWorkflow]) -> Sequence[ClaimedWorkflow]:
        """Extend the leases."""
        return uow.workflows.heartbeat_many(claimed, lease=self._settings.lease)

    def settled(self, db: Database) -> Iterator[Held[Any]]:
        """Complete, fail or release the executions that have ended; those that are suspended have been released."""
        for one in list(self.ended):
            if one.failure is None and _outcome(one).status is WorkflowRun.SUSPENDED:
                self.ended.remove(one)
                log(logging.DEBUG, "%s: suspended", one.lease.label)
                yield one.lease
        yield from one_by_one(db, self.ended, _write)

    def wanted(self, payload: str) -> bool:
        """Return whether the notification is for any worker: starts and events are announced so."""
        return not payload

    def _run_of(self, function: WorkflowFunction[..., Any]) -> Callable[..., Any]:
        db = self._db
        if isinstance(db, Database):

            def run(claimed: ClaimedWorkflow, lease: WorkflowLease) -> WorkflowOutcome:
                return run_workflow(db, function, claimed, check=lease.check)

            return run

        async def run_in_loop(claimed: ClaimedWorkflow, lease: WorkflowLease) -> WorkflowOutcome:
            return await run_async(db, function, claimed, check=lease.check)

        return run_in_loop

    def _warn(self, uow: UnitOfWork) -> None:
        """Warn once of each other version of these workflows of which executions wait."""
        names = {function.name for function in self._functions}
        waiting = [one for one in uow.workflows.waiting(self._ids) if one.name in names]
        for one in waiting:
            if one.workflow_id not in self._without_code:
                log(
                    logging.WARNING,
                    "workflow %s, version %s: %d executions wait, and this worker does not have the code of that version;"
                    " start a worker that has it, or fork them to another version",
                    shown(one.name),
                    one.version,
                    one.executions,
                )
        self._without_code = {one.workflow_id for one in waiting}


def _outcome(one: Ended) -> WorkflowOutcome:
    return cast("WorkflowOutcome", one.lease.outcome)  # type: ignore[attr-defined]


def _returned(lease: Held[Any], outcome: object) -> Ended:
    """Return the end of a run as `run_workflow` has described it."""
    given = cast("WorkflowOutcome", outcome)
    cast("WorkflowLease", lease).outcome = given
    if given.status is WorkflowRun.LOST:
        error: LeaseLost = lease_lost(f"{lease.noun} {lease.key}")
        return raised(lease, error)
    if given.status is not WorkflowRun.FAILED:
        return Ended(lease)
    failure = Failure(given.error, given.code, given.retry, given.delay)
    return Ended(lease, failure=failure, error=given.exception)


def _write(uow: UnitOfWork, one: Ended) -> str:
    """End the execution and return the text to log about it."""
    claimed, failure = one.lease.claimed, one.failure
    if failure is None:
        uow.workflows.complete(claimed, _outcome(one).output)
        return completed(one)
    if one.lease.given_back:
        return f"released, now {uow.workflows.release(claimed)}"
    status = uow.workflows.fail(
        claimed, failure.message, code=failure.code, retry=failure.retry, delay=failure.delay
    )
    return failed_as(one, failure.code, status)
