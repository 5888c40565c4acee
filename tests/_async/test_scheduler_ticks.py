from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from _async.scheduled import all_executions, executions_of, set_next_run, task_due
from sqlalchemy import insert, literal_column, select, update

from alfred_db import (
    AsyncDatabase,
    ExecutionStatus,
    MisfirePolicy,
    OverlapPolicy,
    ScheduledExecution,
    ScheduledTask,
)
from alfred_db.errors import (
    ConflictError,
    InvalidInputError,
)
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.scheduler import AsyncSchedulerRepository

PRAGUE = "Europe/Prague"


@pytest.fixture
def scheduler(uow: AsyncUnitOfWork) -> AsyncSchedulerRepository:
    return AsyncSchedulerRepository(uow.session)


async def test_a_tick_creates_the_execution_and_moves_on(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(scheduler)
    slot = task.next_run_at
    assert slot is not None
    tick = await scheduler.tick()
    (execution,) = await executions_of(scheduler)
    assert tick.created == [execution.id]
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
    assert (again.now, again.created, again.full) == (None, [], False)


async def test_a_slot_with_an_execution_gets_no_other(scheduler: AsyncSchedulerRepository) -> None:
    task = await task_due(scheduler)
    await scheduler.tick()
    await scheduler._session.execute(
        update(ScheduledTask).values(next_run_at=select(ScheduledExecution.scheduled_at).scalar_subquery())
    )
    assert (await scheduler.tick()).created == []
    assert len(await executions_of(scheduler)) == 1
    moved = await scheduler.get(task.id)
    assert moved is not None
    assert moved.next_run_at is not None
    assert moved.next_run_at > datetime.now(UTC)


async def test_a_tick_has_a_limit_and_reports_that_more_are_due(scheduler: AsyncSchedulerRepository) -> None:
    for _ in range(5):
        await task_due(scheduler)
    tick = await scheduler.tick(limit=3)
    assert (len(tick.created), tick.full) == (3, True)
    tick = await scheduler.tick(limit=3)
    assert (len(tick.created), tick.full) == (2, False)
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


async def test_a_task_that_was_created_by_other_means_is_taken_up(
    scheduler: AsyncSchedulerRepository,
) -> None:
    for values in ({"schedule": "*/5 * * * *"}, {"schedule": None}, {"schedule": "nonsense"}):
        await scheduler._session.execute(insert(ScheduledTask).values(name="raw", command="c", **values))
    tick = await scheduler.tick()
    assert tick.created == []
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
        .values(name="raw", command="c", schedule="0 0 1 1 *")  # not due when a minute begins meanwhile
        .returning(ScheduledTask.id)
    )
    ticks = [await scheduler.tick(limit=4) for _ in range(3)]
    assert [len(tick.created) for tick in ticks] == [4, 1, 0]
    assert [tick.full for tick in ticks] == [True, False, False], "the caller does not go on at once for ever"
    assert {one.task_id for one in await executions_of(scheduler)} == {task.id for task in good}
    assert len({found.task_id for found in ticks[2].invalid}) == 120
    taken = await scheduler.get(fresh or 0)
    assert taken is not None
    assert taken.next_run_at is not None


async def test_a_slot_that_python_cannot_read_stands_before_no_other(
    scheduler: AsyncSchedulerRepository,
) -> None:
    for slot in ("-infinity", "0044-03-15 BC", "0001-06-01"):
        broken, _ = await scheduler.create("report", "report.run", "* * * * *")
        await scheduler._session.execute(
            update(ScheduledTask)
            .where(ScheduledTask.id == broken.id)
            .values(next_run_at=literal_column(f"timestamptz '{slot}'"))
            .execution_options(synchronize_session=False)
        )
    good = await task_due(scheduler)
    assert len((await scheduler.tick()).created) == 1
    assert [execution.task_id for execution in await executions_of(scheduler)] == [good.id]


async def test_what_must_not_overlap_is_skipped_while_one_is_live(
    scheduler: AsyncSchedulerRepository,
) -> None:
    task = await task_due(scheduler, overlap_policy=OverlapPolicy.SKIP)
    assert len((await scheduler.tick()).created) == 1
    await set_next_run(scheduler._session, task.id, timedelta(0))
    tick = await scheduler.tick()
    assert (tick.created, tick.skipped) == ([], 1)
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
    assert len(tick.created) == 1
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
    assert (await scheduler.tick()).created == []


async def test_many_schedulers_create_each_execution_once(committed: AsyncDatabase) -> None:
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
        assert [len(tick.created) for tick in ticks] == [5, 5, 5, 5, 3]
        assert len({execution for tick in ticks for execution in tick.created}) == 23
        for session in sessions:
            await session.commit()
    async with committed.session() as session:
        assert (await AsyncSchedulerRepository(session).tick()).created == []
        assert len(await all_executions(session)) == 23


async def test_a_scheduler_that_dies_leaves_the_slot_to_the_next(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        task = await task_due(AsyncSchedulerRepository(uow.session))
    async with committed.session() as session:
        assert len((await AsyncSchedulerRepository(session).tick()).created) == 1
        await session.rollback()
        scheduler = AsyncSchedulerRepository(session)
        left = await scheduler.get(task.id)
        assert left is not None
        assert left.next_run_at is not None
        assert left.next_run_at < datetime.now(UTC)
        assert await all_executions(session) == []
        assert len((await scheduler.tick()).created) == 1


async def test_an_edit_and_a_tick_of_one_task_come_one_after_the_other(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        task = await task_due(AsyncSchedulerRepository(uow.session))
    async with committed.session() as editor, committed.session() as other:
        await AsyncSchedulerRepository(editor).update(task.id, schedule="0 0 1 1 *")
        assert (await AsyncSchedulerRepository(other).tick()).created == []
        await editor.commit()
        await other.commit()
        assert (await AsyncSchedulerRepository(other).tick()).created == []
