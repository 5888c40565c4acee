"""Migrations and sessions behind a real PgBouncer, and a default tenant whose search_path leads elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from forked import Program
from servers import pgbouncer
from sqlalchemy import URL, text

from alfred_db import AsyncDatabase, Database, migrate
from alfred_db.cli import main
from alfred_db.errors import AlfredDBError, ConfigurationError
from alfred_db.migrate.verify import verify

from .catalog import (
    HEAD,
    ROOT,
    alembic,
    differences,
    engine_of,
    environment,
    own_url,
    run,
    scalar,
    snapshot,
    version,
    wait_until,
)

ADVISORY = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def connect(url: URL) -> psycopg.Connection[Any]:
    """A client of a pooler, as others are."""
    parameters = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(parameters, prepare_threshold=None, autocommit=True)


def state(url: URL) -> list[tuple[str, ...]]:
    """What each session behind a pooler has: its search_path, lock_timeout and advisory locks."""
    connections = [
        psycopg.connect(own_url(url).replace("+psycopg", ""), prepare_threshold=None) for _ in range(2)
    ]
    try:
        return [
            connection.execute(
                "SELECT current_setting('search_path'), current_setting('lock_timeout'),"
                " current_setting('client_connection_check_interval'),"
                " (SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory')"
            ).fetchone()
            for connection in connections
        ]
    finally:
        for connection in connections:
            connection.close()


CLEAN = [('"$user", public', "0", "0", "0")] * 2


@contextmanager
def busy(url: URL) -> Iterator[None]:
    """Other clients of the pooler, one statement after the other."""
    stop = threading.Event()

    def work() -> None:
        with connect(url) as one:
            while not stop.is_set():
                one.execute("SELECT 1")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


DOORS: dict[str, Callable[[URL], object]] = {
    "tenant": lambda url: migrate.upgrade(url, schema="newco"),
    "downgrade": lambda url: migrate.downgrade(url, "base", schema="acme"),
    "database": lambda url: Database(url, schema="newco", pooler="transaction").upgrade(),
}


@pytest.mark.parametrize(
    ("size", "settings"),
    [(1, ""), (2, ""), (3, ""), (2, "server_round_robin = 1"), (3, "server_round_robin = 1")],
)
def test_no_door_migrates_through_a_quiet_transaction_pooler(
    database_url: URL, size: int, settings: str
) -> None:
    before = snapshot(database_url)
    with pgbouncer(database_url, size=size, settings=settings) as url:
        with ExitStack() as warm:  # as many sessions as the pooler keeps
            for _ in range(size):
                warm.enter_context(connect(url)).execute("BEGIN")
        for door in DOORS.values():
            with pytest.raises(ConfigurationError, match=r"transaction pooler.*ALFRED_DB_MIGRATION_URL"):
                door(url)
        if size == 2:
            done = command("upgrade", "--schema", "newco", "--url", own_url(url))
            assert (done.exit_code, "transaction pooler" in done.output) == (2, True)
            run = alembic("-x", "schema=newco", "upgrade", "head", url=url)
            assert run.returncode != 0
            assert "transaction pooler" in run.stdout + run.stderr
            assert state(url) == CLEAN
    assert differences(before, snapshot(database_url)) == []
    assert scalar(database_url, ADVISORY) == 0


async def test_asyncio_does_not_either(database_url: URL) -> None:
    with pgbouncer(database_url) as url:
        async with AsyncDatabase(url, schema="newco", pooler="transaction") as database:
            with pytest.raises(ConfigurationError, match="transaction pooler"):
                await database.upgrade()


def test_nor_through_a_busy_one(database_url: URL) -> None:
    before = snapshot(database_url)
    with pgbouncer(database_url) as url, busy(url):
        for _ in range(4):
            with pytest.raises(ConfigurationError, match="transaction pooler"):
                migrate.upgrade(url, schema="newco")
    assert differences(before, snapshot(database_url)) == []


def test_a_session_pooler_migrates_and_keeps_nothing_of_it(database_url: URL) -> None:
    with pgbouncer(database_url, "session", settings="server_reset_query =") as url:
        migrate.upgrade(url, schema="newco")
        assert version(database_url, "newco") == HEAD
        assert state(url) == CLEAN
        migrate.downgrade(url, "base", schema="newco")
        assert state(url) == CLEAN


def test_a_failed_or_killed_migration_leaves_nothing_in_the_session(database_url: URL) -> None:
    run(
        database_url,
        """CREATE FUNCTION fail_inside() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF current_query() LIKE '%CREATE TABLE %tasks (%' THEN RAISE 'not today'; END IF; END $$""",
        "CREATE EVENT TRIGGER failing ON ddl_command_end EXECUTE FUNCTION fail_inside()",
    )
    with pgbouncer(database_url, "session", settings="server_reset_query =") as url:
        with pytest.raises(Exception, match="not today"):
            migrate.upgrade(url, schema="newco")
        assert state(url) == CLEAN
    run(
        database_url,
        """CREATE OR REPLACE FUNCTION fail_inside() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF current_query() LIKE '%CREATE TABLE %tasks (%' THEN PERFORM pg_sleep(6); END IF; END $$""",
    )
    sleeps = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    with pgbouncer(database_url, "session") as url:
        upgrade = ("-m", "alfred_db.cli", "upgrade", "--schema", "newco", "--url", own_url(url))
        with Program(*upgrade, cwd=ROOT, env=environment()):
            wait_until(lambda: scalar(database_url, sleeps) == 1)
        wait_until(lambda: scalar(database_url, ADVISORY) == 0)
        assert state(url) == CLEAN


# Sessions


async def test_a_session_pooler_needs_no_word(database_url: URL) -> None:
    with pgbouncer(database_url, "session", size=6) as url:
        with Database(url) as database:
            database.verify()
            with database.begin() as uow:
                uow.tasks.enqueue("X", {}, task_id="t-1")
            with database.session() as session:
                names = ("idle_in_transaction_session_timeout", "search_path")
                assert [session.scalar(text(f"SHOW {name}")) for name in names] == ["1min", '"$user", public']
        async with AsyncDatabase(url) as other:
            await other.verify()
            async with other.begin() as unit:
                assert (await unit.tasks.get_by_task_id("t-1")) is not None
            await other.upgrade()


def test_a_full_session_pooler_is_no_transaction_pooler(database_url: URL) -> None:
    with (
        pgbouncer(database_url, "session", size=1) as url,
        Database(url) as database,
        database.begin() as uow,
    ):
        assert uow.tasks.get_by_task_id("nobody") is None


async def test_a_transaction_pooler_that_nobody_named_is_found_out(database_url: URL) -> None:
    with pgbouncer(database_url) as url:
        with (
            Database(url) as database,
            pytest.raises(ConfigurationError, match='pooler="transaction"'),
            database.begin() as uow,
        ):
            uow.tasks.get_by_task_id("t")
        async with AsyncDatabase(url) as other:
            with pytest.raises(ConfigurationError, match='pooler="transaction"'):
                async with other.begin() as unit:
                    await unit.tasks.get_by_task_id("t")
        assert state(url) == CLEAN


def test_parameters_that_a_pooler_refuses_are_no_outage(database_url: URL) -> None:
    with pgbouncer(database_url, "session") as url:
        with (
            Database(url.update_query_dict({"options": "-c work_mem=7MB"})) as database,
            pytest.raises(ConfigurationError, match=r"options") as caught,
        ):
            database.verify()
        assert not caught.value.retryable


# The default tenant


def doors(url: URL) -> dict[str, Callable[[], object]]:
    def write(pooler: object = None) -> None:
        with Database(url, pooler=pooler) as database, database.begin() as uow:  # type: ignore[arg-type]
            uow.tasks.enqueue("X", {}, task_id="lost")

    return {
        "write": write,
        "pooler": lambda: write("transaction"),
        "verify": lambda: Database(url).verify(),
        "upgrade": lambda: migrate.upgrade(url),
        "downgrade": lambda: migrate.downgrade(url, "base", allow_data_loss=True),
        "check": lambda: migrate.check(url),
    }


@pytest.mark.parametrize("path", ["acme", "nowhere, acme, public"])
async def test_a_search_path_makes_no_tenant_the_default_one(database_url: URL, path: str) -> None:
    before = snapshot(database_url)
    escaped = path.replace(" ", "\\ ")
    run(database_url, f"ALTER DATABASE {database_url.database} SET search_path = {path}")
    for url in (database_url, database_url.update_query_dict({"options": f"-c search_path={escaped}"})):
        for name, door in doors(url).items():
            with pytest.raises(AlfredDBError, match=r"search_path.*'acme'"):
                pytest.fail(f"{name}: {door()}")
        async with AsyncDatabase(url) as other:
            with pytest.raises(ConfigurationError, match="'acme'"):
                async with other.begin() as unit:
                    await unit.tasks.enqueue("X", {}, task_id="lost")
            with pytest.raises(ConfigurationError, match="'acme'"):
                await other.verify()
        done = command("doctor", "--url", own_url(url))
        assert done.exit_code == 2
        assert "'acme'" in done.output
    # The tenant itself is recognised by its name, whatever the path says.
    with Database(database_url, schema="acme") as database:
        database.upgrade()
        database.verify()
    assert scalar(database_url, "SELECT count(*) FROM acme.tasks") == 0
    run(database_url, f"ALTER DATABASE {database_url.database} RESET search_path")
    assert differences(before, snapshot(database_url)) == []


def test_a_tenant_of_an_earlier_release_is_known_without_a_comment(database_url: URL) -> None:
    run(
        database_url,
        "COMMENT ON TABLE acme.alfred_db_version IS NULL",
        "COMMENT ON TABLE public.alfred_db_version IS NULL",
    )
    with Database(database_url) as database:
        database.verify()
    with (
        Database(database_url.update_query_dict({"options": "-c search_path=acme,public"})) as database,
        pytest.raises(ConfigurationError, match="'acme'"),
    ):
        database.verify()


def test_the_default_tenant_is_found_behind_a_schema_that_came_later(database_url: URL) -> None:
    run(database_url, "CREATE SCHEMA postgres")
    migrate.downgrade(database_url, migrate.history()[-2].id)
    migrate.upgrade(database_url)
    migrate.check(database_url)
    with Database(database_url) as database:
        database.verify()
    assert (
        scalar(database_url, "SELECT count(*) FROM pg_class WHERE relnamespace = 'postgres'::regnamespace")
        == 0
    )


def test_a_search_path_without_the_default_tenant_makes_no_second_one(database_url: URL) -> None:
    run(database_url, "CREATE SCHEMA elsewhere")
    url = database_url.update_query_dict({"options": "-c search_path=elsewhere"})
    before = snapshot(database_url)
    with pytest.raises(ConfigurationError, match="'public', which it does not hold"):
        migrate.upgrade(url)
    assert differences(before, snapshot(database_url)) == []


# Another application's tables


def test_another_applications_tables_stay_out_of_it(empty_url: URL) -> None:
    theirs = ("tasks", "events", "documents")
    run(empty_url, "CREATE SCHEMA alfred", *(f"CREATE TABLE public.{name} (id int)" for name in theirs))
    run(empty_url, *(f"INSERT INTO public.{name} VALUES (1)" for name in theirs))
    run(empty_url, f"ALTER DATABASE {empty_url.database} SET search_path = alfred, public")
    migrate.upgrade(empty_url)
    assert scalar(empty_url, "SELECT to_regclass('alfred.tasks') IS NOT NULL")
    migrate.check(empty_url)
    with Database(empty_url) as database:
        database.verify()
        with database.begin() as uow:
            uow.tasks.enqueue("X", {}, task_id="t")
    migrate.upgrade(empty_url, schema="acme")
    migrate.downgrade(empty_url, "base", schema="acme")
    # Without ours, the name means theirs: that is a drift, and no downgrade may reach for it.
    run(empty_url, "DROP TABLE alfred.events")
    with Database(empty_url) as database, pytest.raises(AlfredDBError, match="table events"):
        database.verify()
    with pytest.raises(Exception, match="events"):
        migrate.downgrade(empty_url, "base", allow_data_loss=True)
    for name in theirs:
        assert scalar(empty_url, f"SELECT count(*) FROM public.{name}") == 1


def test_another_applications_table_before_ours_is_named(database_url: URL) -> None:
    run(database_url, "CREATE SCHEMA theirs", "CREATE TABLE theirs.tasks (id int)")
    url = database_url.update_query_dict({"options": "-c search_path=theirs,public"})
    with (
        engine_of(url).connect() as connection,
        pytest.raises(AlfredDBError, match=r"table tasks.*search_path"),
    ):
        verify(connection)


def test_the_advice_about_vector_keeps_the_search_path(empty_url: URL) -> None:
    run(
        empty_url,
        "CREATE SCHEMA alfred",
        "CREATE SCHEMA ext",
        "CREATE EXTENSION vector SCHEMA ext",
        "CREATE TABLE public.tasks (id int)",
        f"ALTER DATABASE {empty_url.database} SET search_path = alfred",
    )
    migrate.upgrade(empty_url)
    done = command("doctor", "--url", own_url(empty_url))
    (line,) = (line for line in done.output.splitlines() if "SET search_path" in line)
    advised = line.split("SET search_path = ")[1].split(";")[0]
    assert "public" not in advised
    run(empty_url, f"ALTER DATABASE {empty_url.database} SET search_path = {advised}")
    done = command("doctor", "--url", own_url(empty_url))
    assert "SET search_path" not in done.output
    with Database(empty_url) as database:
        database.verify()
