"""The executions of workflows: claimed, run and ended by workers."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import check_limit, json_text
from ...engine.session import state_of
from ...errors import InvalidInputError
from ...execution._async.driver import fetch, together
from ...execution._async.leases import AsyncLeaseHolder, taking, waiting
from ...models import WorkflowExecution, WorkflowExecutionStatus
from ...queries import workflow_executions as queries
from ...queries import workflow_steps as steps
from ...queries.leases import HANDLER
from ...values.tasks import TaskBackoff
from ...values.workflows import MAX_JSON_BYTES, ClaimedWorkflow, child_event

BACKOFF = TaskBackoff(base=1.0, cap=300.0)
"""1, 2, 4 ... seconds: an execution continues after its last step and seldom repeats work."""


class AsyncWorkflowExecutions(AsyncLeaseHolder[ClaimedWorkflow, WorkflowExecutionStatus]):
    """The methods of the workflow repository that workers call."""

    _leased = queries.EXECUTIONS

    async def claim(
        self, worker: str, workflow_ids: Sequence[int], *, limit: int = 1, lease: float = 60.0
    ) -> Sequence[ClaimedWorkflow]:
        """Claim executions of these versions; the only way to run an execution.

        The order of the versions is random; within a version the longest waiting execution comes first. An
        execution of a vanished worker can be claimed after `reap`, a sleeping or waiting one when its time
        has come. Commit before running them, and extend the lease by `checkpoint` and `heartbeat`.
        An execution that Python cannot read fails with the `error_code` `unreadable`, and others are claimed instead.

        Args:
            worker: The name of the caller, shown to people.
            workflow_ids: The versions whose code the caller has; `waiting` returns the others.
            limit: The maximum number of executions, 1 to 1,000.
            lease: Seconds until the executions can be taken from the caller.
        """
        check_limit(limit)
        if not workflow_ids:
            raise InvalidInputError("workflow_ids: is empty; pass the versions that this worker can run")
        versions = list(dict.fromkeys(workflow_ids))
        random.shuffle(versions)
        parameters: dict[str, Any] = {**taking(worker, lease), "seconds": lease, "workflow_ids": versions}
        # Measured before the statement: the local end of the lease must not be later than the database's.
        until = time.monotonic() + lease
        rows = await self._leases.claim(
            limit,
            parameters["token"],
            lambda number: fetch(self._session, queries.claim(limit=number), parameters),
            queries.again,
        )
        return sorted(
            (ClaimedWorkflow._make((*row, lease, until, False)) for row in rows), key=lambda one: one.id
        )

    async def complete(self, claimed: ClaimedWorkflow, output: Any = None) -> bool:
        """Complete an execution with its output. Idempotent: a repeated call returns False.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            output: A JSON value of at most `MAX_JSON_BYTES`.

        Returns:
            Whether this call completed the execution.

        Raises:
            LeaseLost: Another worker may own the execution: discard the work.
        """
        values = {"output": json_text("output", output, MAX_JSON_BYTES)}
        if claimed.parent_execution_id is None:
            return await self._leases.complete(claimed, values)

        async def end() -> bool:
            await self._lock_parent(claimed)
            completed = await self._leases.complete(claimed, values)
            await self._resume_parent(claimed)
            return completed

        done: bool = await together(self._session, end, joins=True)
        return done

    async def fail(
        self,
        claimed: ClaimedWorkflow,
        error: str,
        *,
        code: str = HANDLER,
        retry: bool = True,
        delay: float | None = None,
    ) -> WorkflowExecutionStatus:
        """End a failed attempt. Idempotent.

        The next attempt replays the finished steps. Each new step restores all retries.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            error: The text of the failure.
            code: The kind of failure, in one word.
            retry: False ends the execution at once.
            delay: Seconds until the next attempt; None is 1, 2, 4 ... 300.

        Returns:
            The new status: `pending` while retries are left, otherwise `failed`; `cancelled` if that was
            requested.

        Raises:
            LeaseLost: Another worker may own the execution: discard the work.
        """
        values = waiting(delay, BACKOFF)
        if claimed.parent_execution_id is None:
            return await self._leases.fail(claimed, error, code, values, retry=retry)

        async def end() -> WorkflowExecutionStatus:
            await self._lock_parent(claimed)
            status = await self._leases.fail(claimed, error, code, values, retry=retry)
            if status is not WorkflowExecutionStatus.PENDING:
                await self._resume_parent(claimed)
            return status

        ended: WorkflowExecutionStatus = await together(self._session, end, joins=True)
        return ended

    async def release(self, claimed: ClaimedWorkflow, *, delay: float = 0.0) -> WorkflowExecutionStatus:
        """Return an execution unfinished, as at a shutdown, without using a retry. Idempotent.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            delay: Seconds before it can be claimed again; with 0 it keeps its place.

        Returns:
            The new status: `pending`, or `cancelled` if that was requested; then the execution that waits for this one
            goes on.

        Raises:
            LeaseLost: Another worker may own the execution: discard the work.
        """
        if claimed.parent_execution_id is None:
            return await self._leases.release(claimed, delay)

        async def end() -> WorkflowExecutionStatus:
            await self._lock_parent(claimed)
            status = await self._leases.release(claimed, delay)
            if status is not WorkflowExecutionStatus.PENDING:
                await self._resume_parent(claimed)
            return status

        released: WorkflowExecutionStatus = await together(self._session, end, joins=True)
        return released

    async def reap(self, *, limit: int = 100) -> Mapping[int, WorkflowExecutionStatus]:
        """Take executions from workers whose lease or timeout has expired.

        Any number of workers may call it at the same time. A vanished worker uses a retry, as a failure does;
        the execution can be claimed again at once.

        Args:
            limit: The maximum number of executions.

        Returns:
            The new statuses.
        """
        check_limit(limit)
        return await self._leases.reap(limit, BACKOFF, queries.reap(limit))

    async def get_execution(self, execution_id: int) -> WorkflowExecution | None:
        """Return the execution with this id."""
        return await self._first(queries.get(execution_id))

    async def _lock_parent(self, claimed: ClaimedWorkflow) -> None:
        """Lock the parent before the child, in the order in which `cancel` locks a tree."""
        if claimed.parent_execution_id is not None:
            await self._first(steps.target(claimed.parent_execution_id))

    async def _resume_parent(self, claimed: ClaimedWorkflow) -> None:
        """Resume the parent, which is locked, if it waits for this child, which has ended."""
        parent = claimed.parent_execution_id
        if parent is not None and await self._write(steps.wake(parent, child_event(claimed.id))) is not None:
            state_of(self._session).enqueued.add(None)
