"""Workers keep their tasks by heartbeats, and lose them in good order."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    NewTaskResult,
    Worker,
)
from alfred_db.errors import LeaseLost
from alfred_db.worker._lease import AnyLease
from alfred_db.worker._loop import Loop

from .at_work import (
    QUICK,
    SHORT,
    Half,
    enqueue,
    eventually,
    lapse,
    nothing,
    outlast,
    sql,
    status,
    task,
    working,
)


@pytest.mark.usefixtures("many_beats")
def test_heartbeats_keep_a_task_for_longer_than_its_lease(half: Half, db: Database) -> None:
    seen: list[bool] = []

    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        outlast(db)
        seen.append(lease.lost)

    enqueued = enqueue(db)
    with working(*[half.worker(db, {"X": slow}, **SHORT) for _ in range(2)]):
        eventually(lambda: status(db, enqueued) == "completed")
    assert seen == [False]
    assert (task(db, enqueued).claim_seq, task(db, enqueued).crash_count) == (1, 0)


@pytest.mark.usefixtures("many_beats")
def test_heartbeats_go_on_while_a_handler_blocks_the_event_loop(db: Database) -> None:
    async def block(task: ClaimedTask, lease: AsyncLease) -> None:
        outlast(db)
        lease.check()

    enqueued = enqueue(db)
    worker = AsyncWorker(AsyncDatabase(db.url), {"X": block}, **SHORT)
    with working(worker, Worker(db, {"X": nothing}, **QUICK)):
        eventually(lambda: status(db, enqueued) == "completed")
    assert task(db, enqueued).claim_seq == 1


def test_a_task_whose_worker_falls_silent_is_anothers_and_the_first_is_refused(
    half: Half, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process is stopped for longer than the lease, and goes on."""
    monkeypatch.setattr(Loop, "_beat", lambda loop: None)
    begun, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    def stopped(task: ClaimedTask, lease: AnyLease) -> list[NewTaskResult]:
        begun.set()
        assert over.wait(30)
        seen.append(lease.lost)
        with pytest.raises(LeaseLost):
            lease.check()
        return [{"result_type": "by", "content": {"name": "first"}}]

    def second(task: ClaimedTask, lease: AnyLease) -> list[NewTaskResult]:
        return [{"result_type": "by", "content": {"name": "second"}}]

    enqueued = enqueue(db)
    first = half.worker(db, {"X": stopped}, lease=0.5, concurrency=1)
    with working(first, at_once=False):
        assert begun.wait(30)
        with working(half.worker(db, {"X": second}, lease=30.0)):
            eventually(lambda: status(db, enqueued) == "completed")
        over.set()
        eventually(lambda: seen)
    assert seen == [True]
    with db.begin() as uow:
        assert [result.content for result in uow.tasks.results(enqueued.id)] == [{"name": "second"}]
    assert (task(db, enqueued).claim_seq, task(db, enqueued).crash_count) == (2, 1)


def test_a_worker_that_lost_a_task_may_claim_it_again_itself(
    half: Half, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its first handler of it still runs."""
    monkeypatch.setattr(Loop, "_beat", lambda loop: None)
    attempts: list[int] = []
    over = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> list[NewTaskResult]:
        attempts.append(task.attempt)
        if task.attempt == 1:
            assert over.wait(30)
        return [{"result_type": "attempt", "content": {"was": task.attempt}}]

    enqueued = enqueue(db)
    with working(half.worker(db, {"X": slow}), at_once=False):
        eventually(lambda: attempts)
        lapse(db)
        eventually(lambda: status(db, enqueued) == "completed")
        over.set()
        after = enqueue(db, "X")
        eventually(lambda: status(db, after) == "completed")
    with db.begin() as uow:
        assert [result.content for result in uow.tasks.results(enqueued.id)] == [{"was": 2}]
    assert attempts[:2] == [1, 2]


@pytest.mark.usefixtures("many_beats")
def test_a_coroutine_whose_task_is_taken_away_is_cancelled(db: Database) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert lease.lost
            cancelled.set()
            raise

    enqueued = enqueue(db, max_retries=0)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **SHORT)):
        assert begun.wait(30)
        sql(db, "UPDATE tasks SET lease_token = gen_random_uuid()")
        assert cancelled.wait(30)
        eventually(lambda: status(db, enqueued) == "failed")  # by the reaper, as the new holder is silent
    assert task(db, enqueued).error_code == "lease_lost"


def test_an_attempt_that_takes_too_long_is_ended_though_its_worker_is_alive(half: Half, db: Database) -> None:
    late = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        while not lease.lost:
            time.sleep(0.02)
        late.set()
        lease.check()

    enqueued = enqueue(db, max_retries=0, timeout_seconds=1)
    with working(half.worker(db, {"X": slow})):
        eventually(lambda: status(db, enqueued) == "failed")
        assert late.wait(30)
    assert task(db, enqueued).error_code in ("timeout", "handler")


@pytest.mark.usefixtures("many_beats")
def test_a_running_task_that_is_cancelled_ends_so(half: Half, db: Database) -> None:
    begun, seen = threading.Event(), threading.Event()

    def patient(task: ClaimedTask, lease: AnyLease) -> None:
        begun.set()
        while not lease.cancel_requested:
            time.sleep(0.02)
        seen.set()
        lease.check()

    enqueued = enqueue(db)
    with working(half.worker(db, {"X": patient}, **SHORT)):
        assert begun.wait(30)
        with db.begin() as uow:
            uow.tasks.cancel(enqueued.id)
        eventually(lambda: status(db, enqueued) == "cancelled")
        assert seen.wait(30)


@pytest.mark.usefixtures("many_beats")
def test_a_coroutine_is_cancelled_with_its_task(db: Database) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned.set()

    enqueued = enqueue(db)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **SHORT)):
        assert begun.wait(30)
        with db.begin() as uow:
            uow.tasks.cancel(enqueued.id)
        eventually(lambda: status(db, enqueued) == "cancelled")
        assert cleaned.is_set()
    assert task(db, enqueued).error_code == "cancelled"


def test_to_return_completes_a_task_whose_cancellation_comes_too_late(half: Half, db: Database) -> None:
    def cancel(task: ClaimedTask, lease: AnyLease) -> None:
        with db.begin() as uow:
            uow.tasks.cancel(task.id)

    enqueued = enqueue(db)
    half.drain(db, {"X": cancel})
    assert status(db, enqueued) == "completed"
