"""The executions of workflows: claimed, run and ended by workers."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import json_text, within
from ...errors import InvalidInputError
from ...execution._async.base import AsyncRepository
from ...execution._async.leases import AsyncLeases, taking, waiting
from ...models import WorkflowExecution, WorkflowExecutionStatus
from ...queries import workflow_executions as queries
from ...queries.leases import HANDLER
from ...queries.shapes.paging import MAX_LIMIT
from ...values.tasks import TaskBackoff
from ...values.workflows import MAX_JSON_BYTES, ClaimedWorkflow

BACKOFF = TaskBackoff(base=1.0, cap=300.0)
"""1, 2, 4 ... seconds: an execution goes on where it was, and seldom does the same again."""


class AsyncWorkflowExecutions(AsyncRepository):
    """The part of the repository of workflows that workers use."""

    async def claim(
        self, worker: str, workflow_ids: Sequence[int], *, limit: int = 1, lease: float = 60.0
    ) -> Sequence[ClaimedWorkflow]:
        """Take at most `limit` executions of these versions, each for `lease` seconds.

        Among the versions the order is by chance, within one the longest waiting comes first. This is the only way to
        run an execution: what a vanished worker had comes back by `reap`, what slept or waited when its time has come.
        End the transaction before running it, and extend the lease by `checkpoint` and `heartbeat`.

        Args:
            worker: The name of the caller, an aid to people.
            workflow_ids: The versions whose code the caller has; `waiting` tells what it leaves.
            limit: The most executions that are taken, 1 to 1,000.
            lease: Seconds until the executions can be taken from the caller.
        """
        within("limit", limit, 1, MAX_LIMIT)
        if not workflow_ids:
            raise InvalidInputError("workflow_ids: is empty; pass the versions that this worker can run")
        versions = list(dict.fromkeys(workflow_ids))
        random.shuffle(versions)
        parameters = {**taking(worker, lease), "seconds": lease}
        until = time.monotonic() + lease
        rows = await self._rows(queries.claim(versions, limit=limit), parameters)
        return sorted(
            (ClaimedWorkflow._make((*row, lease, until, False)) for row in rows), key=lambda one: one.id
        )

    async def heartbeat(self, claimed: ClaimedWorkflow, *, lease: float | None = None) -> ClaimedWorkflow:
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
        self, claimed: Sequence[ClaimedWorkflow], *, lease: float | None = None
    ) -> list[ClaimedWorkflow]:
        """Extend the leases of several executions in one statement, and return the new state of those still held.

        Stop whatever is missing, and what has `cancel_requested`. An execution that another transaction has locked is
        waited for a moment only, after the others: then it is returned as it was, its lease not extended and not lost
        either. Try again soon, and stop when its `is_over`.

        Args:
            claimed: The executions, as `claim` or the last heartbeat returned them.
            lease: Seconds from now; by default as many as each was claimed for.
        """
        return await self._leases.heartbeat_many(claimed, lease)

    async def complete(self, claimed: ClaimedWorkflow, output: Any = None) -> bool:
        """Complete an execution with its output, and return whether this call did so; to repeat it changes nothing.

        Args:
            claimed: The execution.
            output: A JSON value of at most `MAX_JSON_BYTES`.

        Raises:
            LeaseLost: Discard what was done.
        """
        text = json_text("output", output, MAX_JSON_BYTES)
        return await self._leases.complete(claimed, {"output": text})

    async def fail(
        self,
        claimed: ClaimedWorkflow,
        error: str,
        *,
        code: str = HANDLER,
        retry: bool = True,
        delay: float | None = None,
    ) -> WorkflowExecutionStatus:
        """End a failed attempt, and return the status of the execution; to repeat it changes nothing.

        `pending` again after the back-off while retries are left, else `failed`; `cancelled` if that was asked for.
        The next attempt takes the finished steps over; each new one returns all retries.

        Args:
            claimed: The execution.
            error: The text of the failure.
            code: The kind of failure, in a word.
            retry: False ends the execution at once.
            delay: Seconds before the next attempt; by default 1, 2, 4 ... 300.

        Raises:
            LeaseLost: Discard what was done.
        """
        return await self._leases.fail(claimed, error, code, waiting(delay, BACKOFF), retry=retry)

    async def release(self, claimed: ClaimedWorkflow, *, delay: float = 0.0) -> WorkflowExecutionStatus:
        """Return an execution unfinished, as at a shutdown, and return its status; to repeat it changes nothing.

        It costs no retry. The execution is `pending` and keeps its place, or waits `delay` seconds; `cancelled` if
        that was asked for.

        Raises:
            LeaseLost: Discard what was done.
        """
        return await self._leases.release(claimed, delay)

    async def reap(self, *, limit: int = 100) -> Mapping[int, WorkflowExecutionStatus]:
        """Take at most `limit` executions from workers whose lease or timeout has passed; return what they are now.

        Any worker may call it, any number at once. A vanished worker counts against the retries like a failure; what
        it had can be claimed at once.
        """
        within("limit", limit, 1, MAX_LIMIT)
        return await self._leases.reap(limit, BACKOFF)

    async def get_execution(self, execution_id: int) -> WorkflowExecution | None:
        """The execution of that id."""
        return await self._first(queries.get(execution_id))

    @property
    def _leases(self) -> AsyncLeases[ClaimedWorkflow, WorkflowExecutionStatus]:
        return AsyncLeases(self._session, queries.EXECUTIONS)
