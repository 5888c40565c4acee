"""A version of the library in a process of its own: a client that enqueues at a pace, a worker, and a loop of one's own.

It uses only what is public, so that another tree on the path measures another version. Times are of CLOCK_MONOTONIC, which
all processes of a machine share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import contender
from sqlalchemy.orm import Session

from alfred_db import Database, TaskRepository, Worker

_WORK = 0.001
"""Seconds that a handler takes."""


class _Running:
    """The worker of this process, and when its handlers have begun."""

    def __init__(self, url: str, slots: int) -> None:
        self.began: dict[str, float] = {}
        self.worker = Worker(Database(url), {"JOB": self.handle}, concurrency=slots)
        self.thread = threading.Thread(target=lambda: self.worker.run(signals=False))
        self.thread.start()

    def handle(self, task: Any, _lease: Any) -> None:
        self.began[task.task_id] = time.monotonic()
        time.sleep(_WORK)


_running: list[_Running] = []


def upgrade(url: str) -> None:
    """Migrate a new database."""
    with Database(url) as database:
        database.upgrade()


def start(url: str, slots: int) -> None:
    """Start a worker."""
    _running.append(_Running(url, slots))


def stop(number: int) -> dict[str, float]:
    """Wait until the worker has begun so many tasks, stop it, and return when each has begun."""
    one = _running.pop()
    until = time.monotonic() + 30
    while len(one.began) < number and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.2)
    one.worker.stop()
    one.thread.join()
    return one.began


def enqueue(url: str, pace: float, number: int, prefix: str) -> dict[str, float]:
    """Enqueue so many tasks a second, each in a transaction of its own; return the time just before each call."""
    called: dict[str, float] = {}
    with Database(url, notify=True) as database:
        with database.begin() as uow:
            uow.tasks.count(intent="JOB")  # connected
        first = time.monotonic()
        for one in range(number):
            time.sleep(max(0.0, first + one / pace - time.monotonic()))
            key = f"{prefix}-{one}"
            called[key] = time.monotonic()
            with database.begin() as uow:
                uow.tasks.enqueue("JOB", {"n": one}, task_id=key)
    return called


def deep(url: str, depth: int, slots: int) -> float:
    """Work waiting jobs off by a worker, and return the jobs a second."""
    with Database(url) as database:
        with database.begin() as uow:
            uow.tasks.enqueue_many([{"intent": "JOB"}] * depth)
        worker = Worker(database, {"JOB": lambda _task, _lease: time.sleep(_WORK)}, concurrency=slots)
        first = time.perf_counter()
        worker.run(drain=True, signals=False)
        return depth / (time.perf_counter() - first)


def one_by_one(url: str, depth: int) -> float:
    """Claim and complete waiting jobs one by one, each statement committing by itself; return the jobs a second."""
    with Database(url) as database:
        with database.begin() as uow:
            uow.tasks.enqueue_many([{"intent": "JOB"}] * depth)
        with _autocommit(database) as tasks:
            first = time.perf_counter()
            while claimed := tasks.claim(worker="w", intents=["JOB"]):
                tasks.complete(claimed[0])
            return depth / (time.perf_counter() - first)


def flat(url: str, seconds: float) -> list[float]:
    """Enqueue, claim and complete eight at a time; return the jobs a second of each 10 s."""
    marks = [0] * int(seconds / 10)
    with Database(url) as database, _autocommit(database) as tasks:
        first = time.perf_counter()
        while (past := time.perf_counter() - first) < seconds:
            tasks.enqueue_many([{"intent": "JOB"}] * 8)
            tasks.complete_many(tasks.claim(worker="w", limit=8))
            marks[min(int(past / 10), len(marks) - 1)] += 8
    return [mark / 10 for mark in marks]


@contextmanager
def _autocommit(database: Database) -> Generator[TaskRepository]:
    """The tasks in AUTOCOMMIT: by `autocommit()`, where the version has it."""
    if hasattr(database, "autocommit"):
        with database.autocommit() as uow:
            yield uow.tasks
    else:
        with Session(database.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
            yield TaskRepository(session)


if __name__ == "__main__":
    contender.serve(upgrade, start, stop, enqueue, deep, one_by_one, flat)
