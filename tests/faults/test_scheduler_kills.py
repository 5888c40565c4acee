"""Schedulers as processes, one of which is killed in the middle of a tick."""

from __future__ import annotations

import signal
from collections import Counter
from datetime import timedelta

from sqlalchemy import func, select, update

from alfred_db import Database, MisfirePolicy, ScheduledExecution, ScheduledTask

from .processes import Process, Server, process, program

TASKS = 100
SLOTS = 10


def due(db: Database) -> None:
    """Tasks with ten slots each, or one more when a minute begins meanwhile."""
    with db.begin() as uow:
        for number in range(TASKS):
            uow.scheduler.create(
                f"t{number}", "c", "* * * * *", misfire_policy=MisfirePolicy.ALL, misfire_grace_seconds=0
            )
        first = func.date_trunc("minute", func.now()) - timedelta(minutes=SLOTS - 1)
        uow.session.execute(update(ScheduledTask).values(next_run_at=first))


def slots(db: Database) -> list[tuple[int | None, object]]:
    with db.session() as session:
        rows = session.execute(select(ScheduledExecution.task_id, ScheduledExecution.scheduled_at)).all()
        return [(row[0], row[1]) for row in rows]


def test_of_five_schedulers_one_is_killed_between_filing_and_moving_on(
    own_server: Server, database: str, db: Database
) -> None:
    due(db)
    url = own_server.url(database)
    with process("scheduler.py", url=url, dies=True) as dying:
        dying.wait_for("filed")
        assert dying.finish() == -signal.SIGKILL
    others: list[Process] = []
    try:
        others = [program("scheduler.py", url=url) for _ in range(4)]
        for scheduler in others:
            assert scheduler.finish() == 0
    finally:
        for scheduler in others:
            scheduler.kill()
    found = slots(db)
    assert len(found) == len(set(found)), "each slot once"
    assert len(found) >= TASKS * SLOTS
    assert set(Counter(task for task, _ in found).values()) <= {SLOTS, SLOTS + 1, SLOTS + 2}


def test_what_a_killed_scheduler_filed_is_not_there(own_server: Server, database: str, db: Database) -> None:
    due(db)
    with process("scheduler.py", url=own_server.url(database), dies=True) as dying:
        dying.wait_for("filed")
        dying.finish()
    assert slots(db) == []
    with db.begin() as uow:
        assert len(uow.scheduler.tick().filed) >= TASKS * SLOTS
