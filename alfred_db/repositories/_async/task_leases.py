"""Tasks that a worker holds: claimed, kept by heartbeats, ended once."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ...checks import check_text, json_text, plain_text, within
from ...errors import ConfigurationError, InvalidInputError, LeaseLost, shown, translated
from ...execution._async.base import PAUSES, AsyncRepository
from ...execution._async.driver import driver_of, fetch
from ...models import TaskStatus
from ...queries import task_claims as claims
from ...queries import task_leases as queries
from ...queries import tasks as filed
from ...values.task_columns import MAX_JSON_BYTES, MAX_SECONDS
from ...values.tasks import ClaimedTask, NewTaskResult, TaskBackoff

MAX_CLAIM = 500

_COMPLETING = {TaskStatus.COMPLETED, TaskStatus.PROCESSING}
_log = logging.getLogger("alfred_db")


class AsyncHeldTasks(AsyncRepository):
    """The part of the repository of tasks that workers use."""

    async def claim(
        self,
        *,
        worker: str,
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
        within("lease", lease, 0.001, MAX_SECONDS)
        check_text("worker", worker)
        parameters: dict[str, Any] = {
            "worker": worker,
            "token": uuid.uuid4(),
            "lease": timedelta(seconds=lease),
        }
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

    async def heartbeat(self, task: ClaimedTask, *, lease: float | None = None) -> ClaimedTask:
        """Keep the task for `lease` more seconds, by default as long as it was claimed for; gives its new state.

        Its `cancel_requested` says whether to stop. It is given as it was when another transaction has locked it: see
        `heartbeat_many`. Raises LeaseLost: stop, and discard what was done.
        """
        kept = await self.heartbeat_many([task], lease=lease)
        if not kept:
            raise _lost(task)
        return kept[0]

    async def heartbeat_many(
        self, tasks: Sequence[ClaimedTask], *, lease: float | None = None
    ) -> list[ClaimedTask]:
        """Keep several tasks, in one statement; gives the new state of those that are still held.

        Stop whatever is missing, and what has `cancel_requested`. By default each is kept as long as it was claimed
        for. A task that another transaction has locked is waited for a moment only, after the others: then it is given
        as it was, its lease not extended and not lost either. Try again soon, and stop when its `is_over`.
        """
        kept: dict[uuid.UUID, ClaimedTask] = {}
        for seconds in dict.fromkeys(task.lease if lease is None else lease for task in tasks):
            within("lease", seconds, 0.001, MAX_SECONDS)
            some = [task for task in tasks if lease is not None or task.lease == seconds]
            kept |= await self._extended(some, seconds)
        return [kept[task.id] for task in tasks if task.id in kept]

    async def _extended(self, tasks: Sequence[ClaimedTask], seconds: float) -> dict[uuid.UUID, ClaimedTask]:
        left, kept = {task.id: task for task in tasks}, dict[uuid.UUID, ClaimedTask]()
        for pause in PAUSES:
            if pause:
                await self._pause(pause)
            end = time.monotonic() + seconds
            parameters = {**_keys(left.values()), "lease": timedelta(seconds=seconds)}
            for id, expires, cancelled in await fetch(self._session, queries.heartbeat_many(), parameters):
                kept[id] = left.pop(id)._replace(
                    lease=seconds,
                    held_until=end,
                    lease_expires_at=expires,
                    cancel_requested=cancelled is not None,
                )
            if left:
                locked = {
                    row[0] for row in await fetch(self._session, queries.holding(), _keys(left.values()))
                }
                left = {id: task for id, task in left.items() if id in locked}
            if not left:
                break
        return kept | left

    async def complete(self, task: ClaimedTask, results: Sequence[NewTaskResult] = ()) -> bool:
        """Finish the task and store its results; gives whether this call did so. Raises LeaseLost.

        To repeat it, as after a commit whose answer was lost, changes nothing and gives False. Effects on this
        database that the same transaction writes if it gave True happen exactly once; any others at least once.
        A cancellation that was asked for comes too late. Raises ConfigurationError when there are results and no
        transaction, in AUTOCOMMIT.
        """
        for result in results:
            if not {"result_type", "content"} <= set(result) <= set(NewTaskResult.__annotations__):
                raise InvalidInputError("result: expected `result_type`, `content` and at most `metadata`")
            check_text("result_type", result["result_type"])
            json_text("content", result["content"], MAX_JSON_BYTES)
            json_text("metadata", result.get("metadata", {}), MAX_JSON_BYTES)
        if results:
            await self._check_transaction()
        if not await fetch(self._session, queries.complete(), _key(task)):
            await self._repeated(task, {TaskStatus.COMPLETED})
            return False
        if results:
            with translated():
                await self._session.execute(
                    filed.add_results(), [_stored(task, result) for result in results]
                )
        return True

    async def complete_many(self, tasks: Sequence[ClaimedTask]) -> list[ClaimedTask]:
        """Finish several tasks, in one statement; gives those that this call finished, and not an earlier one.

        A task that another transaction has locked is waited for a moment only, after the others, and else left out: it
        is still held, so that the call can be repeated with those that are left. Raises LeaseLost if one of them is not
        held any more: roll back, and repeat it with those that `heartbeat_many` returns.
        """
        if not tasks:
            return []
        done: set[uuid.UUID] = set()
        left = list(tasks)
        for pause in PAUSES:
            if pause:
                await self._pause(pause)
            done |= {row[0] for row in await fetch(self._session, queries.complete_many(), _keys(left))}
            left = [
                task
                for task in left
                if task.id not in done and await self._repeated(task, _COMPLETING) is not TaskStatus.COMPLETED
            ]
            if not left:
                break
        for task in left:
            _log.warning("task %s: another transaction has locked it; it is not completed yet", task.id)
        return [task for task in tasks if task.id in done]

    async def fail(
        self,
        task: ClaimedTask,
        error: str,
        *,
        code: str = queries.HANDLER,
        retry: bool = True,
        delay: float | None = None,
        backoff: TaskBackoff = TaskBackoff(),
    ) -> TaskStatus:
        """End a failed attempt: `pending` again after the back-off while retries are left, else `failed`.

        `delay` seconds replace the back-off; `retry=False` ends the task at once. `cancelled` when that was asked
        for. Failures and crashes share the budget: `max_retries` of both are followed by another attempt. To
        repeat it changes nothing. Raises LeaseLost.
        """
        if delay is not None:
            within("delay", delay, 0, MAX_SECONDS)
            backoff = TaskBackoff(delay, delay, 0)
        check_text("code", plain_text(code))
        parameters = {
            **_key(task),
            "code": plain_text(code),
            "message": plain_text(error),
            "retry": retry,
            "base": float(backoff.base),
            "cap": float(backoff.cap),
            "spread": backoff.spread(),
        }
        rows = await fetch(self._session, queries.fail(), parameters)
        if rows:
            return TaskStatus(rows[0][0])
        return await self._repeated(task, {TaskStatus.PENDING, TaskStatus.FAILED, TaskStatus.CANCELLED})

    async def release(self, task: ClaimedTask, *, delay: float = 0.0) -> TaskStatus:
        """Give the task back, as at a shutdown: it costs no retry and keeps its place, or waits `delay` seconds.

        Gives `pending`, or `cancelled` when that was asked for. To repeat it changes nothing. Raises LeaseLost.
        """
        within("delay", delay, 0, MAX_SECONDS)
        parameters = _key(task)
        if delay:
            parameters["delay"] = timedelta(seconds=delay)
        rows = await fetch(self._session, queries.release(delayed=bool(delay)), parameters)
        if rows:
            return TaskStatus(rows[0][0])
        return await self._repeated(task, {TaskStatus.PENDING, TaskStatus.CANCELLED})

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
        parameters = {
            "base": float(backoff.base),
            "cap": float(backoff.cap),
            "jitter": float(backoff.jitter),
        }
        rows = await fetch(self._session, queries.reap(limit), parameters)
        return {row[0]: TaskStatus(row[1]) for row in rows}

    async def _repeated(self, task: ClaimedTask, statuses: Collection[TaskStatus]) -> TaskStatus:
        """The status of a task that its holder has ended before; to all others it is lost."""
        found = await self._first(filed.get(task.id))
        if found is None or found.lease_token != task.lease_token or found.status not in statuses:
            raise _lost(task)
        return found.status

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


def _array(ids: Iterable[uuid.UUID]) -> str:
    """As the server reads an array; the driver would look in each of its texts for what is to be escaped."""
    return f"{{{','.join([id.hex for id in ids])}}}"


def _keys(tasks: Collection[ClaimedTask]) -> dict[str, Any]:
    return {
        "ids": _array(task.id for task in tasks),
        "tokens": _array(task.lease_token for task in tasks),
    }


def _key(task: ClaimedTask) -> dict[str, Any]:
    return {"id": task.id, "token": task.lease_token}


def _stored(task: ClaimedTask, result: NewTaskResult) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "result_type": result["result_type"],
        "content": dict(result["content"]),
        "metadata": dict(result.get("metadata", {})),
    }


def _lost(task: ClaimedTask) -> LeaseLost:
    return LeaseLost(
        f"task {shown(task.task_id)}: its lease is not yours any more; stop, and discard what was done for it"
    )
