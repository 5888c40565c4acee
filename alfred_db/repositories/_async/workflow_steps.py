"""The steps of executions: stored once, taken over by every later run; and the events they wait for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from ...checks import json_text, plain_text, within
from ...errors import ConflictError, InvalidInputError, InvalidTransition, NotFoundError, shown
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import fetch
from ...execution._async.leases import lost
from ...models import WorkflowEvent, WorkflowExecutionStatus, WorkflowStep
from ...queries import workflow_steps as queries
from ...queries.workflow_executions import EXECUTIONS
from ...values.task_columns import MAX_SECONDS
from ...values.workflows import MAX_JSON_BYTES, ClaimedWorkflow, WorkflowWaitResult

_YEAR = 366 * 86400
_MOST = (1 << 31) - 2
_NEVER = datetime(9000, 1, 1, tzinfo=UTC)
_FRESH = 0.9
"""The share of a lease that must be left for a checkpoint not to extend it."""
_LIVE = {WorkflowExecutionStatus.PENDING, WorkflowExecutionStatus.RUNNING}


class _Found(NamedTuple):
    """What there is in the place of a step."""

    held: bool
    given_up: bool
    """The execution waits, and the caller was the last to hold it."""
    cancel: bool
    step: WorkflowStep | None


class AsyncWorkflowSteps(AsyncRepository):
    """The part of the repository of workflows that the code of a workflow uses, step by step."""

    async def replay(
        self,
        claimed: ClaimedWorkflow,
        step_key: str,
        *,
        seq: int,
        name: str | None = None,
    ) -> WorkflowStep | None:
        """The step if an earlier run finished it, to be taken as it is; None when it is to be run.

        Raises ConflictError when the step was another one before, LeaseLost, and InvalidTransition when the
        execution is to be cancelled.
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
        error: str | None = None,
        attempt: int = 1,
        started_at: datetime | None = None,
        lease: float | None = None,
    ) -> Any:
        """Store a finished step, its `seq`-th from 0, and keep the lease; gives the output that is stored.

        The first write wins: what an earlier run stored for the step is given instead of `output`, a JSON value of
        at most `MAX_JSON_BYTES`. `name` is `step_key` unless it is given; a name that recurs needs keys of its
        own. `error` is the text of a failure that is final. The lease is extended to `lease` seconds, by default those of the claim, unless nine
        tenths of them are left. In a transaction with the effects of the step, these happen once. Raises LeaseLost,
        and ConflictError when the step was another one before.
        """
        within("seq", seq, 0, _MOST)
        within("attempt", attempt, 1, _MOST)
        seconds = claimed.lease if lease is None else lease
        within("lease", seconds, 0.001, MAX_SECONDS)
        text = json_text("output", output, MAX_JSON_BYTES)
        parameters = {
            "execution": claimed.id,
            "token": claimed.lease_token,
            "key": step_key,
            "number": seq,
            "label": name or step_key,
            "result": text,
            "failure": error and plain_text(error),
            "tries": attempt,
            "began": started_at,
            "lease": timedelta(seconds=seconds),
            "fresh": timedelta(seconds=seconds * _FRESH),
        }
        for extending in (False, True):
            if await fetch(self._session, queries.checkpoint(extending=extending), parameters):
                return None if text is None else json.loads(text)
        found = await self._stored(claimed, step_key, seq, name or step_key)
        if found.step is None:
            raise lost(EXECUTIONS, claimed)
        return found.step.output

    async def sleep_until(
        self, claimed: ClaimedWorkflow, until: datetime, *, step_key: str, seq: int
    ) -> bool:
        """Give the execution up until then; True is that it sleeps and is not the caller's any more.

        False is that it has slept: go on. The sleep is a step; its output is the time. Raises what `replay` raises.
        """
        within("seq", seq, 0, _MOST)
        if until.tzinfo is None:
            raise InvalidInputError("until: a time without time zone; give one, such as datetime.now(UTC)")
        if await self._write(
            queries.sleep(claimed.id, claimed.lease_token, step_key, seq=seq, until=until.astimezone(UTC))
        ):
            return True
        found = await self._stored(claimed, step_key, seq, step_key)
        if found.step is None:
            raise _cancelling(claimed.id) if found.held else lost(EXECUTIONS, claimed)
        return found.given_up

    async def wait_for(
        self,
        claimed: ClaimedWorkflow,
        event: str,
        *,
        step_key: str,
        seq: int,
        timeout: float | None = None,
    ) -> WorkflowWaitResult | None:
        """How the wait for an event ended; None gives the execution up until the event or the timeout comes.

        `timeout` is in seconds from the first call; None waits for ever. An event that came before the wait
        counts. The wait is a step: a later run takes its result as it is. Raises what `replay` raises.
        """
        within("seq", seq, 0, _MOST)
        within("timeout", timeout or 0, 0, _YEAR)
        locked = await self._rows(queries.own(claimed.id, claimed.lease_token))
        found = await self._stored(claimed, step_key, seq, step_key)
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
        stored = await self.checkpoint(claimed, step_key, result, seq=seq)
        return _waited(claimed.id, step_key, stored)

    async def deliver(self, execution_id: int, name: str, payload: Any = None) -> bool:
        """Send an event to an execution, and let it go on if it waits for it; False is that it has that event.

        The first payload stays, a JSON value of at most `MAX_JSON_BYTES`. Raises NotFoundError, and
        InvalidTransition when the execution has ended.
        """
        text = json_text("payload", payload, MAX_JSON_BYTES)
        status = await self._first(queries.target(execution_id))
        if status is None:
            raise NotFoundError(f"workflow execution {execution_id}: there is none; check the id")
        if status not in _LIVE:
            if await self._first(queries.event(execution_id, name)) is not None:
                return False
            raise InvalidTransition(
                f"workflow execution {execution_id}: is {status} and takes no more events"
            )
        if await self._write(queries.deliver(execution_id, name, text)) is None:
            return False
        await self._write(queries.wake(execution_id, name))
        return True

    async def steps(self, execution_id: int) -> Sequence[WorkflowStep]:
        """The finished steps of an execution, in their order."""
        return [row[0] for row in await self._rows(queries.steps(), {"execution": execution_id})]

    async def events(self, execution_id: int) -> Sequence[WorkflowEvent]:
        """The events that were sent to an execution, the earliest first."""
        return await self._all(queries.events(execution_id))

    async def _stored(self, claimed: ClaimedWorkflow, step_key: str, seq: int, name: str) -> _Found:
        """The step, if it is finished; raises LeaseLost unless the caller holds the execution or gave it up."""
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


def _waited(execution_id: int, step_key: str, output: Any) -> WorkflowWaitResult:
    """What the step of a wait has stored; raises ConflictError for the output of another kind of step."""
    if not isinstance(output, dict) or set(cast("dict[str, Any]", output)) != {"received", "payload"}:
        raise ConflictError(
            f"workflow execution {execution_id}: step {shown(step_key)} was not a wait for an event; run the code that"
            " began it, or fork it to a new version"
        )
    return WorkflowWaitResult(**cast("dict[str, Any]", output))


def _cancelling(execution_id: int) -> InvalidTransition:
    return InvalidTransition(
        f"workflow execution {execution_id}: its cancellation was asked for; begin no further step, and call `fail`"
    )
