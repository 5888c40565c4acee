"""A steady flow of short jobs, and a deep queue worked off: `make bench-steady`, or `python -m work.steady` in this folder's parent.

It uses only what is public, so that `PYTHONPATH=<another tree>` measures another version. One line of JSON for each part.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

import psycopg
from harness import one_server
from sqlalchemy.orm import Session

from alfred_db import Database, TaskRepository, Worker

PACE, SLOTS, WORK = 100, 16, 0.001
DEPTH = 1000


def steady(url: Any, seconds: float) -> dict[str, float]:
    """Enqueue 100 jobs a second for a worker of 16 slots; from just before the call to the start of the handler."""
    begun: dict[str, float] = {}
    waited: list[float] = []

    def handler(task: Any, _lease: Any) -> None:
        waited.append(time.perf_counter() - begun[task.task_id])
        time.sleep(WORK)

    worker = Worker(Database(url), {"JOB": handler}, concurrency=SLOTS)
    thread = threading.Thread(target=lambda: worker.run(signals=False))
    thread.start()
    number = int(PACE * seconds)
    with Database(url, notify=True) as db:
        time.sleep(1.5)
        before = sent(url)
        start = time.perf_counter()
        for one in range(number):
            time.sleep(max(0.0, start + one / PACE - time.perf_counter()))
            key = f"steady-{one}"
            begun[key] = time.perf_counter()
            with db.begin() as uow:
                uow.tasks.enqueue("JOB", {"n": one}, task_id=key)
        until = time.monotonic() + 30
        while len(waited) < number and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)
        ran = sent(url) - before
    worker.stop()
    thread.join()
    ordered = quantiles(waited, n=100)
    return {
        "jobs": len(waited),
        "p50 ms": median(waited) * 1e3,
        "p95 ms": ordered[94] * 1e3,
        "statements a job": ran / number,
    }


_ran = 0


def counting() -> None:
    """Count what the driver sends: statements, BEGIN, COMMIT and ROLLBACK."""

    def wrap(name: str) -> None:
        plain: Callable[..., Any] = getattr(psycopg.Connection, name)

        def counted(self: Any, *arguments: Any, **options: Any) -> Any:
            global _ran
            if name == "execute":
                _ran += 1 + (
                    not self.autocommit and self.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                )
            elif self.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                _ran += 1
            return plain(self, *arguments, **options)

        setattr(psycopg.Connection, name, counted)

    for name in ("execute", "commit", "rollback"):
        wrap(name)
    cursor: Callable[..., Any] = psycopg.Cursor.execute

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        global _ran
        if sys._getframe(1).f_code.co_name != "execute":  # not by way of the connection's own
            connection = self.connection
            _ran += 1 + (
                not connection.autocommit
                and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            )
        return cursor(self, *arguments, **options)

    psycopg.Cursor.execute = counted  # type: ignore[method-assign]


def sent(_url: Any) -> int:
    """Return the number of statements so far."""
    return _ran


def deep(url: Any, runs: int) -> dict[str, float]:
    """Work a thousand waiting jobs off, of 1 ms each, in a worker of 16 slots."""
    rates: list[float] = []
    with Database(url) as db:
        for _ in range(runs):
            with db.begin() as uow:
                uow.tasks.enqueue_many([{"intent": "JOB"}] * DEPTH)
            worker = Worker(db, {"JOB": lambda _task, _lease: time.sleep(WORK)}, concurrency=SLOTS)
            start = time.perf_counter()
            worker.run(drain=True, signals=False)
            rates.append(DEPTH / (time.perf_counter() - start))
    return {"jobs/s": median(rates), "least": min(rates), "most": max(rates)}


def one_by_one(url: Any, runs: int) -> dict[str, float]:
    """Claim and complete a thousand waiting jobs one by one, each statement committing by itself."""
    rates: list[float] = []
    with Database(url) as db:
        for _ in range(runs):
            with db.begin() as uow:
                uow.tasks.enqueue_many([{"intent": "JOB"}] * DEPTH)
            with autocommit(db) as tasks:
                start = time.perf_counter()
                while claimed := tasks.claim("w", intents=["JOB"]):
                    tasks.complete(claimed[0])
                rates.append(DEPTH / (time.perf_counter() - start))
    return {"jobs/s": median(rates), "least": min(rates), "most": max(rates)}


@contextmanager
def autocommit(db: Database) -> Generator[TaskRepository]:
    """The tasks of the database in AUTOCOMMIT: by `db.autocommit()`, where the version has it."""
    if hasattr(db, "autocommit"):
        with db.autocommit() as uow:
            yield uow.tasks
    else:
        with Session(db.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
            yield TaskRepository(session)


def flat(url: Any, seconds: float) -> dict[str, float]:
    """Enqueue, claim and complete eight at a time from an empty table that nobody analyses."""
    with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as admin:
        admin.execute("TRUNCATE tasks CASCADE")
        admin.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)")
    marks: list[int] = [0] * int(seconds / 10)
    with Database(url) as db, autocommit(db) as tasks:
        start = time.perf_counter()
        while (past := time.perf_counter() - start) < seconds:
            tasks.enqueue_many([{"intent": "JOB"}] * 8)
            tasks.complete_many(tasks.claim("w", limit=8))
            marks[min(int(past / 10), len(marks) - 1)] += 8
    return {
        "first 10 s, jobs/s": marks[0] / 10,
        "last 10 s, jobs/s": marks[-1] / 10,
        "ratio": marks[-1] / marks[0],
    }


def main() -> None:
    quick = "--quick" in sys.argv
    counting()
    with one_server() as server:
        database = Database(server.url)
        database.upgrade()
        url = database.url
        database.close()
        for part, made in (
            ("steady", lambda: steady(url, 5.0 if quick else 30.0)),
            ("deep", lambda: deep(url, 2 if quick else 7)),
            ("one by one", lambda: one_by_one(url, 2 if quick else 7)),
            ("flat", lambda: flat(url, 20.0 if quick else 60.0)),
        ):
            found = {name: round(value, 2) for name, value in made().items()}
            print(json.dumps({"part": part, **found}), flush=True)


if __name__ == "__main__":
    main()
