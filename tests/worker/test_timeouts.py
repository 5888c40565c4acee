"""The end of an attempt's time: coroutines are cancelled at that moment, and what continues nevertheless is reported."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress

import pytest

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    NewTaskResult,
    TaskFailed,
    Worker,
)
from alfred_db.worker import _watch
from alfred_db.worker._lease import AnyLease

from .at_work import QUICK, SHORT, Half, enqueue, eventually, nothing, outlast, sql, status, task, working

SELDOM = {**QUICK, "lease": 600.0, "upkeep": 600.0}
"""No heartbeat and no reaper comes in time to end anything."""


def overdue(db: Database) -> int:
    with db.begin() as uow:
        return uow.tasks.queue_health().overdue_handlers


def reported(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "keeps a slot" in one.getMessage()]


def test_a_coroutine_is_cancelled_at_its_deadline_though_no_heartbeat_is_due(db: Database) -> None:
    ended: list[bool] = []

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        try:
            await asyncio.sleep(120)
        finally:
            ended.append(lease.lost)

    late = [enqueue(db, timeout_seconds=1, max_retries=0) for _ in range(3)]
    later = enqueue(db, timeout_seconds=600)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **SELDOM)):
        eventually(lambda: {status(db, one) for one in late} == {"failed"})
        assert {task(db, one).error_code for one in late} == {"timeout"}
        assert ended == [True] * 3
        assert status(db, later) == "processing"


def test_a_deadline_that_comes_before_those_known_is_seen(db: Database) -> None:
    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        await asyncio.sleep(120)

    enqueue(db, timeout_seconds=500)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **SELDOM)):
        eventually(lambda: sql(db, "SELECT FROM tasks WHERE status = 'processing'"))
        late = enqueue(db, timeout_seconds=1, max_retries=0)
        eventually(lambda: status(db, late) == "failed")
    assert task(db, late).error_code == "timeout"


def test_a_coroutine_that_swallows_its_cancellation_is_logged_and_cancelled_again(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_watch, "AGAIN", 1.0)
    cancelled = 0

    async def stubborn(task: ClaimedTask, lease: AsyncLease) -> None:
        nonlocal cancelled
        while cancelled < 4:
            try:
                await asyncio.sleep(120)
            except asyncio.CancelledError:
                cancelled += 1

    late = enqueue(db, timeout_seconds=1, max_retries=0)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": stubborn}, **SELDOM)):
        eventually(lambda: overdue(db) == 1)
        eventually(lambda: cancelled == 4)
        eventually(lambda: status(db, late) != "processing")
        eventually(lambda: overdue(db) == 0)
    assert len(reported(caplog)) == 1
    assert "let it pass CancelledError on" in reported(caplog)[0]


def test_a_thread_past_its_timeout_keeps_its_slot_which_is_logged_once(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_watch, "AGAIN", 0.05)
    over = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        over.wait(60)

    late = [enqueue(db, "SLOW", timeout_seconds=1, max_retries=0) for _ in range(2)]
    with working(Worker(db, {"SLOW": slow, "X": nothing}, concurrency=3, **QUICK)):
        eventually(lambda: overdue(db) == 2)
        eventually(lambda: {status(db, one) for one in late} == {"failed"})  # by the reaper
        other = enqueue(db)
        eventually(lambda: status(db, other) == "completed")  # in the slot that is left
        time.sleep(0.3)
        over.set()
        eventually(lambda: overdue(db) == 0)
    assert len(reported(caplog)) == 2
    assert all(
        "its timeout_seconds have passed" in one and "call `lease.check()`" in one for one in reported(caplog)
    )
    assert {task(db, one).error_code for one in late} == {"timeout"}


def test_a_handler_that_asks_its_lease_ends_as_timed_out(db: Database) -> None:
    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        while True:
            lease.check()
            time.sleep(0.02)

    late = enqueue(db, timeout_seconds=1, max_retries=0)
    with working(Worker(db, {"X": slow}, **SELDOM)):
        eventually(lambda: status(db, late) == "failed")
    assert task(db, late).error_code == "timeout"


def test_what_ends_in_time_is_not_logged(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    def short(task: ClaimedTask, lease: AnyLease) -> None:
        if task.content.get("fails"):
            raise TaskFailed("no", retry=False)

    with caplog.at_level(logging.DEBUG, "alfred_db.worker"):
        done = [enqueue(db, timeout_seconds=3, content={"fails": fails}) for fails in (True, False)]
        with working(Worker(db, {"X": short}, **SELDOM)):
            eventually(lambda: {status(db, one) for one in done} == {"completed", "failed"})
            time.sleep(3.1)
    assert reported(caplog) == []


@pytest.mark.usefixtures("many_beats")
def test_a_timeout_longer_than_the_lease_is_kept_by_heartbeats(db: Database, half: Half) -> None:
    over = threading.Event()

    def work(task: ClaimedTask, lease: AnyLease) -> None:
        while not (over.is_set() and task.content.get("ends")):
            lease.check()
            time.sleep(0.02)

    done = enqueue(db, content={"ends": True}, timeout_seconds=60, max_retries=0)
    late = enqueue(db, timeout_seconds=5, max_retries=0)
    with working(half.worker(db, {"X": work}, **SHORT)):
        eventually(lambda: status(db, late) == "failed")
        outlast(db)
        over.set()
        eventually(lambda: status(db, done) == "completed")
    assert (task(db, late).error_code, task(db, late).crash_count) == ("timeout", 0)
    assert task(db, done).crash_count == 0


def test_each_of_several_is_ended_at_its_own_deadline(db: Database) -> None:
    ended: list[int] = []

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        try:
            await asyncio.sleep(120)
        finally:
            ended.append(task.content["after"])

    late = [
        enqueue(db, timeout_seconds=after, content={"after": after}, max_retries=0) for after in (5, 1, 3)
    ]
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **SELDOM)):
        eventually(lambda: {status(db, one) for one in late} == {"failed"})
    assert ended == [1, 3, 5]
    # A handler may begin late: the deadline counts from when the claim was sent, a little before the server's time of it.
    took = sql(db, "SELECT timeout_seconds, extract(epoch FROM failed_at - attempt_started_at) FROM tasks")
    assert all(seconds > after - 1 for after, seconds in took), took


@pytest.mark.usefixtures("many_beats")
@pytest.mark.parametrize("blocks", ["a thread", "the event loop"])
def test_the_leases_of_others_are_kept_beside_one_that_cannot_be_ended(db: Database, blocks: str) -> None:
    over = threading.Event()
    attempts: list[str] = []

    def block(task: ClaimedTask, lease: AnyLease) -> None:
        over.wait(60)

    def keep(task: ClaimedTask, lease: AnyLease) -> None:
        attempts.append(task.task_id)
        over.wait(60)

    async def block_all(task: ClaimedTask, lease: AsyncLease) -> None:
        block(task, lease)

    async def keep_on(task: ClaimedTask, lease: AsyncLease) -> None:
        await asyncio.to_thread(keep, task, lease)

    others = [enqueue(db, "KEPT") for _ in range(2)]
    worker: Worker | AsyncWorker = (
        Worker(db, {"X": block, "KEPT": keep}, concurrency=3, **SHORT)
        if blocks == "a thread"
        else AsyncWorker(AsyncDatabase(db.url), {"X": block_all, "KEPT": keep_on}, concurrency=3, **SHORT)
    )
    with working(worker):
        eventually(lambda: len(attempts) == 2)
        late = enqueue(db, timeout_seconds=1, max_retries=0)
        eventually(lambda: status(db, late) == "failed")  # by the reaper
        outlast(db)
        over.set()
        eventually(lambda: {status(db, one) for one in others} == {"completed"})
    assert len(attempts) == 2
    assert {task(db, one).crash_count for one in others} == {0}


def test_attempts_that_end_at_the_deadline_end_once(db: Database) -> None:
    """What a handler stores for its task is there exactly if its task is completed, and no attempt meets the next."""
    spans: dict[str, list[tuple[float, float]]] = {}

    async def close(task: ClaimedTask, lease: AsyncLease) -> list[NewTaskResult]:
        began = time.monotonic()
        try:
            await asyncio.sleep(lease.time_left + float(task.content["offset"]))
        finally:
            spans.setdefault(task.task_id, []).append((began, time.monotonic()))
        return [{"result_type": "t", "content": {}}]

    offsets = [number / 1000 for number in range(-6, 6)]
    tasks = [enqueue(db, timeout_seconds=1, max_retries=1, content={"offset": offset}) for offset in offsets]
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": close}, concurrency=len(tasks), **QUICK)):
        eventually(lambda: {status(db, one) for one in tasks} <= {"completed", "failed"})
    for one in tasks:
        stored = sql(db, "SELECT count(*) FROM task_results WHERE task_id = :id", id=one.id)[0][0]
        assert stored == (status(db, one) == "completed")
        assert status(db, one) == "completed" or task(db, one).error_code == "timeout"
        (_, first), *rest = sorted(spans[one.task_id])
        assert len(rest) <= 1
        assert all(began >= first for began, _ in rest)


def test_a_result_that_comes_after_the_next_attempt_began_is_not_stored(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coroutine that passes its cancellation over works on; what it returns then is nobody's."""
    monkeypatch.setattr(_watch, "AGAIN", 60.0)
    attempts = 0
    second = asyncio.Event()

    async def stubborn(task: ClaimedTask, lease: AsyncLease) -> list[NewTaskResult]:
        nonlocal attempts
        attempts += 1
        mine = attempts
        if mine == 2:
            second.set()
            await asyncio.sleep(0.5)
        else:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(120)
            with suppress(asyncio.CancelledError):
                await second.wait()
        return [{"result_type": f"of attempt {mine}", "content": {}}]

    late = enqueue(db, timeout_seconds=3, max_retries=1)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": stubborn}, concurrency=2, **QUICK)):
        eventually(lambda: status(db, late) in ("completed", "failed"))
        eventually(lambda: attempts == 2)
        time.sleep(0.5)
    stored = sql(db, "SELECT result_type FROM task_results WHERE task_id = :id", id=late.id)
    assert stored == [("of attempt 2",)]
    assert status(db, late) == "completed"
