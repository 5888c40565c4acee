"""`db.autocommit()`: each statement commits by itself, on one connection that is left as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from injection.ground import build
from injection.specimens import SPECIMENS
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, event, text

from alfred_db import AlfredDBError, AsyncDatabase, ConfigurationError, Database
from alfred_db.engine.session import AutocommitSession


@pytest.fixture
def database(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=1) as database:
        yield database


def test_every_method_leaves_the_connection_as_it_was(database: Database, tmp_path: Path) -> None:
    with database.begin() as uow:
        ground = build(uow, tmp_path)
    refused: dict[str, str] = {}
    for name, specimen in SPECIMENS.items():
        noun, _, method = name.partition(",")[0].partition(".")
        given = specimen(ground)
        with database.autocommit() as uow:
            try:
                getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
            except AlfredDBError as error:
                refused[name] = type(error).__name__
        raw = database.engine.raw_connection()
        driver = raw.driver_connection
        assert driver is not None
        assert driver.pgconn.transaction_status == TransactionStatus.IDLE, name
        assert not driver.autocommit, name
        raw.close()
    assert {name: kind for name, kind in refused.items() if kind not in KNOWN} == {}
    assert len(refused) < len(SPECIMENS) / 3


# Another space is the default by then.
KNOWN = {
    "ConfigurationError",
    "DimensionMismatch",
    "NotFoundError",
    "ConflictError",
    "InvalidTransition",
    "LeaseLost",
}


def test_one_connection_serves_statements_of_both_ways(database: Database) -> None:
    with database.autocommit() as uow:
        assert isinstance(uow.session, AutocommitSession)
        first = uow.tasks.enqueue("JOB", task_id="one")[0]
        [claimed] = uow.tasks.claim("w")
        assert claimed.id == first.id
        assert uow.tasks.complete(claimed)
        assert uow.session.scalar(text("SELECT count(*) FROM tasks WHERE status = 'completed'")) == 1
        assert uow.tasks.claim("w") == []


def test_what_needs_a_transaction_is_refused(database: Database) -> None:
    with database.autocommit() as uow:
        uow.tasks.enqueue("JOB")
        [claimed] = uow.tasks.claim("w")
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            uow.tasks.complete(claimed, [{"result_type": "answer", "content": {"n": 1}}])
    with database.autocommit() as uow:
        assert len(uow.tasks.enqueue_many([{"intent": "JOB"}] * 1500)) == 1500


def test_an_error_undoes_nothing_and_ends_nothing(database: Database) -> None:
    with suppress(ZeroDivisionError), database.autocommit() as uow:
        uow.tasks.enqueue("JOB", task_id="kept")
        raise ZeroDivisionError
    with database.autocommit() as uow:
        with pytest.raises(AlfredDBError):
            uow.tasks.enqueue("JOB", priority=9)
        assert uow.tasks.get_by_task_id("kept") is not None


def test_listeners_are_called_at_the_end(database: Database) -> None:
    found: list[str] = []
    with database.autocommit() as uow:
        event.listen(uow.session, "after_commit", lambda _: found.append("after"))
        assert uow.messages.first_time("m")
    assert found == ["after"]


def test_asyncio(database_url: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(database_url, pool_size=1) as database:
            async with database.autocommit() as uow:
                await uow.tasks.enqueue("JOB", task_id="one")
                [claimed] = await uow.tasks.claim("w")
                assert await uow.tasks.complete(claimed)
                assert (
                    await uow.session.scalar(text("SELECT count(*) FROM tasks WHERE status = 'completed'"))
                    == 1
                )
            async with database.begin() as uow:
                await uow.tasks.enqueue("JOB")
            async with database.autocommit() as uow:
                waiting = asyncio.create_task(uow.tasks.claim("w"))
                await asyncio.sleep(0)
                waiting.cancel()
                with suppress(asyncio.CancelledError):
                    await waiting
            async with database.begin() as uow:
                await uow.session.execute(text("SELECT 1"))

    asyncio.run(main())
