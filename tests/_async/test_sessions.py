"""A unit of work begins with the driver alone; SQLAlchemy joins the transaction when something needs it."""

from __future__ import annotations

import gc
import os
import select as select_module
import socket
import time
import uuid
from contextlib import suppress
from typing import Any

import corpus
import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import Select, event, func, literal, select, text
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, Document, ProcessedMessage, Task
from alfred_db.engine import pool as engine_pool
from alfred_db.engine import session as engine_session
from alfred_db.engine.session import DirectSession
from alfred_db.errors import DatabaseUnavailable, InvalidInputError, InvalidTransition
from alfred_db.execution._async.driver import driver_of, fetch_rows
from alfred_db.queries.shapes.driver_statement import driver_statement
from alfred_db.repositories import AsyncMessageRepository, AsyncUnitOfWork
from alfred_db.sql import schema_translate_map


def direct(uow: AsyncUnitOfWork) -> bool:
    own = uow.session.sync_session
    assert isinstance(own, DirectSession)
    return own.taken is not None and own.direct


def checked_out(db: AsyncDatabase) -> int:
    pool: Any = db.engine.pool
    count: int = pool.checkedout()
    return count


async def seen(uow: AsyncUnitOfWork, message: str = "m") -> bool:
    """Whether a message is new: a statement that the driver runs."""
    return await uow.messages.first_time(message)


async def messages(db: AsyncDatabase) -> list[str]:
    async with db.session() as session:
        return list(
            await session.scalars(select(ProcessedMessage.message_id).order_by(ProcessedMessage.message_id))
        )


def document() -> Document:
    return Document(title="a", content="b", external_id=str(uuid.uuid4()))


async def documents(db: AsyncDatabase) -> int:
    async with db.session() as session:
        return len((await session.scalars(select(Document.id))).all())


async def test_statements_of_the_driver_alone_are_one_transaction(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        assert await seen(uow, "one")
        assert await seen(uow, "two")
        assert direct(uow)
        assert uow.session.in_transaction()
        assert await messages(committed) == []
    assert await messages(committed) == ["one", "two"]
    with suppress(KeyboardInterrupt):
        async with committed.begin() as uow:
            assert await seen(uow, "three")
            raise KeyboardInterrupt
    assert await messages(committed) == ["one", "two"]


@pytest.mark.parametrize("first", ["driver", "session"])
@pytest.mark.parametrize("fails", [False, True])
async def test_both_ways_are_one_transaction(committed: AsyncDatabase, first: str, fails: bool) -> None:
    try:
        async with committed.begin() as uow:
            if first == "driver":
                assert await seen(uow)
            uow.session.add(document())
            assert await seen(uow, "other")  # flushes
            assert len((await uow.session.scalars(select(Document.id))).all()) == 1
            assert (await uow.session.scalars(select(ProcessedMessage.message_id))).all()
            assert not direct(uow)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert (await documents(committed), bool(await messages(committed))) == (int(not fails), not fails)


async def test_a_savepoint_takes_back_what_the_driver_ran_in_it(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        assert await seen(uow, "before")
        savepoint = await uow.session.begin_nested()
        assert await seen(uow, "within")
        async with uow.session.begin_nested():
            assert await seen(uow, "deeper")
        await savepoint.rollback()
        assert await seen(uow, "after")
    assert await messages(committed) == ["after", "before"]


async def test_listeners_to_commits_are_called(committed: AsyncDatabase) -> None:
    reported: list[str] = []
    async with committed.begin() as uow:
        event.listen(uow.session.sync_session, "after_commit", lambda session: reported.append("after"))
        assert await seen(uow, "one")
        assert direct(uow)
    assert reported == ["after"]
    async with committed.begin() as uow:
        event.listen(uow.session.sync_session, "before_commit", lambda session: session.add(document()))
        assert await seen(uow, "two")
    assert await messages(committed) == ["one", "two"]
    assert await documents(committed) == 1


async def test_a_task_is_committed_when_listeners_are_called(committed: AsyncDatabase) -> None:
    found: list[int] = []

    def count(_session: Any) -> None:
        with psycopg.connect(committed.url.set(drivername="postgresql").render_as_string(False)) as other:
            schema = committed.schema or "public"
            row = other.execute(f'SELECT count(*) FROM "{schema}".tasks').fetchone()
            found.append(row[0] if row else -1)

    for number in range(3):
        async with committed.begin() as uow:
            event.listen(uow.session.sync_session, "after_commit", count)
            task, _ = await uow.tasks.enqueue("JOB", task_id=f"task-{number}")
            if number == 1:
                uow.session.add(document())
            elif number == 2:
                event.listen(
                    uow.session.sync_session, "before_commit", lambda session: session.add(document())
                )
            assert task in uow.session
    assert found == [1, 2, 3]
    assert await documents(committed) == 2


async def test_a_unit_of_work_can_be_committed_and_go_on(committed: AsyncDatabase) -> None:
    vector = corpus.vectors()[1][0]
    with suppress(ZeroDivisionError):
        async with committed.begin() as uow:
            assert await seen(uow, "kept")
            await uow.documents.search(vector, limit=60)  # sets ef_search for the transaction
            await uow.session.commit()
            assert not uow.session.in_transaction()
            assert await uow.session.scalar(text("SHOW hnsw.ef_search")) == "40"
            for _ in range(2):
                await uow.session.commit()
                await uow.documents.search(vector, limit=60)
            assert await uow.session.scalar(text("SHOW hnsw.ef_search")) == "120"
            await uow.session.rollback()
            assert await seen(uow, "lost")
            raise ZeroDivisionError
    assert await messages(committed) == ["kept"]


async def test_settings_of_a_search_are_known_to_both_ways(db: AsyncDatabase) -> None:
    vector = corpus.vectors()[1][0]
    async with db.begin() as uow:
        await uow.documents.search(vector, limit=60)  # asks once what the server is
    async with db.begin() as uow:
        await uow.documents.search(vector, limit=60)
        assert direct(uow)
        assert await uow.session.scalar(text("SHOW hnsw.ef_search")) == "120"
        await uow.documents.search(vector, limit=10)
        assert await uow.session.scalar(text("SHOW hnsw.ef_search")) == "40"


@pytest.mark.parametrize("how", ["an object of another session", "nothing changed", "asked for the engine"])
async def test_what_the_driver_wrote_is_committed_when_the_session_writes_nothing(
    committed: AsyncDatabase, how: str
) -> None:
    async with committed.begin() as uow:
        known = document()
        uow.session.add(known)
    async with committed.begin() as uow:
        assert await seen(uow, "kept")
        if how == "an object of another session":
            uow.session.add(known)
        elif how == "nothing changed":
            uow.session.add(known)
            known.title = "a"
        else:
            uow.session.get_bind()
    assert await messages(committed) == ["kept"]


def status(uow: AsyncUnitOfWork) -> TransactionStatus:
    """What the driver knows of its transaction."""
    own: Any = uow.session.sync_session
    found: TransactionStatus = own.taken.driver.info.transaction_status
    return found


async def test_what_only_searches_begins_no_transaction(committed: AsyncDatabase) -> None:
    vector = corpus.vectors()[1][0]
    with suppress(ZeroDivisionError):
        async with committed.begin() as uow:
            for _ in range(2):
                assert not (await uow.documents.search(vector)).hits
                assert status(uow) is TransactionStatus.IDLE
                async with committed.begin() as other:
                    await other.session.execute(text("DROP INDEX IF EXISTS idx_documents_embedding"))
            assert await seen(uow, "lost")
            await uow.documents.search(vector)
            assert status(uow) is TransactionStatus.INTRANS
            raise ZeroDivisionError
    assert await messages(committed) == []


async def test_what_sees_the_state_of_its_first_statement_begins(committed: AsyncDatabase) -> None:
    options = r"-c default_transaction_isolation=repeatable\ read"
    url = committed.url.update_query_dict({"options": options})
    async with AsyncDatabase(url, schema=committed.schema) as db, db.begin() as uow:
        await uow.documents.search(corpus.vectors()[1][0])
        assert status(uow) is TransactionStatus.INTRANS


async def test_what_locks_rows_begins(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await uow.knowledge._partition("legal-knowledge", hold=True)
        assert status(uow) is TransactionStatus.INTRANS


@driver_statement
def dividing() -> Select[int]:
    return select(literal(1) % 0)


@driver_statement
def ending() -> Select[Any]:
    return select(func.pg_terminate_backend(func.pg_backend_pid()))


async def test_a_search_that_fails_leaves_what_comes_next_a_transaction(committed: AsyncDatabase) -> None:
    with suppress(ZeroDivisionError):
        async with committed.begin() as uow:
            for _ in range(2):
                with pytest.raises(InvalidInputError, match="division"):
                    await fetch_rows(uow.session, dividing(), {})
            assert await seen(uow, "lost")
            raise ZeroDivisionError
    with pytest.raises(DatabaseUnavailable):
        async with committed.begin() as uow:
            await fetch_rows(uow.session, ending(), {})
    async with committed.begin() as uow:
        assert await seen(uow, "kept")
    assert await messages(committed) == ["kept"]


@pytest.mark.parametrize("by", ["driver", "session"])
async def test_a_transaction_that_has_failed_is_not_committed_in_silence(
    committed: AsyncDatabase, by: str
) -> None:
    async def swallow() -> None:
        async with committed.begin() as uow:
            assert await seen(uow, "lost")
            own: Any = uow.session.sync_session
            with suppress(psycopg.errors.DivisionByZero, DataError):
                if by == "driver":
                    await own.taken.driver.execute("SELECT 1 / 0")
                else:
                    await uow.session.execute(text("SELECT 1 / 0"))

    with pytest.raises(InvalidTransition, match="savepoint"):
        await swallow()
    assert await messages(committed) == []
    assert checked_out(committed) == 0


async def test_a_connection_that_ends_takes_the_unit_of_work_along(committed: AsyncDatabase) -> None:
    async def end(uow: AsyncUnitOfWork) -> None:
        own: Any = uow.session.sync_session
        process = own.taken.driver.info.backend_pid
        async with committed.session() as session:
            await session.scalar(text(f"SELECT pg_terminate_backend({process}, 5000)"))

    async def go_on() -> None:
        async with committed.begin() as uow:
            assert await seen(uow, "lost")
            await end(uow)
            for _ in range(2):  # not on another connection, without what was before
                with pytest.raises(DatabaseUnavailable):
                    await seen(uow, "more")

    async def commit() -> None:
        async with committed.begin() as uow:
            assert await seen(uow, "lost")
            await end(uow)

    with pytest.raises(DatabaseUnavailable):
        await go_on()
    with pytest.raises(DatabaseUnavailable):
        await commit()
    async with committed.begin() as uow:
        assert await seen(uow, "found")
    assert await messages(committed) == ["found"]
    assert checked_out(committed) == 1


async def test_more_units_than_the_pool_keeps_return_their_connections(committed: AsyncDatabase) -> None:
    async def nested(number: int) -> None:
        async with committed.begin() as uow:
            assert await seen(uow, str(number))
            if number < 7:
                await nested(number + 1)

    await nested(0)
    assert await messages(committed) == [str(number) for number in range(8)]
    assert checked_out(committed) == 1


async def test_the_tenant_can_be_that_of_a_connection(committed: AsyncDatabase) -> None:
    there = schema_translate_map("acme" if committed.schema is None else None) or {}
    async with committed.engine.connect() as connection:
        mapped = await connection.execution_options(schema_translate_map=there)
        async with AsyncSession(mapped) as session:
            assert await AsyncMessageRepository(session).first_time("elsewhere")
            await session.commit()
    assert await messages(committed) == []


async def test_a_unit_of_work_leaves_no_garbage(committed: AsyncDatabase) -> None:
    """A collection of garbage goes through all that SQLAlchemy holds, and takes a hundred times as long as a claim."""

    async def work() -> None:
        async with committed.begin() as uow:
            await uow.tasks.claim(worker="w")

    for _ in range(3):
        await work()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await work()
        assert gc.collect() < 5
    finally:
        gc.enable()
    async with committed.session() as session:
        assert (await session.scalars(select(Task.id))).all() == []


async def process_of(db: AsyncDatabase) -> int:
    """The server's process that a unit of work has, which is one of the driver alone."""
    async with db.begin() as uow:
        await seen(uow, str(uuid.uuid4()))
        own: Any = uow.session.sync_session
        process: int = own.taken.driver.info.backend_pid
        return process


async def has_processes(db: AsyncDatabase, other: AsyncDatabase, count: int) -> bool:
    """Whether the server has so many for the one database, which the other one asks; they take a moment to end."""
    statement = text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
    for _ in range(600):
        async with other.session() as session:
            if await session.scalar(statement, {"name": db.url.database}) == count:
                return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("trusted", [5.0, -1.0], ids=["at once", "after a while"])
async def test_a_unit_of_work_leaves_its_connection_to_the_next(
    committed: AsyncDatabase, monkeypatch: pytest.MonkeyPatch, trusted: float
) -> None:
    monkeypatch.setattr(engine_pool, "TRUSTED_SECONDS", trusted)
    pool: Any = committed.engine.pool
    process = await process_of(committed)
    assert pool.checkedout() == 1
    assert await process_of(committed) == process
    async with committed.begin() as uow:
        await uow.session.execute(text("SELECT 1"))
        assert await seen(uow)
    async with committed.begin(), committed.session() as session:
        await session.execute(text("SELECT 1"))
    assert await process_of(committed) == process
    assert pool.checkedin() + pool.checkedout() <= 2


async def test_a_connection_that_ended_after_its_last_unit_is_replaced(committed: AsyncDatabase) -> None:
    process = await process_of(committed)
    async with committed.session() as session:
        await session.scalar(text(f"SELECT pg_terminate_backend({process}, 5000)"))
    assert await process_of(committed) != process


async def test_the_pool_sees_a_connection_from_time_to_time(
    committed: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_session, "KEPT_SECONDS", -1.0)
    pool: Any = committed.engine.pool
    process = await process_of(committed)
    assert (pool.checkedout(), pool.checkedin()) == (0, 1)
    assert await process_of(committed) == process


async def test_a_unit_that_was_rolled_back_leaves_nothing(committed: AsyncDatabase) -> None:
    process = await process_of(committed)
    with suppress(KeyboardInterrupt):
        async with committed.begin() as uow:
            assert await seen(uow, "lost")
            raise KeyboardInterrupt
    assert await process_of(committed) == process
    assert "lost" not in await messages(committed)


async def test_a_connection_that_was_left_is_closed_with_the_others(
    committed: AsyncDatabase, db: AsyncDatabase
) -> None:
    await process_of(committed)
    assert await has_processes(committed, db, 1)
    await committed.engine.dispose()
    assert await has_processes(committed, db, 0)
    await process_of(committed)
    await committed.close()
    assert await has_processes(committed, db, 0)


@pytest.mark.parametrize(
    "door", ["a unit of work", "a session", "a savepoint", "a flush", "an object after it"]
)
async def test_a_swallowed_failure_is_one_clear_error_at_the_commit(
    committed: AsyncDatabase, door: str
) -> None:
    """Whoever commits, and whatever has failed: the server would roll back without a word."""

    async def swallow(session: AsyncSession) -> None:
        await AsyncMessageRepository(session).first_time("lost")
        if door == "a flush":
            with suppress(IntegrityError):
                session.add_all([Task(task_id="one", intent="x"), Task(task_id="one", intent="x")])
                await session.flush()
            return
        with suppress(DataError):
            await session.execute(text("SELECT 1 / 0"))
        if door == "an object after it":
            session.add(document())

    async def commit() -> None:
        if door == "a session":
            async with committed.session() as session:
                await swallow(session)
                await session.commit()
        elif door == "a savepoint":
            async with committed.begin() as uow, uow.session.begin_nested():
                await swallow(uow.session)
        else:
            async with committed.begin() as uow:
                await swallow(uow.session)

    with pytest.raises(InvalidTransition, match=r"rolled back.*savepoint") as caught:
        await commit()
    assert not caught.value.retryable
    assert await messages(committed) == []
    assert checked_out(committed) == 0
    async with committed.begin() as uow:
        assert await seen(uow, "found")
    assert await messages(committed) == ["found"]


async def test_what_failed_in_a_savepoint_does_not_fail_the_commit(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        assert await seen(uow, "kept")
        with suppress(DataError):
            async with uow.session.begin_nested():
                await uow.session.execute(text("SELECT 1 / 0"))
    assert await messages(committed) == ["kept"]


async def test_a_connection_that_idled_outside_of_a_transaction_can_be_tried_again(
    committed: AsyncDatabase,
) -> None:
    """A search alone begins none, so that nothing has run when the next statement finds the connection ended."""
    url = committed.url.update_query_dict({"options": "-c idle_session_timeout=300ms"})
    vector = corpus.vectors()[1][0]

    async def idle() -> None:
        async with AsyncDatabase(url, schema=committed.schema) as db:
            async with db.begin() as uow:
                await uow.documents.search(vector)  # asks once what the server is
            async with db.begin() as uow:
                await uow.documents.search(vector)
                assert status(uow) is TransactionStatus.IDLE
                own: Any = uow.session.sync_session
                assert select_module.select([own.taken.driver.fileno()], [], [], 30)[0]
                await seen(uow, "lost")

    with pytest.raises(DatabaseUnavailable) as caught:
        await idle()
    assert caught.value.retryable
    assert await messages(committed) == []


@pytest.mark.parametrize("by", ["driver", "session", "copy"])
async def test_a_connection_lost_before_the_commit_can_be_tried_again(
    committed: AsyncDatabase, by: str
) -> None:
    """Without a word of the server, as when its machine stops: of the transaction nothing remains."""

    async def lose() -> None:
        async with committed.begin() as uow:
            await seen(uow, "lost")
            own: Any = uow.session.sync_session
            with socket.socket(fileno=os.dup(own.taken.driver.fileno())) as found:
                found.shutdown(socket.SHUT_RDWR)
            if by == "driver":
                await seen(uow, "more")
            elif by == "session":
                await uow.tasks.count()
            else:
                await uow.documents.add_many([{"title": "t", "content": "c"}])

    with pytest.raises(DatabaseUnavailable) as caught:
        await lose()
    assert caught.value.retryable
    assert await messages(committed) == []


def alone(db: AsyncDatabase) -> Any:
    """The session of single statements."""
    own: Any = db._alone
    return getattr(own, "sync_session", own)


async def test_a_unit_begins_on_the_connection_of_a_single_statement(committed: AsyncDatabase) -> None:
    await committed.cache.set("unit", b"alone")
    with suppress(ZeroDivisionError):
        async with committed.begin() as uow:
            await uow.cache.set("unit", b"lost")
            assert status(uow) is TransactionStatus.INTRANS
            raise ZeroDivisionError
    assert await committed.cache.get("unit") == b"alone"


async def test_what_single_statements_use_returns_to_the_pool_with_transactions(
    committed: AsyncDatabase,
) -> None:
    await committed.cache.set("pool", b"alone")
    own = alone(committed)
    held = own.take_alone()
    assert held.driver.autocommit

    def give_back(_: object) -> None:
        own._kept._connections.append(held)
        own._kept.give_back()

    async with committed.session() as session:
        await session.run_sync(give_back)
    async with committed.session() as session:
        await session.execute(text("SELECT 1"))
        assert await driver_of(session) is held.driver
        assert not held.driver.autocommit
        assert held.driver.info.transaction_status is TransactionStatus.INTRANS


async def test_no_connection_keeps_a_large_value(committed: AsyncDatabase) -> None:
    large, small = b"x" * 100_000, b"y"
    for value, waits in ((small, True), (large, False)):
        for stored in (True, False):
            if stored:
                await committed.cache.set("large", value)
            else:
                await committed.cache.get("large")
            held = alone(committed).take_alone()
            assert (held.state.cursor is not None) is waits
            alone(committed).keeps(held)
