"""The scheduler: recurring tasks, and one execution for each time of their schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from ... import cron
from ...checks import YEAR, within
from ...errors import ConflictError, shown
from ...execution.missing import not_found
from ...models import MisfirePolicy, OverlapPolicy, ScheduledTask
from ...queries import scheduler as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.scheduler import ScheduleOutcome
from .scheduler_executions import AsyncSchedulerExecutions
from .scheduler_ticks import AsyncSchedulerTicks

_LIMITS = {
    "max_retries": (0, 10_000),
    "retry_delay": (0, YEAR),
    "timeout": (1, YEAR),
    "misfire_grace_seconds": (0, YEAR),
    "max_catchup": (1, cron.MAX_SLOTS),
}


class AsyncSchedulerRepository(AsyncSchedulerExecutions, AsyncSchedulerTicks):
    """Scheduled tasks and their executions; `alfred_db.cron` computes the slots of a schedule.

    A slot is one time of a schedule. `tick` creates the executions of due slots, and any number of schedulers
    may call it. Workers `claim` and run the executions. The clock is the database's.

    A task that is changed or resumed continues from now and catches up on nothing. Pausing a task drops a due
    slot, but an execution that exists is run unless it is cancelled. Slots that passed while no scheduler ran
    are handled by the task's misfire policy.
    """

    async def create(
        self,
        name: str,
        command: str,
        schedule: str | None = None,
        *,
        timezone: str = "UTC",
        schedule_key: str | None = None,
        is_active: bool | None = None,
        max_retries: int = 3,
        retry_delay: int = 60,
        timeout: int = 300,
        misfire_policy: MisfirePolicy = MisfirePolicy.LATEST,
        misfire_grace_seconds: int = 60,
        max_catchup: int = 100,
        overlap_policy: OverlapPolicy = OverlapPolicy.ALLOW,
    ) -> tuple[ScheduledTask, ScheduleOutcome]:
        """Create a task, or update the one with this `schedule_key`.

        A service can declare its schedules at each start. Another schedule or time zone takes effect now, as
        in `update`; existing executions keep their slots.

        Args:
            name: The name for people.
            command: The command to run.
            schedule: A cron expression of five fields, read in the time zone; None is run by `trigger` only.
            timezone: An IANA name.
            schedule_key: The caller's key for the task.
            is_active: Whether its slots are run. With None a new task is active, and a known one is
                unchanged.
            max_retries: How many failures of an execution are followed by another attempt.
            retry_delay: Seconds between attempts.
            timeout: Seconds that an attempt may take.
            misfire_policy: What to do with slots that passed while no scheduler ran.
            misfire_grace_seconds: Seconds after its time within which a slot is late but not missed.
            max_catchup: The maximum number of missed slots that the policy `all` runs.
            overlap_policy: What to do with a slot while an earlier execution is live.

        Returns:
            The task, and whether this call `created`, `updated` or left it `unchanged`; only `created` is
            true.

        Raises:
            InvalidCron: The schedule is invalid or has no time, or the time zone is unknown.
            ConflictError: Another transaction has just deleted the task with this key; create it again.
        """
        values = {
            "name": name,
            "command": command,
            "schedule": schedule,
            "timezone": timezone,
            "schedule_key": schedule_key,
            "is_active": is_active,
            "max_retries": max_retries,
            "retry_delay": retry_delay,
            "timeout": timeout,
            "misfire_policy": misfire_policy,
            "misfire_grace_seconds": misfire_grace_seconds,
            "max_catchup": max_catchup,
            "overlap_policy": overlap_policy,
        }
        _check(values)
        now = await self._first(queries.now())
        assert now is not None
        next_run_at = _next_run(schedule, timezone, now)
        values["is_active"] = is_active is not False
        task = await self._write(
            queries.create({**values, "next_run_at": next_run_at if values["is_active"] else None})
        )
        if task is not None:
            return task, ScheduleOutcome.CREATED
        if is_active is None:
            del values["is_active"]
        return await self._declared(schedule_key or "", values, next_run_at)

    async def update(
        self,
        task_id: int,
        *,
        name: str | None = None,
        command: str | None = None,
        schedule: str | None = None,
        timezone: str | None = None,
        max_retries: int | None = None,
        retry_delay: int | None = None,
        timeout: int | None = None,
        misfire_policy: MisfirePolicy | None = None,
        misfire_grace_seconds: int | None = None,
        max_catchup: int | None = None,
        overlap_policy: OverlapPolicy | None = None,
    ) -> ScheduledTask:
        """Change the arguments that are not None; they are those of `create`.

        Another schedule or time zone takes effect now, and drops a due slot. Existing executions keep their
        slots, and take the new retries, delay and timeout.

        Raises:
            NotFoundError: The task does not exist.
            InvalidCron: The schedule is invalid or has no time, or the time zone is unknown.
        """
        given = {
            "name": name,
            "command": command,
            "schedule": schedule,
            "timezone": timezone,
            "max_retries": max_retries,
            "retry_delay": retry_delay,
            "timeout": timeout,
            "misfire_policy": misfire_policy,
            "misfire_grace_seconds": misfire_grace_seconds,
            "max_catchup": max_catchup,
            "overlap_policy": overlap_policy,
        }
        changes: dict[str, object] = {key: value for key, value in given.items() if value is not None}
        _check(changes)
        task, now = await self._locked(task_id)
        when = (
            task.schedule if schedule is None else schedule,
            task.timezone if timezone is None else timezone,
        )
        if when != (task.schedule, task.timezone):
            next_run_at = _next_run(*when, now)
            changes["next_run_at"] = next_run_at if task.is_active else None
        return await self._change(task_id, changes) if changes else task

    async def pause(self, task_id: int) -> ScheduledTask:
        """Run no further slots, not even a due one.

        Raises:
            NotFoundError: The task does not exist.
        """
        return await self._change(task_id, {"is_active": False, "next_run_at": None})

    async def resume(self, task_id: int) -> ScheduledTask:
        """Continue with the first slot after now; a task that is not paused is unchanged.

        Raises:
            NotFoundError: The task does not exist.
        """
        task, now = await self._locked(task_id)
        if task.is_active:
            return task
        next_run_at = _next_run(task.schedule, task.timezone, now)
        return await self._change(task_id, {"is_active": True, "next_run_at": next_run_at})

    async def get(self, task_id: int) -> ScheduledTask | None:
        """Return the task with this id."""
        return await self._first(queries.get(task_id))

    async def get_by_key(self, schedule_key: str) -> ScheduledTask | None:
        """Return the task with this key."""
        return await self._first(queries.get_by_key(schedule_key))

    async def next_runs(self, task_id: int, *, count: int = 5) -> Sequence[datetime]:
        """Return the next slots after now, in UTC, whether or not the task is paused.

        Raises:
            NotFoundError: The task does not exist.
        """
        rows = await self._rows(queries.timed(task_id))
        if not rows:
            raise not_found("scheduled task", task_id)
        task, now = rows[0]
        if task.schedule is None:
            return []
        return cron.next_runs(task.schedule, task.timezone, after=now, count=count)

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page[ScheduledTask]:
        """Return a page of the tasks, in the order of their creation."""
        rows = await self._all(queries.list_(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def _declared(
        self, schedule_key: str, values: Mapping[str, object], next_run_at: datetime | None
    ) -> tuple[ScheduledTask, ScheduleOutcome]:
        """Update the task with a known key where it differs from these values."""
        rows = await self._rows(queries.locked_by_key(schedule_key))
        if not rows:
            raise ConflictError(
                f"schedule_key {shown(schedule_key)}: was just deleted; create it again", retryable=True
            )
        task = rows[0][0]
        changes = {name: value for name, value in values.items() if getattr(task, name) != value}
        if not changes:
            return task, ScheduleOutcome.UNCHANGED
        if changes.keys() & {"schedule", "timezone", "is_active"}:
            active = values.get("is_active", task.is_active)
            changes["next_run_at"] = next_run_at if active else None
        return await self._change(task.id, changes), ScheduleOutcome.UPDATED

    async def _locked(self, task_id: int) -> tuple[ScheduledTask, datetime]:
        rows = await self._rows(queries.locked(task_id))
        if not rows:
            raise not_found("scheduled task", task_id)
        return rows[0][0], rows[0][1]

    async def _change(self, task_id: int, values: Mapping[str, object]) -> ScheduledTask:
        task = await self._write(queries.change(task_id, values))
        if task is None:
            raise not_found("scheduled task", task_id)
        return task


def _check(values: Mapping[str, object]) -> None:
    for name, (low, high) in _LIMITS.items():
        value = values.get(name)
        if isinstance(value, int):
            within(name, value, low, high)


def _next_run(schedule: str | None, timezone: str, now: datetime) -> datetime | None:
    slot = cron.first_slot("* * * * *" if schedule is None else schedule, timezone, after=now)
    return None if schedule is None else slot
