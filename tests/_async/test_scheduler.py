from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from _async.scheduled import executions_of, task_due
from sqlalchemy import update

from alfred_db import (
    AsyncDatabase,
    MisfirePolicy,
    OverlapPolicy,
    ScheduledTask,
    ScheduleOutcome,
    cron,
)
from alfred_db.errors import (
    InvalidCron,
    InvalidInputError,
    NotFoundError,
)
from alfred_db.queries import scheduler as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.scheduler import AsyncSchedulerRepository

HOSTILE = "'; DROP TABLE scheduler_tasks; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


PRAGUE = "Europe/Prague"


@pytest.fixture
def scheduler(uow: AsyncUnitOfWork) -> AsyncSchedulerRepository:
    return AsyncSchedulerRepository(uow.session)


async def test_a_task_is_created_with_its_next_slot(scheduler: AsyncSchedulerRepository) -> None:
    task, created = await scheduler.create("report", "report.run", "30 2 * * *", timezone=PRAGUE)
    assert created
    assert (task.name, task.command, task.schedule, task.timezone) == (
        "report",
        "report.run",
        "30 2 * * *",
        PRAGUE,
    )
    assert task.next_run_at is not None
    assert task.next_run_at > datetime.now(UTC) - timedelta(minutes=5)
    assert list(await scheduler.next_runs(task.id, count=3)) == list(
        cron.next_runs("30 2 * * *", PRAGUE, after=task.created_at, count=3)
    )
    assert await scheduler.next_runs(task.id, count=1) == [task.next_run_at]
    assert await scheduler.get(task.id) is task


async def test_a_known_key_becomes_what_is_declared_and_the_result_shows_it(
    scheduler: AsyncSchedulerRepository,
) -> None:
    task, created = await scheduler.create("report", "a", "0 * * * *", schedule_key="k")
    again, unchanged = await scheduler.create("report", "a", "0 * * * *", schedule_key="k")
    assert again is task
    before = task.next_run_at
    moved, updated = await scheduler.create("other", "b", "1 * * * *", schedule_key="k")
    assert (created, unchanged, updated) == (
        ScheduleOutcome.CREATED,
        ScheduleOutcome.UNCHANGED,
        ScheduleOutcome.UPDATED,
    )
    assert [bool(one) for one in (created, unchanged, updated)] == [True, False, False]
    assert [str(one) for one in (created, unchanged, updated)] == ["created", "unchanged", "updated"]
    assert (moved.id, moved.name, moved.command, moved.schedule) == (task.id, "other", "b", "1 * * * *")
    assert moved.next_run_at is not None
    assert (moved.next_run_at.minute, moved.next_run_at != before) == (1, True)
    assert await scheduler.get_by_key("k") is task
    assert await scheduler.get_by_key("l") is None
    other, created = await scheduler.create("report", "a", "0 * * * *")
    assert created
    assert other.id != task.id


CHANGES: dict[str, Any] = {
    "timezone": "Asia/Kathmandu",
    "schedule": "7 * * * *",
    "is_active": False,
    "max_retries": 9,
    "retry_delay": 9,
    "timeout": 9,
    "misfire_policy": MisfirePolicy.ALL,
    "misfire_grace_seconds": 9,
    "max_catchup": 9,
    "overlap_policy": OverlapPolicy.SKIP,
    "content": {"a": 1},
    "queue": "night",
    "priority": 5,
    "dedupe_key": "one",
}


async def test_no_argument_of_a_known_key_is_lost(scheduler: AsyncSchedulerRepository) -> None:
    parameters = inspect.signature(scheduler.create).parameters
    assert set(CHANGES) == set(parameters) - {"name", "command", "intent", "schedule_key"}
    for name, value in CHANGES.items():
        given = {"schedule": "0 12 * * *", name: value}
        key = f"k-{name}"
        task, _ = await scheduler.create("report", "a", "0 12 * * *", schedule_key=key)
        before = task.next_run_at
        assert getattr(task, name) != value
        changed, outcome = await scheduler.create("report", "a", schedule_key=key, **given)
        assert (changed.id, getattr(changed, name), outcome) == (task.id, value, ScheduleOutcome.UPDATED)
        assert (changed.next_run_at != before) == (name in ("timezone", "schedule", "is_active"))
        _, outcome = await scheduler.create("report", "a", schedule_key=key, **given)
        assert outcome is ScheduleOutcome.UNCHANGED


async def test_a_task_that_was_paused_is_not_resumed_by_declaring_it_again(
    scheduler: AsyncSchedulerRepository,
) -> None:
    task, _ = await scheduler.create("report", "a", "0 * * * *", schedule_key="k")
    await scheduler.pause(task.id)
    found, outcome = await scheduler.create("report", "a", "5 * * * *", schedule_key="k")
    assert (found.is_active, found.next_run_at, found.schedule) == (False, None, "5 * * * *")
    assert outcome is ScheduleOutcome.UPDATED
    found, outcome = await scheduler.create("report", "a", "5 * * * *", schedule_key="k", is_active=True)
    assert (found.is_active, outcome) == (True, ScheduleOutcome.UPDATED)
    assert found.next_run_at is not None


@pytest.mark.parametrize(
    "schedule", ["", "@reboot", "* * * * * *", "0 0 30 2 *", "61 * * * *", "'; --", "a\0"]
)
async def test_a_schedule_that_names_no_time_is_refused(
    scheduler: AsyncSchedulerRepository, schedule: str
) -> None:
    with pytest.raises(InvalidCron, match="schedule"):
        await scheduler.create("report", "report.run", schedule)
    task, _ = await scheduler.create("report", "report.run")
    with pytest.raises(InvalidCron, match="schedule"):
        await scheduler.update(task.id, schedule=schedule)
    assert (await executions_of(scheduler)) == []


async def test_a_time_zone_that_is_none_is_refused(scheduler: AsyncSchedulerRepository) -> None:
    for schedule in ("0 * * * *", None):
        with pytest.raises(InvalidCron, match="timezone: 'Mars/Olympus'"):
            await scheduler.create("report", "report.run", schedule, timezone="Mars/Olympus")
    task, _ = await scheduler.create("report", "report.run", "0 * * * *")
    with pytest.raises(InvalidCron, match="timezone"):
        await scheduler.update(task.id, timezone="Mars/Olympus")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_retries", -1),
        ("retry_delay", -1),
        ("timeout", 0),
        ("timeout", 2**40),
        ("misfire_grace_seconds", -1),
        ("max_catchup", 0),
        ("max_catchup", 1001),
    ],
)
async def test_a_setting_has_its_range(scheduler: AsyncSchedulerRepository, setting: str, value: int) -> None:
    values: Any = {setting: value}
    with pytest.raises(InvalidInputError, match=f"{setting}: expected"):
        await scheduler.create("report", "report.run", **values)
    task, _ = await scheduler.create("report", "report.run")
    with pytest.raises(InvalidInputError, match=f"{setting}: expected"):
        await scheduler.update(task.id, **values)


async def test_a_policy_is_one_of_its_members(scheduler: AsyncSchedulerRepository) -> None:
    with pytest.raises(InvalidInputError, match="expected one of skip, latest, all"):
        await scheduler.create("report", "report.run", misfire_policy="never")  # type: ignore[arg-type]


async def test_hostile_text_is_stored_unchanged(scheduler: AsyncSchedulerRepository) -> None:
    long = HOSTILE * 10_000
    task, _ = await scheduler.create(HOSTILE, long, schedule_key=HOSTILE)
    assert await scheduler.get_by_key(HOSTILE) is task
    await scheduler.trigger(task.id)
    (held,) = await scheduler.claim(HOSTILE)
    assert (held.name, held.command) == (HOSTILE, long)
    await scheduler.complete(held, output=long, error_output=HOSTILE)
    execution = await scheduler.get_execution(held.id)
    assert execution is not None
    assert (execution.output, execution.error_output, execution.worker_id) == (long, HOSTILE, HOSTILE)
    with pytest.raises(InvalidInputError, match="NUL"):
        await scheduler.create("a\0b", "c")


async def test_only_another_schedule_begins_now(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(scheduler, schedule="0 * * * *")
    due = task.next_run_at
    renamed = await scheduler.update(task.id, name="renamed", schedule="0 * * * *", timezone="UTC", timeout=5)
    assert (renamed.name, renamed.timeout, renamed.next_run_at) == ("renamed", 5, due)
    changed = await scheduler.update(task.id, schedule="30 * * * *")
    assert changed.next_run_at is not None
    assert changed.next_run_at > datetime.now(UTC) - timedelta(minutes=5)
    assert changed.next_run_at.minute == 30
    assert (await scheduler.tick()).created == []


async def test_another_time_zone_begins_now(scheduler: AsyncSchedulerRepository) -> None:
    task, _ = await scheduler.create("report", "report.run", "0 12 * * *", timezone="UTC")
    for zone in ("Asia/Tokyo", "America/New_York", "Pacific/Auckland"):
        changed = await scheduler.update(task.id, timezone=zone)
        assert changed.next_run_at is not None
        assert changed.next_run_at.astimezone(ZoneInfo(zone)).strftime("%H:%M") == "12:00"
        ahead = changed.next_run_at - datetime.now(UTC)
        assert timedelta(minutes=-1) < ahead <= timedelta(hours=25)


async def test_deactivation_beats_a_due_slot(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(scheduler)
    paused = await scheduler.pause(task.id)
    assert (paused.is_active, paused.next_run_at) == (False, None)
    assert (await scheduler.tick()).created == []
    await scheduler.pause(task.id)
    edited = await scheduler.update(task.id, schedule="* * * * *")
    assert edited.next_run_at is None


async def test_a_task_that_is_switched_off_by_other_means_is_not_run(
    scheduler: AsyncSchedulerRepository,
) -> None:
    await task_due(scheduler)
    await scheduler._session.execute(update(ScheduledTask).values(is_active=False))
    assert (await scheduler.tick()).created == []


async def test_a_task_is_moved_on_only_from_the_slot_that_was_seen(
    scheduler: AsyncSchedulerRepository,
) -> None:
    task = await task_due(scheduler)
    due = task.next_run_at
    assert due is not None
    later = due + timedelta(days=1)
    for seen in (later, None):
        assert (await scheduler._rows(queries.advance([task.id], [seen], [later]))) == []
    assert (await scheduler._rows(queries.advance([task.id], [due], [None]))) == [(task.id,)]
    assert (await scheduler._rows(queries.advance([task.id], [None], [later]))) == [(task.id,)]


async def test_resuming_goes_on_from_now(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(
        scheduler, timedelta(days=3), schedule="0 * * * *", misfire_policy=MisfirePolicy.ALL
    )
    await scheduler.pause(task.id)
    resumed = await scheduler.resume(task.id)
    assert resumed.is_active
    assert resumed.next_run_at is not None
    assert resumed.next_run_at > datetime.now(UTC) - timedelta(minutes=5)
    assert (await scheduler.tick()).created == []


async def test_resuming_what_runs_keeps_its_due_slot(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(scheduler)
    await scheduler.resume(task.id)
    assert len((await scheduler.tick()).created) == 1


async def test_a_paused_task_is_created_as_such(scheduler: AsyncSchedulerRepository) -> None:
    task, _ = await scheduler.create("report", "report.run", "* * * * *", is_active=False)
    assert task.next_run_at is None
    assert (await scheduler.tick()).created == []


async def test_an_unknown_task_is_one_clear_error(scheduler: AsyncSchedulerRepository) -> None:
    with pytest.raises(NotFoundError, match="scheduled task 0"):
        await scheduler.update(0, name="x")
    with pytest.raises(NotFoundError, match="scheduled task 0"):
        await scheduler.pause(0)
    with pytest.raises(NotFoundError, match="scheduled task 0"):
        await scheduler.resume(0)
    with pytest.raises(NotFoundError, match="scheduled task 0"):
        await scheduler.next_runs(0)
    with pytest.raises(NotFoundError, match="scheduled task 0"):
        await scheduler.trigger(0)
    assert await scheduler.get(0) is None
    assert await scheduler.get_execution(0) is None


async def test_pages_of_tasks_and_of_history_cover_everything_once(
    scheduler: AsyncSchedulerRepository,
) -> None:
    for number in range(5):
        await scheduler.create(f"t{number}", "c")
    names: list[str] = []
    after: str | None = None
    while True:
        page = await scheduler.list(after=after, limit=2)
        names += [task.name for task in page]
        after = page.next
        if after is None:
            break
    assert names == [f"t{number}" for number in range(5)]
    task = await task_due(
        scheduler, timedelta(hours=4, minutes=30), schedule="0 * * * *", misfire_policy=MisfirePolicy.ALL
    )
    await scheduler.tick()
    slots: list[datetime] = []
    while True:
        history = await scheduler.history(task.id, after=after, limit=2)
        slots += [execution.scheduled_at for execution in history]
        after = history.next
        if after is None:
            break
    assert len(slots) in (5, 6)
    assert slots == sorted(set(slots), reverse=True)
    with pytest.raises(InvalidInputError, match="limit"):
        await scheduler.history(task.id, limit=0)
    with pytest.raises(InvalidInputError, match="is not a cursor"):
        await scheduler.history(task.id, after="x")


async def test_two_callers_with_one_key_make_one_task(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        first, created = await AsyncSchedulerRepository(uow.session).create("a", "c", schedule_key="k")
    async with committed.begin() as uow:
        second, again = await AsyncSchedulerRepository(uow.session).create("b", "c", schedule_key="k")
    assert (created, again, first.id) == (ScheduleOutcome.CREATED, ScheduleOutcome.UPDATED, second.id)
