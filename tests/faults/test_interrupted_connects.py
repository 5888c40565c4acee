"""A connection that is interrupted while it opens is closed at once, not when the garbage collector runs.

Each wait of the driver is interrupted once, from the first step of connecting to the first statement: by the
cancellation of the task, or by the exception of a signal handler.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg.rows import scalar_row
from sqlalchemy import URL, text

from alfred_db import AsyncDatabase, Database
from alfred_db.engine.pool import passing_engine

NAME = "interrupted"


class Stop(BaseException):
    """What a signal handler raises."""


class Waits:
    """Counts the waits of the driver, and interrupts the chosen one."""

    def __init__(self, interrupt: Callable[[], object]) -> None:
        self.count, self.chosen = 0, -1
        self._interrupt = interrupt

    def next(self) -> None:
        self.count += 1
        if self.count == self.chosen:
            self._interrupt()

    def watched(self, steps: Any) -> Generator[Any, Any, Any]:
        """The steps of connecting, of which the driver waits for each."""
        try:
            wanted = next(steps)
            while True:
                self.next()
                wanted = steps.send((yield wanted))
        except StopIteration as end:
            return end.value


@pytest.fixture
def backends(migrated_url: URL) -> Iterator[Callable[[], int]]:
    """How many connections the server has, when they have had time to end."""
    plain = migrated_url.set(drivername="postgresql").render_as_string(hide_password=False)

    def left() -> int:
        end = time.monotonic() + 30
        while found := connection.execute(
            "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = %s", [NAME]
        ).fetchone():
            if time.monotonic() > end:
                return found
            time.sleep(0.002)
        return 0

    with psycopg.connect(plain, autocommit=True, row_factory=scalar_row) as connection:
        yield left


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("pooler", [None, "transaction"])
async def test_a_cancelled_connect_leaves_no_connection(
    migrated_url: URL, backends: Callable[[], int], monkeypatch: pytest.MonkeyPatch, pooler: Any
) -> None:
    target: asyncio.Task[None] | None = None

    def cancel() -> None:
        if target is not None:
            asyncio.get_running_loop().call_soon(target.cancel)

    waits = Waits(cancel)
    connect, wait = psycopg.waiting.wait_conn_async, psycopg.waiting.wait_async

    async def connecting(steps: Any, **options: Any) -> Any:
        return await connect(waits.watched(steps), **options)

    async def waiting(*arguments: Any, **options: Any) -> Any:
        waits.next()
        return await wait(*arguments, **options)

    async def unit(database: AsyncDatabase) -> None:
        async with database.begin() as uow:
            await uow.messages.get("x")

    monkeypatch.setattr(psycopg.waiting, "wait_conn_async", connecting)
    monkeypatch.setattr(psycopg.waiting, "wait_async", waiting)
    with no_collection():
        for chosen in range(1, 100):
            waits.count, waits.chosen = 0, chosen
            async with AsyncDatabase(migrated_url, pooler=pooler, application_name=NAME) as database:
                target = asyncio.create_task(unit(database))
                await asyncio.wait([target])
                waits.chosen = -1
            if not target.cancelled():
                break
            target = None
            assert backends() == 0, f"left by an interruption in wait {chosen}"
    assert chosen > 5


def _unit(url: URL) -> None:
    with Database(url, application_name=NAME) as database, database.begin() as uow:
        uow.messages.get("x")


def _migration(url: URL) -> None:
    engine = passing_engine(url, NAME)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


@pytest.mark.parametrize("work", [_unit, _migration])
def test_an_interrupted_connect_leaves_no_connection(
    migrated_url: URL,
    backends: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[URL], None],
) -> None:
    def stop() -> None:
        raise Stop

    waits = Waits(stop)
    connect, wait = psycopg.waiting.wait_conn, psycopg.waiting.wait

    def connecting(steps: Any, **options: Any) -> Any:
        return connect(waits.watched(steps), **options)

    def waiting(*arguments: Any, **options: Any) -> Any:
        waits.next()
        return wait(*arguments, **options)

    with no_collection():
        for chosen in range(1, 100):
            waits.count, waits.chosen = 0, chosen
            with monkeypatch.context() as patch:
                patch.setattr(psycopg.waiting, "wait_conn", connecting)
                patch.setattr(psycopg.waiting, "wait", waiting)
                with suppress(Stop):
                    work(migrated_url)
                    break
            assert backends() == 0, f"left by an interruption in wait {chosen}"
    assert chosen > 5
