"""Schedulers as processes, one of which is killed in the middle of a tick."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from alfred_db import Database, MisfirePolicy, ScheduledExecution, ScheduledTask

from .processes import Server, process, wait_until

TASKS = 100
SLOTS = 10
MINUTE = timedelta(minutes=1)


def due(db: Database) -> datetime:
    """Tasks with ten slots each, or one more when a minute begins meanwhile; return the first."""
    with db.begin() as uow:
        for number in range(TASKS):
            uow.scheduler.create(
                f"t{number}", "c", "* * * * *", misfire_policy=MisfirePolicy.ALL, misfire_grace_seconds=0
            )
        first = func.date_trunc("minute", func.now()) - (SLOTS - 1) * MINUTE
        uow.session.execute(update(ScheduledTask).values(next_run_at=first))
        return uow.session.scalars(select(ScheduledTask.next_run_at).distinct()).one() or datetime.max


def slots(db: Database) -> list[tuple[int | None, datetime]]:
    with db.session() as session:
        rows = session.execute(select(ScheduledExecution.task_id, ScheduledExecution.scheduled_at)).all()
        return [(row[0], row[1]) for row in rows]


def left(db: Database) -> int:
    """How many tasks are due."""
    with db.session() as session:
        return session.scalars(select(func.count()).where(ScheduledTask.next_run_at <= func.now())).one()


@pytest.mark.parametrize("at", ["created", "moved on", "committed", None])
def test_of_four_schedulers_at_work_one_is_killed(
    own_server: Server, database: str, db: Database, at: str | None
) -> None:
    """In its first tick at that point, or wherever it is just after one."""
    url = own_server.url(database)
    with ExitStack() as running:
        settings = [{"url": url, "stops": at}, *[{"url": url}] * 3]
        dying, *others = (running.enter_context(process("scheduler.py", **each)) for each in settings)  # type: ignore[arg-type]
        for scheduler in (dying, *others):
            scheduler.wait_for("ready")
        first = due(db)
        dying.wait_for(at or "committed")
        dying.kill()
        wait_until(lambda: not left(db))
    found = sorted(slots(db))
    with db.session() as session:
        tasks = {task.id: task.next_run_at for task in session.scalars(select(ScheduledTask))}
    expected: list[tuple[int | None, datetime]] = []
    for task, next_run_at in sorted(tasks.items()):
        assert next_run_at is not None
        assert next_run_at >= first + SLOTS * MINUTE
        expected += [(task, first + number * MINUTE) for number in range((next_run_at - first) // MINUTE)]
    assert found == expected, "each slot has one execution"


def test_what_a_killed_scheduler_created_is_not_there(
    own_server: Server, database: str, db: Database
) -> None:
    due(db)
    with process("scheduler.py", url=own_server.url(database), stops="created") as dying:
        dying.wait_for("created")
        dying.kill()
    assert slots(db) == []
    with db.begin() as uow:
        assert len(uow.scheduler.tick().created) >= TASKS * SLOTS
