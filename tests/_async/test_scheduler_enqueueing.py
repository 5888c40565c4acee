"""Schedules that enqueue a task for each slot, and schedules that an application declares."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
from _async.scheduled import executions_of, set_next_run
from sqlalchemy import select

from alfred_db import (
    ExecutionStatus,
    InvalidInputError,
    InvalidTransition,
    MisfirePolicy,
    NewSchedule,
    NotFoundError,
    OverlapPolicy,
    ScheduledTask,
    ScheduleOutcome,
    Task,
)
from alfred_db.errors import ConflictError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.scheduler import AsyncSchedulerRepository

RARE = "0 0 29 2 *"


@pytest.fixture
def scheduler(uow: AsyncUnitOfWork) -> AsyncSchedulerRepository:
    return AsyncSchedulerRepository(uow.session)


async def due(
    scheduler: AsyncSchedulerRepository, ago: timedelta = timedelta(seconds=1), **settings: Any
) -> ScheduledTask:
    task, _ = await scheduler.create("report", schedule=settings.pop("schedule", RARE), **settings)
    await set_next_run(scheduler._session, task.id, ago)
    return task


async def tasks(scheduler: AsyncSchedulerRepository) -> list[Task]:
    return list(await scheduler._session.scalars(select(Task).order_by(Task.id)))


async def test_a_slot_enqueues_a_task_once(scheduler: AsyncSchedulerRepository) -> None:
    schedule = await due(
        scheduler,
        intent="REPORT",
        content={"days": 7, "text": "\N{OWL}"},
        queue="night",
        priority=4,
        max_retries=1,
        timeout=60,
        schedule_key="nightly",
    )
    tick = await scheduler.tick()
    (task,) = await tasks(scheduler)
    (execution,) = await executions_of(scheduler)
    assert (tick.created, tick.enqueued, tick.skipped) == ([], [task.id], 0)
    assert (task.intent, task.content, task.queue) == ("REPORT", {"days": 7, "text": "\N{OWL}"}, "night")
    assert (task.priority, task.max_retries, task.timeout_seconds, task.dedupe_key) == (4, 1, 60, None)
    assert task.metadata_["schedule"] == "nightly"
    assert task.metadata_["scheduled_at"][:10] == execution.scheduled_at.isoformat()[:10]
    assert (execution.status, execution.enqueued_task_id) == (ExecutionStatus.COMPLETED, task.id)
    assert (execution.task_id, execution.exit_code) == (schedule.id, 0)
    await set_next_run(scheduler._session, schedule.id, timedelta(seconds=1))
    moved = await scheduler.get(schedule.id)
    assert moved is not None
    moved.next_run_at = execution.scheduled_at
    await scheduler._session.flush()
    assert (await scheduler.tick()).enqueued == [], "the slot is stored"
    assert len(await tasks(scheduler)) == 1
    assert await scheduler.claim("w", limit=10) == []


@pytest.mark.parametrize("key", [None, "mine"])
async def test_a_slot_is_skipped_while_a_task_of_an_earlier_one_is_live(
    scheduler: AsyncSchedulerRepository, key: str | None
) -> None:
    schedule = await due(scheduler, intent="REPORT", overlap_policy=OverlapPolicy.SKIP, dedupe_key=key)
    assert len((await scheduler.tick()).enqueued) == 1
    await set_next_run(scheduler._session, schedule.id, timedelta(seconds=-1))
    await set_next_run(scheduler._session, schedule.id, timedelta(seconds=0))
    again = await scheduler.tick()
    assert (again.enqueued, again.skipped) == ([], 1)
    assert [one.status for one in await executions_of(scheduler)] == ["completed", "skipped"]
    with pytest.raises(ConflictError, match="is live"):
        await scheduler.trigger(schedule.id)
    assert len(await executions_of(scheduler)) == 2, "nothing half-done is left"
    (task,) = await tasks(scheduler)
    task.status, task.completed_at = type(task.status)("completed"), task.created_at
    await scheduler._session.flush()
    assert (await scheduler.trigger(schedule.id)).enqueued_task_id is not None


async def test_missed_slots_follow_the_policy(scheduler: AsyncSchedulerRepository) -> None:
    hours = timedelta(hours=3, seconds=1)
    for policy, expected in ((MisfirePolicy.ALL, 4), (MisfirePolicy.LATEST, 1), (MisfirePolicy.SKIP, 0)):
        before = len(await tasks(scheduler))
        await due(scheduler, hours, schedule="@hourly", intent="REPORT", misfire_policy=policy)
        tick = await scheduler.tick()
        assert len(await tasks(scheduler)) - before == len(tick.enqueued)
        assert abs(len(tick.enqueued) - expected) <= 1


async def test_what_runs_a_schedule_is_either_a_command_or_an_intent(
    scheduler: AsyncSchedulerRepository,
) -> None:
    wrong: list[dict[str, Any]] = [{}, {"command": "c", "intent": "I"}]
    for both in wrong:
        with pytest.raises(InvalidInputError, match="either a `command`"):
            await scheduler.create("n", schedule=RARE, **both)
    task, _ = await scheduler.create("n", schedule=RARE, intent="I")
    assert (task.command, task.intent) == ("I", "I")
    changed = await scheduler.update(task.id, command="c")
    assert (changed.command, changed.intent) == ("c", None)
    with pytest.raises(InvalidInputError, match="priority: expected"):
        await scheduler.update(task.id, intent="I", priority=6)
    with pytest.raises(InvalidInputError, match="content"):
        await scheduler.create("n", schedule=RARE, intent="I", content={"a": float("nan")})


async def test_executions_that_wait_for_a_command_are_enqueued_once_an_intent_replaces_it(
    scheduler: AsyncSchedulerRepository,
) -> None:
    schedule, _ = await scheduler.create("n", "nobody runs this", RARE)
    for _ in range(8):
        await scheduler.trigger(schedule.id)
    await scheduler.update(schedule.id, intent="REPORT", content={"a": 1})
    assert [task.content for task in await tasks(scheduler)] == [{"a": 1}] * 8
    assert {one.status for one in await executions_of(scheduler)} == {ExecutionStatus.COMPLETED}


def declared(key: str, **settings: Any) -> NewSchedule:
    values = {"name": key, "schedule": RARE, "intent": "I", "schedule_key": key, **settings}
    return cast(NewSchedule, values)


async def test_an_application_declares_its_schedules(scheduler: AsyncSchedulerRepository) -> None:
    await scheduler.create("foreign", "c", "0 * * * *", schedule_key="foreign")
    await scheduler.declare("other", [declared("others")])
    created = await scheduler.declare("app", [declared("b"), declared("a", content={"x": 1})])
    assert created == {"a": ScheduleOutcome.CREATED, "b": ScheduleOutcome.CREATED}
    again = await scheduler.declare("app", [declared("a", content={"x": 2}), declared("b")])
    assert again == {"a": ScheduleOutcome.UPDATED, "b": ScheduleOutcome.UNCHANGED}
    removed = await scheduler.declare("app", [declared("a", content={"x": 2})])
    assert removed == {"a": ScheduleOutcome.UNCHANGED, "b": ScheduleOutcome.PAUSED}
    b = await scheduler.get_by_key("b")
    assert b is not None
    assert (b.is_active, b.next_run_at, b.withdrawn_at is None) == (False, None, False)
    assert await scheduler.declare("app", [declared("a", content={"x": 2})]) == {
        "a": ScheduleOutcome.UNCHANGED
    }
    await scheduler.declare("app", [declared("a"), declared("b")])
    b = await scheduler.get_by_key("b")
    assert b is not None
    assert (b.is_active, b.next_run_at is None, b.withdrawn_at) == (True, False, None)
    for key in ("foreign", "others"):
        kept = await scheduler.get_by_key(key)
        assert kept is not None
        assert kept.is_active
        with pytest.raises(ConflictError, match="another key"):
            await scheduler.declare("app", [declared(key)])


async def test_a_declared_schedule_that_somebody_paused_stays_paused(
    scheduler: AsyncSchedulerRepository,
) -> None:
    await scheduler.declare("app", [declared("a"), declared("b")])
    task = await scheduler.get_by_key("a")
    assert task is not None
    await scheduler.pause(task.id)
    await scheduler.declare("app", [declared("b")])
    await scheduler.declare("app", [declared("a", schedule="1 * * * *"), declared("b")])
    task = await scheduler.get_by_key("a")
    assert task is not None
    assert (task.is_active, task.schedule) == (False, "1 * * * *")


async def test_what_cannot_be_declared_is_refused_before_anything_is_written(
    scheduler: AsyncSchedulerRepository,
) -> None:
    wrong: list[Any] = [
        [declared("a"), declared("a")],
        [{"name": "n", "schedule": RARE}],
        [declared("a", other=1)],
        [declared("a", intent=None)],
        [declared("a"), declared("b", timeout=0)],
    ]
    for schedules in wrong:
        with pytest.raises(InvalidInputError):
            await scheduler.declare("app", schedules)
    assert (await scheduler.list()).items == []


async def test_a_schedule_is_deleted_with_its_history(scheduler: AsyncSchedulerRepository) -> None:
    schedule, _ = await scheduler.create("n", "c", RARE)
    for _ in range(3):
        await scheduler.trigger(schedule.id)
    (running,) = await scheduler.claim("w")
    with pytest.raises(InvalidTransition, match="is running"):
        await scheduler.delete(schedule.id)
    await scheduler.complete(running)
    assert await scheduler.delete(schedule.id, limit=2) == 2
    assert await scheduler.delete(schedule.id, limit=2) == 1
    assert await scheduler.get(schedule.id) is None
    with pytest.raises(NotFoundError):
        await scheduler.delete(schedule.id)


async def test_a_claim_takes_the_commands_that_it_names(scheduler: AsyncSchedulerRepository) -> None:
    for command in ("a", "b", "c"):
        schedule, _ = await scheduler.create(command, command, RARE)
        await scheduler.trigger(schedule.id)
    assert {one.command for one in await scheduler.claim("w", limit=9, commands=["a", "c", "d"])} == {
        "a",
        "c",
    }
    assert [one.command for one in await scheduler.claim("w", limit=9)] == ["b"]


async def test_a_failure_can_be_final(scheduler: AsyncSchedulerRepository) -> None:
    schedule, _ = await scheduler.create("n", "c", RARE, max_retries=5)
    await scheduler.trigger(schedule.id)
    (claimed,) = await scheduler.claim("w")
    assert await scheduler.fail(claimed, "no", retry=False) is ExecutionStatus.FAILED
