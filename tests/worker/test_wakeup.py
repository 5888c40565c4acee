"""Idle workers are woken by what is enqueued, and poll where nothing can wake them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from servers import pgbouncer

from alfred_db import (
    AsyncDatabase,
    Database,
    TaskStatus,
    Worker,
)
from alfred_db.engine.notifications import MAX_PAYLOAD, channel_of, payload_of, wakes
from alfred_db.repositories import UnitOfWork
from alfred_db.worker import _loop
from alfred_db.worker._source import Source

from .at_work import (
    QUICK,
    Half,
    backends,
    count,
    enqueue,
    eventually,
    nothing,
    sql,
    status,
    working,
)


@pytest.fixture
def far_polls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options with which an idle worker does not look again by itself while the test lasts."""
    monkeypatch.setattr(_loop, "FIRST_PAUSE", 600.0)
    return {"poll": 600.0, "upkeep": 600.0}


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Wait until the worker listens, and has looked in vain after that: nothing but a notification makes it look again."""
    listens, looked = threading.Event(), threading.Event()
    lock = threading.Lock()
    notified, look = _loop.Loop._notified, Source.look

    def noted(self: _loop.Loop) -> None:
        with lock:
            notified(self)
            listens.set()

    def watched(self: Source[Any], uow: UnitOfWork, limit: int) -> Any:
        with lock:
            after = self.noun == "task" and listens.is_set()
        found = look(self, uow, limit)
        if after:
            looked.set()
        return found

    def wait() -> None:
        assert looked.wait(30)

    monkeypatch.setattr(_loop.Loop, "_notified", noted)
    monkeypatch.setattr(Source, "look", watched)
    return wait


def test_a_worker_is_woken_when_tasks_were_enqueued(
    half: Half, db: Database, far_polls: dict[str, Any], idle: Callable[[], None]
) -> None:
    with working(half.worker(db, {"X": nothing}, **far_polls)):
        idle()
        unheard = enqueue(db)
        time.sleep(0.5)
        assert status(db, unheard) == "pending"
        with Database(db.url, notify=True) as telling:
            enqueued = enqueue(telling)
            eventually(lambda: status(db, enqueued) == "completed")
    assert status(db, unheard) == "completed"


async def test_an_asynchronous_database_wakes_workers_too(
    db: Database, far_polls: dict[str, Any], idle: Callable[[], None]
) -> None:
    with working(Worker(db, {"X": nothing}, **{**QUICK, **far_polls})):
        await asyncio.to_thread(idle)
        async with AsyncDatabase(db.url, notify=True) as telling, telling.begin() as uow:
            await uow.tasks.enqueue_many([{"intent": "X"}] * 3)
        await asyncio.to_thread(eventually, lambda: count(db, TaskStatus.COMPLETED) == 3)


def test_a_lost_listener_is_replaced_and_nothing_is_missed_meanwhile(
    half: Half, db: Database, far_polls: dict[str, Any], idle: Callable[[], None]
) -> None:
    with working(half.worker(db, {"X": nothing}, **far_polls)):
        idle()
        unheard = enqueue(db)
        (old,) = backends(db, "alfred-db listener")
        sql(db, "SELECT pg_terminate_backend(:pid)", pid=old)
        eventually(lambda: status(db, unheard) == "completed")
        assert old not in backends(db, "alfred-db listener")
        with Database(db.url, notify=True) as telling:
            heard = enqueue(telling)
            eventually(lambda: status(db, heard) == "completed")


def test_a_notification_that_is_lost_costs_nothing_but_time(half: Half, db: Database) -> None:
    with (
        working(half.worker(db, {"X": nothing}, poll=0.5)),
        Database(db.url, notify=True) as telling,
    ):
        first = enqueue(telling)
        eventually(lambda: status(db, first) == "completed")
        eventually(lambda: backends(db, "alfred-db notifier"))
        for pid in backends(db, "alfred-db notifier"):
            sql(db, "SELECT pg_terminate_backend(:pid)", pid=pid)
        second = enqueue(telling)
        eventually(lambda: status(db, second) == "completed")
        third = enqueue(telling)
        eventually(lambda: status(db, third) == "completed")


def heard(db: Database, schema: str | None, work: Callable[[Database], object], expected: int) -> int:
    """How many notifications come of what `work` does: as many as are expected, and those that come soon after."""
    driver: Any
    with Database(db.url, schema=schema) as database, database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        driver.autocommit = True
        driver.execute(f'LISTEN "{channel_of(schema)}"')
        with Database(db.url, schema=schema, notify=True) as telling:
            work(telling)
            found = len(list(driver.notifies(timeout=30, stop_after=expected))) if expected else 0
            return found + len(list(driver.notifies(timeout=0.3)))


@pytest.mark.parametrize("schema", [None, "acme"])
def test_only_what_was_enqueued_and_committed_is_notified_and_once(db: Database, schema: str | None) -> None:
    def rolled_back(telling: Database) -> None:
        with telling.session() as session:
            from alfred_db import TaskRepository

            TaskRepository(session).enqueue("X")

    def savepoint(telling: Database) -> None:
        eventually(lambda: not backends(db, "alfred-db notifier"))  # of those before
        with telling.begin() as uow:
            with uow.session.begin_nested():
                uow.tasks.enqueue("X")
            time.sleep(0.1)
            assert not backends(db, "alfred-db notifier")

    def many(telling: Database) -> None:
        with telling.begin() as uow:
            uow.tasks.enqueue_many([{"intent": "X"}] * 1500)
            uow.tasks.enqueue("X")

    def read(telling: Database) -> None:
        count(telling, TaskStatus.PENDING)

    works: dict[Callable[[Database], object], int] = {
        enqueue: 1,
        many: 1,
        savepoint: 1,
        rolled_back: 0,
        read: 0,
    }
    for work, expected in works.items():
        assert heard(db, schema, work, expected) == expected, work
    other = "acme" if schema is None else None
    assert heard(db, other, lambda _: heard(db, schema, enqueue, 1), 0) == 0


def test_a_channel_is_the_tenants_own_and_not_too_long() -> None:
    names = [channel_of(schema) for schema in (None, "acme", "x" * 63, "x" * 62 + "y", "ä" * 31)]
    assert len(set(names)) == len(names)
    assert max(len(name.encode()) for name in names) <= 63


def test_behind_a_transaction_pooler_workers_poll(half: Half, db: Database) -> None:
    with pgbouncer(db.url) as url, Database(url, pooler="transaction", notify=True) as pooled:
        with working(half.worker(pooled, {"X": nothing}, poll=0.3, concurrency=2)):
            enqueued = [enqueue(pooled) for _ in range(5)]
            eventually(lambda: {status(db, one) for one in enqueued} == {"completed"})
        assert backends(db, "alfred-db listener") == []


def test_a_notification_names_the_queues_and_intents() -> None:
    kinds = {("mail", "SEND"), ("default", "L\u00f6sch\U0001f600")}
    payload = payload_of(kinds)
    assert wakes(payload, None, None)
    assert wakes(payload, ["mail"], ["SEND"])
    assert wakes(payload, None, ["L\u00f6sch\U0001f600"])
    assert not wakes(payload, ["default"], ["SEND"])
    assert not wakes(payload, ["other"], None)
    assert not wakes(payload, None, ["OTHER"])
    many = payload_of((f"queue-{number}", "X" * 50) for number in range(1000))
    assert many == payload_of([*kinds, None]) == ""
    assert all(wakes(odd, ["q"], ["i"]) for odd in ("", "[", "7", "[7]", many))
    assert len(payload_of([("q" * 200, "\U0001f600" * 100)] * 4).encode()) <= MAX_PAYLOAD


def test_an_idle_worker_runs_no_statement_while_tasks_of_other_intents_are_enqueued(
    db: Database, far_polls: dict[str, Any], idle: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        ran.append(str(query)) if threading.current_thread().name == "at work" else None
        return run(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    with working(Worker(db, {"X": nothing}, **far_polls)), Database(db.url, notify=True) as telling:
        idle()
        ran.clear()
        for number in range(20):
            enqueue(telling, "OTHER", queue=f"queue-{number % 3}")
            time.sleep(0.05)
        assert ran == []
        asked = enqueue(telling, "X")
        eventually(lambda: status(db, asked) == "completed")


def test_upkeep_and_a_claim_of_an_idle_worker_are_one_statement_each(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        ran.append(str(query))
        return run(self, query, *arguments, **options)

    loop = Worker(db, {"X": nothing})._loop
    loop._upkeep.keep_up()
    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    loop._upkeep.keep_up()
    assert len(ran) == 1
    ran.clear()
    with loop._db.autocommit() as uow:
        assert loop._sources[0].look(uow, 1) == []
    assert len(ran) == 1, "an empty claim learns in the same statement whether a queue is limited"
    loop._db.close()
