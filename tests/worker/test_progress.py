"""Handlers report how far they have come, and readers see it while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    Lease,
    Task,
    TaskProgress,
    TaskStatus,
    Worker,
)
from alfred_db.errors import ConfigurationError, InvalidInputError, LeaseLost

from .at_work import QUICK, enqueue, eventually, sql, status, working

Report = Callable[..., Any]


def progress(db: Database, enqueued: Task) -> TaskProgress | None:
    with db.begin() as uow:
        return uow.tasks.get_progress(enqueued.id)


def worker_of(
    db: Database, asynchronous: bool, report: Callable[[Callable[..., None]], None], **options: Any
) -> Worker | AsyncWorker:
    """A worker of plain functions or of coroutines, which all do what `report` does with `lease.progress`."""

    def plain(task: ClaimedTask, lease: Lease) -> None:
        report(lease.progress)

    async def coroutine(task: ClaimedTask, lease: AsyncLease) -> None:
        import asyncio

        loop = asyncio.get_running_loop()

        def say(*arguments: Any) -> None:
            asyncio.run_coroutine_threadsafe(lease.progress(*arguments), loop).result(30)

        await asyncio.to_thread(report, say)

    if asynchronous:
        other = AsyncDatabase(db.url, schema=db.schema)
        return AsyncWorker(other, {"X": coroutine}, **{**QUICK, **options})
    return Worker(db, {"X": plain}, **{**QUICK, **options})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_reader_sees_it_while_the_handler_runs(db: Database, asynchronous: bool) -> None:
    reported, seen = threading.Event(), threading.Event()

    def report(say: Callable[..., None]) -> None:
        for wrong in (2, float("nan")):
            with pytest.raises(InvalidInputError, match="fraction"):
                say(wrong)
        with pytest.raises(InvalidInputError, match="note"):
            say(0.1, "a\0")
        say(0.1)
        say(0.4, "half")
        reported.set()
        seen.wait(30)

    one = enqueue(db)
    with working(worker_of(db, asynchronous, report), at_once=False):
        try:
            assert reported.wait(30)
            found = progress(db, one)
            assert found is not None
            assert (found.fraction, found.note, status(db, one)) == (0.4, "half", "processing")
        finally:
            seen.set()
        eventually(lambda: status(db, one) == TaskStatus.COMPLETED)
    assert progress(db, one) is not None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_locked_task_delays_no_report(db: Database, asynchronous: bool) -> None:
    begun, locked, reported = threading.Event(), threading.Event(), threading.Event()

    def report(say: Callable[..., None]) -> None:
        begun.set()
        locked.wait(30)
        say(0.4)
        reported.set()

    one = enqueue(db)
    with working(worker_of(db, asynchronous, report)):
        assert begun.wait(30)
        with db.session() as session:
            session.execute(text("SELECT FROM tasks FOR UPDATE"))
            locked.set()
            assert reported.wait(30)
            found = progress(db, one)
            assert found is not None
            assert found.fraction == 0.4
            session.rollback()


def test_reports_of_one_moment_share_statements(db: Database) -> None:
    """Handlers that report at the same time do not wait for each other's round trips, and each sees its own stored."""
    together = threading.Barrier(8)
    enqueued = [enqueue(db) for _ in range(8)]

    def report(say: Callable[..., None]) -> None:
        together.wait(30)
        for number in range(20):
            say(number / 19)

    with working(worker_of(db, False, report, concurrency=8), at_once=False):
        eventually(lambda: {status(db, one) for one in enqueued} == {TaskStatus.COMPLETED}, 60)
    found = [progress(db, one) for one in enqueued]
    assert [one and one.fraction for one in found] == [1.0] * 8


def test_the_holder_of_a_lost_lease_is_refused(db: Database) -> None:
    lost, outcome = threading.Event(), list[str]()
    again = threading.Event()

    def report(say: Callable[..., None]) -> None:
        if again.is_set():
            return
        say(0.1)
        again.set()
        lost.wait(30)
        try:
            say(0.9, "too late")
        except LeaseLost as error:
            outcome.append(str(error))

    one = enqueue(db)
    with working(worker_of(db, False, report, lease=60.0), at_once=False):
        try:
            assert again.wait(30)
            with db.session() as session:
                session.execute(text("UPDATE tasks SET lease_expires_at = now() - interval '1 second'"))
                session.commit()
            with db.begin() as uow:
                uow.tasks.reap()
        finally:
            lost.set()
        eventually(lambda: outcome)
    assert "lease lost" in outcome[0]
    found = sql(db, "SELECT fraction FROM task_progress WHERE task_id = :id", id=one.id)
    assert found == [(0.1,)]


def test_another_transaction_that_reports_delays_the_others_by_a_moment_only(db: Database) -> None:
    """A handler that has reported in an open transaction holds up the reports about its own task alone."""
    free, done = threading.Event(), threading.Event()

    def handler(task: ClaimedTask, lease: Lease) -> None:
        if task.content:
            with db.begin() as uow:
                uow.tasks.progress(task, 0.5)
                lease.progress(0.6)  # skipped: its own transaction holds the row
                free.set()
                done.wait(30)
        else:
            free.wait(30)
            lease.progress(0.7)
            done.set()

    slow, quick = enqueue(db, content={"slow": True}), enqueue(db)
    with working(Worker(db, {"X": handler}, **QUICK), at_once=False):
        eventually(lambda: {status(db, one) for one in (slow, quick)} == {TaskStatus.COMPLETED}, 60)
    assert [one and one.fraction for one in (progress(db, slow), progress(db, quick))] == [0.5, 0.7]


def test_a_lease_without_a_worker_refuses_reports(db: Database) -> None:
    enqueue(db)
    with db.begin() as uow:
        (claimed,) = uow.tasks.claim("w")
    with pytest.raises(ConfigurationError, match=r"call `uow\.tasks\.progress`"):
        Lease(claimed).progress(0.5)
