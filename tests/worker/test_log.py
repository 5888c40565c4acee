"""What the worker logs: a line for each task that ends, and intents that nobody handles."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import URL, text

from alfred_db import AsyncDatabase, AsyncLease, AsyncWorker, ClaimedTask, Database, NewTaskResult, Worker
from alfred_db.worker import Lease, TaskFailed

INTENTS = ("plain", "results", "fails", "given up", "completes")


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def work(task: ClaimedTask, lease: Lease) -> list[NewTaskResult] | None:
    if task.intent == "fails":
        raise ValueError("no")
    if task.intent == "given up":
        raise TaskFailed("no", code="mine", retry=False)
    if task.intent == "completes":
        with Database(URLS[0]) as db, db.begin() as uow:
            lease.complete(uow)
    return [{"result_type": "r", "content": {}}] if task.intent == "results" else None


async def work_too(task: ClaimedTask, lease: AsyncLease) -> None:
    """Complete the task."""


URLS: list[URL] = []


@pytest.mark.parametrize("several", [1, 4])
def test_each_task_that_ends_is_one_line(
    db: Database, caplog: pytest.LogCaptureFixture, several: int
) -> None:
    """However it ended, and whether it ended alone or with others in one statement."""
    URLS[:] = [db.url]
    with db.begin() as uow:
        for intent in INTENTS:
            for number in range(several):
                uow.tasks.enqueue(intent, task_id=f"{intent} {number}", max_retries=0)
    with caplog.at_level(logging.INFO, "alfred_db.worker"):
        Worker(db, dict.fromkeys(INTENTS, work), concurrency=several * len(INTENTS)).run(
            drain=True, signals=False
        )
    lines = [record.getMessage() for record in caplog.records if record.name == "alfred_db.worker"]
    for intent in INTENTS:
        for number in range(several):
            (line,) = [one for one in lines if one.startswith(f"{intent} {intent} {number}: ")]
            what = {
                "fails": r"attempt 1 failed \(handler\) in \d+\.\d{3} s, now failed",
                "given up": r"attempt 1 failed \(mine\) in \d+\.\d{3} s, now failed",
            }.get(intent, r"attempt 1 completed in \d+\.\d{3} s")
            assert re.fullmatch(what, line.split(": ", 1)[1]), line
    levels = {record.getMessage().split(" ")[0]: record.levelno for record in caplog.records}
    assert (levels["plain"], levels["fails"]) == (logging.INFO, logging.WARNING)


async def test_of_asyncio_too(database_url: URL, db: Database, caplog: pytest.LogCaptureFixture) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue("X", task_id="t")
    async with AsyncDatabase(database_url) as asynchronous:
        with caplog.at_level(logging.INFO, "alfred_db.worker"):
            await AsyncWorker(asynchronous, {"X": work_too}).run(drain=True, signals=False)
    assert [one for one in caplog.messages if re.fullmatch(r"X t: attempt 1 completed in \d+\.\d{3} s", one)]


def named(caplog: pytest.LogCaptureFixture) -> list[str]:
    return sorted(one.split(":")[0] for one in caplog.messages if "no worker seems to handle it" in one)


def test_intents_that_nobody_handles_are_named_once(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    with db.begin() as uow:
        for intent in ("nobody", "held elsewhere", "done lately", "mine"):
            for _ in range(3):
                uow.tasks.enqueue(intent)
        for intent in ("held elsewhere", "done lately"):
            (task,) = uow.tasks.claim(worker="other", intents=[intent])
            if intent == "done lately":
                uow.tasks.complete(task)
        uow.session.execute(text("UPDATE tasks SET available_at = now() - interval '301 s'"))
        uow.tasks.enqueue("new")
        uow.tasks.enqueue("nobody", priority=5)  # claimed first, if anybody would
        uow.session.execute(
            text("UPDATE tasks SET available_at = now() - interval '301 s' WHERE priority = 5")
        )
    worker = Worker(db, {"mine": work}, queues=["elsewhere"])
    loop = worker._loop
    loop._upkeep.keep_up()
    assert named(caplog) == ["intent 'mine'", "intent 'nobody'"], (
        "it takes its intent from another queue only"
    )
    loop._upkeep._looked = None
    loop._upkeep.keep_up()
    assert named(caplog) == ["intent 'mine'", "intent 'nobody'"], "once"
    with db.begin() as uow:
        uow.session.execute(text("DELETE FROM tasks WHERE intent = 'nobody'"))
    loop._upkeep._looked = None
    loop._upkeep.keep_up()
    with db.begin() as uow:
        uow.tasks.enqueue("nobody")
        uow.session.execute(text("UPDATE tasks SET available_at = now() - interval '301 s'"))
    loop._upkeep._looked = None
    loop._upkeep.keep_up()
    assert named(caplog) == ["intent 'mine'", "intent 'new'", "intent 'nobody'", "intent 'nobody'"], "again"
    loop._db.close()


def test_a_worker_of_every_queue_does_not_name_its_own_backlog(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue("mine")
        uow.session.execute(text("UPDATE tasks SET available_at = now() - interval '301 s'"))
    worker = Worker(db, {"mine": work})
    worker._loop._upkeep.keep_up()
    assert named(caplog) == []
    worker._loop._db.close()
