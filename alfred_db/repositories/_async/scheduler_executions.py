"""The executions of scheduled tasks: claimed, run and ended by workers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from ...checks import plain_text, within
from ...errors import InvalidTransition, NotFoundError
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import fetch
from ...execution._async.leases import AsyncLeases, lost, taking
from ...models import ExecutionStatus, ScheduledExecution
from ...queries import scheduler_executions as queries
from ...queries.leases import HANDLER
from ...queries.shapes.paging import MAX_LIMIT, as_page
from ...values import Page
from ...values.scheduler import ClaimedExecution
from ...values.task_columns import MAX_SECONDS

_YEAR = 366 * 86400


class AsyncExecutions(AsyncRepository):
    """The part of the scheduler's repository that workers use."""

    async def claim(self, worker: str, *, limit: int = 1, lease: float = 60.0) -> Sequence[ClaimedExecution]:
        """Take at most `limit` executions that wait, the longest first, each for `lease` seconds.

        End the transaction before running them, and extend the lease by `heartbeat` every `lease / 3` or so.

        Args:
            worker: The name of the caller, an aid to people.
            limit: The most executions that are taken, 1 to 1,000.
            lease: Seconds until the executions can be taken from the caller.
        """
        within("limit", limit, 1, MAX_LIMIT)
        parameters = {**taking(worker, lease), "seconds": lease}
        until = time.monotonic() + lease
        rows = await self._rows(queries.claim(limit=limit), parameters)
        return sorted(
            (ClaimedExecution._make((*row, lease, until, False)) for row in rows),
            key=lambda one: (one.scheduled_at, one.id),
        )

    async def start(self, claimed: ClaimedExecution, *, lease: float | None = None) -> ClaimedExecution:
        """Count the attempt's `timeout` from now and not from the claim, extend the lease, and return the new state.

        For workers that claim several executions and run them one after another.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            lease: Seconds from now; by default as many as it was claimed for.

        Raises:
            LeaseLost: Do not run it.
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

    async def heartbeat(self, claimed: ClaimedExecution, *, lease: float | None = None) -> ClaimedExecution:
        """Extend the lease of an execution, and return its new state, whose `cancel_requested` says whether to stop.

        An execution that another transaction has locked is returned as it was: see `heartbeat_many`.

        Args:
            claimed: The execution, as `claim` or the last heartbeat returned it.
            lease: Seconds from now; by default as many as it was claimed for.

        Raises:
            LeaseLost: Stop, and discard what was done.
        """
        return await self._leases.heartbeat(claimed, lease)

    async def heartbeat_many(
        self, claimed: Sequence[ClaimedExecution], *, lease: float | None = None
    ) -> list[ClaimedExecution]:
        """Extend the leases of several executions in one statement, and return the new state of those still held.

        Stop whatever is missing, and what has `cancel_requested`. An execution that another transaction has locked is
        waited for a moment only, after the others: then it is returned as it was, its lease not extended and not lost
        either. Try again soon, and stop when its `is_over`.

        Args:
            claimed: The executions, as `claim` or the last heartbeat returned them.
            lease: Seconds from now; by default as many as each was claimed for.
        """
        return await self._leases.heartbeat_many(claimed, lease)

    async def complete(
        self,
        claimed: ClaimedExecution,
        output: str | None = None,
        *,
        exit_code: int = 0,
        error_output: str | None = None,
    ) -> ExecutionStatus:
        """End an attempt with what the command returned, and return the status that follows.

        To repeat it changes nothing.

        Args:
            claimed: The execution.
            output: What the command wrote.
            exit_code: Any other than 0 is a failure, as in `fail`.
            error_output: What the command wrote as errors.

        Raises:
            LeaseLost: Discard what was done.
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
    ) -> ExecutionStatus:
        """End a failed attempt, and return the status of the execution; to repeat it changes nothing.

        `pending` again after the task's delay while retries are left, else `failed`; `cancelled` if that was asked for.

        Args:
            claimed: The execution.
            error: The text of the failure, or what the command wrote as errors; stored as `error_output`.
            code: The kind of failure, in a word.
            exit_code: What the command returned, if it did.
            output: What the command wrote.

        Raises:
            LeaseLost: Discard what was done.
        """
        values = {"exit_code": exit_code, "output": output and plain_text(output)}
        return await self._leases.fail(claimed, error, code, values)

    async def release(self, claimed: ClaimedExecution, *, delay: float = 0.0) -> ExecutionStatus:
        """Return an execution unfinished, as at a shutdown, and return its status; to repeat it changes nothing.

        It costs no retry. The execution is `pending` and keeps its place, or waits `delay` seconds; `cancelled` if
        that was asked for.

        Raises:
            LeaseLost: Discard what was done.
        """
        return await self._leases.release(claimed, delay)

    async def cancel(self, execution_id: int) -> ExecutionStatus:
        """Cancel an execution that waits; ask the holder of one that runs, which sees it in its heartbeats.

        Gives `cancelled` or `running`. Raises NotFoundError, and InvalidTransition when it has ended otherwise.
        """
        status = await self._write(queries.cancel(execution_id))
        if status is not None:
            return status
        execution = await self.get_execution(execution_id)
        if execution is None:
            raise NotFoundError(f"execution {execution_id}: there is none; check the id")
        if execution.status is not ExecutionStatus.CANCELLED:
            raise InvalidTransition(
                f"execution {execution_id}: is {execution.status} and cannot be cancelled any more"
            )
        return execution.status

    async def reap(self, *, limit: int = 100) -> Mapping[int, ExecutionStatus]:
        """Take at most `limit` executions from workers whose lease or timeout has passed; return what they are now.

        Any worker may call it, any number at once. A vanished worker counts against the retries like a failure.
        """
        within("limit", limit, 1, MAX_LIMIT)
        return await self._leases.reap(limit)

    async def get_execution(self, execution_id: int) -> ScheduledExecution | None:
        """The execution of that id."""
        return await self._first(queries.get(execution_id))

    async def history(
        self, task_id: int, *, after: str | None = None, limit: int = 100
    ) -> Page[ScheduledExecution]:
        """The executions of a task by their slots, the latest first, a page at a time."""
        rows = await self._all(queries.history(task_id, after=after, limit=limit))
        return as_page(rows, queries.HISTORY_KEY, limit)

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete at most `limit` executions that ended more than `older_than` seconds ago; gives their number."""
        within("limit", limit, 1, 10_000)
        within("older_than", older_than, 0, 100 * _YEAR)
        return len(await self._rows(queries.purge(older_than, limit=limit)))

    @property
    def _leases(self) -> AsyncLeases[ClaimedExecution, ExecutionStatus]:
        return AsyncLeases(self._session, queries.EXECUTIONS)
