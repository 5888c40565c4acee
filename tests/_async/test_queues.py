"""Settings of queues: created, replaced, paused, resumed and deleted."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from alfred_db import AsyncDatabase, NewTask, QueueRate, QueueSettings
from alfred_db.errors import InvalidInputError, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork


async def test_settings_are_replaced_as_a_whole_and_a_pause_stays(uow: AsyncUnitOfWork) -> None:
    assert await uow.queues.get("gpu") is None
    paused = await uow.queues.pause("gpu")
    assert (paused, paused.restricted) == (QueueSettings("gpu", True, None, None, None, None), True)
    rate = QueueRate(10, 1.5, burst=2)
    full = await uow.queues.set("gpu", max_running=5, max_running_per_key=1, rate=rate, ageing=60)
    assert full == await uow.queues.get("gpu") == QueueSettings("gpu", True, 5, 1, rate, 60.0)
    assert (await uow.queues.set("gpu", paused=False, rate=QueueRate(3))).rate == QueueRate(3, 60.0)
    aged = await uow.queues.set("aged", ageing=1)
    assert not aged.restricted
    assert [one.name for one in await uow.queues.list()] == ["aged", "gpu"]
    assert (await uow.queues.pause("gpu")).rate == QueueRate(3)
    resumed = await uow.queues.resume("gpu")
    assert (resumed.paused, resumed.rate) == (False, QueueRate(3))
    assert await uow.queues.set("gpu") == QueueSettings("gpu", False, None, None, None, None)
    assert await uow.queues.delete("gpu") is True
    assert await uow.queues.delete("gpu") is False
    with pytest.raises(NotFoundError, match="queue 'gpu': has no settings"):
        await uow.queues.resume("gpu")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "q" * 201},
        {"name": "a\0b"},
        {"max_running": 0},
        {"max_running": 1_000_001},
        {"max_running_per_key": -1},
        {"ageing": 0},
        {"ageing": float("nan")},
    ],
)
async def test_what_is_no_setting_is_refused(uow: AsyncUnitOfWork, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        await uow.queues.set(**{"name": "q", **wrong})  # type: ignore[arg-type]
    assert await uow.queues.list() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"jobs": 0},
        {"jobs": 1.5},
        {"jobs": True},
        {"jobs": 5, "period": 0},
        {"jobs": 5, "period": float("inf")},
        {"jobs": 5, "burst": 6},
        {"jobs": 5, "burst": 0},
        {"jobs": 5, "burst": 1.5},
    ],
)
def test_what_is_no_rate_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=f"QueueRate.{list(wrong)[-1]}"):
        QueueRate(**wrong)  # type: ignore[arg-type]


async def test_waiting_tasks_of_a_queue_that_ages_grow_urgent(uow: AsyncUnitOfWork) -> None:
    await uow.queues.set("aged", ageing=60)
    for queue, priority in (("aged", 1), ("aged", 4), ("aged", 5), ("other", 1)):
        await uow.tasks.enqueue_many([NewTask(intent="x", queue=queue, priority=priority)] * 2)
    await uow.tasks.enqueue("x", queue="aged", delay=60, task_id="later")
    assert await uow.queues.age() == 0
    past = text(
        "UPDATE tasks SET available_at = available_at - interval '61 s', updated_at = updated_at - interval '61 s'"
        " WHERE task_id <> 'later'"
    )
    await uow.session.execute(past)
    assert await uow.queues.age(limit=3) == 3
    assert await uow.queues.age(limit=3) == 1
    assert await uow.queues.age() == 0, "once in each span"
    await uow.session.execute(past)
    assert await uow.queues.age() == 2
    found = (await uow.tasks.list(limit=100)).items
    assert sorted((task.queue, task.priority) for task in found) == [
        *[("aged", 1)],
        *[("aged", 3)] * 2,
        *[("aged", 5)] * 4,
        *[("other", 1)] * 2,
    ]


async def test_a_task_grows_urgent_while_a_row_that_refers_to_it_is_inserted(
    committed: AsyncDatabase,
) -> None:
    async with committed.begin() as uow:
        await uow.queues.set("aged", ageing=60)
        await uow.tasks.enqueue("x", queue="aged")
        await uow.session.execute(
            text(
                "UPDATE tasks SET available_at = available_at - interval '61 s', updated_at = updated_at - interval '61 s'"
            )
        )
    async with committed.begin() as other, committed.begin() as uow:
        await other.session.execute(text("SELECT FROM tasks FOR KEY SHARE"))  # as a foreign key's check does
        assert await uow.queues.age() == 1


async def test_the_health_counts_pauses_and_limits(uow: AsyncUnitOfWork) -> None:
    before = await uow.tasks.queue_health()
    assert (before.paused_queues, before.limited_queues) == (0, 0)
    await uow.queues.pause("a")
    await uow.queues.set("b", max_running=1)
    await uow.queues.set("c", rate=QueueRate(1), paused=True)
    await uow.queues.set("d", ageing=1)
    health = await uow.tasks.queue_health()
    assert (health.paused_queues, health.limited_queues) == (2, 2)
