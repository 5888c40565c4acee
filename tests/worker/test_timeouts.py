"""The end of an attempt's time: coroutines are cancelled at that moment, and what goes on all the same is told of."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from alfred_db import AsyncDatabase, AsyncLease, AsyncWorker, ClaimedTask, Database, TaskFailed, Worker
from alfred_db.worker import _watch
from alfred_db.worker._lease import AnyLease

from .at_work import QUICK, eventually, file, nothing, sql, status, task, working

SELDOM = {**QUICK, "lease": 600.0, "upkeep": 600.0}
"""No heartbeat and no reaper comes in time to end anything."""


def overdue(db: Database) -> int:
    with db.begin() as uow:
        return uow.tasks.queue_health().overdue_handlers


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "keeps a slot" in one.getMessage()]


def test_a_coroutine_is_cancelled_at_its_deadline_though_no_heartbeat_is_due(db: Database) -> None:
    ended: list[bool] = []

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        try:
            await asyncio.sleep(120)
        finally:
            ended.append(lease.lost)

    late = [file(db, timeout_seconds=1, max_retries=0) for _ in range(3)]
    later = file(db, timeout_seconds=600)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **SELDOM)):
        eventually(lambda: {status(db, one) for one in late} == {"failed"})
        assert {task(db, one).error_code for one in late} == {"timeout"}
        assert ended == [True] * 3
        assert status(db, later) == "processing"


def test_a_deadline_that_comes_before_those_known_is_seen(db: Database) -> None:
    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        await asyncio.sleep(120)

    file(db, timeout_seconds=500)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **SELDOM)):
        eventually(lambda: sql(db, "SELECT FROM tasks WHERE status = 'processing'"))
        late = file(db, timeout_seconds=1, max_retries=0)
        eventually(lambda: status(db, late) == "failed")
    assert task(db, late).error_code == "timeout"


def test_a_coroutine_that_swallows_its_cancellation_is_told_of_and_cancelled_again(
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

    late = file(db, timeout_seconds=1, max_retries=0)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": stubborn}, **SELDOM)):
        eventually(lambda: overdue(db) == 1)
        eventually(lambda: cancelled == 4)
        eventually(lambda: status(db, late) != "processing")
        eventually(lambda: overdue(db) == 0)
    assert len(told(caplog)) == 1
    assert "let it pass CancelledError on" in told(caplog)[0]


def test_a_thread_past_its_timeout_keeps_its_slot_which_is_said_once(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_watch, "AGAIN", 0.05)
    over = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        over.wait(60)

    late = [file(db, "SLOW", timeout_seconds=1, max_retries=0) for _ in range(2)]
    with working(Worker(db, {"SLOW": slow, "X": nothing}, concurrency=3, **QUICK)):
        eventually(lambda: overdue(db) == 2)
        eventually(lambda: {status(db, one) for one in late} == {"failed"})  # by the reaper
        other = file(db)
        eventually(lambda: status(db, other) == "completed")  # in the slot that is left
        time.sleep(0.3)
        over.set()
        eventually(lambda: overdue(db) == 0)
    assert len(told(caplog)) == 2
    assert all("timeout_seconds are over" in one and "call `lease.check()`" in one for one in told(caplog))
    assert {task(db, one).error_code for one in late} == {"timeout"}


def test_a_handler_that_asks_its_lease_ends_as_timed_out(db: Database) -> None:
    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        while True:
            lease.check()
            time.sleep(0.02)

    late = file(db, timeout_seconds=1, max_retries=0)
    with working(Worker(db, {"X": slow}, **SELDOM)):
        eventually(lambda: status(db, late) == "failed")
    assert task(db, late).error_code == "timeout"


def test_what_ends_in_time_is_not_told_of(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    def short(task: ClaimedTask, lease: AnyLease) -> None:
        if task.content.get("fails"):
            raise TaskFailed("no", retry=False)

    with caplog.at_level(logging.DEBUG, "alfred_db.worker"):
        done = [file(db, timeout_seconds=1, content={"fails": fails}) for fails in (True, False)]
        with working(Worker(db, {"X": short}, **SELDOM)):
            eventually(lambda: {status(db, one) for one in done} == {"completed", "failed"})
            time.sleep(1.2)
    assert told(caplog) == []
