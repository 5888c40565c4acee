from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from _async.held_tasks import ago, claimed, expire, found, reclaimed, run_out, set_columns
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, TaskStatus
from alfred_db.errors import ConfigurationError, DatabaseUnavailable, InvalidInputError, LeaseLost
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.tasks import AsyncTaskRepository
from alfred_db.values.tasks import NewTask, TaskBackoff


@pytest.fixture
def tasks(uow: AsyncUnitOfWork) -> AsyncTaskRepository:
    return AsyncTaskRepository(uow.session)


# Claiming


async def test_the_most_urgent_and_then_the_oldest_comes_first(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many(
        [{"intent": "x", "task_id": f"{p}{n}", "priority": p} for p in (1, 3, 5, 2, 4) for n in "ab"]
    )
    taken = await tasks.claim(worker="w", limit=3)
    assert [task.task_id for task in taken] == ["5a", "5b", "4a"]
    taken = await tasks.claim(worker="w", limit=500)
    assert [task.task_id for task in taken] == ["4b", "3a", "3b", "2a", "2b", "1a", "1b"]
    assert await tasks.claim(worker="w", limit=500) == []


async def test_a_claimed_task_has_what_the_row_has(tasks: AsyncTaskRepository) -> None:
    parent, _ = await tasks.enqueue("whole", delay=100)
    before = time.monotonic()
    held = await claimed(
        tasks,
        content={"a": 1},
        metadata={"b": 2},
        task_id="t",
        timeout_seconds=77,
        created_by="u",
        parent_task_id=parent.id,
    )
    row = await found(tasks, held.id)
    for name in (
        *("id", "task_id", "intent", "content", "priority", "created_by", "assigned_to", "parent_task_id"),
        *("available_at", "retry_count", "crash_count", "max_retries", "attempt_deadline_at", "claim_seq"),
        *("lease_token", "lease_expires_at"),
    ):
        assert getattr(held, name) == getattr(row, name), name
    assert (held.metadata, held.attempt, held.claim_seq) == (row.metadata_, 1, 1)
    assert (row.status, row.worker_id) == (TaskStatus.PROCESSING, "w")
    assert row.started_at == row.attempt_started_at is not None
    assert held.lease_expires_at - row.attempt_started_at == timedelta(seconds=60)
    assert held.attempt_deadline_at - row.attempt_started_at == timedelta(seconds=77)
    assert before + 60 <= held.held_until <= time.monotonic() + 60
    assert not held.is_over
    assert held._replace(held_until=time.monotonic()).is_over


async def test_each_claim_has_its_own_token(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    started = (await found(tasks, held.id)).started_at
    await tasks.release(held)
    again = await reclaimed(tasks)
    assert again.lease_token != held.lease_token
    assert (again.claim_seq, again.attempt) == (2, 1)
    assert (await found(tasks, held.id)).started_at == started


async def test_filters_leave_other_tasks_alone(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many(
        [
            {"intent": "a", "task_id": "1", "priority": 1},
            {"intent": "b", "task_id": "2", "priority": 5, "assigned_to": "m"},
            {"intent": "c", "task_id": "3", "priority": 5},
            {"intent": "a", "task_id": "4", "priority": 2, "assigned_to": "m"},
        ]
    )
    assert await tasks.claim(worker="w", intents=[], limit=9) == []
    assert await tasks.claim(worker="w", intents=["b"], assigned_to="n", limit=9) == []
    assert [task.task_id for task in await tasks.claim(worker="w", intents=["a", "c"], limit=2)] == ["3", "4"]
    assert [task.task_id for task in await tasks.claim(worker="w", assigned_to="m", limit=9)] == ["2"]
    assert [task.task_id for task in await tasks.claim(worker="w", limit=9)] == ["1"]


async def test_the_future_neither_comes_early_nor_starves_the_present(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many([{"intent": "future", "priority": 5, "delay": 1000}] * 1100)
    await tasks.enqueue("now", priority=1)
    assert [task.intent for task in await tasks.claim(worker="w", limit=500)] == ["now"]


BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "limit: expected 1 to 500, got 0": {"limit": 0},
    "limit: expected 1 to 500, got 501": {"limit": 501},
    "lease: expected": {"lease": 0},
    "lease: expected ": {"lease": float("nan")},
    "worker: expected 1 to": {"worker": ""},
    "worker: holds a NUL": {"worker": "\0"},
    "intents: expected a sequence of names": {"intents": "x"},
    "NUL": {"intents": ["\0"]},
}


@pytest.mark.parametrize("says", BAD_CLAIMS)
async def test_a_claim_checks_its_input(tasks: AsyncTaskRepository, says: str) -> None:
    await tasks.enqueue("x")
    with pytest.raises(InvalidInputError, match=says.strip()):
        await tasks.claim(**{"worker": "w", **BAD_CLAIMS[says]})
    assert len(await tasks.claim(worker="w")) == 1


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_claim_wants_read_committed(committed: AsyncDatabase, level: str) -> None:
    async with committed.begin() as uow:
        await AsyncTaskRepository(uow.session).enqueue("x")
    async with committed.session() as session:
        await session.execute(text(f"SET TRANSACTION ISOLATION LEVEL {level}"))
        with pytest.raises(ConfigurationError, match=f"the transaction is {level}.*READ COMMITTED"):
            await AsyncTaskRepository(session).claim(worker="w")
    async with committed.session() as session:
        assert len(await AsyncTaskRepository(session).claim(worker="w")) == 1


async def test_two_claims_at_once_share_nothing_and_wait_for_nothing(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await AsyncTaskRepository(uow.session).enqueue_many([{"intent": "x"}] * 5)
    async with committed.session() as one, committed.session() as two, committed.session() as three:
        first = await AsyncTaskRepository(one).claim(worker="1", limit=2)
        second = await AsyncTaskRepository(two).claim(worker="2", limit=2)
        third = await AsyncTaskRepository(three).claim(worker="3", limit=2)
        assert [len(first), len(second), len(third)] == [2, 2, 1]
        assert len({task.id for task in (*first, *second, *third)}) == 5
        await one.rollback()
        assert [task.id for task in await AsyncTaskRepository(three).claim(worker="3", limit=9)] == [
            task.id for task in first
        ]


async def test_a_task_that_is_being_referred_to_can_be_claimed(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        parent, _ = await AsyncTaskRepository(uow.session).enqueue("whole")
    async with committed.session() as one, committed.session() as two:
        await AsyncTaskRepository(one).enqueue("part", parent_task_id=parent.id)
        assert [task.id for task in await AsyncTaskRepository(two).claim(worker="w")] == [parent.id]


async def test_a_claim_in_an_old_transaction_sees_what_came_since(committed: AsyncDatabase) -> None:
    async with committed.session() as old:
        began = await old.scalar(select(func.now()))
        async with committed.begin() as uow:
            task, _ = await AsyncTaskRepository(uow.session).enqueue("x")
        assert began is not None
        assert task.available_at > began
        (held,) = await AsyncTaskRepository(old).claim(worker="w", lease=10)
        now = await ago(old, 0)
        assert timedelta(seconds=9) < held.lease_expires_at - now <= timedelta(seconds=10)


async def test_a_rolled_back_claim_is_none(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await AsyncTaskRepository(uow.session).enqueue("x")
    async with committed.session() as session:
        tasks = AsyncTaskRepository(session)
        (held,) = await tasks.claim(worker="w")
        await session.rollback()
        with pytest.raises(LeaseLost):
            await tasks.complete(held)
        (again,) = await tasks.claim(worker="w")
        assert again.claim_seq == 1


# Keeping


async def test_a_heartbeat_extends_the_lease(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    await set_columns(tasks._session, held.id, lease_expires_at=await ago(tasks._session, 1))
    kept = await tasks.heartbeat(held._replace(held_until=0.0))
    now = await ago(tasks._session, 0)
    assert timedelta(seconds=59) < kept.lease_expires_at - now <= timedelta(seconds=60)
    assert kept.lease_expires_at == (await found(tasks, held.id)).lease_expires_at
    assert not kept.is_over
    assert await tasks.reap() == {}
    longer = await tasks.heartbeat(kept, lease=100)
    assert timedelta(seconds=99) < longer.lease_expires_at - now <= timedelta(seconds=101)
    assert longer.lease == 100
    with pytest.raises(InvalidInputError, match="lease: expected"):
        await tasks.heartbeat(held, lease=0)


async def test_heartbeats_of_many_name_those_that_are_held(tasks: AsyncTaskRepository) -> None:
    one, two, three, four = [await claimed(tasks) for _ in range(4)]
    await tasks.complete(one)
    await tasks.cancel(two.id)
    stolen = three._replace(lease_token=uuid.uuid4())
    swapped = four._replace(lease_token=three.lease_token)
    kept = await tasks.heartbeat_many([four, stolen, two, one])
    assert [(task.id, task.cancel_requested) for task in kept] == [(four.id, False), (two.id, True)]
    assert await tasks.heartbeat_many([swapped, stolen]) == [], "each task has its own token"
    assert await tasks.heartbeat_many([]) == []


async def test_heartbeats_stay_on_their_page(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        tasks = AsyncTaskRepository(uow.session)
        await tasks.enqueue_many([{"intent": "x"}] * 200)
        held = await tasks.claim(worker="w", limit=200)
        await uow.session.execute(text("SELECT pg_stat_force_next_flush()"))
    before = await _updates(committed)
    for _ in range(10):
        async with committed.begin() as uow:
            held = await AsyncTaskRepository(uow.session).heartbeat_many(held)
            await uow.session.execute(text("SELECT pg_stat_force_next_flush()"))
    after = await _updates(committed)
    assert after[0] - before[0] == 2000
    assert (after[1] - before[1]) / 2000 >= 0.8


async def _updates(database: AsyncDatabase) -> Sequence[int]:
    """How many rows of the tenant's tasks were updated, and how many of them on their page."""
    name = "tasks" if database.schema is None else f"{database.schema}.tasks"
    statement = text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass(:name)"
    )
    async with database.session() as session:
        return (await session.execute(statement, {"name": name})).one()


# Ending


async def test_a_completed_task_has_its_results(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    await tasks.complete(
        held,
        [
            {"result_type": "summary", "content": {"text": "ü %s"}},
            {"result_type": "cost", "content": {"tokens": 7}, "metadata": {"model": "m"}},
        ],
    )
    stored = await tasks.results(held.id)
    assert {result.result_type: (result.content, result.metadata_) for result in stored} == {
        "summary": ({"text": "ü %s"}, {}),
        "cost": ({"tokens": 7}, {"model": "m"}),
    }
    row = await found(tasks, held.id)
    assert row.status is TaskStatus.COMPLETED
    assert row.completed_at is not None
    assert (row.lease_expires_at, row.attempt_deadline_at) == (None, None)
    await tasks.complete(held, [{"result_type": "summary", "content": {}}])
    assert len(await tasks.results(held.id)) == 2, "to repeat it changes nothing"


@pytest.mark.parametrize(
    "bad",
    [
        {"result_type": "", "content": {}},
        {"result_type": "\0", "content": {}},
        {"result_type": "x", "content": {"a": object()}},
        {"result_type": "x", "content": {}, "metadata": {"a": float("nan")}},
    ],
)
async def test_a_bad_result_leaves_the_task_held(tasks: AsyncTaskRepository, bad: Any) -> None:
    held = await claimed(tasks)
    with pytest.raises(InvalidInputError):
        await tasks.complete(held, [bad])
    assert (await tasks.heartbeat(held)).id == held.id


async def test_in_autocommit_every_call_stands_for_itself(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await uow.tasks.enqueue_many([{"intent": "x"}] * 2)
    engine = committed.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with AsyncSession(engine) as session:
        tasks = AsyncTaskRepository(session)
        first, second = await tasks.claim(worker="w", limit=2)
        assert await tasks.complete(first) is True
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            await tasks.complete(second, [{"result_type": "r", "content": {}}])
    async with committed.begin() as uow:
        assert (await found(uow.tasks, first.id)).status is TaskStatus.COMPLETED
        assert (await found(uow.tasks, second.id)).status is TaskStatus.PROCESSING


async def test_completion_and_effect_are_one(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        tasks = AsyncTaskRepository(uow.session)
        held = await claimed(tasks)
    async with committed.session() as session:
        tasks = AsyncTaskRepository(session)
        await tasks.complete(held, [{"result_type": "r", "content": {}}])
        await tasks.enqueue("effect", task_id="effect")
        await session.rollback()
        assert (await found(tasks, held.id)).status is TaskStatus.PROCESSING
        assert await tasks.results(held.id) == []
        assert await tasks.get_by_task_id("effect") is None
        assert await tasks.complete(held) is True
        assert await tasks.complete(held) is False, "its effect is there"


async def test_many_are_completed_at_once(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many([{"intent": "x"}] * 5)
    held = [*await tasks.claim(worker="w", limit=2), *await tasks.claim(worker="w", limit=3)]
    assert await tasks.complete_many(held[:3]) == held[:3]
    assert await tasks.complete_many(held) == held[3:], "those that it finished itself"
    assert await tasks.complete_many(held) == []
    assert await tasks.complete_many([]) == []
    assert await tasks.count(status=TaskStatus.COMPLETED) == 5


async def test_many_with_a_lost_one_are_refused(tasks: AsyncTaskRepository) -> None:
    one, two, three = [await claimed(tasks) for _ in range(3)]
    await tasks.fail(two, "no")
    with pytest.raises(LeaseLost, match=two.task_id):
        await tasks.complete_many([one, two, three])
    swapped = [one._replace(lease_token=three.lease_token), three._replace(lease_token=one.lease_token)]
    with pytest.raises(LeaseLost):
        await tasks.complete_many(swapped)


async def test_a_lost_lease_is_refused_in_every_write(tasks: AsyncTaskRepository) -> None:
    lost = await claimed(tasks)
    await expire(tasks, lost)
    assert await tasks.reap() == {lost.id: TaskStatus.PENDING}
    for again in (False, True):
        if again:
            holder = await reclaimed(tasks)
        for write in (
            tasks.complete,
            tasks.heartbeat,
            tasks.release,
            lambda task: tasks.fail(task, "no"),
            lambda task: tasks.complete_many([task, task]),
        ):
            with pytest.raises(LeaseLost, match="lease lost: another worker may own it; stop"):
                await write(lost)
        assert await tasks.heartbeat_many([lost, lost]) == []
    row = await found(tasks, lost.id)
    assert (row.lease_token, row.claim_seq, row.crash_count) == (holder.lease_token, 2, 1)
    await tasks.complete(holder)
    for gone in (lost, lost._replace(id=uuid.uuid4())):
        with pytest.raises(LeaseLost):
            await tasks.complete(gone)


async def test_an_ending_is_not_replaced_by_another(tasks: AsyncTaskRepository) -> None:
    completed, failed, released = [await claimed(tasks) for _ in range(3)]
    await tasks.complete(completed)
    await tasks.fail(failed, "no", retry=False)
    await tasks.release(released)
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: tasks.fail(completed, "no"),
        lambda: tasks.release(completed),
        lambda: tasks.complete(failed),
        lambda: tasks.release(failed),
        lambda: tasks.complete(released),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            await write()
    statuses = [(await found(tasks, task.id)).status for task in (completed, failed, released)]
    assert statuses == [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.PENDING]


@pytest.mark.parametrize("budget", [0, 1, 3])
@pytest.mark.parametrize("how", ["failure", "crash", "timeout", "mixed"])
async def test_the_budget_is_for_all_ways_to_fail(tasks: AsyncTaskRepository, budget: int, how: str) -> None:
    await tasks.enqueue("x", max_retries=budget)
    ways = ["failure", "crash", "timeout"] * 2 if how == "mixed" else [how] * 4
    for attempt, way in enumerate(ways[: budget + 1], start=1):
        held = await reclaimed(tasks)
        assert held.attempt == attempt
        if way == "failure":
            status = await tasks.fail(held, "no")
            assert await tasks.fail(held, "no") is status, "to repeat it changes nothing"
        else:
            await (expire if way == "crash" else run_out)(tasks, held)
            status = (await tasks.reap())[held.id]
        assert status is (TaskStatus.FAILED if attempt > budget else TaskStatus.PENDING)
    assert await tasks.claim(worker="w") == []
    row = await found(tasks, held.id)
    crashes = ways[: budget + 1].count("crash")
    retried = ways[:budget]
    assert (row.crash_count, row.retry_count) == (crashes, budget - retried.count("crash"))
    assert row.failed_at is not None
    code = {"failure": "handler", "crash": "lease_lost", "timeout": "timeout"}[ways[budget]]
    assert (row.error_code, row.error_message is not None) == (code, True)


@pytest.mark.parametrize(("tried", "wait"), [(0, 5), (1, 10), (3, 40), (9, 2560), (10, 3600), (2_000, 3600)])
@pytest.mark.parametrize("how", ["fail", "reap"])
async def test_the_wait_doubles_up_to_a_cap(
    tasks: AsyncTaskRepository, tried: int, wait: float, how: str
) -> None:
    waits: list[float] = []
    held = await claimed(tasks, max_retries=10_000)
    for _ in range(8):
        await set_columns(tasks._session, held.id, retry_count=tried // 2, crash_count=tried - tried // 2)
        before = await ago(tasks._session, 0)
        if how == "fail":
            await tasks.fail(held, "no")
        else:
            await expire(tasks, held)
            await tasks.reap()
        row = await found(tasks, held.id)
        waits.append((row.available_at - before).total_seconds())
        held = await reclaimed(tasks)
    if how == "reap" and tried == 0:  # a first crash may be the worker's fault alone
        assert max(waits) <= 2
        return
    assert all(wait * 0.9 <= each <= wait * 1.1 + 2 for each in waits), waits
    assert max(waits) - min(waits) > wait * 0.001, "spread"


async def test_the_caller_chooses_the_wait(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    before = await ago(tasks._session, 0)
    await tasks.fail(held, "no", backoff=TaskBackoff(base=1000, cap=100, jitter=0))
    wait = (await found(tasks, held.id)).available_at - before
    assert timedelta(seconds=100) <= wait < timedelta(seconds=102)
    held = await reclaimed(tasks)
    await tasks.fail(held, "no", delay=0)
    (held,) = await tasks.claim(worker="w")
    await tasks.fail(held, "no", delay=50)
    wait = (await found(tasks, held.id)).available_at - await ago(tasks._session, 0)
    assert timedelta(seconds=48) < wait <= timedelta(seconds=50)
    huge = TaskBackoff(base=1e8, cap=1e8, jitter=1)
    await set_columns(tasks._session, held.id, max_retries=10)
    await tasks.fail(await reclaimed(tasks), "no", backoff=huge)
    with pytest.raises(InvalidInputError, match="delay: expected 0 to"):
        await tasks.fail(held, "no", delay=-1)
    with pytest.raises(InvalidInputError, match=r"TaskBackoff\.jitter: expected 0 to 1, got 2"):
        TaskBackoff(jitter=2)
    with pytest.raises(InvalidInputError, match=r"TaskBackoff\.base: expected 0 to"):
        TaskBackoff(base=float("nan"))
    with pytest.raises(InvalidInputError, match="code: expected 1 to"):
        await tasks.fail(held, "no", code="")


async def test_a_failure_can_always_be_reported(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    await tasks.fail(held, "a\0b\ud800 ' %s :x", code="E")
    row = await found(tasks, held.id)
    assert (row.error_message, row.error_code) == ("a\ufffdb\N{REPLACEMENT CHARACTER} ' %s :x", "E")
    assert row.lease_expires_at is None


async def test_a_released_task_keeps_its_place_and_its_budget(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks, max_retries=0)
    await tasks.enqueue("x", priority=5)
    assert await tasks.release(held) is TaskStatus.PENDING
    assert await tasks.release(held) is TaskStatus.PENDING
    (again,) = await tasks.claim(worker="v")
    assert (again.id, again.attempt) == (held.id, 1)
    await tasks.release(again, delay=50)
    row = await found(tasks, held.id)
    assert row.available_at > await ago(tasks._session, -48)
    assert (row.retry_count, row.crash_count, row.lease_expires_at) == (0, 0, None)
    with pytest.raises(InvalidInputError, match="delay: expected 0 to"):
        await tasks.release(again, delay=-1)


# Reaping


async def test_live_heartbeats_do_not_stretch_the_timeout(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    await run_out(tasks, held)
    await tasks.heartbeat(held)
    assert await tasks.reap() == {held.id: TaskStatus.PENDING}
    row = await found(tasks, held.id)
    assert (row.error_code, row.retry_count, row.crash_count) == ("timeout", 1, 0)
    assert (row.lease_token, row.attempt_deadline_at) == (None, None)
    with pytest.raises(LeaseLost):
        await tasks.heartbeat(held)


@pytest.mark.parametrize(("lease", "deadline", "code"), [(5, 9, "timeout"), (9, 5, "lease_lost")])
async def test_of_lease_and_timeout_the_first_to_pass_counts(
    tasks: AsyncTaskRepository, lease: int, deadline: int, code: str
) -> None:
    held = await claimed(tasks)
    await set_columns(
        tasks._session,
        held.id,
        lease_expires_at=await ago(tasks._session, lease),
        attempt_deadline_at=await ago(tasks._session, deadline),
    )
    await tasks.reap()
    assert (await found(tasks, held.id)).error_code == code


async def test_reaping_goes_in_batches_past_what_is_held(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many([{"intent": "x"}] * 20)
    held = await tasks.claim(worker="w", limit=20)
    for task in held[1::2]:
        await expire(tasks, task)
    reaped: list[uuid.UUID] = []
    while batch := await tasks.reap(limit=3):
        assert len(batch) <= 3
        reaped += batch
    assert sorted(reaped) == sorted(task.id for task in held[1::2])
    assert len(await tasks.heartbeat_many(held)) == 10
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 500"):
        await tasks.reap(limit=501)


async def test_two_reapers_share_the_work(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        tasks = AsyncTaskRepository(uow.session)
        await tasks.enqueue_many([{"intent": "x"}] * 6)
        for task in await tasks.claim(worker="w", limit=6):
            await expire(tasks, task)
    async with committed.session() as one, committed.session() as two:
        first = await AsyncTaskRepository(one).reap(limit=4)
        second = await AsyncTaskRepository(two).reap(limit=4)
        assert (len(first), len(second)) == (4, 2)
        assert not first.keys() & second.keys()


async def test_a_completion_and_a_reaper_meet(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        tasks = AsyncTaskRepository(uow.session)
        one, two = [await claimed(tasks) for _ in range(2)]
        for task in (one, two):
            await expire(tasks, task)
    async with committed.session() as worker, committed.session() as reaper:
        await AsyncTaskRepository(worker).complete(one)
        assert await AsyncTaskRepository(reaper).reap() == {two.id: TaskStatus.PENDING}
        await reaper.commit()
        await worker.commit()
        assert await AsyncTaskRepository(reaper).reap() == {}
        with pytest.raises(LeaseLost):
            await AsyncTaskRepository(worker).complete(two)
        assert (await found(AsyncTaskRepository(worker), one.id)).status is TaskStatus.COMPLETED
        assert (await found(AsyncTaskRepository(worker), two.id)).status is TaskStatus.PENDING


# The database


async def test_a_lost_connection_is_reported_and_replaced(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await AsyncTaskRepository(uow.session).enqueue("x")
    async with committed.session() as session, committed.session() as killer:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        await killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(DatabaseUnavailable):
            await AsyncTaskRepository(session).claim(worker="w")
    async with committed.begin() as uow:
        assert len(await AsyncTaskRepository(uow.session).claim(worker="w")) == 1


async def test_a_timeout_leaves_the_session_usable(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        held = await claimed(AsyncTaskRepository(uow.session))
    async with committed.session() as holder, committed.session() as session:
        await AsyncTaskRepository(holder).heartbeat(held)
        await session.execute(text("SET LOCAL statement_timeout = '100ms'"))
        with pytest.raises(DatabaseUnavailable):
            await AsyncTaskRepository(session).complete(held)
        await session.rollback()
        await holder.rollback()
        await AsyncTaskRepository(session).complete(held)


async def test_a_stale_object_of_the_session_is_brought_up_to_date(tasks: AsyncTaskRepository) -> None:
    many: list[NewTask] = [{"intent": "x"}]
    await tasks.enqueue_many(many)
    (held,) = await tasks.claim(worker="w")
    row = await found(tasks, held.id)
    await tasks.complete(held)
    assert (await found(tasks, held.id)) is row
    assert row.status is TaskStatus.COMPLETED
