"""What the tests of workers start from: workers of both halves at work, and the tasks of a database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    NewTaskResult,
    Task,
    TaskBackoff,
    TaskStatus,
    Worker,
)
from alfred_db.worker._lease import AnyLease

AT_ONCE = TaskBackoff(0, 0, 0)
QUICK: dict[str, Any] = {"poll": 0.2, "upkeep": 0.2, "grace": 20.0, "backoff": AT_ONCE}
SHORT: dict[str, Any] = {**QUICK, "lease": 4.0}
"""With a lease that can be outlasted. `many_beats` leaves nearly all of it for a machine that is busy."""


Work = Callable[[ClaimedTask, AnyLease], Sequence[NewTaskResult] | None]


class Half:
    """Makes workers of one half from plain functions, which an asynchronous one runs in threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asynchronous = name == "async"

    def worker(self, db: Database, handlers: Mapping[str, Work], **options: Any) -> Worker | AsyncWorker:
        settings = {**QUICK, **options}
        if not self.asynchronous:
            return Worker(db, handlers, **settings)
        other = AsyncDatabase(db.url, schema=db.schema, pooler=db.pooler)
        return AsyncWorker(other, {intent: in_thread(work) for intent, work in handlers.items()}, **settings)

    def drain(self, db: Database, handlers: Mapping[str, Work], **options: Any) -> None:
        work(self.worker(db, handlers, **options), drain=True)


def in_thread(work: Work) -> Callable[[ClaimedTask, AsyncLease], Any]:
    async def handler(task: ClaimedTask, lease: AsyncLease) -> Sequence[NewTaskResult] | None:
        return await asyncio.to_thread(work, task, lease)

    return handler


def work(worker: Worker | AsyncWorker, *, drain: bool = False) -> None:
    if isinstance(worker, Worker):
        worker.run(drain=drain, signals=False)
    else:
        asyncio.run(worker.run(drain=drain, signals=False))


@contextmanager
def working(*workers: Worker | AsyncWorker, at_once: bool = True) -> Iterator[None]:
    """Workers at work in threads of their own, stopped at the end. What one raises is raised here."""
    errors: list[BaseException] = []

    def run(worker: Worker | AsyncWorker) -> None:
        try:
            work(worker)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(worker,), name="at work") for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop(at_once=at_once)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a worker does not stop"
    if errors:
        raise errors[0]


def eventually(holds: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


def outlast(db: Database) -> None:
    """Wait until the leases that SHORT claims with are over, unless heartbeats have extended them."""
    statement = (
        "SELECT FROM tasks WHERE status = 'processing'"
        " AND statement_timestamp() < attempt_started_at + make_interval(secs => :lease)"
    )
    eventually(lambda: not sql(db, statement, lease=SHORT["lease"] + 0.1))


def lapse(db: Database) -> None:
    """End the leases of all tasks that are held, as if no heartbeat had come in time."""
    sql(db, "UPDATE tasks SET lease_expires_at = now() - interval '1 s' WHERE status = 'processing'")


def enqueue(db: Database, intent: str = "X", **options: Any) -> Task:
    with db.begin() as uow:
        return uow.tasks.enqueue(intent, **options)[0]


def task(db: Database, enqueued: Task) -> Task:
    with db.begin() as uow:
        found = uow.tasks.get(enqueued.id)
        assert found is not None
        return found


def status(db: Database, enqueued: Task) -> TaskStatus:
    return task(db, enqueued).status


def count(db: Database, status: TaskStatus) -> int:
    with db.begin() as uow:
        return uow.tasks.count(status=status)


def sql(db: Database, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    with db.session() as session:
        done = session.execute(text(statement), parameters)
        rows = [tuple(row) for row in done] if done.returns_rows else []  # type: ignore[attr-defined]
        session.commit()
        return rows


def backends(db: Database, name: str) -> list[int]:
    """The server processes of this database that call themselves so."""
    rows = sql(
        db,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name",
        name=name,
    )
    return [row[0] for row in rows]


def nothing(task: ClaimedTask, lease: AnyLease) -> None:
    """Does it."""
