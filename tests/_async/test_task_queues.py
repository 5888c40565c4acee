"""Queues of tasks: what is enqueued, claimed, listed and counted by them."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest
from sqlalchemy import text

from alfred_db import ClaimedTask, NewTask
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.tasks import AsyncTaskRepository


@pytest.fixture
def tasks(uow: AsyncUnitOfWork) -> AsyncTaskRepository:
    return AsyncTaskRepository(uow.session)


def ids(claimed: list[ClaimedTask]) -> list[str]:
    return [task.task_id for task in claimed]


async def test_a_task_has_a_queue_at_every_door(tasks: AsyncTaskRepository) -> None:
    one, _ = await tasks.enqueue("x", queue="gpu")
    plain, _ = await tasks.enqueue("x")
    assert (one.queue, plain.queue) == ("gpu", "default")
    for size in (3, 1001):
        many: list[NewTask] = [
            {"intent": "y", "queue": "bulk"},
            {"intent": "y"},
            *[NewTask(intent="z")] * (size - 2),
        ]
        await tasks.enqueue_many(many)
    raw = "INSERT INTO tasks (task_id, intent) VALUES ('raw', 'r') RETURNING queue"
    assert await tasks._session.scalar(text(raw)) == "default"
    assert await tasks.count(queue="bulk") == 2
    assert await tasks.count(queue="gpu", intent="x") == 1
    assert [task.id for task in (await tasks.list(queue="gpu")).items] == [one.id]
    (claimed,) = await tasks.claim(worker="w", queues=["gpu"], limit=9)
    assert (claimed.id, claimed.queue) == (one.id, "gpu")
    await tasks.fail(claimed, "no", retry=False)
    assert await tasks.requeue_failed(queue="other") == []
    assert await tasks.requeue_failed(queue="gpu") == [one.id]


async def test_claims_take_what_they_name_and_nothing_else(tasks: AsyncTaskRepository) -> None:
    kinds = [("a", "A"), ("a", "B"), ("b", "A"), ("b", "B"), ("c", "A" * 500), ("c", "A" * 500 + "!")]
    await tasks.enqueue_many(
        [
            {"intent": intent, "queue": queue, "task_id": f"{number}", "priority": priority}
            for number, (priority, (queue, intent)) in enumerate(
                (priority, kind) for priority in (1, 5, 3) for kind in kinds
            )
        ]
    )
    of = {str(number): kinds[number % 6] for number in range(18)}
    for queues in (None, ["a"], ["a", "c"], ["a", "a"], ["none"], []):
        for intents in (None, ["A"], ["B", "A"], ["A" * 500], ["A" * 500, "B"], ["none"], []):
            savepoint = await tasks._session.begin_nested()
            expected = [
                key
                for key, (queue, intent) in of.items()
                if (queues is None or queue in queues) and (intents is None or intent in intents)
            ]
            taken: list[ClaimedTask] = []
            while batch := await tasks.claim(worker="w", limit=2, queues=queues, intents=intents):
                taken += batch
            assert sorted(ids(taken)) == sorted(expected), (queues, intents)
            priorities = [task.priority for task in taken]
            assert priorities == sorted(priorities, reverse=True), (queues, intents)
            assert all((task.queue, task.intent) == of[task.task_id] for task in taken)
            await savepoint.rollback()


async def test_no_kind_starves_another_of_its_priority(tasks: AsyncTaskRepository) -> None:
    for _ in range(40):
        await tasks.enqueue_many([NewTask(intent="busy")] * 3 + [NewTask(intent="rare")])
    taken = Counter[str]()
    for _ in range(20):
        taken.update(task.intent for task in await tasks.claim(worker="w", intents=["busy", "rare"], limit=4))
    assert taken.total() == 80
    assert taken["rare"] >= 10


@pytest.mark.parametrize("queue", ["", "q" * 201, "é" * 101, "a\0b", "\ud800", None, 5])
async def test_what_is_no_queue_is_refused(tasks: AsyncTaskRepository, queue: object) -> None:
    task: NewTask = {"intent": "x", "queue": queue}  # type: ignore[typeddict-item]
    for door in (
        lambda: tasks.enqueue("x", queue=queue),  # type: ignore[arg-type]
        lambda: tasks.enqueue_many([task]),
        lambda: tasks.enqueue_many([NewTask(intent="x")] * 1001 + [task]),
    ):
        with pytest.raises(InvalidInputError, match="queue"):
            await door()
    assert await tasks.count() == 0


async def test_one_name_is_not_a_list_of_names(tasks: AsyncTaskRepository) -> None:
    for argument in ("queues", "intents"):
        assert argument in inspect.signature(tasks.claim).parameters
        with pytest.raises(InvalidInputError, match=f"{argument}: expected a sequence"):
            await tasks.claim(worker="w", **{argument: "default"})  # type: ignore[arg-type]
