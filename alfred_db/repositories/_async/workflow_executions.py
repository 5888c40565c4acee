"""The executions of workflows: claimed, run and ended by workers."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import json_text, plain_text, within
from ...errors import InvalidInputError, LeaseLost
from ...execution._async.base import PAUSES, AsyncRepository
from ...models import WorkflowExecution, WorkflowExecutionStatus
from ...queries import workflow_executions as queries
from ...queries.shapes.paging import MAX_LIMIT
from ...values.workflows import MAX_JSON_BYTES, ClaimedWorkflow, HeldWorkflow

_YEAR = 366 * 86400


class AsyncWorkflowExecutions(AsyncRepository):
    """The part of the repository of workflows that workers use."""

    async def claim(
        self, worker_id: str, workflow_ids: Sequence[int], *, limit: int = 1, lease: float = 60.0
    ) -> Sequence[ClaimedWorkflow]:
        """Take at most `limit` executions of these versions; each is the worker's for `lease` seconds.

        Pass the ids of the versions whose code the worker has; `waiting` tells what it leaves. Among the versions
        the order is by chance, within one the longest waiting comes first. This is the only way to run an
        execution: what a vanished worker had comes back by `reap`, what slept or waited when its time has come.
        End the transaction before running it, and extend the lease by `checkpoint` and `heartbeat`.
        """
        within("limit", limit, 1, MAX_LIMIT)
        within("lease", lease, 1, _YEAR)
        if not workflow_ids:
            raise InvalidInputError("workflow_ids: is empty; pass the versions that this worker can run")
        versions = list(dict.fromkeys(workflow_ids))
        random.shuffle(versions)
        rows = await self._rows(queries.claim(worker_id, uuid.uuid4(), versions, limit=limit, lease=lease))
        return sorted((ClaimedWorkflow(*row) for row in rows), key=lambda claimed: claimed.id)

    async def heartbeat(
        self, execution_ids: Sequence[int], lease_token: uuid.UUID, *, lease: float | None = None
    ) -> Sequence[HeldWorkflow]:
        """Extend the leases of one claim and return those that are still held. Stop whatever is missing.

        `lease` is in seconds, by default those of the claim.
        One that another transaction has locked is waited for a moment only, after the others: then it is given as it
        is, its lease not extended and not lost either. Try again soon.
        """
        within("lease", 60.0 if lease is None else lease, 1, _YEAR)
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
        return sorted((HeldWorkflow(*row) for row in kept.values()), key=lambda held: held.id)

    async def complete(self, execution_id: int, lease_token: uuid.UUID, output: Any = None) -> None:
        """End an execution with its output, a JSON value of at most `MAX_JSON_BYTES`. To repeat the call is safe.

        Raises LeaseLost.
        """
        text = json_text("output", output, MAX_JSON_BYTES)
        if await self._write(queries.complete(execution_id, lease_token, text)) is None:
            await self._done(execution_id, lease_token, {WorkflowExecutionStatus.COMPLETED})

    async def fail(
        self,
        execution_id: int,
        lease_token: uuid.UUID,
        error: str,
        *,
        code: str = "handler",
        retry: bool = True,
        delay: float | None = None,
    ) -> WorkflowExecutionStatus:
        """End a failed attempt: `pending` again after `delay` seconds while retries are left, else `failed`.

        The next attempt takes the finished steps over; each new one gives all retries back. Without a delay it is
        1, 2, 4 ... seconds. `cancelled` when that was asked for. To repeat the call is safe. Raises LeaseLost.
        """
        within("delay", delay or 0, 0, _YEAR)
        status = await self._write(
            queries.fail(
                execution_id,
                lease_token,
                error=plain_text(error),
                code=plain_text(code),
                retry=retry,
                delay=delay,
                jitter=_jitter(),
            )
        )
        again = {
            WorkflowExecutionStatus.PENDING,
            WorkflowExecutionStatus.FAILED,
            WorkflowExecutionStatus.CANCELLED,
        }
        return status or await self._done(execution_id, lease_token, again)

    async def release(self, execution_id: int, lease_token: uuid.UUID) -> WorkflowExecutionStatus:
        """Give an execution back at once, as at a shutdown; costs no retry. Gives `pending`, or `cancelled`.

        Raises LeaseLost.
        """
        status = await self._write(queries.release(execution_id, lease_token))
        if status is None:
            raise _lost(execution_id)
        return status

    async def reap(self, *, limit: int = 100) -> Mapping[int, WorkflowExecutionStatus]:
        """Take at most `limit` executions from workers whose lease or timeout has passed; gives what they are now.

        Any worker may call it, any number at once. A vanished worker counts against the retries like a failure; what
        it had can be claimed at once.
        """
        within("limit", limit, 1, MAX_LIMIT)
        return {row[0]: row[1] for row in await self._rows(queries.reap(limit=limit, jitter=_jitter()))}

    async def get_execution(self, execution_id: int) -> WorkflowExecution | None:
        """The execution of that id."""
        return await self._first(queries.get(execution_id))

    async def _done(
        self, execution_id: int, lease_token: uuid.UUID, statuses: set[WorkflowExecutionStatus]
    ) -> WorkflowExecutionStatus:
        """The status of an execution whose holder ends it a second time."""
        execution = await self.get_execution(execution_id)
        if execution is None or execution.lease_token != lease_token or execution.status not in statuses:
            raise _lost(execution_id)
        return execution.status


def _jitter() -> float:
    return random.uniform(0.9, 1.1)


def _lost(execution_id: int) -> LeaseLost:
    return LeaseLost(
        f"workflow execution {execution_id}: its lease is not yours any more; stop, and discard what was done for it"
    )
