from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import free_port, pgbouncer
from sqlalchemy import URL, Engine, Select, create_engine, exc, func, select, text

from alfred_db import Agent, AsyncDatabase, Database
from alfred_db.config import parse_url
from alfred_db.errors import ConfigurationError, ConflictError, DatabaseUnavailable
from alfred_db.execution._async.driver import fetch_rows
from alfred_db.queries.shapes.driver_statement import driver_statement


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def agents(db: Database) -> list[str]:
    with db.begin() as uow:
        return [agent.name for agent in uow.agents.list()]


def test_begin_commits_at_the_end(db: Database) -> None:
    with db.begin() as uow:
        uow.agents.register("writer", type="llm", version="1")
        assert agents(db) == []
    assert agents(db) == ["writer"]


def test_an_exception_rolls_everything_back(db: Database) -> None:
    def work() -> None:
        with db.begin() as uow:
            uow.agents.register("writer", type="llm", version="1")
            uow.session.add(Agent(name="reader", type="llm", version="1"))
            uow.session.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert agents(db) == []


def test_what_fails_at_the_commit_is_one_of_our_errors(db: Database) -> None:
    def work() -> None:
        with db.begin() as uow:
            uow.session.add_all([Agent(name="same", type="llm", version="1") for _ in range(2)])

    with pytest.raises(ConflictError, match="uq_agent_registry_name"):
        work()
    assert agents(db) == []


def test_a_session_does_not_commit_by_itself(db: Database) -> None:
    with db.session() as session:
        session.add(Agent(name="writer", type="llm", version="1"))
        session.flush()
    assert agents(db) == []
    with db.session() as session:
        session.add(Agent(name="writer", type="llm", version="1"))
        session.commit()
    assert agents(db) == ["writer"]


def test_rows_can_be_read_after_the_commit(db: Database) -> None:
    with db.begin() as uow:
        agent = uow.agents.register("writer", type="llm", version="1")
    assert agent.name == "writer"


async def test_nothing_connects_before_it_is_used() -> None:
    url = f"postgresql://u:p@127.0.0.1:{free_port()}/d"
    with Database(url) as database, database.begin(), database.session():
        pass
    async with AsyncDatabase(url) as other, other.begin(), other.session():
        pass


def test_closing_ends_the_connections_and_using_it_again_makes_new_ones(db: Database) -> None:
    assert agents(db) == []
    assert connections(db.url, 1) == 1
    db.close()
    assert connections(db.url, 0) == 0
    assert agents(db) == []


async def test_the_context_manager_closes(database_url: URL) -> None:
    async with AsyncDatabase(database_url) as database, database.begin() as uow:
        assert len(await uow.agents.list()) == 0
    assert connections(database_url, 0) == 0


def test_the_repr_shows_database_and_tenant_but_no_password() -> None:
    for kind in (Database, AsyncDatabase):
        shown = repr(kind("postgresql://u:s3cr3t@localhost/d", schema="acme"))
        assert shown == f"{kind.__name__}('postgresql+psycopg://u:***@localhost/d', schema='acme')"


def connections(url: URL, expected: int, name: str = "alfred-db") -> int:
    """How many sessions of ours the server has in a database, once there are so many: it takes a moment to end one."""
    engine = create_engine(url.set(database="postgres", query={**url.query, "application_name": "asks"}))
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = :database AND application_name = :name"
    )
    found = None
    until = time.monotonic() + 30
    with engine.connect() as connection:
        while found != expected and time.monotonic() < until:
            found = connection.scalar(query, {"database": url.database, "name": name})
            connection.rollback()
            time.sleep(0.02)
    engine.dispose()
    return found or 0


def settings(db: Database, *names: str) -> list[str]:
    with db.session() as session:
        return [str(session.scalar(text(f"SHOW {name}"))) for name in names]


async def test_a_connection_names_itself_and_does_not_idle_in_a_transaction_for_ever(
    migrated_url: URL,
) -> None:
    names = ("application_name", "idle_in_transaction_session_timeout")
    with Database(migrated_url) as database:
        assert settings(database, *names) == ["alfred-db", "1min"]
    with Database(migrated_url, application_name="mine") as database:
        assert settings(database, *names) == ["mine", "1min"]
    async with AsyncDatabase(migrated_url) as other, other.session() as session:
        assert [await session.scalar(text(f"SHOW {name}")) for name in names] == ["alfred-db", "1min"]


def test_what_the_url_sets_wins_over_the_defaults(migrated_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    url = migrated_url.update_query_dict({"application_name": "from-url", "options": "-c work_mem=7MB"})
    names = ("application_name", "work_mem", "idle_in_transaction_session_timeout")
    with Database(url) as database:
        assert settings(database, *names) == ["from-url", "7MB", "1min"]
    url = migrated_url.update_query_dict({"options": "-c idle_in_transaction_session_timeout=5s"})
    with Database(url) as database:
        assert settings(database, *names[2:]) == ["5s"]
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=6MB")
    with Database(migrated_url) as database:
        assert settings(database, *names[1:]) == ["6MB", "1min"]


def test_a_transaction_that_idles_for_too_long_is_ended(migrated_url: URL) -> None:
    options = "-c idle_in_transaction_session_timeout=100ms"
    url = migrated_url.update_query_dict({"options": options, "application_name": "idles"})

    def idle() -> None:
        with Database(url) as database, database.begin() as uow:
            uow.agents.list()
            assert connections(url, 0, "idles") == 0
            uow.agents.list()

    with pytest.raises(DatabaseUnavailable):
        idle()


def end_connections(server: Engine, database: str | None) -> None:
    with server.connect() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"),
            {"name": database},
        )


def test_a_connection_that_the_server_ended_is_replaced(db: Database, server: Engine) -> None:
    assert agents(db) == []
    end_connections(server, db.url.database)
    assert agents(db) == []


async def test_every_connection_that_the_server_ended_is_replaced(database_url: URL, server: Engine) -> None:
    async with AsyncDatabase(database_url) as db:

        async def look() -> None:
            async with db.begin() as uow:
                assert (await uow.agents.list()).items == []

        await asyncio.gather(*(look() for _ in range(5)))
        end_connections(server, database_url.database)
        await asyncio.gather(*(look() for _ in range(5)))


@pytest.mark.parametrize(("trusted", "pings"), [(60.0, 0), (0.0, 3)])
def test_only_a_connection_that_idled_is_pinged(
    db: Database, monkeypatch: pytest.MonkeyPatch, trusted: float, pings: int
) -> None:
    pinged: list[object] = []
    ping = db.engine.dialect.do_ping

    def counted(found: Any) -> bool:
        pinged.append(found)
        return ping(found)

    monkeypatch.setattr(db.engine.dialect, "do_ping", counted)
    monkeypatch.setattr("alfred_db.engine.pool.TRUSTED_SECONDS", trusted)
    for _ in range(4):  # the first one opens it
        assert agents(db) == []
    assert len(pinged) == pings


FORK = """
import multiprocessing, sys
from sqlalchemy import text
from alfred_db import Database

def child():
    with db.begin() as uow:
        print(uow.session.scalar(text("SELECT pg_backend_pid()")))

db = Database(sys.argv[1])
with db.session() as first, db.session() as second:
    pids = {first.scalar(text("SELECT pg_backend_pid()")), second.scalar(text("SELECT pg_backend_pid()"))}
    second.close()
    fork = multiprocessing.get_context("fork").Process(target=child)
    fork.start()
    fork.join()
    assert fork.exitcode == 0
    assert first.scalar(text("SELECT pg_backend_pid()")) in pids
with db.begin() as one, db.begin() as two:
    again = {uow.session.scalar(text("SELECT pg_backend_pid()")) for uow in (one, two)}
assert again == pids, (again, pids)
print(*pids)
"""


def test_a_child_process_makes_its_own_connections(migrated_url: URL) -> None:
    url = migrated_url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    child, parents = done.stdout.splitlines()
    assert child not in parents.split()


async def test_vector_is_found_outside_of_the_search_path(empty_url: URL, server: Engine) -> None:
    with server.begin() as connection:
        connection.execute(text('CREATE SCHEMA "Ex ten"'))
        connection.execute(text('CREATE EXTENSION vector SCHEMA "Ex ten"'))
    query = text("SELECT CAST('[3,4]' AS vector) <=> '[3,4]'")
    with Database(empty_url) as database:
        with database.session() as session:
            assert session.scalar(query) == 0
            session.rollback()
            assert session.scalar(query) == 0
        assert settings(database, "search_path") == ['"$user", public, "Ex ten"']
    async with AsyncDatabase(empty_url) as other, other.session() as session_:
        assert await session_.scalar(query) == 0
        await session_.rollback()
        assert await session_.scalar(query) == 0
    with Database(empty_url.update_query_dict({"options": '-c search_path="Ex\\ ten"'})) as database:
        assert settings(database, "search_path") == ['"Ex ten"']


def prepared(db: Database) -> tuple[int, str]:
    """How many statements the session has prepared after one was run ten times; and its timeout."""
    with db.session() as session:
        for _ in range(10):
            session.execute(text("SELECT count(*) FROM agent_registry WHERE name = :name"), {"name": "a"})
        count = session.scalar(text("SELECT count(*) FROM pg_prepared_statements"))
        return count or 0, str(session.scalar(text("SHOW idle_in_transaction_session_timeout")))


def test_a_transaction_pooler_gets_no_prepared_statements_and_no_session_state(migrated_url: URL) -> None:
    with Database(migrated_url) as database:
        assert prepared(database) == (1, "1min")
    with Database(migrated_url, pooler="transaction") as database:
        assert prepared(database) == (0, "0")


async def test_pgbouncer_in_transaction_mode_works(database_url: URL) -> None:
    with pgbouncer(database_url) as url:
        with Database(url, pooler="transaction") as database:

            def work(number: int) -> None:
                for step in range(12):
                    with database.begin() as uow:
                        agent = uow.agents.register(f"agent-{number}", type="llm", version=str(step))
                        uow.agents.heartbeat(agent.id, agent.incarnation)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(agents(database)) == 6
        async with AsyncDatabase(url, pooler="transaction") as other:
            for _ in range(12):
                async with other.begin() as uow:
                    assert [agent.version for agent in await uow.agents.list()] == ["11"] * 6


async def test_pgbouncer_without_the_setting_is_refused_in_words(database_url: URL) -> None:
    with (
        pgbouncer(database_url) as url,
        Database(url) as database,
        pytest.raises(ConfigurationError, match='pooler="transaction"'),
    ):
        agents(database)


async def test_fifty_tasks_share_five_connections(database_url: URL) -> None:
    async with AsyncDatabase(database_url, pool_size=5) as database:

        async def work(number: int) -> None:
            async with database.begin() as uow:
                await uow.agents.register(f"agent-{number:02}", type="llm", version="1")
                await uow.session.execute(text("SELECT pg_sleep(0.01)"))

        await asyncio.gather(*(work(number) for number in range(50)))
        async with database.begin() as uow:
            assert [agent.name for agent in await uow.agents.list()] == [f"agent-{n:02}" for n in range(50)]
        assert database.engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@driver_statement
def sleeping() -> Select[Any]:
    return select(func.pg_sleep(text("30")))


@pytest.mark.parametrize("reading", [False, True])
async def test_a_cancelled_task_leaves_the_pool_usable(database_url: URL, reading: bool) -> None:
    running = text(
        "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep.30' AND state = 'active'"
        " AND pid <> pg_backend_pid() AND datname = current_database()"
    )

    def asleep() -> bool:
        with Database(database_url, application_name="asks") as other, other.session() as session:
            return bool(session.scalar(running))

    async with AsyncDatabase(database_url, pool_size=1) as database:

        async def work() -> None:
            async with database.begin() as uow:
                if reading:  # outside of the transaction
                    await fetch_rows(uow.session, sleeping(), {})
                await uow.agents.register("writer", type="llm", version="1")
                await uow.session.execute(text("SELECT pg_sleep(30)"))

        for _ in range(3):
            task = asyncio.create_task(work())
            while not await asyncio.to_thread(asleep):
                assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert database.engine.sync_engine.pool.checkedout() == reading  # type: ignore[attr-defined]
        async with asyncio.timeout(20), database.begin() as uow:
            assert len(await uow.agents.list()) == 0
        assert not asleep()


def test_a_pool_that_stays_empty_is_one_clear_error(
    migrated_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(migrated_url, pool_size=1) as database:
        pool = database.engine.pool
        monkeypatch.setattr(pool, "_timeout", 0.1)
        monkeypatch.setattr(pool, "_max_overflow", 0)
        with database.begin() as holder:
            holder.agents.list()
            with database.begin() as uow, pytest.raises(DatabaseUnavailable, match="pool_size") as caught:
                uow.agents.list()
    assert caught.value.retryable


def test_a_missing_tenant_names_what_to_run(migrated_url: URL) -> None:
    with Database(migrated_url, schema="nobody") as database, pytest.raises(Exception, match="upgrade"):
        agents(database)


def test_several_hosts_are_tried_in_turn(migrated_url: URL) -> None:
    """The first has no server; libpq goes on to the second."""
    address = migrated_url.query.get("host") or migrated_url.host
    port = migrated_url.port or migrated_url.query.get("port") or 5432
    url = migrated_url.set(host="", port=None)
    url = url.update_query_dict({"host": f"/nowhere,{address}", "port": f"1,{port}"})
    with Database(url) as database:
        assert agents(database) == []


def test_statement_parameters_stay_out_of_errors_and_logs(
    migrated_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level("DEBUG", logger="sqlalchemy"),
        Database(migrated_url) as database,
        database.session() as session,
        pytest.raises(exc.DBAPIError) as caught,
    ):
        session.execute(text("SELECT CAST(:value AS text) FROM nowhere"), {"value": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value) + caplog.text
    assert "nowhere" in caplog.text


def test_a_url_is_parsed_the_same_by_the_database(
    migrated_url: URL, new_database: Callable[..., URL]
) -> None:
    with Database(migrated_url) as database:
        assert database.url == parse_url(migrated_url)
