from __future__ import annotations

import uuid
from typing import Any

import pytest
from _async.held_tasks import set_columns
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from alfred_db import AsyncDatabase, Task, TaskStatus
from alfred_db.errors import ConfigurationError, InvalidInputError, NotFoundError
from alfred_db.models.tasks import WAITING
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.tasks import AsyncTaskRepository
from alfred_db.values.tasks import ClaimedTask, NewTask, TaskBackoff

AT_ONCE = TaskBackoff(base=0, cap=0, jitter=0)
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


@pytest.fixture
def tasks(uow: AsyncUnitOfWork) -> AsyncTaskRepository:
    return AsyncTaskRepository(uow.session)


async def names(tasks: AsyncTaskRepository, *, limit: int = 100) -> list[str]:
    """The `task_id` of the tasks that can be claimed, claimed and completed."""
    claimed = await tasks.claim("w", limit=limit)
    await tasks.complete_many(claimed)
    return [one.task_id for one in claimed]


async def one(tasks: AsyncTaskRepository, name: str) -> ClaimedTask:
    """The one task that can be claimed."""
    (claimed,) = await tasks.claim("w", limit=100)
    assert claimed.task_id == name
    return claimed


async def found(tasks: AsyncTaskRepository, name: str) -> Task:
    task = await tasks.get_by_task_id(name)
    assert task is not None
    return task


# Order per key


async def test_tasks_of_a_key_run_one_after_the_other(tasks: AsyncTaskRepository) -> None:
    for name in "abc":
        task, _ = await tasks.enqueue("x", task_id=name, ordering_key="k", priority=5 if name == "c" else 1)
        assert (task.awaits_turn, task.available_at == WAITING) == (name != "a",) * 2
    await tasks.enqueue("x", task_id="other", ordering_key="l")
    assert await names(tasks) == ["a", "other"]
    assert [await names(tasks), await names(tasks), await names(tasks)] == [["b"], ["c"], []]


@pytest.mark.parametrize("count", [6, 1200])
async def test_the_order_of_a_key_holds_within_one_call(tasks: AsyncTaskRepository, count: int) -> None:
    await tasks.enqueue("x", task_id="first", ordering_key="1")
    many = [NewTask(intent="x", task_id=f"{place:04}", ordering_key=str(place % 3)) for place in range(count)]
    filed = await tasks.enqueue_many(many)
    assert all(created for _, created in filed)
    assert sorted(await names(tasks)) == ["0000", "0002", "first"]
    assert sorted(await names(tasks)) == ["0001", "0003", "0005"]
    if count == 6:
        assert await names(tasks) == ["0004"]


async def test_a_retry_is_not_overtaken(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many([NewTask(intent="x", task_id=name, ordering_key="k") for name in "ab"])
    held = await one(tasks, "a")
    assert await tasks.fail(held, "again", backoff=AT_ONCE) is TaskStatus.PENDING
    held = await one(tasks, "a")
    assert await tasks.release(held, delay=60) is TaskStatus.PENDING
    assert await names(tasks) == []
    await set_columns(tasks._session, held.id, available_at=(await found(tasks, "a")).created_at)
    await tasks.fail(await one(tasks, "a"), "no", retry=False)
    assert await names(tasks) == ["b"]


async def test_a_lost_lease_does_not_open_the_turn_before_its_task_has_ended(
    tasks: AsyncTaskRepository,
) -> None:
    await tasks.enqueue("x", task_id="a", ordering_key="k", max_retries=1)
    await tasks.enqueue("x", task_id="b", ordering_key="k")
    for status in (TaskStatus.PENDING, FAILED):
        held = await one(tasks, "a")
        await set_columns(tasks._session, held.id, lease_expires_at=(await found(tasks, "a")).created_at)
        assert await tasks.reap(backoff=AT_ONCE) == {held.id: status}
    assert await names(tasks) == ["b"]


async def test_a_cancelled_task_passes_its_turn_on(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many([NewTask(intent="x", task_id=name, ordering_key="k") for name in "abc"])
    await tasks.cancel((await found(tasks, "b")).id)
    assert not (await found(tasks, "b")).awaits_turn
    await tasks.cancel((await found(tasks, "a")).id)
    assert await names(tasks) == ["c"]


async def test_a_waiting_task_keeps_its_delay(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue("x", task_id="a", ordering_key="k")
    later, _ = await tasks.enqueue("x", task_id="b", ordering_key="k", delay=3600)
    await tasks.enqueue("x", task_id="c", ordering_key="k")
    assert await names(tasks) == ["a"]
    await tasks._session.refresh(later)
    assert later.available_at == later.not_before
    assert await names(tasks) == [], "the next but one does not overtake it"


async def test_an_existing_task_leaves_no_turn_unused(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue("x", task_id="known")
    filed = await tasks.enqueue_many(
        [NewTask(intent="x", task_id=name, ordering_key="k") for name in ("known", "b", "c")]
    )
    assert [created for _, created in filed] == [False, True, True]
    assert sorted(await names(tasks)) == ["b", "known"]
    assert await names(tasks) == ["c"]


# Dependencies


async def test_a_task_waits_for_all_others(tasks: AsyncTaskRepository) -> None:
    first, _ = await tasks.enqueue("x", task_id="a", priority=5)
    await tasks.enqueue("x", task_id="b")
    last, created = await tasks.enqueue("x", task_id="c", after=[first.id, "b", "b"])
    assert (created, last.waits_for, last.available_at) == (True, 2, WAITING)
    assert await names(tasks, limit=1) == ["a"]
    assert await names(tasks) == ["b"]
    assert await names(tasks) == ["c"]
    assert [task.task_id for task in await tasks.dependencies(last.id)] == ["a", "b"]
    assert [task.task_id for task in await tasks.dependents(first.id)] == ["c"]


@pytest.mark.parametrize("count", [4, 1300])
async def test_tasks_of_one_call_wait_for_each_other(tasks: AsyncTaskRepository, count: int) -> None:
    await tasks.enqueue_many(
        [
            NewTask(intent="x", task_id="d", after=["b", "c"]),
            NewTask(intent="x", task_id="b", after=["a"]),
            NewTask(intent="x", task_id="c", after=["a"]),
            NewTask(intent="x", task_id="a"),
            *[NewTask(intent="y", delay=60)] * (count - 4),
        ]
    )
    assert [await names(tasks) for _ in range(4)] == [["a"], ["b", "c"], ["d"], []]


@pytest.mark.parametrize("end", [FAILED, CANCELLED])
async def test_a_failure_cancels_what_depends_on_it(tasks: AsyncTaskRepository, end: TaskStatus) -> None:
    await tasks.enqueue_many(
        [
            NewTask(intent="x", task_id="a"),
            NewTask(intent="x", task_id="b", after=["a"]),
            NewTask(intent="x", task_id="c", after=["b"]),
            NewTask(intent="x", task_id="d", after=["c"], after_failure="run"),
        ]
    )
    if end is CANCELLED:
        await tasks.cancel((await found(tasks, "a")).id)
    else:
        await tasks.fail(await one(tasks, "a"), "no", retry=False)
    for name, cause in {
        "b": f"it depends on task a, which is {end}",
        "c": "it depends on task b, which is cancelled",
    }.items():
        task = await found(tasks, name)
        assert (task.status, task.error_code, task.error_message) == (CANCELLED, "dependency_failed", cause)
    assert await names(tasks) == ["d"]


async def test_dependencies_that_have_ended_count(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue("x", task_id="good")
    assert await names(tasks) == ["good"]
    await tasks.enqueue("x", task_id="bad")
    await tasks.fail(await one(tasks, "bad"), "no", retry=False)
    ready, _ = await tasks.enqueue("x", task_id="r", after=["good"])
    assert (ready.status, ready.waits_for) == (TaskStatus.PENDING, 0)
    doomed, _ = await tasks.enqueue("x", task_id="d", after=["good", "bad"])
    assert (doomed.status, doomed.error_code) == (CANCELLED, "dependency_failed")
    await tasks.enqueue("x", task_id="e", after=["good", "bad"], after_failure="run")
    assert await names(tasks) == ["r", "e"]


async def test_circles_and_unknown_tasks_are_refused(tasks: AsyncTaskRepository) -> None:
    circle = [NewTask(intent="x", task_id=name, after=[other]) for name, other in ("ab", "bc", "ca")]
    with pytest.raises(InvalidInputError, match="in a circle: 'a' -> 'b' -> 'c' -> 'a'"):
        await tasks.enqueue_many(circle)
    with pytest.raises(InvalidInputError, match="in a circle: 'a' -> 'a'"):
        await tasks.enqueue("x", task_id="a", after=["a"])
    for unknown in (uuid.uuid4(), "unknown"):
        with pytest.raises(NotFoundError, match="not found; enqueue it before"):
            await tasks.enqueue("x", after=[unknown])
        with pytest.raises(NotFoundError, match="not found; enqueue it before"):
            await tasks.batch([NewTask(intent="x")], then=NewTask(intent="x", after=[unknown]))
    assert await tasks.count() == 0


@pytest.mark.parametrize(
    "wrong",
    [{"after": "a"}, {"after": uuid.uuid4()}, {"after": [1]}, {"after_failure": "ignore"}, {"after": [""]}],
)
async def test_wrong_dependencies_are_refused(tasks: AsyncTaskRepository, wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="after"):
        await tasks.enqueue_many([{"intent": "x", **wrong}])


# Batches


async def test_a_batch_ends_with_its_last_task(tasks: AsyncTaskRepository) -> None:
    batch = await tasks.batch(
        [NewTask(intent="x", task_id=name, max_retries=0) for name in "abc"],
        then=NewTask(intent="x", task_id="then"),
    )
    assert (batch.created, batch.id, len(batch.tasks)) == (True, batch.then, 3)
    first, second, third = await tasks.claim("w", limit=10)
    await tasks.complete(first)
    await tasks.cancel(second.id)
    assert await tasks.fail(second, "stopped") is CANCELLED
    assert await names(tasks) == []
    await tasks.fail(third, "no")
    assert await names(tasks) == ["then"]
    progress = await tasks.batch_progress(batch.id)
    assert (progress.completed, progress.cancelled, progress.failed, progress.total) == (1, 1, 1, 3)
    assert progress.fraction == 1


async def test_an_empty_batch_has_ended(tasks: AsyncTaskRepository) -> None:
    batch = await tasks.batch([], then=NewTask(intent="x", task_id="then"))
    assert await names(tasks) == ["then"]
    assert (await tasks.batch_progress(batch.id)).fraction == 1


async def test_a_batch_needs_no_last_task(tasks: AsyncTaskRepository) -> None:
    batch = await tasks.batch([NewTask(intent="x"), NewTask(intent="x")])
    assert batch.then is None
    await names(tasks, limit=1)
    progress = await tasks.batch_progress(batch.id)
    assert (progress.total, progress.pending, progress.ended, progress.fraction) == (2, 1, 1, 0.5)


async def test_a_batch_is_enqueued_once(tasks: AsyncTaskRepository) -> None:
    first = await tasks.batch([NewTask(intent="x")], then=NewTask(intent="x", task_id="then"))
    again = await tasks.batch([NewTask(intent="x")] * 3, then=NewTask(intent="x", task_id="then"))
    assert (again.created, again.id, again.tasks) == (False, first.id, [])
    assert await tasks.count() == 2


async def test_a_batch_waits_for_tasks_that_existed(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue("x", task_id="ended")
    await names(tasks)
    await tasks.enqueue("x", task_id="live", delay=60)
    await tasks.batch(
        [NewTask(intent="x", task_id=name) for name in ("ended", "live", "new", "new")],
        then=NewTask(intent="x", task_id="then"),
    )
    assert await names(tasks) == ["new"]
    assert await names(tasks) == []
    await tasks.cancel((await found(tasks, "live")).id)
    assert await names(tasks) == ["then"]


async def test_a_large_batch_is_counted_down_by_completions_of_many(tasks: AsyncTaskRepository) -> None:
    await tasks.batch([NewTask(intent="x")] * 1200, then=NewTask(intent="then", task_id="then"))
    for left in (700, 200, 0):
        await tasks.complete_many(await tasks.claim("w", limit=500))
        assert (await found(tasks, "then")).waits_for == left
    assert await names(tasks) == ["then"]


# Elsewhere


async def test_what_needs_several_statements_is_refused_in_autocommit(db: AsyncDatabase) -> None:
    async with db.autocommit() as uow:
        await uow.tasks.enqueue("x", task_id="a", ordering_key="k")
        task, _ = await uow.tasks.enqueue("x", task_id="b", ordering_key="k")
        assert task.awaits_turn
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            await uow.tasks.enqueue("x", after=["a"])
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            await uow.tasks.batch([NewTask(intent="x")], then=NewTask(intent="x"))
        assert await names(uow.tasks) == ["a"]
        assert await names(uow.tasks) == ["b"]
        await uow.tasks.purge(older_than=0)


async def test_raw_sql_cannot_open_a_second_task_of_a_key(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue("x", task_id="a", ordering_key="k")
    with pytest.raises(IntegrityError, match="uq_tasks_ordering_key"):
        await tasks._session.execute(insert(Task).values(task_id="b", intent="x", ordering_key="k"))


# Requeued


async def test_a_requeued_task_of_a_batch_is_waited_for_again(tasks: AsyncTaskRepository) -> None:
    await tasks.batch(
        [NewTask(intent="x", task_id=name) for name in "ab"], then=NewTask(intent="x", task_id="then")
    )
    first, second = await tasks.claim("w", limit=10)
    await tasks.fail(first, "no", retry=False)
    await tasks.requeue(first.id)
    await tasks.complete(second)
    assert await names(tasks) == ["a"]
    assert await names(tasks) == ["then"]


async def test_a_batch_that_has_ended_does_not_end_again(tasks: AsyncTaskRepository) -> None:
    batch = await tasks.batch(
        [NewTask(intent="x", task_id=name) for name in "ab"], then=NewTask(intent="x", task_id="then")
    )
    for held in await tasks.claim("w", limit=10):
        await tasks.fail(held, "no", retry=False)
    assert len(await tasks.requeue_failed()) == 2
    assert sorted(await names(tasks)) == ["a", "b", "then"]
    assert (await found(tasks, "then")).waits_for == 0
    assert (await tasks.batch_progress(batch.id)).completed == 2


@pytest.mark.parametrize("many", [False, True])
async def test_a_requeued_task_waits_for_its_turn(tasks: AsyncTaskRepository, many: bool) -> None:
    await tasks.enqueue_many([NewTask(intent="x", task_id=name, ordering_key="k") for name in "abc"])
    held = await one(tasks, "a")
    await tasks.fail(held, "no", retry=False)
    second = await one(tasks, "b")
    if many:
        await tasks.requeue_failed()
    else:
        assert (await tasks.requeue(held.id)).awaits_turn
    assert await names(tasks) == []
    await tasks.complete(second)
    assert [await names(tasks) for _ in range(3)] == [["a"], ["c"], []]
    await tasks.enqueue("x", task_id="d", ordering_key="k")
    await tasks.cancel((await found(tasks, "d")).id)
    assert not (await tasks.requeue((await found(tasks, "d")).id)).awaits_turn
    assert await names(tasks) == ["d"]


async def test_health_counts_what_waits(tasks: AsyncTaskRepository) -> None:
    before = (await tasks.queue_health()).waiting
    await tasks.enqueue_many([NewTask(intent="x", ordering_key="k")] * 3)
    assert (await tasks.queue_health()).waiting == before + 2


async def test_an_end_in_autocommit_releases_what_waits(committed: AsyncDatabase) -> None:
    """The end and what it releases are one transaction, and the session goes on in AUTOCOMMIT."""
    async with committed.begin() as uow:
        await uow.tasks.batch([NewTask(intent="part")] * 4, then=NewTask(intent="then"))
    async with committed.autocommit() as uow:
        held = await uow.tasks.claim("w", limit=10, intents=["part"])
        await uow.tasks.complete(held[0])
        await uow.tasks.fail(held[1], "no", retry=False)
        assert await uow.tasks.claim("w", limit=10) == []
        assert len(await uow.tasks.complete_many(held[2:])) == 2
        assert [one.intent for one in await uow.tasks.claim("w", limit=10)] == ["then"]
        one, _ = await uow.tasks.enqueue("lone")
        assert set(await uow.tasks.cancel(one.id)) == {one.id}
    async with committed.begin() as uow:
        assert (await uow.tasks.count(status=TaskStatus.CANCELLED)) == 1
