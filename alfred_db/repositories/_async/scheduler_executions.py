"""The executions of scheduled tasks: claimed, run and ended by workers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ...checks import MAX_SECONDS, check_limit, plain_text, within
from ...errors import InvalidTransition
from ...execution._async.cancelling import announce
from ...execution._async.driver import fetch
from ...execution._async.leases import AsyncLeaseHolder, lost, taking
from ...execution.missing import not_found
from ...models import ExecutionStatus, ScheduledExecution
from ...queries import scheduler_executions as queries
from ...queries.leases import HANDLER
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.scheduler import ClaimedExecution


class AsyncSchedulerExecutions(AsyncLeaseHolder[ClaimedExecution, ExecutionStatus]):
    """The methods of the scheduler's repository that workers call."""

    _leased = queries.EXECUTIONS

    async def claim(
        self,
        worker: str,
        *,
        limit: int = 1,
        lease: float = 60.0,
        commands: Sequence[str] | None = None,
    ) -> Sequence[ClaimedExecution]:
        """Claim waiting executions, the longest waiting first.

        Commit before running them, and extend the lease by a heartbeat about every `lease / 3` seconds.
        An execution that Python cannot read fails with the `error_code` `unreadable`, and others are claimed instead.

        Args:
            worker: The name of the caller, shown to people.
            limit: The maximum number of executions, 1 to 1,000.
            lease: Seconds until the executions can be taken from the caller.
            commands: Only executions of tasks with these commands; None is all.
        """
        check_limit(limit)
        parameters: dict[str, Any] = {**taking(worker, lease), "seconds": lease}
        # Measured before the statement: the local end of the lease must not be later than the database's.
        until = time.monotonic() + lease
        rows = await self._leases.claim(
            limit,
            parameters["token"],
            lambda number: self._rows(queries.claim(limit=number, commands=commands), parameters),
            queries.again,
        )
        return sorted(
            (ClaimedExecution._make((*row, lease, until, False)) for row in rows),
            key=lambda one: (one.scheduled_at, one.id),
        )

    async def start(self, claimed: ClaimedExecution, *, lease: float | None = None) -> ClaimedExecution:
        """Start the attempt's `timeout` now instead of at the claim, extend the lease, and return the new state.

        For workers that claim several executions and run them one after another.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            lease: Seconds from now; None is the length of the claimed lease.

        Raises:
            LeaseLost: Another worker may own the execution: do not run it.
        """
        seconds = claimed.lease if lease is None else lease
        within("lease", seconds, 0.001, MAX_SECONDS)
        until = time.monotonic() + seconds
        rows = await fetch(
            self._session,
            queries.start(),
            {"id": claimed.id, "token": claimed.lease_token, "lease": timedelta(seconds=seconds)},
        )
        if not rows:
            raise lost(queries.EXECUTIONS, claimed)
        deadline, expires = rows[0]
        return claimed._replace(
            lease=seconds, held_until=until, lease_expires_at=expires, attempt_deadline_at=deadline
        )

    async def complete(
        self,
        claimed: ClaimedExecution,
        output: str | None = None,
        *,
        exit_code: int = 0,
        error_output: str | None = None,
    ) -> ExecutionStatus:
        """End an attempt with the result of its command. Idempotent.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            output: The standard output.
            exit_code: Any value except 0 is a failure, as in `fail`.
            error_output: The standard error output.

        Returns:
            The new status.

        Raises:
            LeaseLost: Another worker may own the execution: discard the work.
        """
        if exit_code != 0:
            return await self.fail(claimed, error_output, exit_code=exit_code, output=output)
        await self._leases.complete(
            claimed,
            {"output": output and plain_text(output), "message": error_output and plain_text(error_output)},
        )
        return ExecutionStatus.COMPLETED

    async def fail(
        self,
        claimed: ClaimedExecution,
        error: str | None = None,
        *,
        code: str = HANDLER,
        exit_code: int | None = None,
        output: str | None = None,
        retry: bool = True,
    ) -> ExecutionStatus:
        """End a failed attempt. Idempotent.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            error: The text of the failure, or the standard error output; stored as `error_output`.
            code: The kind of failure, in one word.
            exit_code: The exit code of the command, if it has exited.
            output: The standard output.
            retry: False ends the execution at once.

        Returns:
            The new status: `pending` while retries are left, after the task's delay, otherwise `failed`;
            `cancelled` if that was requested.

        Raises:
            LeaseLost: Another worker may own the execution: discard the work.
        """
        values = {"exit_code": exit_code, "output": output and plain_text(output)}
        return await self._leases.fail(claimed, error, code, values, retry=retry)

    async def cancel(self, execution_id: int) -> ExecutionStatus:
        """Cancel a waiting execution, or request the cancellation of a running one from its worker.

        Returns:
            `cancelled` or `running`; the worker of a running execution is notified at the commit, or sees the request in
            its next heartbeat.

        Raises:
            NotFoundError: The execution does not exist.
            InvalidTransition: It has completed or failed.
        """
        for _, status in await self._rows(queries.cancel(execution_id)):
            if status == ExecutionStatus.RUNNING:
                await announce(self._session, queries.EXECUTIONS.noun, [execution_id])
            return ExecutionStatus(status)
        execution = await self.get_execution(execution_id)
        if execution is None:
            raise not_found("execution", execution_id)
        if execution.status is not ExecutionStatus.CANCELLED:
            raise InvalidTransition(
                f"execution {execution_id}: is {execution.status} and cannot be cancelled any more"
            )
        return execution.status

    async def reap(self, *, limit: int = 100) -> Mapping[int, ExecutionStatus]:
        """Take executions from workers whose lease or timeout has expired.

        Any number of workers may call it at the same time. A vanished worker uses a retry, as a failure does.

        Args:
            limit: The maximum number of executions.

        Returns:
            The new statuses.
        """
        check_limit(limit)
        return await self._leases.reap(limit)

    async def get_execution(self, execution_id: int) -> ScheduledExecution | None:
        """Return the execution with this id."""
        return await self._first(queries.get(execution_id))

    async def history(
        self, task_id: int, *, after: str | None = None, limit: int = 100
    ) -> Page[ScheduledExecution]:
        """Return a page of the executions of a task, by their slots, the latest first."""
        rows = await self._all(queries.history(task_id, after=after, limit=limit))
        return as_page(rows, queries.HISTORY_KEY, limit)

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete at most `limit` executions that ended more than `older_than` seconds ago; return their number."""
        within("limit", limit, 1, 10_000)
        within("older_than", older_than, 0, MAX_SECONDS)
        return len(await self._rows(queries.purge(older_than, limit=limit)))

    async def purgeable(self, *, older_than: float) -> int:
        """Return how many executions calls of `purge` delete in the end."""
        within("older_than", older_than, 0, MAX_SECONDS)
        return (await self._rows(queries.purgeable(older_than)))[0][0]
