"""Tasks that a worker holds: claimed, kept by heartbeats, ended once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import check_text, json_text, within
from ...errors import ConfigurationError, InvalidInputError, translated
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import driver_of, fetch
from ...execution._async.leases import AsyncLeases, taking, waiting
from ...models import TaskStatus
from ...queries import task_claims as claims
from ...queries import tasks as filed
from ...queries.leases import HANDLER
from ...queries.task_leases import TASKS
from ...values.task_columns import MAX_JSON_BYTES
from ...values.tasks import ClaimedTask, NewTaskResult, TaskBackoff

MAX_CLAIM = 500


class AsyncHeldTasks(AsyncRepository):
    """The part of the repository of tasks that workers use."""

    async def claim(
        self,
        worker: str,
        *,
        limit: int = 1,
        queues: Sequence[str] | None = None,
        intents: Sequence[str] | None = None,
        assigned_to: str | None = None,
        lease: float = 60.0,
    ) -> list[ClaimedTask]:
        """Take at most `limit` (1 to 500) tasks that can be done now, for `lease` seconds: priority 5 first.

        Commit before doing them, and extend the lease by a heartbeat every `lease / 3` or so.

        Args:
            worker: The name of the caller, an aid to people.
            limit: The most tasks that are taken.
            queues: The queues to take tasks from; None is all of them. Tasks of others cost the claim nothing.
            intents: The same of intents.
            assigned_to: The agent whose tasks are wanted; None is anyone's. The claim reads past those of others.
            lease: Seconds until the tasks can be taken from the caller.

        Raises:
            ConfigurationError: The transaction is of another isolation level than READ COMMITTED.
        """
        within("limit", limit, 1, MAX_CLAIM)
        parameters: dict[str, Any] = taking(worker, lease)
        single = True
        if queues is not None:
            parameters["queues"] = names = _names("queues", queues)
            single = len(names) == 1
        if intents is not None:
            parameters["intents"] = names = _names("intents", intents)
            single = single and len(names) == 1
        if assigned_to is not None:
            parameters["assigned_to"] = assigned_to
        statement = claims.claim(
            limit, queues is not None, intents is not None, assigned_to is not None, single
        )
        until = time.monotonic() + lease
        rows = await fetch(self._session, statement, parameters)
        if not rows:
            await self._check_isolation()
        tasks = [ClaimedTask._make((*row[:-1], lease, until, False, row[-1])) for row in rows]
        if len(tasks) > 1:
            tasks.sort(key=lambda task: (-task.priority, task.available_at, task.id))
        return tasks

    async def heartbeat(self, claimed: ClaimedTask, *, lease: float | None = None) -> ClaimedTask:
        """Extend the lease of a task, and return its new state, whose `cancel_requested` says whether to stop.

        A task that another transaction has locked is returned as it was: see `heartbeat_many`.

        Args:
            claimed: The task, as `claim` or the last heartbeat returned it.
            lease: Seconds from now; by default as many as it was claimed for.

        Raises:
            LeaseLost: Stop, and discard what was done.
        """
        return await self._leases.heartbeat(claimed, lease)

    async def heartbeat_many(
        self, claimed: Sequence[ClaimedTask], *, lease: float | None = None
    ) -> list[ClaimedTask]:
        """Extend the leases of several tasks in one statement, and return the new state of those that are still held.

        Stop whatever is missing, and what has `cancel_requested`. A task that another transaction has locked is waited
        for a moment only, after the others: then it is returned as it was, its lease not extended and not lost either.
        Try again soon, and stop when its `is_over`.

        Args:
            claimed: The tasks, as `claim` or the last heartbeat returned them.
            lease: Seconds from now; by default as many as each was claimed for.
        """
        return await self._leases.heartbeat_many(claimed, lease)

    async def complete(self, claimed: ClaimedTask, results: Sequence[NewTaskResult] = ()) -> bool:
        """Complete a task and store its results; return whether this call did so.

        To repeat it, as after a commit whose answer was lost, changes nothing and returns False. Effects on this
        database that the same transaction writes if it returned True happen exactly once; any others at least once.
        A cancellation that was asked for comes too late.

        Raises:
            LeaseLost: Discard what was done.
            ConfigurationError: There are results and no transaction, in AUTOCOMMIT.
        """
        for result in results:
            if not {"result_type", "content"} <= set(result) <= set(NewTaskResult.__annotations__):
                raise InvalidInputError("result: expected `result_type`, `content` and at most `metadata`")
            check_text("result_type", result["result_type"])
            json_text("content", result["content"], MAX_JSON_BYTES)
            json_text("metadata", result.get("metadata", {}), MAX_JSON_BYTES)
        if results:
            await self._check_transaction()
        if not await self._leases.complete(claimed, {}):
            return False
        if results:
            with translated():
                await self._session.execute(
                    filed.add_results(), [_stored(claimed, result) for result in results]
                )
        return True

    async def complete_many(self, claimed: Sequence[ClaimedTask]) -> list[ClaimedTask]:
        """Complete several tasks in one statement, and return those that this call completed, and not an earlier one.

        A task that another transaction has locked is waited for a moment only, after the others, and else left out: it
        is still held, so that the call can be repeated with those that are left.

        Raises:
            LeaseLost: One of them is not held any more. Roll back, and repeat it with what `heartbeat_many` returns.
        """
        return await self._leases.complete_many(claimed)

    async def fail(
        self,
        claimed: ClaimedTask,
        error: str,
        *,
        code: str = HANDLER,
        retry: bool = True,
        delay: float | None = None,
        backoff: TaskBackoff = TaskBackoff(),
    ) -> TaskStatus:
        """End a failed attempt, and return the status of the task; to repeat it changes nothing.

        `pending` again after the back-off while retries are left, else `failed`; `cancelled` if that was asked for.
        Failures and crashes share the budget: `max_retries` of both are followed by another attempt.

        Args:
            claimed: The task.
            error: The text of the failure.
            code: The kind of failure, in a word.
            retry: False ends the task at once.
            delay: Seconds that replace the back-off.
            backoff: How long the task waits for its next attempt.

        Raises:
            LeaseLost: Discard what was done.
        """
        return await self._leases.fail(claimed, error, code, waiting(delay, backoff), retry=retry)

    async def release(self, claimed: ClaimedTask, *, delay: float = 0.0) -> TaskStatus:
        """Return a task unfinished, as at a shutdown, and return its status; to repeat it changes nothing.

        It costs no retry. The task is `pending` and keeps its place, or waits `delay` seconds; `cancelled` if that
        was asked for.

        Raises:
            LeaseLost: Discard what was done.
        """
        return await self._leases.release(claimed, delay)

    async def reap(
        self,
        *,
        limit: int = MAX_CLAIM,
        backoff: TaskBackoff = TaskBackoff(),
    ) -> Mapping[uuid.UUID, TaskStatus]:
        """Take at most `limit` tasks from workers whose lease has expired or whose attempt exceeded its timeout.

        Gives what they are now: `pending` after the back-off while retries are left, else `failed`, with the error
        code `lease_lost` or `timeout`; `cancelled` when that was asked for. Any worker may call it, any number at
        once. Call again at once when `limit` were found.
        """
        within("limit", limit, 1, MAX_CLAIM)
        return await self._leases.reap(limit, backoff)

    @property
    def _leases(self) -> AsyncLeases[ClaimedTask, TaskStatus]:
        return AsyncLeases(self._session, TASKS)

    async def _check_transaction(self) -> None:
        with translated():
            if (await driver_of(self._session)).autocommit:
                raise ConfigurationError(
                    "complete: the task and its results are two statements, and the connection is in AUTOCOMMIT; use a"
                    " session without that isolation level, such as that of `db.begin()`"
                )

    async def _check_isolation(self) -> None:
        level = (await fetch(self._session, claims.isolation(), {}))[0][0]
        if level != claims.ISOLATION:
            raise ConfigurationError(
                f"claim: the transaction is {level.upper()}, where two workers that meet would fail; claim in one of"
                " READ COMMITTED"
            )


def _names(argument: str, names: Sequence[str]) -> list[str]:
    if isinstance(names, str):
        raise InvalidInputError(f"{argument}: expected a sequence of names, got one name; put it in a list")
    return list(dict.fromkeys(names))


def _stored(claimed: ClaimedTask, result: NewTaskResult) -> dict[str, Any]:
    return {
        "task_id": claimed.id,
        "result_type": result["result_type"],
        "content": dict(result["content"]),
        "metadata": dict(result.get("metadata", {})),
    }
