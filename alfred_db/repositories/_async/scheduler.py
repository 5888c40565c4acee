"""The scheduler: recurring tasks, and one execution for each time of their schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from ... import cron
from ...checks import YEAR, check_keys, check_text, json_text, within
from ...errors import ConflictError, InvalidInputError, InvalidTransition, shown
from ...execution._async.driver import in_transaction
from ...execution.missing import not_found
from ...models import MisfirePolicy, OverlapPolicy, ScheduledTask
from ...models.tasks import DEFAULT_QUEUE
from ...queries import scheduler as queries
from ...queries import scheduler_enqueueing as enqueueing
from ...queries import scheduler_executions as executions
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.scheduler import NewSchedule, ScheduleOutcome
from ...values.task_columns import MAX_JSON_BYTES, MAX_KEY_BYTES, MAX_QUEUE_BYTES
from .scheduler_executions import AsyncSchedulerExecutions
from .scheduler_ticks import AsyncSchedulerTicks

_LIMITS = {
    "max_retries": (0, 10_000),
    "retry_delay": (0, YEAR),
    "timeout": (1, YEAR),
    "misfire_grace_seconds": (0, YEAR),
    "max_catchup": (1, cron.MAX_SLOTS),
    "priority": (1, 5),
}
_DEFAULTS: Mapping[str, Any] = {
    "command": None,
    "intent": None,
    "queue": DEFAULT_QUEUE,
    "priority": 1,
    "dedupe_key": None,
    "timezone": "UTC",
    "max_retries": 3,
    "retry_delay": 60,
    "timeout": 300,
    "misfire_policy": MisfirePolicy.LATEST,
    "misfire_grace_seconds": 60,
    "max_catchup": 100,
    "overlap_policy": OverlapPolicy.ALLOW,
}
"""The values of a declared schedule that does not state them: the defaults of `create`."""

_TEXTS = {
    "intent": 1 << 20,
    "command": 1 << 20,
    "queue": MAX_QUEUE_BYTES,
    "dedupe_key": MAX_KEY_BYTES,
    "schedule_key": MAX_KEY_BYTES,
    "owner": MAX_KEY_BYTES,
}


class AsyncSchedulerRepository(AsyncSchedulerExecutions, AsyncSchedulerTicks):
    """Scheduled tasks and their executions; `alfred_db.cron` computes the slots of a schedule.

    A slot is one time of a schedule. `tick` creates the executions of due slots, and any number of schedulers
    may call it. Workers `claim` and run the executions. A schedule with an `intent` enqueues a task for each slot
    instead. The clock is the database's.

    A task that is changed or resumed continues from now and catches up on nothing. Pausing a task drops a due
    slot, but an execution that exists is run unless it is cancelled. Slots that passed while no scheduler ran
    are handled by the task's misfire policy.
    """

    @in_transaction
    async def create(
        self,
        name: str,
        command: str | None = None,
        schedule: str | None = None,
        *,
        intent: str | None = None,
        content: Mapping[str, Any] | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 1,
        dedupe_key: str | None = None,
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
            command: The command to run: the name of a worker's handler for commands. Pass it or an `intent`.
            schedule: A cron expression of five fields, read in the time zone; None is run by `trigger` only.
            intent: Enqueue a task with this intent for each slot. Its metadata have the `schedule_key`, or the name, as
                `schedule`, and the slot as `scheduled_at`.
            content: The content of the task.
            queue: The queue of the task.
            priority: The priority of the task, 1 to 5.
            dedupe_key: Skip a slot while a live task has this key. None skips a slot while the task of an earlier one is
                live if the `overlap_policy` skips.
            timezone: An IANA name.
            schedule_key: The caller's key for the task.
            is_active: Whether its slots are run. With None a new task is active, and a known one is
                unchanged.
            max_retries: How many failures of an execution are followed by another attempt.
            retry_delay: Seconds between attempts; tasks have the back-off of their worker.
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
            InvalidInputError: There are both a `command` and an `intent`, or neither.
            ConflictError: Another transaction has just deleted the task with this key; create it again.
        """
        values = {
            "name": name,
            "command": command,
            "intent": intent,
            "content": dict(content or {}),
            "queue": queue,
            "priority": priority,
            "dedupe_key": dedupe_key,
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
        _one_kind(values)
        return await self._create(values)

    @in_transaction
    async def declare(self, owner: str, schedules: Sequence[NewSchedule]) -> Mapping[str, ScheduleOutcome]:
        """Declare all schedules of an application, as it does at each start.

        Creates and updates them as `create` does. A schedule that this application has declared before and does not any
        more is paused; if it is declared again later, it resumes. One that somebody has paused stays paused. Any number of
        processes of the application may call it at the same time.

        Args:
            owner: The name of the application.
            schedules: Mappings whose keys are the arguments of `create`; each has a `schedule_key`.

        Returns:
            What was done, by `schedule_key`; `paused` for those that are not declared any more.

        Raises:
            InvalidCron: A schedule is invalid or has no time, or a time zone is unknown.
            InvalidInputError: A key is missing or occurs twice, or an argument is wrong.
            ConflictError: A key is that of a schedule which this application has not declared.
        """
        check_text("owner", owner, MAX_KEY_BYTES)
        declared: dict[str, dict[str, Any]] = {}
        for one in schedules:
            check_keys("schedule", one, NewSchedule, "name", "schedule", "schedule_key")
            if one["schedule_key"] in declared:
                raise InvalidInputError(
                    f"schedule_key {shown(one['schedule_key'])}: is declared twice; use another key for each schedule"
                )
            values = {**_DEFAULTS, **one, "content": dict(one.get("content") or {})}
            _one_kind(values)
            _check(values)
            declared[one["schedule_key"]] = values
        await self._rows(queries.declared(owner))
        outcomes: dict[str, ScheduleOutcome] = {}
        for key in sorted(declared):
            _, outcomes[key] = await self._create({**declared[key], "is_active": None, "owner": owner})
        for row in await self._rows(queries.withdraw(owner, list(declared))):
            outcomes[row[0] or ""] = ScheduleOutcome.PAUSED
        return outcomes

    @in_transaction
    async def update(
        self,
        task_id: int,
        *,
        name: str | None = None,
        command: str | None = None,
        intent: str | None = None,
        content: Mapping[str, Any] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        dedupe_key: str | None = None,
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
        slots, and take the new retries, delay and timeout. A `command` replaces an intent, and the reverse; the
        executions that then wait for a handler are enqueued as tasks.

        Raises:
            NotFoundError: The task does not exist.
            InvalidCron: The schedule is invalid or has no time, or the time zone is unknown.
        """
        given = {
            "name": name,
            "command": command,
            "intent": intent,
            "content": content,
            "queue": queue,
            "priority": priority,
            "dedupe_key": dedupe_key,
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
        if command is not None or intent is not None:
            _one_kind(changes)
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

    @in_transaction
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

    @in_transaction
    async def delete(self, task_id: int, *, limit: int | None = None) -> int:
        """Delete a task and its executions. Tasks that its slots have enqueued stay.

        With a `limit`, call it and commit until it returns less: the last call deletes the task.

        Args:
            task_id: The id of the scheduled task.
            limit: The maximum number of executions, 1 to 10,000. None deletes all in this transaction; for many, use
                `Database.in_chunks`.

        Returns:
            The number of executions deleted.

        Raises:
            NotFoundError: The task does not exist.
            InvalidTransition: An execution of it is running.
        """
        if await self._first(queries.hold(task_id)) is None:
            raise not_found("scheduled task", task_id)
        if await self._first(executions.running(task_id)) is not None:
            raise InvalidTransition(
                f"scheduled task {task_id}: an execution of it is running; pause it, and delete it when that has ended"
            )
        deleted = await self._in_turns(limit, lambda left: executions.clear(task_id, limit=left))
        if limit is None or len(deleted) < limit:
            await self._write(queries.delete(task_id))
        return len(deleted)

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

    async def _create(self, values: dict[str, Any]) -> tuple[ScheduledTask, ScheduleOutcome]:
        """Insert a task, or update the one with its key; `is_active` may be None, which changes nothing."""
        _check(values)
        now = await self._first(queries.now())
        assert now is not None
        next_run_at = _next_run(values["schedule"], values["timezone"], now)
        active = values["is_active"] is not False
        task = await self._write(
            queries.create({**values, "is_active": active, "next_run_at": next_run_at if active else None})
        )
        if task is not None:
            return task, ScheduleOutcome.CREATED
        if values["is_active"] is None:
            del values["is_active"]
        return await self._declared(values["schedule_key"] or "", values, next_run_at)

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
        owner = values.get("owner")
        if owner is not None and owner != task.owner:
            whose = (
                "was not declared by an application"
                if task.owner is None
                else f"belongs to {shown(task.owner)}"
            )
            raise ConflictError(
                f"schedule_key {shown(schedule_key)}: {whose}; declare it under another key, or delete that"
                " schedule"
            )
        if owner is not None and task.withdrawn_at is not None:
            values = {**values, "is_active": True, "withdrawn_at": None}
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
        if values.get("intent") is not None and (
            left := [row[0] for row in await self._rows(enqueueing.pending(task_id))]
        ):
            await self._enqueue(left)  # no handler of a command will take them any more
        return task


def _one_kind(values: dict[str, Any]) -> None:
    """Complete the values of a schedule that either runs a command or enqueues a task.

    Raises:
        InvalidInputError: It does both, or neither.
    """
    command, intent = values.get("command"), values.get("intent")
    if (command is None) == (intent is None):
        raise InvalidInputError(
            "schedule: expected either a `command`, which a worker's handler runs, or an `intent`, which enqueues a task"
        )
    values["intent"] = intent
    values["command"] = intent if command is None else command


def _check(values: Mapping[str, object]) -> None:
    for name, most in _TEXTS.items():
        if (text := values.get(name)) is not None:
            check_text(name, cast("str", text), most)
    if values.get("content"):
        json_text("content", values["content"], MAX_JSON_BYTES)
    for name, (low, high) in _LIMITS.items():
        value = values.get(name)
        if isinstance(value, int):
            within(name, value, low, high)


def _next_run(schedule: str | None, timezone: str, now: datetime) -> datetime | None:
    slot = cron.first_slot("* * * * *" if schedule is None else schedule, timezone, after=now)
    return None if schedule is None else slot
