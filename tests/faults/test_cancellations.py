"""Cancelled tasks and interrupted calls, at any moment: the cancellation goes on, and the server is left in peace.

Each call of tests/injection/, which is one of every method, is made in a unit of work of its own and cancelled at a
random moment: between two statements, in one, in a COPY, while it connects, commits or rolls back.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import corpus
import psycopg
import pytest
from injection.ground import Ground, build
from injection.specimens import SPECIMENS
from psycopg.rows import scalar_row
from sqlalchemy import URL, select, text

from alfred_db import AsyncDatabase, Database, Document
from alfred_db.errors import AlfredDBError, DatabaseUnavailable
from alfred_db.repositories import AsyncUnitOfWork, UnitOfWork

from .processes import wait_until

AT_LENGTH = "ALFRED_DB_FAULTS" in os.environ
CANCELLATIONS = 2000 if AT_LENGTH else 60
ROWS = 2000


class Undone(Exception):
    """Has a unit of work rolled back."""


ENDS = (Undone, AlfredDBError)
"""What ends a unit of work that nobody cancels: the error is of a key that is known by now, and the like."""

_LEFT = """
    SELECT coalesce(string_agg(state || ': ' || query, '; '), '') FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> ALL (ARRAY[pg_backend_pid(), %s]) AND state <> 'idle'
        AND backend_type = 'client backend'
"""


class Server:
    """Looks at what connections to a database do."""

    def __init__(self, url: URL) -> None:
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(plain, autocommit=True, row_factory=scalar_row)

    def left(self, besides: int = 0, seconds: float = 30.0) -> str:
        """What is not idle, when it has had so long to end; nothing as a rule."""
        end = time.monotonic() + seconds
        while found := self._connection.execute(_LEFT, [besides]).fetchone():
            if time.monotonic() > end:
                return str(found)
            time.sleep(0.002)
        return ""

    def waits(self) -> bool:
        """Whether somebody waits for a lock."""
        waiting = self._connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return bool(waiting.fetchone())

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def prepared(
    template: URL, new_database: Callable[..., URL], tmp_path_factory: pytest.TempPathFactory
) -> tuple[URL, Ground]:
    """A database with what the calls refer to, which they may commit to."""
    url = new_database(template.database)
    with Database(url) as database, database.begin() as uow:
        ground = build(uow, tmp_path_factory.mktemp("ground"))
    with Database(url) as database, database.begin() as uow:
        uow.documents.add_many(rows(), embeddings=corpus.vectors()[0][:ROWS])  # type: ignore[arg-type]
    return url, ground


@pytest.fixture
def server(prepared: tuple[URL, Ground]) -> Iterator[Server]:
    found = Server(prepared[0])
    yield found
    found.close()


def rows() -> list[dict[str, Any]]:
    return [{"title": "t", "content": str(number)} for number in range(ROWS)]


async def call(uow: AsyncUnitOfWork, ground: Ground, name: str) -> None:
    """One of the calls, or one of those that are not about text."""
    if name == "documents.add_many, of many":
        await uow.documents.add_many(rows(), embeddings=corpus.vectors()[0][:ROWS])  # type: ignore[arg-type]
    elif name == "documents.add_many, that update":
        given = [{**row, "external_id": row["content"]} for row in rows()]
        await uow.documents.add_many(given, on_conflict="update")  # type: ignore[arg-type]
    elif name == "fetch_matrix":
        await uow.fetch_matrix(select(Document.id, Document.embedding))
    else:
        noun, _, method = name.partition(",")[0].partition(".")
        arguments = SPECIMENS[name](ground)
        await getattr(getattr(uow, noun), method)(*arguments.pop("names", ()), **arguments)


COMMITTED = ("documents.add_many, of many", "events.publish_many, by COPY", "tasks.enqueue", "tasks.claim")
"""Calls that can be committed without changing what the others refer to."""

NAMES = [*SPECIMENS, "documents.add_many, of many", "documents.add_many, that update", "fetch_matrix"]
COPIES = [
    name
    for name in NAMES
    if "COPY" in name or name.startswith("documents.add_many") or name == "fetch_matrix"
]
WEIGHTS = [8 if "many" in name or "COPY" in name or name == "fetch_matrix" else 1 for name in NAMES]


async def test_a_cancellation_at_any_moment_goes_on(
    prepared: tuple[URL, Ground], server: Server, record_property: Callable[[str, object], None]
) -> None:
    url, ground = prepared
    moments = random.Random(CANCELLATIONS)
    lasted: dict[str, float] = {}
    cancelled = 0
    swallowed: list[str] = []
    left: list[str] = []

    async def unit(db: AsyncDatabase, name: str) -> None:
        async with db.begin() as uow:
            if moments.random() < 0.3:
                async with uow.session.begin_nested():
                    await call(uow, ground, name)
            else:
                await call(uow, ground, name)
            if name not in COMMITTED or moments.random() < 0.5:
                raise Undone

    gc.disable()  # which would close what nobody holds
    try:
        async with AsyncDatabase(url, pool_size=2) as db:
            while cancelled < CANCELLATIONS:
                (name,) = moments.choices(NAMES, WEIGHTS)
                if name not in lasted:
                    began = time.perf_counter()
                    with suppress(*ENDS):
                        await unit(db, name)
                    lasted[name] = time.perf_counter() - began
                task = asyncio.create_task(unit(db, name))
                end = time.perf_counter() + moments.random() * lasted[name]
                while time.perf_counter() < end and not task.done():
                    await asyncio.sleep(0)
                if task.cancel():
                    cancelled += 1
                    await asyncio.wait([task])
                    if not task.cancelled():
                        swallowed.append(f"{name}: {task.exception()!r}")
                    if found := server.left():
                        left.append(f"{name}: {found}")
                else:
                    with suppress(*ENDS):
                        task.result()
            pool: Any = db.engine.pool
            assert pool.checkedout() <= 1  # the one that is kept
    finally:
        gc.enable()
    print(f"{cancelled} cancellations, {len(swallowed)} swallowed, {len(left)} left active")
    assert (swallowed, left) == ([], [])


async def test_a_call_without_a_server_raises_an_error_of_the_library(prepared: tuple[URL, Ground]) -> None:
    """Whatever asks for the connection first, in every call."""
    url, ground = prepared
    nowhere = url.set(host="127.0.0.1", port=1).difference_update_query(["host", "port"])
    wrong: list[str] = []
    async with AsyncDatabase(nowhere) as db:
        for name in NAMES:
            try:
                async with db.begin() as uow:
                    await call(uow, ground, name)
            except DatabaseUnavailable as error:
                if not error.retryable:
                    wrong.append(f"{name}: not retryable")
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}")
            else:
                wrong.append(f"{name}: no error")
    assert wrong == []


@pytest.mark.parametrize(
    "name", NAMES if AT_LENGTH else [name for name in COPIES if name != "documents.add_many, of many"]
)
async def test_a_cancellation_in_each_wait_goes_on(
    prepared: tuple[URL, Ground], server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Cancelled as the driver begins to wait: for an answer, to send, for a COPY to begin or to end."""
    url, ground = prepared
    wait = psycopg.waiting.wait_async
    target: asyncio.Task[None] | None = None
    waits, chosen = 0, -1

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal waits
        task = asyncio.current_task()
        if task is not None and task is target:
            waits += 1
            if waits == chosen:
                asyncio.get_running_loop().call_soon(task.cancel)
        return await wait(*arguments, **options)

    async def unit(db: AsyncDatabase) -> None:
        async with db.begin() as uow:
            await uow.messages.get("ground")
            await call(uow, ground, name)
            raise Undone

    monkeypatch.setattr(psycopg.waiting, "wait_async", counted)
    wrong: list[str] = []
    gc.disable()  # which would close what nobody holds
    try:
        async with AsyncDatabase(url, pool_size=2) as db:
            for chosen in range(100):  # 0 is not cancelled, and tells how many waits there are
                waits, target = 0, asyncio.create_task(unit(db))
                await asyncio.wait([target])
                if chosen and waits < chosen:
                    break
                if chosen and not target.cancelled():
                    wrong.append(f"wait {chosen}: {target.exception()!r}")
                if found := server.left():
                    wrong.append(f"wait {chosen}: {found}")
                if not target.cancelled():
                    assert isinstance(target.exception(), Undone)
                target = None
    finally:
        gc.enable()
    assert chosen > 2
    assert wrong == []


class SoftLimit(Exception):
    """What a task queue raises in a signal handler when a task takes too long."""


class Stop(BaseException):
    """The same, past whoever catches errors."""


KINDS = (KeyboardInterrupt, SystemExit, SoftLimit, Stop)
BLOCKED: dict[str, tuple[str, Callable[[UnitOfWork], object]]] = {
    "COPY": ("documents", lambda uow: uow.documents.add_many(rows())),  # type: ignore[arg-type]
    "COPY of updates": (
        "documents",
        lambda uow: uow.documents.add_many(
            [{**row, "external_id": row["content"]} for row in rows()], on_conflict="update"
        ),
    ),
    "the driver": ("tasks", lambda uow: uow.tasks.claim(worker="w")),
    "the driver alone": ("documents", lambda uow: uow.documents.search(corpus.vectors()[0][0])),
    "SQLAlchemy": ("tasks", lambda uow: uow.tasks.count()),
    "a matrix": ("documents", lambda uow: uow.fetch_matrix(select(Document.id, Document.embedding))),
}
"""The table that is locked, and a call that waits for it, by who runs it."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BLOCKED)
def test_a_call_that_waits_is_interrupted(
    prepared: tuple[URL, Ground], server: Server, name: str, kind: type[BaseException]
) -> None:
    """What a signal handler raises goes on, and the server does not wait any longer, though the lock is still held."""
    table, work = BLOCKED[name]

    def interrupt(*_: object) -> None:
        raise kind("enough")

    def unit(db: Database) -> None:
        with db.begin() as uow:
            uow.messages.first_time("lost")
            work(uow)

    def watch() -> None:
        wait_until(server.waits)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    watcher = threading.Thread(target=watch)
    try:
        with Database(prepared[0]) as other, Database(prepared[0]) as db, other.session() as blocker:
            pid = blocker.scalar(text("SELECT pg_backend_pid()"))
            blocker.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            watcher.start()
            with pytest.raises(kind, match="enough"):
                unit(db)
            watcher.join()
            assert server.left(besides=pid) == ""
            with db.begin() as uow:
                assert uow.messages.first_time("lost")
                uow.session.rollback()
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", BLOCKED)
async def test_a_call_that_waits_is_cancelled(
    prepared: tuple[URL, Ground], server: Server, name: str
) -> None:
    """The same for a task."""
    table = BLOCKED[name][0]
    calls: dict[str, Callable[[AsyncUnitOfWork], Any]] = dict(BLOCKED_ASYNC)
    with Database(prepared[0]) as other, other.session() as blocker:
        pid = blocker.scalar(text("SELECT pg_backend_pid()"))
        blocker.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        async with AsyncDatabase(prepared[0]) as db:

            async def unit() -> None:
                async with db.begin() as uow:
                    await uow.messages.first_time("warm")
                    await calls[name](uow)

            task = asyncio.create_task(unit())
            while not server.waits():
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert server.left(besides=pid) == ""
            async with db.begin() as uow:
                await uow.messages.first_time("again")


BLOCKED_ASYNC: Any = {name: work for name, (_, work) in BLOCKED.items()}
"""The calls have the same names in both halves."""
