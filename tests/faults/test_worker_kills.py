"""Workers that are killed, frozen or poisoned, as processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from alfred_db import Database, TaskStatus

from .ledger import Figures, figures
from .processes import Process, Server, process, wait_until

Start = Callable[..., AbstractContextManager[Process]]
LAPSE = text("UPDATE tasks SET lease_expires_at = now() WHERE status = 'processing'")
"""Ends the leases of workers that are killed or stopped: others are long, and do not lapse on a busy machine."""


@pytest.fixture
def worker(own_server: Server, database: str) -> Start:
    """Starts a worker: `worker("w-1", lease=1.0)`."""
    usual = {"url": own_server.url(database), "lease": 60.0}
    return lambda name, **settings: process("worker.py", worker=name, **(usual | settings))


def enqueue(
    db: Database, intent: str = "work", content: Mapping[str, Any] | None = None, **options: Any
) -> str:
    with db.begin() as uow:
        return uow.tasks.enqueue(intent, content, **options)[0].task_id


def ended(db: Database) -> bool:
    with db.begin() as uow:
        tasks = uow.tasks
        return not tasks.count(status=TaskStatus.PENDING) + tasks.count(status=TaskStatus.PROCESSING)


def counted(db: Database) -> Figures:
    with db.session() as session:
        found = figures(session, [])
    found.assert_sound()
    return found


@pytest.mark.parametrize(
    "content", [{"seconds": 20}, {"before_commit": 20}], ids=["at work", "before commit"]
)
def test_a_killed_worker_leaves_its_task_to_the_next(
    db: Database, worker: Start, content: Mapping[str, Any]
) -> None:
    name = enqueue(db, content=content, max_retries=1)
    with worker("first") as first:
        first.wait_for("uncommitted" if "before_commit" in content else "claimed")
        wait_until(lambda: counted_attempts(db) == 1)
        first.kill()
    with db.begin() as uow:  # so that the second one is quick
        task = uow.tasks.get_by_task_id(name)
        assert task is not None
        assert task.status is TaskStatus.PROCESSING
        task.content = {}
        uow.session.execute(LAPSE)
    with worker("second") as second:
        second.wait_for(f"done {name}")
    found = counted(db)
    assert (found.completed, found.effects, found.attempts) == (1, 1, 2)
    assert (found.crashes, found.failures) == (1, 0)


def counted_attempts(db: Database) -> int:
    with db.session() as session:
        return figures(session, []).attempts


def test_a_frozen_worker_is_refused_when_it_goes_on(db: Database, worker: Start) -> None:
    name = enqueue(db, content={"seconds": 5})
    with worker("frozen") as frozen, worker("other") as other:
        # Whichever got it.
        wait_until(lambda: any("claimed" in line for line in frozen.lines + other.lines))
        holder, rescuer = (
            (frozen, other) if any("claimed" in line for line in frozen.lines) else (other, frozen)
        )
        holder.send(signal.SIGSTOP)
        with db.begin() as uow:
            task = uow.tasks.get_by_task_id(name)
            assert task is not None
            task.content = {}
            uow.session.execute(LAPSE)
        rescuer.wait_for(f"done {name}")
        holder.send(signal.SIGCONT)
        holder.wait_for(f"lost {name}")
        holder.send(signal.SIGTERM)
        holder.wait_for("stopped")
    found = counted(db)
    assert (found.completed, found.effects, found.attempts, found.crashes) == (1, 1, 2, 1)


@pytest.mark.parametrize("max_retries", [0, 2])
def test_what_kills_every_worker_ends_failed(db: Database, worker: Start, max_retries: int) -> None:
    poison = enqueue(db, "poison", priority=5, max_retries=max_retries)
    enqueue(db)
    for attempt in range(max_retries + 1):
        with worker(f"w-{attempt}", lease=0.5) as victim:
            victim.wait_for(f"claimed {poison}")
            assert victim.finish() == -signal.SIGKILL
    with worker("last", lease=0.5):
        wait_until(partial(ended, db))
    with db.begin() as uow:
        task = uow.tasks.get_by_task_id(poison)
        assert task is not None
        assert (task.status, task.error_code) == (TaskStatus.FAILED, "lease_lost")
        assert (task.crash_count, task.retry_count, task.claim_seq) == (max_retries + 1, 0, max_retries + 1)
    found = counted(db)
    assert (found.completed, found.failed, found.effects) == (1, 1, 1)


def test_failures_and_kills_share_the_budget(db: Database, worker: Start) -> None:
    name = enqueue(db, content={"failures": 9, "seconds": 0.2}, max_retries=2)
    with worker("first", lease=0.5) as first:
        first.wait_for("claimed")
        first.kill()
    with worker("second", lease=0.5) as second:
        wait_until(lambda: second.lines.count(f"failed {name}") == 2)
        wait_until(partial(ended, db))
    found = counted(db)
    assert (found.failed, found.crashes, found.failures, found.effects) == (1, 1, 1, 0)


def test_processes_drain_a_queue_once_while_one_after_the_other_is_killed(
    db: Database, worker: Start
) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many(
            [{"intent": "work", "content": {"seconds": 0.01}, "max_retries": 100} for _ in range(150)]
        )
    for number in range(2):
        with worker(f"victim-{number}", lease=0.6, limit=5) as victim, worker(f"other-{number}", lease=0.6):
            victim.wait_for("done")
            time.sleep(0.05 * number)
            victim.kill()
    with worker("last", lease=0.6, limit=5):
        wait_until(partial(ended, db))
    found = counted(db)
    assert (found.tasks, found.completed, found.effects) == (150, 150, 150)
    assert found.crashes >= found.attempts - 150, "each of the others was ended by a kill"
