"""Workers do tasks: by their handlers, so many at once, and what goes wrong with them."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    NewTaskResult,
    TaskFailed,
    TaskStatus,
    Worker,
    embedded,
    migrate,
)
from alfred_db.config import parse_url
from alfred_db.errors import ConfigurationError, InvalidInputError
from alfred_db.worker._lease import AnyLease

from .at_work import QUICK, Half, count, enqueue, eventually, nothing, sql, status, task, working


def test_tasks_are_done_the_most_urgent_first_and_their_results_kept(half: Half, db: Database) -> None:
    done: list[int] = []

    def note(task: ClaimedTask, lease: AnyLease) -> list[NewTaskResult]:
        done.append(task.priority)
        return [{"result_type": "priority", "content": {"was": task.priority}}]

    enqueued = [enqueue(db, priority=priority) for priority in (1, 5, 3, 2, 4)]
    half.drain(db, {"X": note}, concurrency=1)
    assert done == [5, 4, 3, 2, 1]
    assert {status(db, one) for one in enqueued} == {TaskStatus.COMPLETED}
    with db.begin() as uow:
        results = uow.tasks.results(enqueued[1].id)
    assert [(result.result_type, result.content) for result in results] == [("priority", {"was": 5})]


def test_no_more_run_at_once_than_they_may_and_no_more_are_claimed(half: Half, db: Database) -> None:
    running, most, lock = 0, 0, threading.Lock()
    held: list[int] = []
    together = threading.Barrier(3)

    def busy(task: ClaimedTask, lease: AnyLease) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        held.append(count(db, TaskStatus.PROCESSING))
        if len(held) <= 3:
            together.wait(30)
        with lock:
            running -= 1

    for _ in range(20):
        enqueue(db)
    half.drain(db, {"X": busy}, concurrency=3)
    assert most == 3
    assert max(held) <= 3
    assert count(db, TaskStatus.COMPLETED) == 20


def test_only_tasks_that_have_a_handler_are_claimed(half: Half, db: Database) -> None:
    mine, other = enqueue(db, "X"), enqueue(db, "Y", priority=5)
    theirs = enqueue(db, "X", assigned_to="writer")
    half.drain(db, {"X": nothing}, assigned_to="writer")
    assert [status(db, one) for one in (mine, other, theirs)] == ["pending", "pending", "completed"]
    half.drain(db, {"X": nothing})
    assert [status(db, one) for one in (mine, other)] == ["completed", "pending"]
    assert task(db, other).claim_seq == 0


def test_several_workers_do_each_task_once(db: Database) -> None:
    done: list[str] = []

    def note(task: ClaimedTask, lease: AnyLease) -> None:
        done.append(task.task_id)

    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "X", "task_id": str(number)} for number in range(300)])
    workers = [
        Half(name).worker(db, {"X": note}, concurrency=7) for name in ("sync", "sync", "async", "async")
    ]
    with working(*workers):
        eventually(lambda: count(db, TaskStatus.COMPLETED) == 300)
    assert sorted(done) == sorted(str(number) for number in range(300))


def test_an_error_fails_the_attempt_and_the_last_one_the_task(half: Half, db: Database) -> None:
    attempts: list[int] = []

    def refuse(task: ClaimedTask, lease: AnyLease) -> None:
        attempts.append(task.attempt)
        raise ValueError("no such page")

    enqueued = enqueue(db, max_retries=2)
    half.drain(db, {"X": refuse})
    found = task(db, enqueued)
    assert attempts == [1, 2, 3]
    assert (found.status, found.retry_count, found.error_code) == ("failed", 2, "handler")
    assert found.error_message == "ValueError: no such page"


def test_a_handler_decides_how_its_failure_is_to_be_taken(half: Half, db: Database) -> None:
    def refuse(task: ClaimedTask, lease: AnyLease) -> None:
        raise TaskFailed("full", code="quota", retry=task.content["retry"], delay=3600)

    later, never = enqueue(db, content={"retry": True}), enqueue(db, content={"retry": False})
    half.drain(db, {"X": refuse})
    found = task(db, later)
    assert (found.status, found.error_code, found.error_message) == ("pending", "quota", "full")
    assert 3500 < (found.available_at - found.updated_at).total_seconds() < 3700
    assert (status(db, never), task(db, never).retry_count) == ("failed", 0)


@pytest.mark.parametrize("how", [SystemExit(3), KeyboardInterrupt()])
def test_a_handler_cannot_end_the_worker(half: Half, db: Database, how: BaseException) -> None:
    def leave(task: ClaimedTask, lease: AnyLease) -> None:
        raise how

    bad, good = enqueue(db, "BAD", max_retries=0, priority=5), enqueue(db, "X")
    half.drain(db, {"BAD": leave, "X": nothing}, concurrency=1)
    assert [status(db, bad), status(db, good)] == ["failed", "completed"]
    assert type(how).__name__ in (task(db, bad).error_message or "")


async def test_an_asynchronous_handler_that_exits_does_not_end_the_event_loop(db: Database) -> None:
    async def leave(task: ClaimedTask, lease: AsyncLease) -> None:
        raise SystemExit(3)

    bad = enqueue(db, max_retries=0)
    async with AsyncDatabase(db.url) as other:
        await AsyncWorker(other, {"X": leave}, **QUICK).run(drain=True, signals=False)
    assert status(db, bad) == "failed"


@pytest.mark.parametrize(
    "wrong",
    [7, "text", {"result_type": "x"}, [{"content": {}}], [{"result_type": "x", "content": {"x": object()}}]],
    ids=["number", "text", "no content", "no type", "not JSON"],
)
def test_what_cannot_be_stored_fails_its_own_task_alone(half: Half, db: Database, wrong: Any) -> None:
    gate = threading.Barrier(3)

    def answer(task: ClaimedTask, lease: AnyLease) -> Any:
        gate.wait(30)
        return wrong if task.task_id == "bad" else [{"result_type": "x", "content": {}}]

    bad = enqueue(db, task_id="bad", max_retries=0)
    good = [enqueue(db), enqueue(db)]
    half.drain(db, {"X": answer}, concurrency=3)
    assert status(db, bad) == "failed"
    assert "InvalidInputError" in (task(db, bad).error_message or "")
    assert {status(db, one) for one in good} == {TaskStatus.COMPLETED}


def test_handlers_that_do_not_fit_the_worker_are_refused_in_words(db: Database) -> None:
    with pytest.raises(ConfigurationError, match="there are no handlers"):
        Worker(db, {})
    with pytest.raises(ConfigurationError, match="'X' is int; pass a function"):
        Worker(db, {"X": 7})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match="concurrency: expected 1 to 10,000, got 0"):
        Worker(db, {"X": nothing}, concurrency=0)


def test_a_tenants_worker_does_the_tenants_tasks(half: Half, db: Database) -> None:
    with Database(db.url, schema="acme") as acme:
        mine, theirs = enqueue(acme), enqueue(db)
        half.drain(acme, {"X": nothing})
        assert status(acme, mine) == "completed"
    assert status(db, theirs) == "pending"


@pytest.mark.parametrize("schedules", [True, False])
def test_a_worker_creates_the_executions_of_schedules_by_default(db: Database, schedules: bool) -> None:
    with db.begin() as uow:
        scheduled, _ = uow.scheduler.create("nightly", "SWEEP", "* * * * *")
    sql(db, "UPDATE scheduler_tasks SET next_run_at = now() - interval '1 second'")

    def slots() -> int:
        with db.begin() as uow:
            return len(uow.scheduler.history(scheduled.id))

    with working(Worker(db, {"X": nothing}, **{**QUICK, "schedules": schedules})):
        if schedules:
            eventually(slots)
        else:
            enqueued = enqueue(db)
            eventually(lambda: status(db, enqueued) == "completed")
            time.sleep(0.6)
    assert bool(slots()) == schedules


@pytest.mark.parametrize(
    "column",
    [
        """content = ('{"n": ' || repeat('9', 9000) || '}')::jsonb""",
        "metadata = jsonb_build_object('x', (repeat('[', 5000) || repeat(']', 5000))::jsonb)",
        "available_at = '-infinity'",
        "available_at = '0044-03-15 BC'",
    ],
    ids=["digits", "depth", "infinity", "before the calendar"],
)
def test_tasks_that_cannot_be_read_stand_before_no_other(half: Half, db: Database, column: str) -> None:
    bad = [enqueue(db, priority=5) for _ in range(7)]
    other = enqueue(db, "Y", priority=5)
    sql(db, f"UPDATE tasks SET {column}")
    good = [enqueue(db) for _ in range(3)]
    half.drain(db, {"X": nothing}, concurrency=2)
    assert {status(db, one) for one in good} == {"completed"}
    rows = sql(db, "SELECT id, status, error_code, claim_seq FROM tasks WHERE priority = 5 ORDER BY id")
    expected = [(one.id, "failed", "unreadable", 0) for one in bad] + [(other.id, "pending", None, 0)]
    assert rows == sorted(expected)


def test_draining_takes_over_from_vanished_workers_first(half: Half, db: Database) -> None:
    enqueued = enqueue(db)
    with db.begin() as uow:
        assert uow.tasks.claim(worker="gone", lease=0.001)
    time.sleep(0.01)
    half.drain(db, {"X": nothing})
    assert (status(db, enqueued), task(db, enqueued).crash_count) == ("completed", 1)


def test_what_no_waiting_mends_ends_the_worker(half: Half, empty_url: URL) -> None:
    with Database(empty_url) as database, pytest.raises(Exception, match="alfred-db upgrade"):
        half.drain(database, {"X": nothing})


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    half: Half, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory(prefix="alfred-db-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        url = parse_url(embedded.start(folder).url or "")
        try:
            migrate.upgrade(url)
            with Database(url) as db:
                survives_a_restart(half, db, folder)
        finally:
            embedded.stop(folder)
    assert [one for one in caplog.records if one.levelno > logging.WARNING] == []


def survives_a_restart(half: Half, db: Database, folder: Path) -> None:
    begun = threading.Semaphore(0)
    over = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> list[NewTaskResult]:
        begun.release()
        over.wait(60)
        return [{"result_type": "x", "content": {}}]

    enqueued = [enqueue(db) for _ in range(4)]
    with working(half.worker(db, {"X": slow}, concurrency=2, lease=60.0)):
        assert begun.acquire(timeout=30)
        assert begun.acquire(timeout=30)
        (postmaster,) = folder.rglob("postmaster.pid")
        process = int(postmaster.read_text().split()[0])
        os.kill(process, signal.SIGQUIT)  # at once, without a checkpoint
        over.set()  # while there is no server
        eventually(lambda: not Path(f"/proc/{process}").exists())
        time.sleep(0.5)
        embedded.start(folder)
        eventually(lambda: count(db, TaskStatus.COMPLETED) == 4)
    for one in enqueued:
        with db.begin() as uow:
            assert len(uow.tasks.results(one.id)) == 1
        assert task(db, one).claim_seq == 1
