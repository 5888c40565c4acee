"""Queues: pauses, limits and rates of the queues of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...checks import MAX_SECONDS, check_text, within
from ...engine.session import state_of
from ...execution._async.base import AsyncRepository
from ...execution.missing import not_found
from ...queries import queues as queries
from ...values.queues import MOST_RUNNING, QueueRate, QueueSettings
from ...values.task_columns import MAX_QUEUE_BYTES


class AsyncQueueRepository(AsyncRepository):
    """Settings of the queues of tasks, kept by every claim: in one statement, and for all workers together.

    A queue exists as soon as a task has its name; it needs settings only to be paused or limited. A claim that has begun
    before a change is committed may still take tasks under the old settings.
    """

    async def set(
        self,
        name: str,
        *,
        paused: bool | None = None,
        max_running: int | None = None,
        max_running_per_key: int | None = None,
        rate: QueueRate | None = None,
        ageing: float | None = None,
    ) -> QueueSettings:
        """Create or replace the settings of a queue: a limit that is left out is removed.

        Args:
            name: The queue, 1 to 200 bytes.
            paused: Whether no task of it is claimed; None changes nothing.
            max_running: How many of its tasks may be held at the same time, by all workers together.
            max_running_per_key: The same for its tasks with the same `concurrency_key`. Tasks without a key are not limited.
            rate: How many of its tasks may be claimed in a time.
            ageing: Seconds after which the priority of a waiting task is raised by one, by the upkeep of any worker; then
                again after as long, until it is 5.

        Returns:
            The settings.
        """
        check_text("name", name, MAX_QUEUE_BYTES)
        for word, limit in (("max_running", max_running), ("max_running_per_key", max_running_per_key)):
            if limit is not None:
                within(word, limit, 1, MOST_RUNNING)
        if ageing is not None:
            within("ageing", ageing, 0.001, MAX_SECONDS)
        values: dict[str, Any] = {
            "max_running": max_running,
            "max_running_per_key": max_running_per_key,
            "rate_jobs": rate and rate.jobs,
            "rate_period": rate and float(rate.period),
            "rate_burst": rate and rate.burst,
            "ageing": ageing,
        }
        if paused is not None:
            values["paused"] = paused
        return await self._set(name, values, None if rate is None else rate.capacity_us)

    async def get(self, name: str) -> QueueSettings | None:
        """Return the settings of a queue, or None if it has none."""
        rows = await self._rows(queries.get(name))
        return _settings(rows[0]) if rows else None

    async def list(self) -> Sequence[QueueSettings]:
        """Return the settings of all queues that have some, by name."""
        return [_settings(row) for row in await self._rows(queries.list_())]

    async def pause(self, name: str) -> QueueSettings:
        """Claim no further task of a queue; tasks that are held run on, and their failed attempts wait.

        Args:
            name: The queue, 1 to 200 bytes.
        """
        check_text("name", name, MAX_QUEUE_BYTES)
        return await self._set(name, {"paused": True})

    async def resume(self, name: str) -> QueueSettings:
        """End the pause of a queue; its limits stay.

        Raises:
            NotFoundError: The queue has no settings, so that it cannot be paused.
        """
        rows = await self._rows(queries.resume(name))
        if not rows:
            raise not_found("queue", name)
        self._wake()
        return _settings(rows[0])

    async def delete(self, name: str) -> bool:
        """Delete the settings of a queue, and with them its pause and its limits; its tasks stay.

        Returns:
            Whether it had settings.
        """
        deleted = await self._rows(queries.remove(name))
        self._wake()
        return bool(deleted)

    async def age(self, *, limit: int = 1000) -> int:
        """Raise the priority of tasks by one that have waited at it for longer than the `ageing` of their queue.

        The upkeep of each worker calls it. Call it and commit until it returns less than `limit`.

        Args:
            limit: The maximum number of tasks, 1 to 10,000.

        Returns:
            The number of tasks changed.
        """
        return len(await self._in_turns(limit, lambda left: queries.age(limit=left or limit)))

    async def _set(self, name: str, values: dict[str, Any], capacity: int | None = None) -> QueueSettings:
        rows = await self._rows(queries.change(name, values, capacity))
        if not rows:
            rows = await self._rows(queries.create(name, values))
        self._wake()
        return _settings(rows[0])

    def _wake(self) -> None:
        """Have the workers look again once the transaction commits: tasks may be claimable that were not."""
        state_of(self._session).enqueued.add(None)


def _settings(row: Sequence[Any]) -> QueueSettings:
    name, paused, running, per_key, jobs, period, burst, ageing = row
    rate = None if jobs is None else QueueRate(jobs, period, burst)
    return QueueSettings(name, paused, running, per_key, rate, ageing)
