"""Ageing, purging, and the health of the queue."""

from __future__ import annotations

import pytest
from _async.held_tasks import ago, claimed, failed, set_columns
from sqlalchemy import func, select, text, update

from alfred_db import AsyncDatabase, Task, TaskResult, TaskStatus
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.tasks import AsyncTaskRepository


@pytest.fixture
def tasks(uow: AsyncUnitOfWork) -> AsyncTaskRepository:
    return AsyncTaskRepository(uow.session)


async def test_what_waits_long_becomes_more_urgent(tasks: AsyncTaskRepository) -> None:
    session = tasks._session
    old, _ = await tasks.enqueue("old", priority=3)
    top, _ = await tasks.enqueue("top", priority=5)
    future, _ = await tasks.enqueue("future", delay=100)
    new, _ = await tasks.enqueue("new")
    for task in (old, top):
        await set_columns(session, task.id, available_at=await ago(session, 61))
    assert await tasks.age(after=60) == 0, "it was raised a moment ago"
    await session.execute(update(Task).values(updated_at=await ago(session, 61)))
    assert await tasks.age(after=60) == 1
    assert await tasks.age(after=60) == 0, "one level for each minute"
    await session.execute(update(Task).values(updated_at=await ago(session, 61)))
    assert await tasks.age(after=60) == 1
    for task, priority in ((old, 5), (top, 5), (future, 1), (new, 1)):
        await session.refresh(task)
        assert task.priority == priority
    then = await ago(session, 61)
    await session.execute(update(Task).values(available_at=then, updated_at=then))
    assert await tasks.age(after=60, limit=1) == 1
    with pytest.raises(InvalidInputError, match="after: expected 0 to"):
        await tasks.age(after=-1)


async def test_ageing_ends_starvation(tasks: AsyncTaskRepository) -> None:
    starving, _ = await tasks.enqueue("low", priority=1)
    await set_columns(tasks._session, starving.id, available_at=await ago(tasks._session, 1000))
    for aged in (False, True):
        taken: list[str] = []
        for _ in range(6):
            await tasks.enqueue("high", priority=5)
            if aged:
                await tasks._session.execute(update(Task).values(updated_at=await ago(tasks._session, 61)))
                await tasks.age(after=60)
            taken += [task.intent for task in await tasks.claim(worker="w")]
        assert ("low" in taken) is aged


async def test_purging_takes_leaves_before_their_parents(tasks: AsyncTaskRepository) -> None:
    session = tasks._session
    root, _ = await tasks.enqueue("root", task_id="root")
    leaf = await claimed(tasks, parent_task_id=root.id)
    await tasks.complete(leaf, [{"result_type": "r", "content": {}}])
    await tasks.cancel(root.id)
    live, _ = await tasks.enqueue("live")
    recent = await failed(tasks)
    then = await ago(session, 100)
    await set_columns(session, root.id, cancelled_at=then)
    await set_columns(session, leaf.id, completed_at=then)
    assert await tasks.purge(older_than=1000) == 0
    assert await tasks.purge(older_than=99, status=TaskStatus.CANCELLED) == 0, "its leaf is there"
    assert await tasks.purge(older_than=99) == 2, "the tree as a whole"
    assert await session.scalar(select(func.count()).select_from(TaskResult)) == 0
    assert await tasks.purge(older_than=99) == 0
    assert {task.id for task in await tasks.list()} == {live.id, recent}
    await set_columns(session, recent, failed_at=then)
    assert await tasks.purge(older_than=99, status=TaskStatus.FAILED) == 1


async def test_purging_goes_in_batches_and_checks_its_input(tasks: AsyncTaskRepository) -> None:
    for _ in range(3):
        await failed(tasks)
    await tasks._session.execute(update(Task).values(failed_at=await ago(tasks._session, 100)))
    assert [await tasks.purge(older_than=99, limit=2) for _ in range(3)] == [2, 1, 0]
    with pytest.raises(InvalidInputError, match="older_than: expected 0 to"):
        await tasks.purge(older_than=-1)
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 10,000"):
        await tasks.purge(older_than=1, limit=10_001)
    with pytest.raises(InvalidInputError, match="TaskStatus: expected one of"):
        await tasks.purge(older_than=1, status="asleep")  # type: ignore[arg-type]


async def test_purging_passes_over_what_another_transaction_holds(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        tasks = AsyncTaskRepository(uow.session)
        ids = [await failed(tasks) for _ in range(2)]
        await uow.session.execute(update(Task).values(failed_at=await ago(uow.session, 100)))
    async with committed.session() as one, committed.begin() as two:
        await AsyncTaskRepository(one).requeue(ids[0])
        assert await AsyncTaskRepository(two.session).purge(older_than=10) == 1


async def test_the_health_of_the_queue(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        tasks = AsyncTaskRepository(uow.session)
        empty = await tasks.queue_health()
        assert (empty.ready, empty.oldest_ready_age, empty.running, empty.failed) == (0, None, 0, 0)
        await failed(tasks)
        await claimed(tasks)
        expired = await claimed(tasks)
        await set_columns(uow.session, expired.id, lease_expires_at=await ago(uow.session, 1))
        await tasks.enqueue("future", delay=100, priority=5)
        await tasks.enqueue("new", priority=4)
        old, _ = await tasks.enqueue("old")
        await set_columns(uow.session, old.id, available_at=await ago(uow.session, 50))
    async with committed.session() as holder, committed.begin() as uow:
        await holder.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        pid = await holder.scalar(text("SELECT pg_backend_pid() FROM pg_class LIMIT 1"))
        health = await AsyncTaskRepository(uow.session).queue_health()
        assert (health.ready, health.running, health.expired, health.failed) == (2, 2, 1, 1)
        assert health.oldest_ready_age is not None
        assert 50 <= health.oldest_ready_age < 60
        assert health.dead_tuples >= 0
        assert (health.oldest_snapshot_pid, health.oldest_snapshot_application) == (pid, "alfred-db")
        assert health.oldest_snapshot_age is not None
        assert 0 <= health.oldest_snapshot_age < 10


async def test_the_health_of_a_long_queue_is_counted_up_to_a_bound(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many([{"intent": "x", "priority": 1 + number % 5} for number in range(10_050)])
    assert (await tasks.queue_health()).ready == 10_000
