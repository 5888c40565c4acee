"""Tasks that a worker holds: claimed, extended by heartbeats, ended once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from random import getrandbits
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import check_keys, check_text, json_text, within
from ...errors import ConfigurationError, InvalidInputError, translated
from ...execution._async.driver import bind_of, commits_alone, fetch, tenant_of
from ...execution._async.leases import PAUSES, AsyncLeaseHolder, taking, waiting
from ...models import TaskStatus
from ...queries import queue_claims
from ...queries import task_claims as claims
from ...queries import tasks as queries
from ...queries.leases import HANDLER
from ...queries.task_leases import TASKS
from ...values.task_columns import MAX_JSON_BYTES
from ...values.tasks import ClaimedTask, NewTaskResult, TaskBackoff

MAX_CLAIM = 500

MOST_REMEMBERED = 1000
"""How many kinds of claims are remembered to have met a restricted queue."""

_restricted: WeakKeyDictionary[Engine, dict[Any, bool]] = WeakKeyDictionary()


class AsyncTaskLeases(AsyncLeaseHolder[ClaimedTask, TaskStatus]):
    """The methods of the task repository that workers call."""

    _leased = TASKS

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
        """Claim tasks that can be run now, the highest priority first.

        Commit before running them, and extend the lease by a heartbeat about every `lease / 3` seconds.
        A task that Python cannot read fails with the `error_code` `unreadable`, and others are claimed instead.

        Args:
            worker: The name of the caller, shown to people.
            limit: The maximum number of tasks, 1 to 500. There are fewer if the limits of a queue allow no more.
            queues: Only tasks of these queues; None is all. Tasks of other queues do not slow the claim.
            intents: Only tasks with these intents; None is all.
            assigned_to: Only tasks assigned to this agent; None is all. The claim reads past tasks of others.
            lease: Seconds until the tasks can be taken from the caller.

        Raises:
            ConfigurationError: The transaction's isolation level is not READ COMMITTED.
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
        shape = queues is not None, intents is not None, assigned_to is not None
        # Measured before the statement: the local end of the lease must not be later than the database's.
        until = time.monotonic() + lease
        rows = await self._leases.claim(
            limit,
            parameters["token"],
            lambda number: self._claimed(number, shape, single, parameters),
            claims.again,
        )
        tasks = [ClaimedTask._make((*row[:-1], lease, until, False, row[-1])) for row in rows]
        if len(tasks) > 1:
            tasks.sort(key=lambda task: (-task.priority, task.available_at, task.id))
        return tasks

    async def complete(self, claimed: ClaimedTask, results: Sequence[NewTaskResult] = ()) -> bool:
        """Complete a task and store its results. Idempotent: a repeated call, as after a lost answer, returns False.

        Writes to this database that the same transaction makes only if it returns True happen exactly once; other
        effects happen at least once. A requested cancellation is too late.

        Args:
            claimed: The task, as `claim` or the last heartbeat returned it.
            results: The results to store.

        Returns:
            Whether this call completed the task.

        Raises:
            LeaseLost: Another worker may own the task: discard the work.
            ConfigurationError: There are results, but no transaction: the connection is in AUTOCOMMIT.
        """
        for result in results:
            check_keys("result", result, NewTaskResult, "result_type", "content")
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
                    queries.add_results(), [_stored(claimed, result) for result in results]
                )
        return True

    async def complete_many(self, claimed: Sequence[ClaimedTask]) -> list[ClaimedTask]:
        """Complete several tasks in one statement.

        The call waits only briefly for a task that another transaction has locked, after the others. Then it
        omits the task, which is still held: repeat the call with the remaining tasks.

        Returns:
            The tasks that this call completed, without those completed by an earlier one.

        Raises:
            LeaseLost: One of them is no longer held. Roll back, and repeat the call with what
                `heartbeat_many` returns.
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
        """End a failed attempt. Idempotent.

        Failures and crashes share `max_retries`.

        Args:
            claimed: The task, as `claim` or the last heartbeat returned it.
            error: The text of the failure.
            code: The kind of failure, in one word.
            retry: False ends the task at once.
            delay: Seconds until the next attempt; None is the back-off.
            backoff: How long the task waits for its next attempt.

        Returns:
            The new status: `pending` while retries are left, otherwise `failed`; `cancelled` if that was
            requested.

        Raises:
            LeaseLost: Another worker may own the task: discard the work.
        """
        return await self._leases.fail(claimed, error, code, waiting(delay, backoff), retry=retry)

    async def reap(
        self,
        *,
        limit: int = MAX_CLAIM,
        backoff: TaskBackoff = TaskBackoff(),
    ) -> Mapping[uuid.UUID, TaskStatus]:
        """Take tasks from workers whose lease has expired or whose attempt exceeded its timeout.

        Any number of workers may call it at the same time. Call it again at once when it returns `limit`
        tasks.

        Args:
            limit: The maximum number of tasks.
            backoff: How long a task waits for its next attempt.

        Returns:
            The new statuses: `pending` while retries are left, otherwise `failed` with the error code
            `lease_lost` or `timeout`; `cancelled` if that was requested.
        """
        within("limit", limit, 1, MAX_CLAIM)
        return await self._leases.reap(limit, backoff)

    async def _check_transaction(self) -> None:
        with translated():
            if await commits_alone(self._session):
                raise ConfigurationError(
                    "complete: the task and its results are two statements, and the connection is in AUTOCOMMIT; use a"
                    " session without that isolation level, such as that of `db.begin()`"
                )

    async def _claimed(
        self, limit: int, shape: tuple[bool, bool, bool], single: bool, parameters: dict[str, Any]
    ) -> Sequence[Sequence[Any]]:
        """Claim by the statement that suits the queues: by that for restricted ones if there were some lately.

        Either is right at any time. The first claims nothing while a queue is restricted, so that what the memory has missed
        costs a statement; the second is slower while none is.
        """
        rows: Sequence[Sequence[Any]] = ()
        seen = _restricted_of(self._session)
        key = tenant_of(self._session), tuple(parameters["queues"]) if shape[0] else None
        if key not in seen:
            rows = await fetch(self._session, claims.claim(limit, *shape, single), parameters)
            if rows:
                return rows
            restricted, keyed = await self._restrictions(shape[0], parameters)
            if not restricted:
                return []
            seen[key] = keyed
        for pause in PAUSES:
            if pause:
                await self._leases.pause(pause)
            keyed = seen.get(key, True)
            given = {**parameters, "start": getrandbits(63) - (1 << 62)}
            rows = await fetch(self._session, queue_claims.claim(limit, *shape, keyed), given)
            restricted, has_keys, busy = rows[0][:3]
            if restricted:
                seen[key] = has_keys
            else:
                seen.pop(key, None)
            # A statement without the limits per key has left out the queues that have one by now.
            if rows[0][3] is not None or not (busy or (has_keys and not keyed)):
                break
        return [row[3:] for row in rows if row[3] is not None]

    async def _restrictions(self, by_queue: bool, parameters: dict[str, Any]) -> tuple[bool, bool]:
        """Return whether nothing was claimed because a queue is restricted, and whether one has a limit per key."""
        ((level, *restricted),) = await fetch(
            self._session, claims.standing(by_queue=by_queue), parameters, reads=True
        )
        if level != claims.ISOLATION:
            raise ConfigurationError(
                f"claim: the transaction is {level.upper()}, where two workers that meet would fail; claim in one of"
                " READ COMMITTED"
            )
        return restricted[0], restricted[1]


def _restricted_of(session: AsyncSession) -> dict[Any, bool]:
    """The claims of this engine that have met a restricted queue lately, and whether one had a limit per key.

    The key is whose tables they claim from, and which queues.
    """
    seen = _restricted.setdefault(bind_of(session).engine, {})
    if len(seen) > MOST_REMEMBERED:
        seen.clear()
    return seen


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
