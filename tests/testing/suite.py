"""What the plugin's user would write; `test_plugin.py` runs it in processes of its own, twice."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from alfred_db import AsyncDatabase, Database, Task, TaskStatus
from alfred_db.errors import InvalidTransition
from alfred_db.testing import assert_query_count, assert_uses_index, toy_embedder


@pytest.fixture(scope="session")
def alfred_prepare() -> Callable[[str], None]:
    def prepare(url: str) -> None:
        with Database(url) as database, database.session() as session:
            session.execute(text("CREATE TABLE own (id int PRIMARY KEY)"))
            check = "CREATE TABLE own_child (own int REFERENCES own (id) DEFERRABLE INITIALLY DEFERRED)"
            session.execute(text(check))
            session.commit()

    return prepare


def names(database: Database) -> list[str]:
    with database.session() as session:
        return list(session.scalars(text("SELECT task_id FROM tasks ORDER BY task_id")))


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_committed_is_seen_and_is_gone_in_the_next_test(alfred_db: Database, number: int) -> None:
    assert names(alfred_db) == []
    with alfred_db.begin() as uow:
        uow.tasks.enqueue("X", {}, task_id="t")
    with alfred_db.autocommit() as uow:
        uow.tasks.enqueue("X", {}, task_id="u")
    alfred_db.cache.set("k", b"v")
    with alfred_db.engine.begin() as connection:
        connection.execute(text("INSERT INTO own VALUES (1)"))
    assert names(alfred_db) == ["t", "u"]
    assert alfred_db.cache.get("k") == b"v"


def test_an_exception_rolls_back_what_it_ends(alfred_db: Database) -> None:
    with alfred_db.begin() as uow:
        uow.tasks.enqueue("X", {}, task_id="kept")
    with pytest.raises(ZeroDivisionError), alfred_db.begin() as uow:  # noqa: PT012
        uow.tasks.enqueue("X", {}, task_id="lost")
        1 / 0  # noqa: B018
    assert names(alfred_db) == ["kept"]


def test_a_failed_statement_ends_its_transaction_alone(alfred_db: Database) -> None:
    with alfred_db.begin() as uow:
        uow.tasks.enqueue("X", {}, task_id="kept")
    with alfred_db.session() as session:
        session.execute(text("INSERT INTO own VALUES (1)"))
        with pytest.raises(IntegrityError):
            session.execute(text("INSERT INTO own VALUES (1)"))
        assert names(alfred_db) == ["kept"]  # another session works
        with pytest.raises(InvalidTransition):
            session.commit()
        session.rollback()
        assert session.scalar(text("SELECT count(*) FROM own")) == 0


def test_a_constraint_that_is_deferred_fails_the_commit(alfred_db: Database) -> None:
    def add(parent: bool) -> None:
        with alfred_db.session() as session:
            session.execute(text("INSERT INTO own_child VALUES (1)"))
            if parent:
                session.execute(text("INSERT INTO own VALUES (1)"))
            session.commit()

    with pytest.raises(IntegrityError):
        add(parent=False)
    add(parent=True)
    with alfred_db.session() as session:
        assert session.scalar(text("SELECT count(*) FROM own_child")) == 1


def test_savepoints_of_the_code_work(alfred_db: Database) -> None:
    with alfred_db.begin() as uow:
        with pytest.raises(IntegrityError), uow.session.begin_nested():
            uow.session.execute(text("INSERT INTO own VALUES (1), (1)"))
        uow.tasks.enqueue("X", {}, task_id="kept")
    assert names(alfred_db) == ["kept"]


def test_a_setting_ends_with_its_transaction(alfred_db: Database) -> None:
    with alfred_db.session() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        session.commit()
        assert session.scalar(text("SHOW enable_seqscan")) == "on"


def test_transactions_may_overlap(alfred_db: Database) -> None:
    with alfred_db.session() as first, alfred_db.session() as second:
        first.execute(text("INSERT INTO own VALUES (1)"))
        second.execute(text("INSERT INTO own VALUES (2)"))
        first.commit()
        second.commit()
        assert first.scalar(text("SELECT count(*) FROM own")) == 2


def test_threads_share_the_transaction(alfred_db: Database) -> None:
    def work(number: int) -> None:
        with alfred_db.begin() as uow:
            uow.tasks.enqueue("X", {}, task_id=f"t{number}")

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(alfred_db) == ["t0", "t1", "t2", "t3"]


def test_a_unit_of_work_and_a_session(alfred_uow: Any, alfred_session: Any, alfred_db: Database) -> None:
    alfred_uow.tasks.enqueue("X", {}, task_id="t")
    alfred_uow.session.commit()
    assert alfred_session.scalar(text("SELECT count(*) FROM tasks")) == 1


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.asyncio
async def test_asyncio(alfred_async_db: AsyncDatabase, alfred_db: Database, number: int) -> None:
    assert names(alfred_db) == []
    async with alfred_async_db.begin() as uow:
        await uow.tasks.enqueue("X", {}, task_id="t")
    await asyncio.gather(*(alfred_async_db.cache.set(f"k{n}", b"v") for n in range(5)))
    assert names(alfred_db) == ["t"]
    assert alfred_db.cache.get("k4") == b"v"


@pytest.mark.asyncio
async def test_a_cancelled_task_rolls_its_transaction_back(
    alfred_async_db: AsyncDatabase, alfred_db: Database
) -> None:
    async def slow() -> None:
        async with alfred_async_db.begin() as uow:
            await uow.tasks.enqueue("X", {}, task_id="lost")
            await uow.session.execute(text("SELECT pg_sleep(30)"))

    running = asyncio.create_task(slow())
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert names(alfred_db) == []


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(alfred_async_uow: Any, alfred_async_session: Any, anyio_backend: str) -> None:
    await alfred_async_uow.tasks.enqueue("X", {}, task_id="t")
    await alfred_async_uow.session.commit()
    assert await alfred_async_session.scalar(text("SELECT count(*) FROM tasks")) == 1


def test_without_any_plugin_for_asyncio(alfred_async_db: AsyncDatabase) -> None:
    async def work() -> None:
        async with alfred_async_db.begin() as uow:
            await uow.tasks.enqueue("X", {}, task_id="t")

    asyncio.run(work())
    asyncio.run(work())  # each in a loop of its own


def test_a_database_of_the_application_joins(alfred_join: Any, alfred_url: str, alfred_db: Database) -> None:
    with Database(alfred_url) as application:
        alfred_join(application)
        with application.begin() as uow:
            uow.tasks.enqueue("X", {}, task_id="t")
    assert names(alfred_db) == ["t"]


APPLICATION = Database("postgresql://nobody@127.0.0.1:1/nowhere")
ASYNC_APPLICATION = AsyncDatabase("postgresql://nobody@127.0.0.1:1/nowhere")


@pytest.mark.parametrize("number", [1, 2])
def test_a_database_that_a_module_makes_once_joins_each_test(
    alfred_join: Any, alfred_db: Database, number: int
) -> None:
    alfred_join(APPLICATION)
    alfred_join(APPLICATION)  # as two fixtures may
    for task in ("t", "u"):
        with APPLICATION.begin() as uow:
            uow.tasks.enqueue("X", {}, task_id=task)
    with APPLICATION.session() as session:
        assert session.scalar(text("SELECT count(*) FROM tasks")) == 2
    assert names(alfred_db) == ["t", "u"]


@pytest.mark.parametrize("number", [1, 2])
def test_an_async_database_that_a_module_makes_once_joins_each_test(
    alfred_join: Any, alfred_db: Database, number: int
) -> None:
    alfred_join(ASYNC_APPLICATION)

    async def work() -> None:
        async with ASYNC_APPLICATION.begin() as uow:
            await uow.tasks.enqueue("X", {}, task_id="t")
        async with ASYNC_APPLICATION.session() as session:
            assert await session.scalar(text("SELECT count(*) FROM tasks")) == 1

    asyncio.run(work())
    assert names(alfred_db) == ["t"]


def test_a_database_of_its_own(alfred_fresh_url: str, alfred_url: str) -> None:
    assert alfred_fresh_url != alfred_url
    with Database(alfred_fresh_url) as database:
        with database.begin() as uow:
            uow.tasks.enqueue("X", {}, task_id="t")
        engine = create_engine(database.url)
        with engine.connect() as connection:  # another connection sees it
            assert connection.scalar(text("SELECT count(*) FROM tasks")) == 1
            assert connection.scalar(text("SELECT count(*) FROM own")) == 0
        engine.dispose()


def test_the_clone_stays_clean(alfred_url: str) -> None:
    """Of whatever order of tests: a real connection sees nothing of the others."""
    engine = create_engine(alfred_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM tasks")) == 0
        assert connection.scalar(text("SELECT count(*) FROM own")) == 0
    engine.dispose()


def test_statements_are_counted(alfred_db: Database) -> None:
    with assert_query_count(1) as seen, alfred_db.begin() as uow:
        uow.tasks.enqueue("X", {}, task_id="t")
    assert "INSERT INTO tasks" in seen[0]
    with pytest.raises(AssertionError, match="expected 2 statements, 1 were run:\n  SELECT"):  # noqa: SIM117
        with assert_query_count(2), alfred_db.begin() as uow:
            uow.tasks.get_by_task_id("t")
    with alfred_db.session() as session, assert_query_count(2):
        session.scalar(text("SELECT 1"))
        session.scalar(text("SELECT 2"))


@pytest.mark.asyncio
async def test_statements_of_asyncio_are_counted(alfred_async_db: AsyncDatabase) -> None:
    with assert_query_count(1):
        async with alfred_async_db.begin() as uow:
            await uow.tasks.enqueue("X", {}, task_id="t")


def test_indexes(alfred_uow: Any) -> None:
    from sqlalchemy import select

    found = select(Task).where(Task.task_id == "t")
    assert_uses_index(alfred_uow.session, found, "uq_tasks_task_id")
    with pytest.raises(AssertionError, match="nosuch: not used; the plan uses uq_tasks_task_id"):
        assert_uses_index(alfred_uow.session, found, "nosuch")
    assert alfred_uow.session.scalar(text("SHOW enable_seqscan")) == "on"


def test_rows(alfred_factory: Any, alfred_db: Database) -> None:
    tasks = alfred_factory.many(Task, 3, intent="X")
    assert len({task.task_id for task in tasks}) == 3
    assert {task.status for task in tasks} == {TaskStatus.PENDING}
    with alfred_db.begin() as uow:
        assert len(uow.tasks.claim("worker", intents=["X"], limit=10)) == 3


def test_time_passes(alfred_db: Database, alfred_travel: Callable[[timedelta], None]) -> None:
    alfred_db.cache.set("k", b"v", ttl=60)
    with alfred_db.begin() as uow:
        uow.tasks.enqueue("X", {}, task_id="t")
        uow.tasks.claim("worker", lease=30)
    alfred_travel(timedelta(minutes=5))
    assert alfred_db.cache.get("k") is None
    with alfred_db.begin() as uow:
        assert uow.tasks.queue_health().expired == 1


def test_texts_that_share_words_are_near() -> None:
    cat, cats, engine = toy_embedder(["the cat sat", "cats sit", "diesel engine"], 384)
    assert cat @ cats > cat @ engine
    assert (toy_embedder(["the cat sat"])[0] == cat).all()
    assert toy_embedder(["", "x"], 3).shape == (2, 3)


def test_the_library_is_imported_by_the_fixtures_alone() -> None:
    assert "alfred_db.testing" in sys.modules
