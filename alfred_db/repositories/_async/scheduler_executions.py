"""The executions of scheduled tasks: claimed, run and ended by workers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...checks import plain_text, within
from ...errors import InvalidTransition, LeaseLost, NotFoundError
from ...execution._async.base import PAUSES, AsyncRepository
from ...models import ExecutionStatus, ScheduledExecution
from ...queries import scheduler_executions as queries
from ...queries.shapes.paging import MAX_LIMIT, as_page
from ...values import Page
from ...values.scheduler import ClaimedExecution, HeldExecution

_YEAR = 366 * 86400


class AsyncExecutions(AsyncRepository):
    """The part of the scheduler's repository that workers use."""

    async def claim(
        self, worker_id: str, *, limit: int = 1, lease: float = 60.0
    ) -> Sequence[ClaimedExecution]:
        """Take at most `limit` executions that wait, the longest first; each is the worker's for `lease` seconds.

        End the transaction before running them, and extend the lease by `heartbeat` every `lease / 3` or so.
        """
        _check_claim(limit, lease)
        rows = await self._rows(queries.claim(worker_id, uuid.uuid4(), limit=limit, lease=lease))
        return sorted(
            (ClaimedExecution(*row) for row in rows), key=lambda claimed: (claimed.scheduled_at, claimed.id)
        )

    async def start(
        self, execution_id: int, lease_token: uuid.UUID, *, lease: float | None = None
    ) -> datetime:
        """Count the attempt's `timeout` from now and not from the claim; gives when it has passed.

        For workers that claim several executions and run them one after another. `lease` is in seconds, by default
        those of the claim. Raises LeaseLost.
        """
        _check_claim(1, 60.0 if lease is None else lease)
        deadline = await self._write(queries.start(execution_id, lease_token, lease=lease))
        if deadline is None:
            raise _lost(execution_id)
        return deadline

    async def heartbeat(
        self, execution_ids: Sequence[int], lease_token: uuid.UUID, *, lease: float | None = None
    ) -> Sequence[HeldExecution]:
        """Extend the leases of one claim and return those that are still held. Stop whatever is missing.

        `lease` is in seconds, by default those of the claim.
        One that another transaction has locked is waited for a moment only, after the others: then it is given as it
        is, its lease not extended and not lost either. Try again soon.
        """
        _check_claim(1, 60.0 if lease is None else lease)
        kept: dict[int, Sequence[Any]] = {}
        left = list(execution_ids)
        for pause in PAUSES:
            if pause:
                await self._pause(pause)
            rows = await self._rows(queries.heartbeat(left, lease_token, lease=lease))
            kept |= {row[0]: row for row in rows}
            left = [id for id in left if id not in {row[0] for row in rows}]
            locked = await self._rows(queries.holding(left, lease_token)) if left else ()
            kept |= {row[0]: row for row in locked}
            left = [row[0] for row in locked]
            if not left:
                break
        return sorted((HeldExecution(*row) for row in kept.values()), key=lambda held: held.id)

    async def finish(
        self,
        execution_id: int,
        lease_token: uuid.UUID,
        *,
        exit_code: int = 0,
        output: str | None = None,
        error_output: str | None = None,
    ) -> ExecutionStatus:
        """End an attempt with what the command returned; any `exit_code` but 0 is a failure, as in `fail`.

        Gives the status that follows. To repeat the call is safe. Raises LeaseLost.
        """
        if exit_code != 0:
            return await self.fail(
                execution_id, lease_token, error_output, exit_code=exit_code, output=output
            )
        status = await self._write(
            queries.finish(
                execution_id,
                lease_token,
                output=output and plain_text(output),
                error_output=error_output and plain_text(error_output),
            )
        )
        return status or await self._done(execution_id, lease_token, {ExecutionStatus.COMPLETED})

    async def fail(
        self,
        execution_id: int,
        lease_token: uuid.UUID,
        error_output: str | None = None,
        *,
        code: str = "handler",
        exit_code: int | None = None,
        output: str | None = None,
    ) -> ExecutionStatus:
        """End a failed attempt: `pending` again after the task's delay while retries are left, else `failed`.

        `cancelled` when that was asked for. To repeat the call is safe. Raises LeaseLost.
        """
        status = await self._write(
            queries.fail(
                execution_id,
                lease_token,
                code=plain_text(code),
                exit_code=exit_code,
                output=output and plain_text(output),
                error_output=error_output and plain_text(error_output),
            )
        )
        again = {ExecutionStatus.PENDING, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED}
        return status or await self._done(execution_id, lease_token, again)

    async def release(self, execution_id: int, lease_token: uuid.UUID) -> ExecutionStatus:
        """Give an execution back at once, as at a shutdown; costs no retry. Gives `pending`, or `cancelled`.

        Raises LeaseLost.
        """
        status = await self._write(queries.release(execution_id, lease_token))
        if status is None:
            raise _lost(execution_id)
        return status

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
        """Take at most `limit` executions from workers whose lease or timeout has passed; gives what they are now.

        Any worker may call it, any number at once. A vanished worker counts against the retries like a failure.
        """
        within("limit", limit, 1, MAX_LIMIT)
        return {row[0]: row[1] for row in await self._rows(queries.reap(limit=limit))}

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

    async def _done(
        self, execution_id: int, lease_token: uuid.UUID, statuses: set[ExecutionStatus]
    ) -> ExecutionStatus:
        """The status of an execution whose holder ends it a second time."""
        execution = await self.get_execution(execution_id)
        if execution is None or execution.lease_token != lease_token or execution.status not in statuses:
            raise _lost(execution_id)
        return execution.status


def _check_claim(limit: int, lease: float) -> None:
    within("limit", limit, 1, MAX_LIMIT)
    within("lease", lease, 1, _YEAR)


def _lost(execution_id: int) -> LeaseLost:
    return LeaseLost(
        f"execution {execution_id}: its lease is not yours any more; stop, and discard what was done for it"
    )
