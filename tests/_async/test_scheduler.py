from __future__ import annotations

import inspect
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from _async.scheduled import all_executions, executions_of, set_next_run, task_due
from plans import Explain
from sqlalchemy import Select, func, insert, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import (
    AsyncDatabase,
    ExecutionStatus,
    MisfirePolicy,
    OverlapPolicy,
    ScheduledExecution,
    ScheduledTask,
    ScheduleOutcome,
    cron,
)
from alfred_db.errors import (
    ConflictError,
    InvalidCron,
    InvalidInputError,
    NotFoundError,
)
from alfred_db.queries import leases
from alfred_db.queries import scheduler as queries
from alfred_db.queries import scheduler_executions as executions
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.scheduler import AsyncSchedulerRepository

HOSTILE = "'; DROP TABLE scheduler_tasks; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


PRAGUE = "Europe/Prague"


@pytest.fixture
def scheduler(uow: AsyncUnitOfWork) -> AsyncSchedulerRepository:
    return AsyncSchedulerRepository(uow.session)


async def test_a_task_is_filed_with_its_next_slot(scheduler: AsyncSchedulerRepository) -> None:
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


async def test_a_known_key_becomes_what_is_declared_and_the_result_says_so(
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
}


async def test_no_argument_of_a_known_key_is_lost(scheduler: AsyncSchedulerRepository) -> None:
    parameters = inspect.signature(scheduler.create).parameters
    assert set(CHANGES) == set(parameters) - {"name", "command", "schedule_key"}
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


async def test_hostile_text_is_stored_as_it_is(scheduler: AsyncSchedulerRepository) -> None:
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
    assert (await scheduler.tick()).filed == []


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
    assert (await scheduler.tick()).filed == []
    await scheduler.pause(task.id)
    edited = await scheduler.update(task.id, schedule="* * * * *")
    assert edited.next_run_at is None


async def test_a_task_that_is_switched_off_by_other_means_is_not_run(
    scheduler: AsyncSchedulerRepository,
) -> None:
    await task_due(scheduler)
    await scheduler._session.execute(update(ScheduledTask).values(is_active=False))
    assert (await scheduler.tick()).filed == []


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
    assert (await scheduler.tick()).filed == []


async def test_resuming_what_runs_keeps_its_due_slot(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(scheduler)
    await scheduler.resume(task.id)
    assert len((await scheduler.tick()).filed) == 1


async def test_a_paused_task_is_filed_as_such(scheduler: AsyncSchedulerRepository) -> None:
    task, _ = await scheduler.create("report", "report.run", "* * * * *", is_active=False)
    assert task.next_run_at is None
    assert (await scheduler.tick()).filed == []


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


async def test_a_tick_files_the_slot_and_moves_on(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(scheduler)
    slot = task.next_run_at
    assert slot is not None
    tick = await scheduler.tick()
    (execution,) = await executions_of(scheduler)
    assert tick.filed == [execution.id]
    assert (tick.skipped, tick.invalid, tick.full) == (0, [], False)
    assert (execution.task_id, execution.scheduled_at, execution.status) == (
        task.id,
        slot,
        ExecutionStatus.PENDING,
    )
    moved = await scheduler.get(task.id)
    assert moved is not None
    assert moved.next_run_at is not None
    assert (moved.next_run_at.month, moved.next_run_at.day) == (2, 29)
    again = await scheduler.tick()
    assert (again.now, again.filed, again.full) == (None, [], False)


async def test_a_slot_that_is_filed_already_is_not_filed_again(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(scheduler)
    await scheduler.tick()
    await scheduler._session.execute(
        update(ScheduledTask).values(next_run_at=select(ScheduledExecution.scheduled_at).scalar_subquery())
    )
    assert (await scheduler.tick()).filed == []
    assert len(await executions_of(scheduler)) == 1
    moved = await scheduler.get(task.id)
    assert moved is not None
    assert moved.next_run_at is not None
    assert moved.next_run_at > datetime.now(UTC)


async def test_a_tick_takes_so_many_and_says_that_there_are_more(scheduler: AsyncSchedulerRepository) -> None:
    for _ in range(5):
        await task_due(scheduler)
    tick = await scheduler.tick(limit=3)
    assert (len(tick.filed), tick.full) == (3, True)
    tick = await scheduler.tick(limit=3)
    assert (len(tick.filed), tick.full) == (2, False)
    for limit in (0, 1001):
        with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
            await scheduler.tick(limit=limit)


async def test_downtime_per_policy(scheduler: AsyncSchedulerRepository) -> None:
    down = timedelta(hours=5, minutes=30)
    settings: dict[str, Any] = {"schedule": "0 * * * *", "misfire_grace_seconds": 0}
    skip = await task_due(scheduler, down, misfire_policy=MisfirePolicy.SKIP, **settings)
    latest = await task_due(scheduler, down, misfire_policy=MisfirePolicy.LATEST, **settings)
    every = await task_due(scheduler, down, misfire_policy=MisfirePolicy.ALL, **settings)
    some = await task_due(scheduler, down, misfire_policy=MisfirePolicy.ALL, max_catchup=2, **settings)
    await scheduler.tick()
    total = len((await scheduler.history(every.id)).items)
    assert total in (6, 7)  # the stored one, and the full hours since

    async def found(task: ScheduledTask) -> list[tuple[str, int]]:
        return [(str(row.status), row.missed_slots) for row in await scheduler.history(task.id)]

    assert await found(skip) == [("skipped", total - 1)]
    assert await found(latest) == [("pending", total - 1)]
    assert await found(every) == [("pending", 0)] * total
    assert await found(some) == [("pending", 0), ("pending", total - 2)]


async def test_slots_within_the_grace_are_late_and_not_missed(scheduler: AsyncSchedulerRepository) -> None:
    down = timedelta(minutes=4)
    for policy in MisfirePolicy:
        task = await task_due(
            scheduler, down, schedule="* * * * *", misfire_policy=policy, misfire_grace_seconds=600
        )
        await scheduler.tick()
        rows = list(await scheduler.history(task.id))
        assert len(rows) in (4, 5)
        assert [row.missed_slots for row in rows] == [0] * len(rows)


async def test_a_task_that_was_filed_by_other_means_is_taken_up(scheduler: AsyncSchedulerRepository) -> None:
    for values in ({"schedule": "*/5 * * * *"}, {"schedule": None}, {"schedule": "nonsense"}):
        await scheduler._session.execute(insert(ScheduledTask).values(name="raw", command="c", **values))
    tick = await scheduler.tick()
    assert tick.filed == []
    assert [found.reason.startswith("schedule: 'nonsense'") for found in tick.invalid] == [True]
    by_schedule = {task.schedule: task for task in await scheduler.list()}
    assert by_schedule["*/5 * * * *"].next_run_at is not None
    assert by_schedule[None].next_run_at is None
    assert by_schedule["nonsense"].id == tick.invalid[0].task_id


async def test_a_task_that_cannot_be_read_does_not_stop_the_others(
    scheduler: AsyncSchedulerRepository,
) -> None:
    broken = await task_due(scheduler)
    good = await task_due(scheduler)
    await scheduler._session.execute(
        update(ScheduledTask).where(ScheduledTask.id == broken.id).values(timezone="Mars/Olympus")
    )
    tick = await scheduler.tick()
    assert [(found.task_id, "Mars/Olympus" in found.reason) for found in tick.invalid] == [(broken.id, True)]
    assert [execution.task_id for execution in await executions_of(scheduler)] == [good.id]


@pytest.mark.parametrize(
    ("known", "bad"),
    [
        (True, {"timezone": "Mars/Olympus"}),
        (True, {"schedule": "0 0 30 2 *"}),
        (False, {"schedule": "nonsense"}),
    ],
    ids=["due", "due, no date", "without a next slot"],
)
async def test_tasks_that_cannot_be_read_take_no_place_of_others(
    scheduler: AsyncSchedulerRepository, bad: dict[str, str], known: bool
) -> None:
    """However many they are, and however long they have been due."""
    slot = datetime.now(UTC) - timedelta(days=9) if known else None
    rows = [{"name": "bad", "command": "c", "schedule": "* * * * *", "next_run_at": slot, **bad}] * 120
    await scheduler._session.execute(insert(ScheduledTask), rows)
    good = [await task_due(scheduler) for _ in range(5)]
    fresh = await scheduler._session.scalar(
        insert(ScheduledTask)
        .values(name="raw", command="c", schedule="* * * * *")
        .returning(ScheduledTask.id)
    )
    ticks = [await scheduler.tick(limit=4) for _ in range(3)]
    assert [len(tick.filed) for tick in ticks] == [4, 1, 0]
    assert [tick.full for tick in ticks] == [True, False, False], "the caller does not go on at once for ever"
    assert {one.task_id for one in await executions_of(scheduler)} == {task.id for task in good}
    assert len({found.task_id for found in ticks[2].invalid}) == 120
    taken = await scheduler.get(fresh or 0)
    assert taken is not None
    assert taken.next_run_at is not None


async def test_a_slot_that_python_cannot_read_stands_before_no_other(
    scheduler: AsyncSchedulerRepository,
) -> None:
    for slot in ("-infinity", "0044-03-15 BC"):
        broken, _ = await scheduler.create("report", "report.run", "* * * * *")
        await scheduler._session.execute(
            update(ScheduledTask)
            .where(ScheduledTask.id == broken.id)
            .values(next_run_at=literal_column(f"timestamptz '{slot}'"))
            .execution_options(synchronize_session=False)
        )
    good = await task_due(scheduler)
    assert len((await scheduler.tick()).filed) == 1
    assert [execution.task_id for execution in await executions_of(scheduler)] == [good.id]


async def test_what_must_not_overlap_is_skipped_while_one_is_live(
    scheduler: AsyncSchedulerRepository,
) -> None:
    task = await task_due(scheduler, overlap_policy=OverlapPolicy.SKIP)
    assert len((await scheduler.tick()).filed) == 1
    await set_next_run(scheduler._session, task.id, timedelta(0))
    tick = await scheduler.tick()
    assert (tick.filed, tick.skipped) == ([], 1)
    assert [row.status for row in await executions_of(scheduler)] == ["pending", "skipped"]
    with pytest.raises(ConflictError, match="is live"):
        await scheduler.trigger(task.id)
    (held,) = await scheduler.claim("w")
    assert (held.attempt, held.missed_slots) == (1, 0)
    await scheduler.complete(held)
    await scheduler.trigger(task.id)


async def test_of_missed_slots_that_must_not_overlap_one_is_run(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(
        scheduler,
        timedelta(hours=3, minutes=30),
        schedule="0 * * * *",
        misfire_policy=MisfirePolicy.ALL,
        overlap_policy=OverlapPolicy.SKIP,
    )
    tick = await scheduler.tick()
    rows = list(await scheduler.history(task.id))
    assert len(tick.filed) == 1
    assert tick.skipped == len(rows) - 1
    assert [str(row.status) for row in rows] == ["skipped"] * (len(rows) - 1) + ["pending"]


async def test_a_task_is_run_by_hand(scheduler: AsyncSchedulerRepository) -> None:
    task, _ = await scheduler.create("report", "report.run")
    assert (task.schedule, task.next_run_at) == (None, None)
    assert await scheduler.next_runs(task.id) == []
    await scheduler.pause(task.id)
    first = await scheduler.trigger(task.id)
    second = await scheduler.trigger(task.id)
    assert first.id != second.id
    assert first.scheduled_at < second.scheduled_at
    assert (await scheduler.tick()).filed == []


async def test_many_schedulers_file_each_slot_once(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        scheduler = AsyncSchedulerRepository(uow.session)
        for _ in range(23):
            await task_due(scheduler)
    async with (
        committed.session() as a,
        committed.session() as b,
        committed.session() as c,
        committed.session() as d,
        committed.session() as e,
    ):
        sessions = [a, b, c, d, e]
        ticks = [await AsyncSchedulerRepository(session).tick(limit=5) for session in sessions]
        assert [len(tick.filed) for tick in ticks] == [5, 5, 5, 5, 3]
        assert len({execution for tick in ticks for execution in tick.filed}) == 23
        for session in sessions:
            await session.commit()
    async with committed.session() as session:
        assert (await AsyncSchedulerRepository(session).tick()).filed == []
        assert len(await all_executions(session)) == 23


async def test_a_scheduler_that_dies_leaves_the_slot_to_the_next(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        task = await task_due(AsyncSchedulerRepository(uow.session))
    async with committed.session() as session:
        assert len((await AsyncSchedulerRepository(session).tick()).filed) == 1
        await session.rollback()
        scheduler = AsyncSchedulerRepository(session)
        left = await scheduler.get(task.id)
        assert left is not None
        assert left.next_run_at is not None
        assert left.next_run_at < datetime.now(UTC)
        assert await all_executions(session) == []
        assert len((await scheduler.tick()).filed) == 1


async def test_two_callers_with_one_key_make_one_task(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        first, created = await AsyncSchedulerRepository(uow.session).create("a", "c", schedule_key="k")
    async with committed.begin() as uow:
        second, again = await AsyncSchedulerRepository(uow.session).create("b", "c", schedule_key="k")
    assert (created, again, first.id) == (ScheduleOutcome.CREATED, ScheduleOutcome.UPDATED, second.id)


async def test_an_edit_and_a_tick_of_one_task_come_one_after_the_other(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        task = await task_due(AsyncSchedulerRepository(uow.session))
    async with committed.session() as editor, committed.session() as other:
        await AsyncSchedulerRepository(editor).update(task.id, schedule="0 0 1 1 *")
        assert (await AsyncSchedulerRepository(other).tick()).filed == []
        await editor.commit()
        await other.commit()
        assert (await AsyncSchedulerRepository(other).tick()).filed == []


CLAIM = {"worker": "w", "token": uuid.uuid4(), "lease": timedelta(seconds=60), "seconds": 60.0}
PLANS: dict[str, Any] = {
    "idx_scheduler_tasks_due": queries.due(limit=100, after=None),
    "idx_scheduler_tasks_due ": queries.unscheduled(limit=100, after=None),
    "idx_scheduler_executions_ready": executions.claim(limit=100),
    "idx_scheduler_executions_running": leases.reap(executions.EXECUTIONS, 100),
    "idx_scheduler_executions_finished": executions.purge(3600, limit=100),
}


@pytest.mark.parametrize("rows", [0, 10_000, 300_000])
async def test_the_hot_statements_have_their_index(
    uow: AsyncUnitOfWork, schema: str | None, rows: int
) -> None:
    session = uow.session
    await fill(session, rows if schema is None else min(rows, 10_000))
    await session.execute(text(f"ANALYZE {schema or 'public'}.scheduler_tasks"))
    await session.execute(text(f"ANALYZE {schema or 'public'}.scheduler_executions"))
    if rows == 0:  # an empty table is read as a whole unless that is forbidden
        await session.execute(text("SET LOCAL enable_seqscan = off"))
    for index, built in PLANS.items():
        statement = getattr(built, "built", built)  # the statement of SQLAlchemy, where the driver runs it
        selected = statement if isinstance(statement, Select) else select(statement.cte().c.id)
        given = {name: CLAIM[name] for name in CLAIM.keys() & selected.compile().params.keys()}
        plan = "\n".join(await session.scalars(Explain(selected), given))
        assert "Seq Scan on scheduler_" not in plan, plan
        assert rows == 0 or index.strip() in plan, plan


async def fill(session: AsyncSession, rows: int) -> None:
    """So many tasks, a tenth of them active and due, and executions, of which three in ten wait."""
    number = func.generate_series(1, rows).column_valued("number")
    task = {
        "id": number,
        "name": literal_column("'n'"),
        "command": literal_column("'c'"),
        "schedule": literal_column("'* * * * *'"),
        "is_active": number % 10 == 0,
        "next_run_at": literal_column("now() - number * interval '1 second'"),
    }
    await session.execute(insert(ScheduledTask).from_select([*task], select(*task.values())))
    execution = {
        "task_id": number,
        "status": literal_column(
            "CASE WHEN number % 10 < 3 THEN 'pending' WHEN number % 10 = 3 THEN 'running' ELSE 'completed' END"
        ),
        "end_time": literal_column("CASE WHEN number % 10 > 3 THEN now() - number * interval '1 second' END"),
        "scheduled_at": func.now(),
    }
    await session.execute(insert(ScheduledExecution).from_select([*execution], select(*execution.values())))
