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
from ...execution._async.settling import complete, is_awaited
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
"""How many kinds of claims are remembered to have met a restricted queue, or to have found enough."""

MOST_TRIES = 10
"""How often a claim is tried while the limits of its queues change or others have locked them."""

_claims: WeakKeyDictionary[Engine, tuple[dict[Any, queue_claims.Limits], set[Any]]] = WeakKeyDictionary()


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
        ended = is_awaited(self._session) and await complete(self._session, claimed.id, claimed.lease_token)
        if not ended and not await self._leases.complete(claimed, {}):
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
        """Claim by the statement that suits the queues: by one for restricted queues if there were some lately.

        Each statement is right at any time: it claims nothing from queues with limits that it does not know. So what the memory
        has missed costs a statement, and a statement that knows limits which none has is slower. A claim that found less than it
        may is taken to find nothing next, by a statement that also returns why.
        """
        seen, busy = _remembered(self._session)
        key = tenant_of(self._session), tuple(parameters["queues"]) if shape[0] else None
        limits = seen.get(key)
        if limits is None:
            rows: Sequence[Sequence[Any]]
            kind = *key, tuple(parameters["intents"]) if shape[1] else None, shape[2]
            if kind in busy:
                rows = await fetch(self._session, claims.claim(limit, *shape, single), parameters)
                if len(rows) < limit:
                    busy.discard(kind)
                if not rows:
                    limits = await self._limits(shape[0], parameters)
            else:
                found = await fetch(self._session, claims.look(limit, *shape, single), parameters)
                rows = [row[4:] for row in found if row[4] is not None]
                if len(rows) == limit:
                    busy.add(kind)
                if not rows:
                    limits = _limits_of(*found[0][:4])
            if rows or limits is None:
                return rows
            seen[key] = limits
        one_queue = shape[0] and len(parameters["queues"]) == 1
        form = one_queue, one_queue and (not shape[1] or len(parameters["intents"]) == 1)
        # A look behind the first tasks takes time. What waits there must not wait until nothing else does.
        further = not getrandbits(4)
        pauses = iter(PAUSES[1:])
        for _ in range(MOST_TRIES):
            kept = limits._replace(further=limits.keys and further)
            given = {**parameters, "start": getrandbits(63) - (1 << 62)}
            rows = await fetch(self._session, queue_claims.claim(limit, *shape, kept, *form), given)
            may, running, rates, keys, busy, first = rows[0][:6]
            if not may:
                await self._limits(shape[0], parameters)
            if running is None:
                seen.pop(key, None)
            else:
                seen[key] = limits = queue_claims.Limits(running, rates, keys)
            if first is not None:
                return [row[5:] for row in rows]
            if running is None:
                plain = claims.claim(limit, *shape, single)
                return await fetch(self._session, plain, parameters) if one_queue else []
            if busy and (pause := next(pauses, None)) is not None:
                await self._leases.pause(pause)
            elif limits.keys and not kept.further:
                further = True
            elif limits.are_kept_by(kept):
                break
        return []

    async def _limits(self, by_queue: bool, parameters: dict[str, Any]) -> queue_claims.Limits | None:
        """Return the limits because of which nothing was claimed, or None if no queue is restricted."""
        (found,) = await fetch(self._session, claims.standing(by_queue=by_queue), parameters, reads=True)
        return _limits_of(*found)


def _limits_of(level: str, running: bool | None, rates: bool, keys: bool) -> queue_claims.Limits | None:
    if level != claims.ISOLATION:
        raise ConfigurationError(
            f"claim: the transaction is {level.upper()}, where two workers that meet would fail; claim in one of"
            " READ COMMITTED"
        )
    return None if running is None else queue_claims.Limits(running, bool(rates), bool(keys))


def _remembered(session: AsyncSession) -> tuple[dict[Any, queue_claims.Limits], set[Any]]:
    """Return what is remembered of the last claims of this engine.

    The first are those that have met a restricted queue, with the limits that there were; the key is whose tables they claim
    from, and which queues. The second are those that have claimed as many tasks as they may.
    """
    seen, busy = _claims.setdefault(bind_of(session).engine, ({}, set()))
    if len(seen) > MOST_REMEMBERED:
        seen.clear()
    if len(busy) > MOST_REMEMBERED:
        busy.clear()
    return seen, busy


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
