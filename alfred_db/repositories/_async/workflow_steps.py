"""The steps of workflow executions, stored once and replayed by later runs, and the events that they wait for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from ...checks import YEAR, aware, json_text, within
from ...engine.session import state_of
from ...errors import ConflictError, InvalidTransition, NotFoundError, shown
from ...execution._async.base import AsyncRepository
from ...execution._async.checkpoints import parameters_of, store
from ...execution._async.driver import in_transaction
from ...execution._async.leases import lost
from ...execution.missing import not_found
from ...models import WorkflowEvent, WorkflowExecutionStatus, WorkflowStep, WorkflowStepKind
from ...queries import workflow_steps as queries
from ...queries.shapes.paging import as_page
from ...queries.workflow_executions import EXECUTIONS
from ...values import Page
from ...values.workflows import MAX_JSON_BYTES, ClaimedWorkflow, WorkflowChildResult, WorkflowWaitResult

_MOST = (1 << 31) - 2
_NEVER = datetime(9000, 1, 1, tzinfo=UTC)
LOOK_AT_CHILD_SECONDS = 60.0
"""How often a waiting execution looks at a child whose end did not resume it."""

_LIVE = {WorkflowExecutionStatus.PENDING, WorkflowExecutionStatus.RUNNING}


class _Found(NamedTuple):
    """The stored state of a step and its execution."""

    held: bool
    given_up: bool
    """The execution waits, and the caller was the last to hold it."""
    cancel: bool
    step: WorkflowStep | None


class AsyncWorkflowSteps(AsyncRepository):
    """The methods of the workflow repository that a workflow's code calls, step by step."""

    async def replay(
        self,
        claimed: ClaimedWorkflow,
        step_key: str,
        *,
        seq: int,
        name: str | None = None,
    ) -> WorkflowStep | None:
        """Return the step if an earlier run has finished it, or None if it must be run.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            step_key: The key of the step, unique in the execution.
            seq: The number of the step, from 0.
            name: The name of the step; None is the key.

        Raises:
            ConflictError: Another step is stored under this key or number.
            LeaseLost: The lease is lost: another worker may own the execution.
            InvalidTransition: The execution is being cancelled.
        """
        within("seq", seq, 0, _MOST)
        found = await self._stored(claimed, step_key, seq, name or step_key)
        if not found.held:
            raise lost(EXECUTIONS, claimed)
        if found.step is None and found.cancel:
            raise _cancelling(claimed.id)
        return found.step

    async def checkpoint(
        self,
        claimed: ClaimedWorkflow,
        step_key: str,
        output: Any = None,
        *,
        seq: int,
        name: str | None = None,
        kind: WorkflowStepKind = WorkflowStepKind.STEP,
        error: str | None = None,
        attempt: int = 1,
        started_at: datetime | None = None,
        lease: float | None = None,
    ) -> Any:
        """Store a finished step and extend the lease.

        The first write wins: if an earlier run has stored the step, its output is returned instead. In one
        transaction with the effects of the step, these happen exactly once.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            step_key: The key of the step, unique in the execution.
            output: A JSON value of at most `MAX_JSON_BYTES`.
            seq: The number of the step, from 0.
            name: The name of the step, which may recur; None is the key.
            kind: What the step was.
            error: The text of a final failure.
            attempt: The number of the attempt.
            started_at: The time when the step began.
            lease: Seconds of the lease from now; None is that of the claim. The lease is not extended while
                nine tenths of it are left.

        Returns:
            The stored output.

        Raises:
            LeaseLost: The lease is lost: another worker may own the execution.
            ConflictError: Another step is stored under this key or number.
        """
        within("seq", seq, 0, _MOST)
        within("attempt", attempt, 1, _MOST)
        text = json_text("output", output, MAX_JSON_BYTES)
        parameters = parameters_of(
            claimed,
            step_key,
            text,
            seq=seq,
            name=name or step_key,
            kind=kind,
            error=error,
            attempt=attempt,
            started_at=started_at,
            lease=lease,
        )
        if await store(self._session, parameters):
            return None if text is None else json.loads(text)
        found = await self._stored(claimed, step_key, seq, name or step_key)
        if found.step is None:
            raise lost(EXECUTIONS, claimed)
        return found.step.output

    async def sleep_until(
        self,
        claimed: ClaimedWorkflow,
        until: datetime,
        *,
        step_key: str,
        seq: int,
        name: str | None = None,
    ) -> bool:
        """Suspend the execution until a time. The sleep is a step whose output is that time.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            until: The time.
            step_key: The key of the step, unique in the execution.
            seq: The number of the step, from 0.
            name: The name of the step; None is the key.

        Returns:
            True if the execution was suspended and the caller no longer holds it; False if the sleep has
            already ended.

        Raises:
            ConflictError: Another step is stored under this key or number.
            LeaseLost: The lease is lost: another worker may own the execution.
            InvalidTransition: The execution is being cancelled.
        """
        aware("until", until)
        return await self._sleep(claimed, until.astimezone(UTC), step_key, seq, name or step_key)

    async def sleep(
        self,
        claimed: ClaimedWorkflow,
        seconds: float,
        *,
        step_key: str,
        seq: int,
        name: str | None = None,
    ) -> bool:
        """Suspend the execution for some seconds, by the clock of the database. The sleep is a step.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            seconds: The length of the sleep.
            step_key: The key of the step, unique in the execution.
            seq: The number of the step, from 0.
            name: The name of the step; None is the key.

        Returns:
            True if the execution was suspended and the caller no longer holds it; False if the sleep has
            already ended.

        Raises:
            ConflictError: Another step is stored under this key or number.
            LeaseLost: The lease is lost: another worker may own the execution.
            InvalidTransition: The execution is being cancelled.
        """
        within("seconds", seconds, 0, YEAR)
        return await self._sleep(claimed, float(seconds), step_key, seq, name or step_key)

    async def _sleep(
        self, claimed: ClaimedWorkflow, until: datetime | float, step_key: str, seq: int, name: str
    ) -> bool:
        within("seq", seq, 0, _MOST)
        token = claimed.lease_token
        if await self._write(queries.sleep(claimed.id, token, step_key, seq=seq, name=name, until=until)):
            return True
        found = await self._stored(claimed, step_key, seq, name)
        if found.step is None:
            raise _cancelling(claimed.id) if found.held else lost(EXECUTIONS, claimed)
        return found.given_up

    @in_transaction
    async def wait_for(
        self,
        claimed: ClaimedWorkflow,
        event: str,
        *,
        step_key: str,
        seq: int,
        name: str | None = None,
        timeout: float | None = None,
    ) -> WorkflowWaitResult | None:
        """Return the result of waiting for an event, or suspend the execution until the event or the timeout.

        An event that was delivered before the wait counts. The wait is a step: later runs return its stored
        result.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            event: The name of the event.
            step_key: The key of the step, unique in the execution.
            seq: The number of the step, from 0.
            name: The name of the step; None is the key.
            timeout: Seconds from the first call; None waits without limit.

        Returns:
            The result; None if the execution was suspended and the caller no longer holds it.

        Raises:
            ConflictError: Another step is stored under this key or number.
            LeaseLost: The lease is lost: another worker may own the execution.
            InvalidTransition: The execution is being cancelled.
        """
        within("seq", seq, 0, _MOST)
        within("timeout", timeout or 0, 0, YEAR)
        # The row stays locked until the transaction ends, so that no event is delivered between the look for it and
        # the suspension.
        locked = await self._rows(queries.own(claimed.id, claimed.lease_token))
        found = await self._stored(claimed, step_key, seq, name or step_key)
        if found.step is not None:
            return _waited(claimed.id, step_key, found.step.output)
        if found.given_up:
            return None
        if found.cancel:
            raise _cancelling(claimed.id)
        deadline, now = locked[0]
        if deadline is None and timeout is not None:
            deadline = now + timedelta(seconds=timeout)
        came = await self._first(queries.event(claimed.id, event))
        if came is None and (deadline is None or now < deadline):
            until = deadline or _NEVER
            await self._write(
                queries.wait(claimed.id, claimed.lease_token, event, available_at=until, deadline=deadline)
            )
            return None
        result = {"received": came is not None, "payload": None if came is None else came.payload}
        stored = await self.checkpoint(
            claimed, step_key, result, seq=seq, name=name, kind=WorkflowStepKind.EVENT
        )
        return _waited(claimed.id, step_key, stored)

    @in_transaction
    async def wait_for_child(
        self,
        claimed: ClaimedWorkflow,
        child_id: int,
        *,
        step_key: str,
        seq: int,
        name: str | None = None,
    ) -> WorkflowChildResult | None:
        """Return how a child of the execution has ended, or suspend the execution until the child ends.

        The wait is a step: later runs return its stored result.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            child_id: The child, which the execution has started.
            step_key: The key of the step, unique in the execution.
            seq: The number of the step, from 0.
            name: The name of the step; None is the key.

        Returns:
            The result; None if the execution was suspended and the caller no longer holds it.

        Raises:
            NotFoundError: The execution has no such child.
            ConflictError: Another step is stored under this key or number.
            LeaseLost: The lease is lost: another worker may own the execution.
            InvalidTransition: The execution is being cancelled.
        """
        within("seq", seq, 0, _MOST)
        # The row stays locked until the transaction ends: a child that ends meanwhile waits, and then resumes it.
        await self._rows(queries.own(claimed.id, claimed.lease_token))
        found = await self._stored(claimed, step_key, seq, name or step_key)
        if found.step is not None:
            return _child_result(claimed.id, child_id, found.step.output)
        if found.given_up:
            return None
        if found.cancel:
            raise _cancelling(claimed.id)
        rows = await self._rows(queries.child(claimed.id, child_id))
        if not rows:
            raise NotFoundError(
                f"workflow execution {claimed.id}: has no child {child_id}; pass one that it has started"
            )
        status, output, error = rows[0]
        if status in _LIVE:
            token = claimed.lease_token
            await self._write(
                queries.waits_for_child(claimed.id, token, child_id, seconds=LOOK_AT_CHILD_SECONDS)
            )
            return None
        result = {"status": status, "output": output, "error": error}
        kind = WorkflowStepKind.RESULT
        stored = await self.checkpoint(claimed, step_key, result, seq=seq, name=name, kind=kind)
        return _child_result(claimed.id, child_id, stored)

    @in_transaction
    async def deliver(self, execution_id: int, name: str, payload: Any = None) -> bool:
        """Send an event to an execution, and resume it if it waits for the event.

        Args:
            execution_id: The execution.
            name: The name of the event.
            payload: A JSON value of at most `MAX_JSON_BYTES`.

        Returns:
            Whether the event was stored; False if the execution has one with this name, whose payload stays.

        Raises:
            NotFoundError: The execution does not exist.
            InvalidTransition: The execution has ended.
        """
        text = json_text("payload", payload, MAX_JSON_BYTES)
        status = await self._first(queries.target(execution_id))
        if status is None:
            raise not_found("workflow execution", execution_id)
        if status not in _LIVE:
            if await self._first(queries.event(execution_id, name)) is not None:
                return False
            raise InvalidTransition(
                f"workflow execution {execution_id}: is {status} and takes no more events"
            )
        if await self._write(queries.deliver(execution_id, name, text)) is None:
            return False
        await self._write(queries.wake(execution_id, name))
        state_of(self._session).enqueued.add(None)
        return True

    async def state(self, execution_id: int) -> Mapping[str, Any]:
        """Return the values that an execution shows by `set_state` of its context, by name."""
        return {row[0]: row[1] for row in await self._rows(queries.state(execution_id))}

    async def steps(
        self, execution_id: int, *, after: str | None = None, limit: int = 100
    ) -> Page[WorkflowStep]:
        """Return a page of the finished steps of an execution, in their order."""
        rows = await self._all(queries.steps(execution_id, after=after, limit=limit))
        return as_page(rows, queries.STEPS_KEY, limit)

    async def events(self, execution_id: int) -> Sequence[WorkflowEvent]:
        """Return the events that were sent to an execution, the earliest first."""
        return await self._all(queries.events(execution_id))

    async def _stored(self, claimed: ClaimedWorkflow, step_key: str, seq: int, name: str) -> _Found:
        """Return the step if it is finished.

        Raises LeaseLost unless the caller holds the execution or was the last to hold it.
        """
        rows = await self._rows(queries.stored(claimed.id, claimed.lease_token, step_key, seq=seq))
        if not rows:
            raise lost(EXECUTIONS, claimed)
        held, given_up, cancel, other = rows[0]
        for *_, step in rows:
            if step is None or (step.step_key, step.seq, step.name) != (step_key, seq, name):
                continue
            if held or step.lease_token == claimed.lease_token:
                return _Found(bool(held), bool(given_up), cancel, step)
        if not held and not given_up:
            raise lost(EXECUTIONS, claimed)
        if other is not None:
            raise ConflictError(
                f"workflow execution {claimed.id}: step {other.seq} was {shown(other.step_key)} ({shown(other.name)}) and is"
                f" now step {seq}, {shown(step_key)} ({shown(name)}); run the code that began it, or fork it to a new version"
            )
        return _Found(bool(held), bool(given_up), cancel, None)


def _child_result(execution_id: int, child_id: int, output: Any) -> WorkflowChildResult:
    """Return the stored result of a child.

    Raises:
        ConflictError: The output is that of another kind of step.
    """
    if not isinstance(output, dict) or set(cast("dict[str, Any]", output)) != {"status", "output", "error"}:
        raise ConflictError(
            f"workflow execution {execution_id}: the step was not a wait for the child {child_id}; run the code that"
            " began it, or fork it to a new version"
        )
    values = cast("dict[str, Any]", output)
    return WorkflowChildResult(
        child_id, WorkflowExecutionStatus(values["status"]), values["output"], values["error"]
    )


def _waited(execution_id: int, step_key: str, output: Any) -> WorkflowWaitResult:
    """Return the stored result of a wait; raises ConflictError for the output of another kind of step."""
    if not isinstance(output, dict) or set(cast("dict[str, Any]", output)) != {"received", "payload"}:
        raise ConflictError(
            f"workflow execution {execution_id}: step {shown(step_key)} was not a wait for an event; run the code that"
            " began it, or fork it to a new version"
        )
    return WorkflowWaitResult(**cast("dict[str, Any]", output))


def _cancelling(execution_id: int) -> InvalidTransition:
    return InvalidTransition(
        f"workflow execution {execution_id}: its cancellation was requested; begin no further step, and call `fail`"
    )
