"""Schedulers and workers that really run at the same time."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import URL, func, select, update

from alfred_db import Database, ExecutionStatus, MisfirePolicy, ScheduledExecution, ScheduledTask
from alfred_db.repositories._sync.scheduler import SchedulerRepository
from alfred_db.values.scheduler import ScheduleOutcome

TASKS = 60
DOWN = timedelta(minutes=9, seconds=30)


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=20) as database:
        yield database


def due(db: Database) -> int:
    """Tasks with ten slots each, or eleven when a minute has just begun; return the number of all slots."""
    with db.begin() as uow:
        scheduler = SchedulerRepository(uow.session)
        for number in range(TASKS):
            scheduler.create(
                f"t{number}", "c", "* * * * *", misfire_policy=MisfirePolicy.ALL, misfire_grace_seconds=0
            )
        first = func.date_trunc("minute", func.now()) - timedelta(minutes=9)
        uow.session.execute(update(ScheduledTask).values(next_run_at=first))
    return TASKS * 10


def tick_until_idle(db: Database) -> list[int]:
    created: list[int] = []
    for _ in range(TASKS):
        with db.begin() as uow:
            created += SchedulerRepository(uow.session).tick(limit=7).created
    return created


def test_five_schedulers_create_each_execution_once(db: Database) -> None:
    least = due(db)
    with ThreadPoolExecutor(5) as pool:
        created = [number for found in pool.map(tick_until_idle, [db] * 5) for number in found]
    assert len(created) == len(set(created))
    with db.session() as session:
        slots = session.execute(select(ScheduledExecution.task_id, ScheduledExecution.scheduled_at)).all()
    assert len(slots) == len(set(slots)) == len(created)
    assert len(slots) >= least
    per_task = Counter(task for task, _ in slots)
    assert set(per_task.values()) <= {10, 11, 12}
    for task in per_task:
        times = sorted(slot for of, slot in slots if of == task)
        assert all(later - time == timedelta(minutes=1) for time, later in itertools.pairwise(times))


def run_until_idle(db: Database) -> list[int]:
    ran: list[int] = []
    while True:
        with db.begin() as uow:
            claims = SchedulerRepository(uow.session).claim("w", limit=9)
        if not claims:
            return ran
        for held in claims:
            with db.begin() as uow:
                SchedulerRepository(uow.session).complete(held, output="done")
            ran.append(held.id)


def test_workers_run_each_execution_once(db: Database) -> None:
    due(db)
    created = tick_until_idle(db)
    with ThreadPoolExecutor(4) as pool:
        ran = [number for found in pool.map(run_until_idle, [db] * 4) for number in found]
    assert sorted(ran) == sorted(created)
    with db.session() as session:
        rows = session.execute(select(ScheduledExecution.status, ScheduledExecution.claim_seq)).all()
    assert {(status, claims) for status, claims in rows} == {(ExecutionStatus.COMPLETED, 1)}


def test_many_replicas_create_one_task(db: Database) -> None:
    def create(number: int) -> tuple[int, ScheduleOutcome]:
        with db.begin() as uow:
            task, outcome = SchedulerRepository(uow.session).create(
                f"n{number}", "c", "0 * * * *", schedule_key="k"
            )
            return task.id, outcome

    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(create, range(20)))
    assert len({task for task, _ in found}) == 1
    assert [outcome for _, outcome in found].count(ScheduleOutcome.CREATED) == 1


def test_two_edits_of_one_task_see_each_other(db: Database) -> None:
    with db.begin() as uow:
        task, _ = SchedulerRepository(uow.session).create("n", "c", "0 12 * * *")

    def move() -> ScheduledTask:
        with db.begin() as uow:
            return SchedulerRepository(uow.session).update(task.id, timezone="Asia/Tokyo")

    with db.session() as session, ThreadPoolExecutor(1) as pool:
        SchedulerRepository(session).update(task.id, schedule="30 6 * * *")
        moved = pool.submit(move)
        time.sleep(0.3)
        assert not moved.done()
        session.commit()
        found = moved.result(timeout=60)
    assert (found.schedule, found.timezone) == ("30 6 * * *", "Asia/Tokyo")
    assert found.next_run_at is not None
    assert found.next_run_at.astimezone(ZoneInfo("Asia/Tokyo")).strftime("%H:%M") == "06:30"
