"""A row that one transaction has locked costs the holder of others nothing, and is not lost itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import URL, select, text, update

from alfred_db import (
    ClaimedTask,
    Database,
    Lease,
    NewTaskResult,
    ScheduledExecution,
    Task,
    TaskFailed,
    Worker,
    WorkflowExecution,
)
from alfred_db.errors import LeaseLost
from alfred_db.repositories import UnitOfWork


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=10) as database:
        yield database


def claimed_tasks(uow: UnitOfWork, number: int) -> list[ClaimedTask]:
    uow.tasks.enqueue_many([{"intent": "x"}] * number)
    return uow.tasks.claim(worker="w", limit=number, lease=60)


@contextmanager
def locked(db: Database, model: Any, ids: Sequence[Any]) -> Generator[None]:
    with db.session() as session:
        session.execute(select(model.id).where(model.id.in_(ids)).with_for_update(key_share=True))
        yield
        session.rollback()


def in_time(work: Callable[[], Any], seconds: float = 20) -> Any:
    """Return the result, in far less time than the lock is held."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(seconds)


# Each kind of lease: makes five that are held, and extends them; returns their ids and until when each is held.

Beat = Callable[[UnitOfWork], dict[Any, datetime]]


def _tasks(uow: UnitOfWork) -> tuple[list[Any], Beat]:
    held = claimed_tasks(uow, 5)
    return [task.id for task in held], lambda uow: {
        task.id: task.lease_expires_at for task in uow.tasks.heartbeat_many(held, lease=300)
    }


def _executions(uow: UnitOfWork) -> tuple[list[Any], Beat]:
    for number in range(5):
        uow.scheduler.create(f"s-{number}", "x", "* * * * *")
    uow.session.execute(text("UPDATE scheduler_tasks SET next_run_at = now() - interval '1 minute'"))
    uow.scheduler.tick()
    held = uow.scheduler.claim("w", limit=5)
    return [one.id for one in held], lambda uow: {
        one.id: one.lease_expires_at for one in uow.scheduler.heartbeat_many(held, lease=300)
    }


def _workflows(uow: UnitOfWork) -> tuple[list[Any], Beat]:
    workflow, _ = uow.workflows.define("w", {})
    uow.workflows.activate(workflow.id)
    for _ in range(5):
        uow.workflows.start("w")
    held = uow.workflows.claim("w", [workflow.id], limit=5)
    return [one.id for one in held], lambda uow: {
        one.id: one.lease_expires_at for one in uow.workflows.heartbeat_many(held, lease=300)
    }


@pytest.mark.parametrize(
    ("make", "model"),
    [(_tasks, Task), (_executions, ScheduledExecution), (_workflows, WorkflowExecution)],
    ids=["tasks", "executions", "workflows"],
)
@pytest.mark.parametrize("held_up", [(0,), (4,), (1, 3), (0, 1, 2, 3, 4)], ids=str)
def test_heartbeats_pass_locked_rows_by(
    db: Database, make: Callable[[UnitOfWork], tuple[list[Any], Beat]], model: Any, held_up: tuple[int, ...]
) -> None:
    with db.begin() as uow:
        ids, beat = make(uow)

    def beats() -> dict[Any, datetime]:
        with db.begin() as uow:
            return beat(uow)

    def expiries() -> dict[Any, datetime]:
        with db.session() as session:
            rows = session.execute(select(model.id, model.lease_expires_at).where(model.id.in_(ids)))
            return {row[0]: row[1] for row in rows}

    before = expiries()
    with locked(db, model, [ids[place] for place in held_up]):
        kept = in_time(beats)
        after = expiries()
    assert kept.keys() == set(ids), "what is locked is not lost"
    for place, id in enumerate(ids):
        assert (after[id] > before[id]) is (place not in held_up)
        assert kept[id] == after[id]
    assert all(until > before[id] for id, until in beats().items()), "it is extended when the lock is gone"
    lost = update(model).where(model.id == ids[2]).values(lease_token=None)
    with db.session() as session:
        session.execute(lost)
        session.commit()
    with locked(db, model, [ids[0]]):
        assert in_time(beats).keys() == set(ids) - {ids[2]}, (
            "what is lost is not confused with what is locked"
        )


def test_tasks_are_completed_beside_locked_ones(db: Database) -> None:
    with db.begin() as uow:
        held = claimed_tasks(uow, 5)

    def complete() -> list[ClaimedTask]:
        with db.begin() as uow:
            return uow.tasks.complete_many(held)

    with locked(db, Task, [held[0].id, held[3].id]):
        assert in_time(complete) == [held[1], held[2], held[4]]
    assert complete() == [held[0], held[3]]
    assert complete() == []


def test_a_failed_task_that_is_being_referred_to_is_requeued(db: Database) -> None:
    with db.begin() as uow:
        (held,) = claimed_tasks(uow, 1)
        uow.tasks.fail(held, "wrong", retry=False)
    with db.session() as session:
        # The lock of a transaction that inserts a row with a foreign key to the task.
        session.execute(select(Task.id).where(Task.id == held.id).with_for_update(read=True, key_share=True))
        with db.begin() as uow:
            assert uow.tasks.requeue_failed() == [held.id]


def test_a_lock_that_is_gone_soon_is_waited_for(db: Database) -> None:
    with db.begin() as uow:
        held = claimed_tasks(uow, 3)
    taken = threading.Event()

    def hold() -> None:
        with locked(db, Task, [held[1].id]):
            taken.set()
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        taken.wait(10)
        with db.begin() as uow:
            kept = uow.tasks.heartbeat_many(held, lease=300)
        holding.result(10)
    assert min(task.lease_expires_at for task in kept) > held[0].lease_expires_at


def test_a_lost_task_beside_a_locked_one_is_named(db: Database) -> None:
    with db.begin() as uow:
        held = claimed_tasks(uow, 3)
        uow.tasks.release(held[2])
    with locked(db, Task, [held[0].id]), pytest.raises(LeaseLost), db.begin() as uow:
        uow.tasks.complete_many(held)


@pytest.mark.parametrize("ending", ["returns", "results", "fails", "raises"])
def test_a_locked_task_neither_stalls_a_worker_nor_has_others_run_twice(db: Database, ending: str) -> None:
    attempts = Counter[str]()
    begun = threading.Barrier(4)

    def handler(task: ClaimedTask, lease: Lease) -> list[NewTaskResult] | None:
        attempts[task.task_id] += 1
        if task.task_id != "late":
            begun.wait(20)
            time.sleep(4)
        if ending == "fails":
            raise TaskFailed("no", retry=False)
        if ending == "raises":
            raise ValueError("no")
        return [{"result_type": "r", "content": {}}] if ending == "results" else None

    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "x", "task_id": f"t-{n}", "max_retries": 0} for n in range(4)])
        first = uow.tasks.get_by_task_id("t-0")
        assert first is not None
        id = first.id
    # The lock is held for longer than a lease: the owner must keep the others' leases, and end them, meanwhile.
    workers = [Worker(db, {"x": handler}, concurrency=4, lease=3.0, poll=0.1, upkeep=0.1) for _ in range(2)]
    threads = [threading.Thread(target=worker.run, kwargs={"signals": False}) for worker in workers]
    threads[0].start()
    try:
        until = time.monotonic() + 20
        while attempts.total() < 4 and time.monotonic() < until:
            time.sleep(0.01)
        threads[1].start()
        with locked(db, Task, [id]):
            over: set[str] = set()
            until = time.monotonic() + 60
            while len(over) < 4 and time.monotonic() < until:
                time.sleep(0.1)
                with db.begin() as uow:
                    if "late" not in over:
                        uow.tasks.enqueue("x", task_id="late", max_retries=0)
                    ended = [task for task in uow.tasks.list() if task.completed_at or task.failed_at]
                    over = {task.task_id for task in ended}
                    codes = {task.error_code for task in ended}
            assert over == {"t-1", "t-2", "t-3", "late"}, "they were ended while the lock was held"
            assert codes == {None if ending in ("returns", "results") else "handler"}, "by their handlers"
    finally:
        for worker, thread in zip(workers, threads, strict=True):
            worker.stop()
            if thread.ident is not None:
                thread.join(30)
    for name in ("t-1", "t-2", "t-3", "late"):
        assert attempts[name] == 1, attempts
