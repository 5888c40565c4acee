"""Claims from queues that are paused or limited: what is taken, and that nothing else is held up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select, text

from alfred_db import AsyncDatabase, ClaimedTask, NewTask, QueueRate, Task, TaskBackoff
from alfred_db.repositories import AsyncUnitOfWork

AT_ONCE = TaskBackoff(0, 0, 0)
SHAPES: list[dict[str, Any]] = [
    {},
    {"intents": ["x"]},
    {"intents": ["x", "y"]},
    {"queues": ["a", "b"]},
    {"queues": ["a", "b"], "intents": ["x", "y"]},
]
"""The ways to claim."""


def queues(claimed: Sequence[ClaimedTask]) -> list[str]:
    return [task.queue for task in claimed]


async def waiting(uow: AsyncUnitOfWork, *kinds: tuple[str, int], key: str | None = None) -> None:
    await uow.tasks.enqueue_many(
        [
            NewTask(intent="x", queue=queue, concurrency_key=key, priority=1 + place % 3)
            for queue, number in kinds
            for place in range(number)
        ]
    )


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "+".join(shape) or "any")
@pytest.mark.parametrize("limit", [1, 10])
async def test_nothing_is_claimed_from_a_paused_queue(
    uow: AsyncUnitOfWork, shape: dict[str, Any], limit: int
) -> None:
    await waiting(uow, ("a", 3), ("b", 2))
    await uow.queues.pause("a")
    taken: list[ClaimedTask] = []
    while claimed := await uow.tasks.claim("w", limit=limit, **shape):
        taken += claimed
    assert queues(taken) == ["b", "b"]
    await uow.queues.resume("a")
    taken = []
    while claimed := await uow.tasks.claim("w", limit=limit, **shape):
        taken += claimed
    assert queues(taken) == ["a", "a", "a"]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "+".join(shape) or "any")
@pytest.mark.parametrize("limit", [1, 4])
async def test_no_more_run_than_may(uow: AsyncUnitOfWork, shape: dict[str, Any], limit: int) -> None:
    await waiting(uow, ("a", 20), ("b", 3))
    await uow.queues.set("a", max_running=3)
    held: list[ClaimedTask] = []
    ended = 0
    while ended < 23:
        claimed = await uow.tasks.claim("w", limit=limit, **shape)
        held += claimed
        assert queues(held).count("a") <= 3
        assert len({task.id for task in held}) == len(held)
        if claimed and len(held) < 3:
            continue
        assert held, "what waits is claimed as soon as there is room"
        one = held.pop(random.randrange(len(held)))
        if random.random() < 0.3:
            await uow.tasks.fail(one, "no", backoff=AT_ONCE, retry=one.retry_count < 2)
            ended += one.retry_count == 2
        elif random.random() < 0.2:
            await uow.tasks.release(one)
        else:
            await uow.tasks.complete(one)
            ended += 1


async def test_a_limit_counts_all_that_are_held_however_they_were_claimed(uow: AsyncUnitOfWork) -> None:
    await waiting(uow, ("a", 9))
    before = await uow.tasks.claim("w", limit=2)
    await uow.queues.set("a", max_running=3)
    assert len(await uow.tasks.claim("w", limit=9)) == 1
    await uow.queues.set("a", max_running=2)
    await uow.tasks.complete(before[0])
    assert await uow.tasks.claim("w", limit=9) == []
    await uow.tasks.complete(before[1])
    assert len(await uow.tasks.claim("w", limit=9)) == 1
    await uow.queues.delete("a")
    assert len(await uow.tasks.claim("w", limit=9)) == 5


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "+".join(shape) or "any")
@pytest.mark.parametrize("limit", [1, 7])
async def test_no_more_of_a_key_run_than_may(uow: AsyncUnitOfWork, shape: dict[str, Any], limit: int) -> None:
    await uow.tasks.enqueue_many(
        [
            NewTask(intent="xy"[number % 2], queue="a", concurrency_key=f"k{number % 3}")
            for number in range(12)
        ]
        + [NewTask(intent="x", queue="a"), NewTask(intent="x", queue="b", concurrency_key="k0")] * 3
    )
    await uow.queues.set("a", max_running_per_key=2)
    key_of = {task.id: task.concurrency_key for task in (await uow.tasks.list(limit=100)).items}
    intents = shape.get("intents", ["x", "y"])
    left = 18 if "y" in intents else 12
    held: list[ClaimedTask] = []
    while left:
        claimed = await uow.tasks.claim("w", limit=limit, **shape)
        held += claimed
        running = Counter((task.queue, key_of[task.id]) for task in held)
        assert all(number <= 2 for (queue, key), number in running.items() if queue == "a" and key), running
        if not claimed:
            assert held, "what waits is claimed as soon as there is room"
            await uow.tasks.complete(held.pop(random.randrange(len(held))))
            left -= 1


async def test_a_backlog_of_one_key_holds_up_no_other(uow: AsyncUnitOfWork) -> None:
    await waiting(uow, ("a", 300), key="busy")
    for key in ("k1", "k2", None):
        await waiting(uow, ("a", 2), key=key)
    await uow.queues.set("a", max_running_per_key=1)
    for shape in SHAPES:
        savepoint = await uow.session.begin_nested()
        taken = [task for _ in range(5) for task in await uow.tasks.claim("w", **shape)]
        assert len(taken) == 5, "one of each key, and both without one"
        assert await uow.tasks.claim("w", limit=9, **shape) == []
        await savepoint.rollback()
        taken = [task for _ in range(3) for task in await uow.tasks.claim("w", limit=4, **shape)]
        assert len(taken) == 5
        for one in taken:
            await uow.tasks.release(one)


async def test_urgent_tasks_come_first_within_the_room_of_their_queue(uow: AsyncUnitOfWork) -> None:
    await uow.tasks.enqueue_many(
        [
            {"intent": "x", "queue": queue, "priority": priority, "task_id": f"{queue}{priority}{number}"}
            for queue in "ab"
            for priority in (1, 5, 3)
            for number in range(2)
        ]
    )
    await uow.queues.set("a", max_running=3)
    assert [task.task_id for task in await uow.tasks.claim("w", limit=5)][:2] == ["a50", "a51"]
    held = (await uow.tasks.list(status="processing")).items  # type: ignore[arg-type]
    assert sum(task.queue == "a" for task in held) <= 3
    again = await uow.tasks.claim("w", limit=20)
    assert [task.priority for task in again] == sorted((task.priority for task in again), reverse=True)
    held = (await uow.tasks.list(status="processing")).items  # type: ignore[arg-type]
    assert Counter(task.queue for task in held) == {"a": 3, "b": 6}


LIMITED: list[dict[str, Any]] = [
    {},
    {"max_running": 9},
    {"max_running_per_key": 9},
    {"rate": QueueRate(10_000, 60.0, 9_000)},
    {"max_running": 9, "rate": QueueRate(10_000, 60.0, 9_000), "max_running_per_key": 9},
]
"""The kinds of limits, none of which is reached."""


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "+".join(shape) or "any")
@pytest.mark.parametrize("limit", [1, 2])
async def test_urgent_tasks_come_first_whatever_limits_their_queue_had_before(
    uow: AsyncUnitOfWork, shape: dict[str, Any], limit: int
) -> None:
    for before in LIMITED:
        for now in LIMITED:
            for limits, number in ((before, 1), (now, 2)):
                await uow.queues.set("a", **limits)
                await uow.tasks.enqueue_many(
                    [NewTask(intent="x", queue="a", priority=5) for _ in range(number)]
                )
                await uow.tasks.enqueue_many([NewTask(intent="x", queue="b", priority=1) for _ in range(2)])
                claimed = await uow.tasks.claim("w", limit=limit, **shape)
                assert claimed[0].queue == "a", (before, now)
                await uow.session.execute(text("TRUNCATE tasks CASCADE"))


@pytest.mark.parametrize("limits", LIMITED, ids="+".join)
async def test_a_claim_takes_what_it_names_from_limited_queues_and_nothing_else(
    uow: AsyncUnitOfWork, limits: dict[str, Any]
) -> None:
    kinds = [(queue, intent) for queue in "abc" for intent in "xyz"]
    for queue in "ab":
        await uow.queues.set(queue, **limits)
    await uow.tasks.enqueue_many(
        [
            NewTask(intent=intent, queue=queue, priority=priority, concurrency_key=f"{queue}{intent}")
            for queue, intent in kinds
            for priority in (1, 4)
        ]
    )
    for named in ({}, {"queues": ["a"]}, {"queues": ["a", "c"]}):
        for intents in ({}, {"intents": ["x"]}, {"intents": ["x", "y"]}):
            shape: dict[str, Any] = {**named, **intents}
            wanted = [
                kind
                for kind in kinds
                if kind[0] in named.get("queues", kind[0]) and kind[1] in intents.get("intents", kind[1])
            ]
            for limit in (1, 7):
                taken: list[tuple[str, str]] = []
                async with uow.session.begin_nested() as claims:
                    while claimed := await uow.tasks.claim("w", limit=limit, **shape):
                        taken += [(task.queue, task.intent) for task in claimed]
                    await claims.rollback()
                assert sorted(taken) == sorted(wanted * 2), (shape, limit)


async def test_a_rate_is_kept_in_every_span_of_its_period(committed: AsyncDatabase) -> None:
    rates = {
        "even": QueueRate(4, 0.4, burst=1),
        "burst": QueueRate(6, 0.5, burst=3),
        "tenth": QueueRate(20, 0.5),
    }
    async with committed.begin() as uow:
        for name, rate in rates.items():
            await waiting(uow, (name, 60))
            await uow.queues.set(name, rate=rate)
    for _ in range(200):
        async with committed.begin() as uow:
            await uow.tasks.claim("w", limit=random.choice([1, 3, 10]), intents=["x"])
    async with committed.begin() as uow:
        for name, rate in rates.items():
            statement = select(Task.started_at).where(Task.queue == name, Task.started_at.is_not(None))
            found = await uow.session.scalars(statement.order_by(Task.started_at))
            starts = [start.timestamp() for start in found if start is not None]
            assert len(starts) > (rate.burst or rate.jobs // 10), name
            for number, start in enumerate(starts):
                within = sum(start <= other < start + rate.period for other in starts[number:])
                assert within <= rate.jobs, (name, starts)


async def test_a_rate_that_was_used_up_is_not_longer_than_its_period_when_it_changes(
    uow: AsyncUnitOfWork,
) -> None:
    await waiting(uow, ("a", 9))
    await uow.queues.set("a", rate=QueueRate(1, 86_400))
    assert len(await uow.tasks.claim("w", limit=9)) == 1
    assert await uow.tasks.claim("w", limit=9) == []
    await uow.queues.set("a", rate=QueueRate(1000, 0.001))
    await uow.session.execute(text("SELECT pg_sleep(0.01)"))
    assert len(await uow.tasks.claim("w", limit=9)) == 8


async def test_a_queue_that_somebody_has_locked_holds_up_no_other(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await waiting(uow, ("a", 2), ("b", 2))
        await uow.queues.set("a", max_running=5)
    async with committed.session() as session:
        await session.execute(text("SELECT FROM queues WHERE name = 'a' FOR UPDATE"))
        for shape in SHAPES[:2]:
            async with committed.begin() as uow:
                assert queues(await uow.tasks.claim("w", **shape)) == ["b"]
        async with committed.begin() as uow:
            assert await uow.tasks.claim("w", limit=9) == []
        await session.rollback()
    async with committed.begin() as uow:
        assert queues(await uow.tasks.claim("w", limit=9)) == ["a", "a"]


async def test_an_unreadable_task_of_a_limited_queue_is_set_aside(uow: AsyncUnitOfWork) -> None:
    await waiting(uow, ("a", 3))
    await uow.queues.set("a", max_running=2, max_running_per_key=2)
    first = "UPDATE tasks SET available_at = '-infinity' WHERE id = (SELECT min(id::text)::uuid FROM tasks)"
    await uow.session.execute(text(first))
    claimed = await uow.tasks.claim("w", limit=2)
    assert len(claimed) >= 1
    assert len(claimed) + len(await uow.tasks.claim("w", limit=2)) == 2
