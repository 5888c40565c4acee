"""Workers that are stopped or cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import pytest

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    Worker,
)
from alfred_db.worker._lease import AnyLease

from .at_work import QUICK, Half, backends, enqueue, eventually, sql, status, task, working


def test_a_stopped_worker_ends_what_runs_and_claims_no_more(half: Half, db: Database) -> None:
    begun, stopped = threading.Event(), threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        begun.set()
        assert stopped.wait(30)
        lease.check()

    enqueued = [enqueue(db), enqueue(db)]
    worker = half.worker(db, {"X": slow}, concurrency=1)
    with working(worker, at_once=False):
        assert begun.wait(30)
        worker.stop()
        stopped.set()
    assert [status(db, one) for one in enqueued] == ["completed", "pending"]
    assert backends(db, "alfred-db worker") == []
    eventually(lambda: backends(db, "alfred-db listener") == [])


@pytest.mark.parametrize("how", ["grace", "at once"])
def test_what_does_not_end_in_time_is_released(half: Half, db: Database, how: str) -> None:
    begun, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    def endless(task: ClaimedTask, lease: AnyLease) -> None:
        begun.set()
        over.wait(60)
        seen.append(lease.lost)

    enqueued = enqueue(db)
    worker = half.worker(db, {"X": endless}, grace=0.2 if how == "grace" else 60)
    with working(worker):
        try:
            assert begun.wait(30)
            worker.stop(at_once=how == "at once")
            eventually(lambda: status(db, enqueued) == "pending")
        finally:
            over.set()
    eventually(lambda: seen)
    assert seen == [True]
    found = task(db, enqueued)
    assert (found.status, found.retry_count, found.crash_count) == ("pending", 0, 0)
    assert found.available_at == enqueued.available_at


async def test_cancelling_the_awaiter_releases_the_tasks_and_closes_the_connections(db: Database) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    enqueued = enqueue(db)
    async with AsyncDatabase(db.url) as other:
        running = asyncio.create_task(AsyncWorker(other, {"X": slow}, **QUICK).run(signals=False))
        await asyncio.wait_for(begun.wait(), 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert cancelled.is_set()
    assert (status(db, enqueued), task(db, enqueued).retry_count) == ("pending", 0)
    assert backends(db, "alfred-db worker") == []


async def test_a_claim_or_completion_that_is_cancelled_leaves_its_connection_clean(db: Database) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "X"}] * 200)
    async with AsyncDatabase(db.url, pool_size=2) as other:

        async def one() -> None:
            async with other.begin() as uow:
                tasks = await uow.tasks.claim(worker="w", limit=2)
            async with other.begin() as uow:
                await uow.tasks.complete_many(tasks)

        for number in range(60):
            running = asyncio.create_task(one())
            await asyncio.sleep(number % 20 / 2000)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        pool: Any = other.engine.pool
        assert pool.checkedout() <= 1  # what the last unit of work has left
        await one()
    idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    )
    assert sql(db, idle) == [(0,)]
    assert sql(db, "SELECT count(*) FROM tasks WHERE status = 'processing' AND lease_token IS NULL") == [(0,)]


def test_signals_are_what_they_were_when_the_worker_has_ended(half: Half, db: Database) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def stop(task: ClaimedTask, lease: AnyLease) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        eventually(lambda: worker._loop.stopping)
        lease.check()

    enqueued = [enqueue(db), enqueue(db)]
    worker = half.worker(db, {"X": stop}, concurrency=1)
    if isinstance(worker, Worker):
        worker.run()
    else:
        asyncio.run(worker.run())
    assert [status(db, one) for one in enqueued] == ["completed", "pending"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
