"""A cancellation reaches what runs at once, by a notification: no heartbeat is due while these tests wait."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    ExecutionLease,
    Lease,
    Worker,
    WorkflowContext,
    Workflows,
    workflow,
)
from alfred_db.engine.notifications import (
    MAX_PAYLOAD,
    cancelled_in,
    cancelled_payload,
    channel_of,
    channel_of_cancelled,
    channel_of_ends,
)
from alfred_db.values import ClaimedExecution

from .at_work import QUICK, enqueue, eventually, sql, status, task, working

LATE: dict[str, Any] = {**QUICK, "lease": 3600.0}
"""The first heartbeat comes after 16 minutes."""


def test_a_thread_sees_it(db: Database) -> None:
    begun = threading.Semaphore(0)

    def wait(task: ClaimedTask, lease: Lease) -> None:
        begun.release()
        eventually(lambda: lease.cancel_requested)
        lease.check()

    other, one = enqueue(db, intent="X"), enqueue(db, intent="X")
    with working(Worker(db, {"X": wait}, **LATE)):
        for _ in range(2):
            assert begun.acquire(timeout=30)
        with db.begin() as uow:
            uow.tasks.cancel(one.id)
        eventually(lambda: status(db, one) == "cancelled")
        assert status(db, other) == "processing"
    assert task(db, one).error_code == "cancelled"


def test_a_coroutine_is_cancelled(db: Database) -> None:
    begun = threading.Event()

    async def wait(task: ClaimedTask, lease: AsyncLease) -> None:
        begun.set()
        await asyncio.sleep(3600)

    one = enqueue(db)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": wait}, **LATE)):
        assert begun.wait(30)
        with db.autocommit() as uow:
            uow.tasks.cancel(one.id)
        eventually(lambda: status(db, one) == "cancelled")


def test_nothing_is_notified_before_the_commit(db: Database) -> None:
    begun, free = threading.Event(), threading.Event()
    held: list[Lease] = []

    def wait(task: ClaimedTask, lease: Lease) -> None:
        held.append(lease)
        begun.set()
        free.wait(30)

    one = enqueue(db)
    with working(Worker(db, {"X": wait}, **LATE), at_once=False):
        try:
            assert begun.wait(30)
            with listening(db) as heard:
                with db.session() as session:
                    from alfred_db import TaskRepository

                    TaskRepository(session).cancel(one.id)
                    session.rollback()
                assert heard() == []
            assert not held[0].cancel_requested
        finally:
            free.set()
        eventually(lambda: status(db, one) == "completed")


def test_executions_of_schedules_and_workflows_are_cancelled_too(db: Database) -> None:
    begun = threading.Semaphore(0)

    def sweep(execution: ClaimedExecution, lease: ExecutionLease) -> None:
        begun.release()
        eventually(lambda: lease.cancel_requested)
        lease.check()

    @workflow("waits")
    def waits(ctx: WorkflowContext) -> None:
        ctx.step(begun.release)
        for number in range(10_000):
            ctx.step(pause, number)

    def pause(number: int) -> None:
        threading.Event().wait(0.01)

    flows = Workflows([waits])
    with db.begin() as uow:
        flows.register(uow)
        flow = flows.start(uow, waits, {})[0].id
        schedule, _ = uow.scheduler.create("sweeping", "sweep")
        execution = uow.scheduler.trigger(schedule.id)
    with working(Worker(db, {}, commands={"sweep": sweep}, workflows=[waits], **LATE)):
        for _ in range(2):
            assert begun.acquire(timeout=30)
        with db.begin() as uow:
            uow.scheduler.cancel(execution.id)
            uow.workflows.cancel(flow)

        def ended() -> bool:
            with db.begin() as uow:
                one, other = uow.scheduler.get_execution(execution.id), uow.workflows.get_execution(flow)
                assert one is not None
                assert other is not None
                return (one.status, other.status) == ("cancelled", "cancelled")

        eventually(ended)


@pytest.mark.parametrize(("number", "named"), [(1, True), (100, True), (300, False)])
def test_one_call_is_one_notification(db: Database, number: int, named: bool) -> None:
    """It names what runs and is to stop; when that is too much for a payload, every worker looks at all it holds."""
    parent = enqueue(db, intent="parent", delay=3600)
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "part", "parent_task_id": parent.id} for _ in range(number)])
        held = uow.tasks.claim("w", limit=500, intents=["part"])
        assert len(held) == number
    with listening(db) as heard:
        with db.begin() as uow:
            uow.tasks.cancel(parent.id)
        payloads = heard()
    assert len(payloads) == 1
    wanted = {("task", one.id.hex) for one in held}
    assert cancelled_in(payloads[0]) == (wanted if named else None)


def test_what_waits_is_cancelled_without_a_notification(db: Database) -> None:
    one = enqueue(db)
    with listening(db) as heard:
        with db.begin() as uow:
            uow.tasks.cancel(one.id)
        assert heard() == []


def test_a_notification_that_comes_before_the_claim_has_returned_is_remembered(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is committed, and the worker does not know yet what it has claimed."""
    from alfred_db.repositories import TaskRepository
    from alfred_db.worker._loop import Loop

    claims, cancelled = TaskRepository.claim, threading.Event()
    heard = Loop._cancelled

    def hear(self: Loop, payload: str) -> None:
        heard(self, payload)
        if payload:
            cancelled.set()

    def claim(self: TaskRepository, *arguments: Any, **options: Any) -> list[ClaimedTask]:
        found = claims(self, *arguments, **options)
        if found and not cancelled.is_set():
            with db.begin() as uow:
                uow.tasks.cancel(found[0].id)
            assert cancelled.wait(30)
        return found

    monkeypatch.setattr(TaskRepository, "claim", claim)
    monkeypatch.setattr(Loop, "_cancelled", hear)

    def wait(task: ClaimedTask, lease: Lease) -> None:
        eventually(lambda: lease.cancel_requested)
        lease.check()

    worker = Worker(db, {"X": wait}, **LATE)
    with working(worker):
        eventually(lambda: sql(db, LISTENERS))
        one = enqueue(db)
        eventually(lambda: status(db, one) == "cancelled")


LISTENERS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'alfred-db listener' AND query LIKE 'LISTEN%cancelled%'
"""


def test_payloads_name_what_fits() -> None:
    ids = [uuid.uuid4() for _ in range(1000)]
    assert cancelled_in(cancelled_payload("task", ids[:200])) == {("task", id.hex) for id in ids[:200]}
    assert len(cancelled_payload("task", ids[:200])) <= MAX_PAYLOAD
    assert cancelled_payload("task", ids) == ""
    assert cancelled_in(cancelled_payload("workflow execution", [7, 8])) == {
        ("workflow execution", "7"),
        ("workflow execution", "8"),
    }
    for unknown in ("", "what others send"):
        assert cancelled_in(unknown) is None


@pytest.mark.parametrize("schema", [None, "acme", "x" * 63, "ä" * 31])
def test_channels_are_names_of_the_tenant(schema: str | None) -> None:
    names = [name(schema) for name in (channel_of, channel_of_ends, channel_of_cancelled)]
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= 63 for name in names)


@contextmanager
def listening(db: Database) -> Iterator[Callable[[], list[str]]]:
    """Listen; yields what returns the payloads that have come until a last notification of the test's own."""
    with Database(db.url, schema=db.schema) as database, database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.autocommit = True
        channel = channel_of_cancelled(db.schema)
        driver.execute(f'LISTEN "{channel}"')

        def heard() -> list[str]:
            sql(db, "SELECT pg_notify(:channel, 'last')", channel=channel)
            found: list[str] = []
            for one in driver.notifies(timeout=30):
                if one.payload == "last":
                    break
                found.append(one.payload)
            return found

        yield heard
