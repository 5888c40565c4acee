"""Connections that end around a COMMIT: the caller cannot know what became of it, and may repeat what it did.

`before` cuts a connection when the server has not seen the COMMIT, `after` when it has done it and the client has
not seen the answer; `terminated` is what an administrator does in between statements.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from alfred_db import (
    AsyncDatabase,
    ClaimedTask,
    Database,
    ScheduledExecution,
    ScheduledTask,
    Task,
    TaskStatus,
)
from alfred_db.errors import DatabaseUnavailable, LeaseLost
from alfred_db.repositories import UnitOfWork

from .ledger import EFFECT, figures
from .processes import Cut, Proxy, Server, wait_until

WAYS = ["before", "after", "terminated"]
Work = Callable[[UnitOfWork], Any]


@pytest.fixture(params=WAYS)
def cut(
    request: pytest.FixtureRequest, through_proxy: Database, db: Database, proxy: Proxy
) -> Callable[..., Any]:
    """Runs work in a transaction whose connection is cut, and then again; return the second result."""
    way = request.param

    def cut_off(work: Work) -> None:
        with through_proxy.begin() as uow:
            work(uow)
            if way == "terminated":
                pid = uow.session.scalar(text("SELECT pg_backend_pid()"))
                with db.begin() as other:
                    other.session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            else:
                proxy.cut_next_commit(way)

    def run(work: Work) -> Any:
        with through_proxy.begin() as uow:  # opens the connection
            uow.session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable) as caught:
            cut_off(work)
        assert caught.value.retryable is (way == "terminated"), "a COMMIT may have been done"
        _until_alone(db)
        with through_proxy.begin() as uow:
            return work(uow)

    run.way = way  # type: ignore[attr-defined]
    return run


def _until_alone(db: Database) -> None:
    """Until the server has seen that the connection is gone."""
    left = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state = 'idle in transaction'"
    )

    def alone() -> bool:
        with db.session() as session:
            return session.scalar(left) == 0

    wait_until(alone)


def claimed(db: Database, **options: Any) -> ClaimedTask:
    with db.begin() as uow:
        uow.tasks.enqueue("x", **options)
        return uow.tasks.claim(worker="w")[0]


def the_task(db: Database) -> Task:
    with db.begin() as uow:
        (task,) = uow.tasks.list()
        return task


def test_filing_a_task(db: Database, cut: Any) -> None:
    task, created = cut(lambda uow: uow.tasks.enqueue("x", task_id="t"))
    assert created is (cut.way != "after")
    assert the_task(db).id == task.id


@pytest.mark.parametrize("size", [10, 1001], ids=["insert", "copy"])
def test_filing_many_tasks(db: Database, cut: Any, size: int) -> None:
    enqueued = cut(
        lambda uow: uow.tasks.enqueue_many(
            [{"intent": "x", "task_id": str(number)} for number in range(size)]
        )
    )
    assert [created for _, created in enqueued] == [cut.way != "after"] * size
    with db.begin() as uow:
        assert uow.tasks.count() == size


def test_claiming(db: Database, cut: Any) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue("x", max_retries=1)
    again = cut(lambda uow: uow.tasks.claim(worker="w", lease=0.5))
    task = the_task(db)
    if cut.way == "after":  # nobody holds what it claimed, and a reaper returns it
        assert again == []
        assert task.status is TaskStatus.PROCESSING
        wait_until(lambda: _reaped(db))
        assert the_task(db).crash_count == 1
    else:
        assert [held.claim_seq for held in again] == [1]


def _reaped(db: Database) -> dict[Any, TaskStatus]:
    with db.begin() as uow:
        return dict(uow.tasks.reap())


def test_completing_a_task_with_its_effect(db: Database, cut: Any) -> None:
    held = claimed(db)

    def complete(uow: UnitOfWork) -> bool:
        done = uow.tasks.complete(held, [{"result_type": "r", "content": {}}])
        if done:
            uow.session.execute(EFFECT, {"id": held.id, "claim_seq": held.claim_seq, "worker": "w"})
        return done

    assert cut(complete) is (cut.way != "after")
    with db.session() as session:
        found = figures(session, [])
    found.assert_sound()
    assert (found.completed, found.effects) == (1, 1)
    with db.begin() as uow:
        assert len(uow.tasks.results(held.id)) == 1


def test_completing_many_tasks(db: Database, cut: Any) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "x"}] * 20)
        held = uow.tasks.claim(worker="w", limit=20)
    done = cut(lambda uow: uow.tasks.complete_many(held))
    assert done == ([] if cut.way == "after" else held)
    with db.begin() as uow:
        assert uow.tasks.count(status=TaskStatus.COMPLETED) == 20


@pytest.mark.parametrize("retry", [True, False])
def test_failing_a_task(db: Database, cut: Any, retry: bool) -> None:
    held = claimed(db)
    status = cut(lambda uow: uow.tasks.fail(held, "no", retry=retry, delay=60))
    assert status is (TaskStatus.PENDING if retry else TaskStatus.FAILED)
    task = the_task(db)
    assert (task.status, task.retry_count) == (status, int(retry))


def test_releasing_a_task(db: Database, cut: Any) -> None:
    held = claimed(db)
    assert cut(lambda uow: uow.tasks.release(held)) is TaskStatus.PENDING
    assert the_task(db).retry_count == 0


def test_a_heartbeat(db: Database, cut: Any) -> None:
    held = claimed(db)
    assert cut(lambda uow: uow.tasks.heartbeat(held)).id == held.id


def test_taking_a_task_from_a_silent_worker(db: Database, cut: Any) -> None:
    held = claimed(db)
    with db.begin() as uow:
        uow.session.execute(update(Task).values(lease_expires_at=func.now() - text("interval '1 s'")))
    reaped = cut(lambda uow: uow.tasks.reap())
    assert reaped == ({} if cut.way == "after" else {held.id: TaskStatus.PENDING})
    assert the_task(db).crash_count == 1, "once, whoever saw it"
    with pytest.raises(LeaseLost), db.begin() as uow:
        uow.tasks.complete(held)


def test_cancelling_a_task(db: Database, cut: Any) -> None:
    with db.begin() as uow:
        task, _ = uow.tasks.enqueue("x")
    found = cut(lambda uow: uow.tasks.cancel(task.id))
    assert found == ({} if cut.way == "after" else {task.id: TaskStatus.CANCELLED})
    assert the_task(db).status is TaskStatus.CANCELLED


def test_a_message_and_its_effect(db: Database, cut: Any) -> None:
    def handle(uow: UnitOfWork) -> bool:
        first = uow.messages.first_time("m")
        if first:
            uow.tasks.enqueue("x")
        return first

    assert cut(handle) is (cut.way != "after")
    the_task(db)


def test_a_slot_of_the_schedule(db: Database, cut: Any) -> None:
    with db.begin() as uow:
        uow.scheduler.create("n", "c", "0 0 1 1 *")
        uow.session.execute(update(ScheduledTask).values(next_run_at=func.now() - text("interval '1 s'")))
    enqueued = cut(lambda uow: uow.scheduler.tick().created)
    with db.session() as session:
        ids = session.scalars(select(ScheduledExecution.id)).all()
        next_run = session.scalar(select(ScheduledTask.next_run_at))
    assert len(ids) == 1
    assert enqueued == ([] if cut.way == "after" else ids)
    assert next_run is not None
    assert next_run > datetime.now(UTC)


def test_finishing_an_execution(db: Database, cut: Any) -> None:
    with db.begin() as uow:
        task, _ = uow.scheduler.create("n", "c", None)
        uow.scheduler.trigger(task.id)
        (held,) = uow.scheduler.claim("w")
    status = cut(lambda uow: uow.scheduler.complete(held, output="out"))
    assert status == "completed"


def test_a_workflow_from_start_to_end(db: Database, cut: Any) -> None:
    with db.begin() as uow:
        version = uow.workflows.activate(uow.workflows.define("w", {})[0].id)
    started, created = cut(lambda uow: uow.workflows.start("w", idempotency_key="k"))
    assert created is (cut.way != "after")
    with db.begin() as uow:
        (held,) = uow.workflows.claim("w", [version.id])
    assert held.id == started.id

    def step(uow: UnitOfWork) -> str:
        finished = uow.workflows.replay(held, "a", seq=0)
        if finished is not None:
            return f"taken over: {finished.output}"
        uow.tasks.enqueue("effect of the step")
        stored: str = uow.workflows.checkpoint(held, "a", "out", seq=0)
        return stored

    assert cut(step) == ("taken over: out" if cut.way == "after" else "out")
    assert the_task(db).intent == "effect of the step"
    cut(lambda uow: uow.workflows.complete(held, "all"))
    with db.begin() as uow:
        execution = uow.workflows.get_execution(held.id)
        assert execution is not None
        assert (execution.status, execution.output_data) == ("completed", "all")


@pytest.mark.parametrize("way", ["before", "after"])
async def test_the_same_with_asyncio(
    own_server: Server, database: str, db: Database, proxy: Proxy, way: Cut
) -> None:
    held = claimed(db)

    async def complete(through_proxy: AsyncDatabase, cut: Cut | None) -> bool:
        async with through_proxy.begin() as uow:
            done = await uow.tasks.complete(held)
            if cut is not None:
                proxy.cut_next_commit(cut)
            return done

    async with AsyncDatabase(own_server.url(database, proxy.port)) as through_proxy:
        async with through_proxy.begin() as first:
            await first.session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable):
            await complete(through_proxy, way)
        await asyncio.to_thread(_until_alone, db)
        assert await complete(through_proxy, None) is (way == "before")
    with db.begin() as uow, pytest.raises(LeaseLost):
        uow.tasks.complete(held._replace(lease_token=held.id))


def test_every_connection_of_a_pool_cut_at_once(through_proxy: Database, proxy: Proxy) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            # Nothing is sent until the rollback at the end.
            stack.enter_context(pytest.raises(DatabaseUnavailable))
            stack.enter_context(through_proxy.session()).execute(text("SELECT 1"))
        assert proxy.cut_all() == 5
    assert through_proxy.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    for _ in range(7):
        with through_proxy.begin() as uow:
            uow.tasks.enqueue("x")


async def test_the_same_pool_with_asyncio(own_server: Server, database: str, proxy: Proxy) -> None:
    async with AsyncDatabase(own_server.url(database, proxy.port)) as found:

        async def enqueue() -> None:
            async with found.begin() as uow:
                await uow.tasks.enqueue("x")
                proxy.cut_all()

        async def look() -> None:
            async with found.session() as session:
                await session.execute(text("SELECT 1"))
                proxy.cut_all()

        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await enqueue()
            with pytest.raises(DatabaseUnavailable):
                await look()
        assert found.engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        async with found.begin() as uow:
            assert await uow.tasks.count() == 0
