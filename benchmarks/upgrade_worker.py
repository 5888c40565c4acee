"""A worker in a process of its own: claims and completes tasks while the database is upgraded. Uses only what is public."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import contender
from sqlalchemy.orm import Session

from alfred_db import Database, TaskRepository

PAUSE = 0.005


def ready(url: str) -> None:
    """Connect once."""
    with Database(url) as database, database.begin() as uow:
        uow.tasks.get_by_task_id("none")


def work(url: str, stop: str, name: str) -> dict[str, Any]:
    """Claim and complete one task after the other until the file `stop` exists; a failed call is tried again, as workers do.

    Each claim has the time from its first try to its success, with the clock of the machine at its start.
    """
    waits: list[tuple[float, float]] = []
    errors: Counter[str] = Counter()
    done: list[str] = []
    with Database(url, pool_size=1) as database:
        engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")

        def tried(call: Any) -> Any:
            while True:
                try:
                    with Session(engine) as session:
                        return call(TaskRepository(session))
                except Exception as error:
                    errors[f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"] += 1
                    if os.path.exists(stop):
                        return ()
                    time.sleep(0.05)

        while not os.path.exists(stop):
            at, first = time.time(), time.perf_counter()
            claimed = tried(lambda tasks: tasks.claim(worker=name))
            waits.append((at, time.perf_counter() - first))
            for task in claimed:
                tried(lambda tasks, task=task: tasks.complete(task))
                done.append(task.task_id)
            time.sleep(PAUSE)
    return {"waits": waits, "errors": dict(errors), "done": done}


if __name__ == "__main__":
    contender.serve(ready, work)
