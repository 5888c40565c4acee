from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from _async.scheduled import executions_of, task_due
from sqlalchemy import func, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import (
    AsyncDatabase,
    ExecutionStatus,
    ScheduledExecution,
)
from alfred_db.errors import (
    InvalidInputError,
    InvalidTransition,
    LeaseLost,
    NotFoundError,
)
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.scheduler import AsyncSchedulerRepository
from alfred_db.values.scheduler import ClaimedExecution


@pytest.fixture
def scheduler(uow: AsyncUnitOfWork) -> AsyncSchedulerRepository:
    return AsyncSchedulerRepository(uow.session)


async def claimed(scheduler: AsyncSchedulerRepository, **settings: Any) -> ClaimedExecution:
    """An execution of a new task that a worker holds."""
    task, _ = await scheduler.create("report", "report.run", "0 0 29 2 *", **settings)
    await scheduler.trigger(task.id)
    (held,) = await scheduler.claim("worker")
    return held


async def expire(session: AsyncSession, execution_id: int, column: str = "lease_expires_at") -> None:
    past = func.now() - timedelta(seconds=1)
    await session.execute(
        update(ScheduledExecution).where(ScheduledExecution.id == execution_id).values({column: past})
    )


async def make_ready(session: AsyncSession) -> None:
    await session.execute(update(ScheduledExecution).values(available_at=func.now()))


async def test_an_execution_is_claimed_run_and_finished(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler, timeout=120, max_retries=2)
    assert (held.name, held.command, held.attempt, held.max_retries) == ("report", "report.run", 1, 2)
    execution = await scheduler.get_execution(held.id)
    assert execution is not None
    assert execution.status is ExecutionStatus.RUNNING
    assert execution.attempt_started_at is not None
    assert execution.start_time == execution.attempt_started_at
    assert held.attempt_deadline_at - execution.attempt_started_at == timedelta(seconds=120)
    assert held.lease_expires_at - execution.attempt_started_at == timedelta(seconds=60)
    status = await scheduler.complete(held, output="done", error_output="warned")
    assert status is ExecutionStatus.COMPLETED
    execution = await scheduler.get_execution(held.id)
    assert execution is not None
    assert (execution.exit_code, execution.output, execution.error_output) == (0, "done", "warned")
    assert execution.end_time is not None
    assert execution.lease_expires_at is None


async def test_the_end_can_be_reported_twice_but_not_by_another(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler)
    for _ in range(2):
        assert await scheduler.complete(held) is ExecutionStatus.COMPLETED
    with pytest.raises(LeaseLost, match=f"execution {held.id}: lease lost"):
        await scheduler.complete(held._replace(lease_token=uuid.uuid4()))
    with pytest.raises(LeaseLost):
        await scheduler.fail(held, "late")
    with pytest.raises(LeaseLost):
        await scheduler.complete(held._replace(id=0))


async def test_a_failed_attempt_is_made_again_after_the_delay(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler, max_retries=1, retry_delay=60)
    for _ in range(2):
        status = await scheduler.fail(held, "boom", exit_code=3, output="half")
        assert status is ExecutionStatus.PENDING
    execution = await scheduler.get_execution(held.id)
    assert execution is not None
    assert (execution.retry_count, execution.exit_code, execution.error_code) == (1, 3, "handler")
    assert (execution.error_output, execution.output, execution.end_time) == ("boom", "half", None)
    assert timedelta(seconds=50) < execution.available_at - datetime.now(UTC) <= timedelta(seconds=61)
    assert await scheduler.claim("w") == []
    await make_ready(scheduler._session)
    (second,) = await scheduler.claim("w")
    assert (second.id, second.attempt) == (held.id, 2)
    assert second.lease_token != held.lease_token
    assert second.claim_seq == held.claim_seq + 1
    assert await scheduler.complete(second, exit_code=4) is ExecutionStatus.FAILED
    execution = await scheduler.get_execution(held.id)
    assert execution is not None
    assert (execution.retry_count, execution.exit_code) == (1, 4)
    assert execution.end_time is not None
    assert execution.start_time is not None
    assert execution.attempt_started_at is not None
    assert execution.start_time < execution.attempt_started_at
    assert len(await executions_of(scheduler)) == 1


@pytest.mark.parametrize("max_retries", [0, 1, 3])
async def test_no_more_attempts_are_made_than_allowed(
    scheduler: AsyncSchedulerRepository, max_retries: int
) -> None:
    held = await claimed(scheduler, max_retries=max_retries, retry_delay=0)
    for _ in range(max_retries):
        assert await scheduler.fail(held) is ExecutionStatus.PENDING
        (held,) = await scheduler.claim("w")
    assert held.attempt == max_retries + 1
    assert await scheduler.fail(held) is ExecutionStatus.FAILED


async def test_a_worker_that_lost_its_lease_is_refused(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler, retry_delay=0)
    await expire(scheduler._session, held.id)
    assert await scheduler.reap() == {held.id: ExecutionStatus.PENDING}
    assert await scheduler.reap() == {}
    (second,) = await scheduler.claim("other")
    assert (second.id, second.crash_count, second.retry_count, second.attempt) == (held.id, 1, 0, 2)
    for _ in range(2):
        with pytest.raises(LeaseLost):
            await scheduler.complete(held, output="stale")
        with pytest.raises(LeaseLost):
            await scheduler.fail(held)
        with pytest.raises(LeaseLost):
            await scheduler.start(held)
        with pytest.raises(LeaseLost):
            await scheduler.release(held)
        assert await scheduler.heartbeat_many([held]) == []
    assert await scheduler.complete(second, output="fresh") is ExecutionStatus.COMPLETED
    execution = await scheduler.get_execution(held.id)
    assert execution is not None
    assert execution.output == "fresh"


async def test_a_timeout_ends_an_attempt_that_still_beats(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler, max_retries=1, retry_delay=0)
    await expire(scheduler._session, held.id, "attempt_deadline_at")
    await scheduler.heartbeat(held)
    assert await scheduler.reap() == {held.id: ExecutionStatus.PENDING}
    execution = await scheduler.get_execution(held.id)
    assert execution is not None
    assert (execution.error_code, execution.retry_count, execution.crash_count) == ("timeout", 1, 0)
    (second,) = await scheduler.claim("w")
    await expire(scheduler._session, second.id)
    assert await scheduler.reap() == {held.id: ExecutionStatus.FAILED}
    execution = await scheduler.get_execution(held.id)
    assert execution is not None
    assert (execution.error_code, execution.retry_count, execution.crash_count) == ("lease_lost", 1, 1)


async def test_what_kills_its_worker_each_time_ends_failed(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler, max_retries=3, retry_delay=0)
    seen: list[str] = []
    for _ in range(4):
        await expire(scheduler._session, held.id)
        seen.append((await scheduler.reap())[held.id])
        await scheduler.claim("w")
    assert seen == ["pending", "pending", "pending", "failed"]


async def test_the_attempt_can_be_counted_from_its_start(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler, timeout=120)
    await expire(scheduler._session, held.id, "attempt_deadline_at")
    started = await scheduler.start(held)
    assert started.attempt_deadline_at > held.attempt_deadline_at
    assert await scheduler.reap() == {}


async def test_a_heartbeat_extends_what_is_held(scheduler: AsyncSchedulerRepository) -> None:
    task, _ = await scheduler.create("report", "report.run")
    for _ in range(3):
        await scheduler.trigger(task.id)
    held = await scheduler.claim("w", limit=3, lease=10)
    await scheduler.complete(held[2])
    beat = await scheduler.heartbeat_many([*reversed(held), held[0]._replace(id=0)], lease=100)
    assert [found.id for found in beat] == [held[1].id, held[0].id]
    assert all(found.lease_expires_at > held[0].lease_expires_at for found in beat)
    assert all(found.held_until > held[0].held_until for found in beat)
    assert [(found.lease, found.cancel_requested, found.is_over) for found in beat] == [
        (100, False, False)
    ] * 2
    assert await scheduler.heartbeat_many([]) == []
    with pytest.raises(LeaseLost):
        await scheduler.heartbeat(held[2])


async def test_heartbeats_stay_on_their_page(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        held = await claimed(AsyncSchedulerRepository(uow.session))
    for _ in range(20):
        async with committed.begin() as uow:
            assert await AsyncSchedulerRepository(uow.session).heartbeat(held)
            await uow.session.execute(text("SELECT pg_stat_force_next_flush()"))
    await committed.close()  # a session reports its statistics at its end at the latest
    name = "scheduler_executions" if committed.schema is None else f"{committed.schema}.scheduler_executions"
    statement = text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass(:name)"
    )
    async with committed.session() as session:
        written, hot = (await session.execute(statement, {"name": name})).one()
    assert written == 21, "the claim is one too"
    assert hot >= 16


async def test_what_is_released_can_be_claimed_at_once(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler)
    assert await scheduler.release(held) is ExecutionStatus.PENDING
    assert await scheduler.release(held) is ExecutionStatus.PENDING, "to repeat it changes nothing"
    (again,) = await scheduler.claim("w")
    assert (again.id, again.attempt) == (held.id, 1)
    with pytest.raises(LeaseLost):
        await scheduler.release(held)
    await scheduler.cancel(again.id)
    assert await scheduler.release(again) is ExecutionStatus.CANCELLED


async def test_an_execution_that_waits_is_cancelled_at_once(scheduler: AsyncSchedulerRepository) -> None:
    task, _ = await scheduler.create("report", "report.run")
    execution = await scheduler.trigger(task.id)
    for _ in range(2):
        assert await scheduler.cancel(execution.id) is ExecutionStatus.CANCELLED
    assert await scheduler.claim("w") == []
    with pytest.raises(NotFoundError, match="execution 0"):
        await scheduler.cancel(0)


async def test_the_holder_of_a_cancelled_execution_is_notified(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler)
    assert await scheduler.cancel(held.id) is ExecutionStatus.RUNNING
    assert (await scheduler.heartbeat(held)).cancel_requested
    asked = (await scheduler.get_execution(held.id)).cancel_requested_at  # type: ignore[union-attr]
    assert await scheduler.cancel(held.id) is ExecutionStatus.RUNNING
    assert (await scheduler.heartbeat(held)).cancel_requested
    assert (await scheduler.get_execution(held.id)).cancel_requested_at == asked  # type: ignore[union-attr]
    assert await scheduler.fail(held) is ExecutionStatus.CANCELLED
    assert await scheduler.fail(held) is ExecutionStatus.CANCELLED
    assert await scheduler.claim("w") == []


async def test_a_cancelled_execution_whose_worker_vanished_is_cancelled(
    scheduler: AsyncSchedulerRepository,
) -> None:
    held = await claimed(scheduler)
    await scheduler.cancel(held.id)
    await expire(scheduler._session, held.id)
    assert await scheduler.reap() == {held.id: ExecutionStatus.CANCELLED}


async def test_who_finished_first_is_not_cancelled(scheduler: AsyncSchedulerRepository) -> None:
    held = await claimed(scheduler)
    await scheduler.cancel(held.id)
    assert await scheduler.complete(held) is ExecutionStatus.COMPLETED
    with pytest.raises(InvalidTransition, match="is completed and cannot be cancelled"):
        await scheduler.cancel(held.id)


async def test_two_workers_claim_different_executions(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        scheduler = AsyncSchedulerRepository(uow.session)
        task, _ = await scheduler.create("report", "report.run")
        for _ in range(10):
            await scheduler.trigger(task.id)
    async with committed.session() as a, committed.session() as b:
        first = await AsyncSchedulerRepository(a).claim("a", limit=6)
        second = await AsyncSchedulerRepository(b).claim("b", limit=6)
        assert (len(first), len(second)) == (6, 4)
        assert not {held.id for held in first} & {held.id for held in second}
        assert [held.scheduled_at for held in first] == sorted(held.scheduled_at for held in first)
        await a.rollback()
        assert len(await AsyncSchedulerRepository(b).claim("b", limit=10)) == 6


async def test_two_reapers_take_different_executions(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        scheduler = AsyncSchedulerRepository(uow.session)
        task, _ = await scheduler.create("report", "report.run")
        for _ in range(6):
            await scheduler.trigger(task.id)
        alive, *held = await scheduler.claim("w", limit=6)
        for lost in held:
            await expire(uow.session, lost.id)
    async with committed.session() as a, committed.session() as b:
        first = await AsyncSchedulerRepository(a).reap(limit=3)
        second = await AsyncSchedulerRepository(b).reap(limit=3)
        assert (len(first), len(second)) == (3, 2)
        assert set(first) | set(second) == {lost.id for lost in held}
        assert alive.id not in {*first, *second}


async def test_a_task_can_be_claimed_while_an_execution_of_it_is_created(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        task = await task_due(AsyncSchedulerRepository(uow.session))
    async with committed.session() as by_hand, committed.session() as other:
        await AsyncSchedulerRepository(by_hand).trigger(task.id)
        assert len((await AsyncSchedulerRepository(other).tick()).created) == 1


@pytest.mark.parametrize(("limit", "lease"), [(0, 60), (1001, 60), (1, 0), (1, -1), (1, 1e12)])
async def test_a_claim_has_a_sane_size(scheduler: AsyncSchedulerRepository, limit: int, lease: float) -> None:
    with pytest.raises(InvalidInputError, match=r"limit: expected|lease: expected"):
        await scheduler.claim("w", limit=limit, lease=lease)


async def test_old_executions_are_purged_and_live_ones_are_not(scheduler: AsyncSchedulerRepository) -> None:
    task, _ = await scheduler.create("report", "report.run")
    for _ in range(4):
        await scheduler.trigger(task.id)
    for held in await scheduler.claim("w", limit=3):
        await scheduler.complete(held)
    assert await scheduler.purge(older_than=3600) == 0
    await scheduler._session.execute(
        update(ScheduledExecution)
        .where(ScheduledExecution.end_time.is_not(None))
        .values(end_time=func.now() - timedelta(hours=2))
    )
    assert await scheduler.purge(older_than=3600, limit=2) == 2
    assert await scheduler.purge(older_than=3600) == 1
    assert [row.status for row in await executions_of(scheduler)] == ["pending"]
    with pytest.raises(InvalidInputError, match="older_than"):
        await scheduler.purge(older_than=-1)
