"""Many who migrate at once, those that die in the middle, and those that only read meanwhile."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from forked import Program
from sqlalchemy import URL, text

from alfred_db import AsyncDatabase, Database, migrate
from alfred_db.errors import MigrationLockTimeout
from alfred_db.migrate import env, lock, preflight

from .catalog import (
    HEAD,
    REVISIONS,
    column,
    connected,
    engine_of,
    fresh_python,
    python,
    run,
    scalar,
    version,
    wait_until,
)

UPGRADE = """
import logging, sys
from alfred_db import migrate
logging.basicConfig(format="%(message)s", level=logging.INFO)
migrate.upgrade()
"""

# Whoever makes the workflows' tables sleeps inside the revision that does.
SLEEP = """
    CREATE FUNCTION sleep_inside() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_query() LIKE '%CREATE TABLE %workflows %' THEN PERFORM pg_sleep(60); END IF;
    END $$
"""
SLEEPS = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
HOLDS = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def ran(output: str) -> list[str]:
    """The revisions that a log says were run."""
    return re.findall(r"Running upgrade .*-> (\w+)", output)


@pytest.fixture
def sleepy_url(empty_url: URL) -> URL:
    """A database in which an upgrade stops inside a revision."""
    run(empty_url, SLEEP, "CREATE EVENT TRIGGER sleepy ON ddl_command_end EXECUTE FUNCTION sleep_inside()")
    return empty_url


@pytest.fixture
def start() -> Iterator[Callable[[URL], Program]]:
    """Starts processes that upgrade, and ends those that are left."""
    made: list[Program] = []

    def begin(url: URL) -> Program:
        made.append(python(UPGRADE, url))
        return made[-1]

    yield begin
    for process in made:
        process.close()


Start = Callable[[URL], Program]


def test_eight_processes_upgrade_one_fresh_database(empty_url: URL, start: Start) -> None:
    processes = [start(empty_url) for _ in range(8)]
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    assert sorted(revision for output in outputs for revision in ran(output)) == REVISIONS
    assert version(empty_url) == HEAD
    migrate.check(empty_url)


def test_eight_threads_upgrade_one_fresh_database(empty_url: URL, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "alembic.runtime.migration")
    together = threading.Barrier(8)

    def upgrade(_: int) -> None:
        together.wait()
        migrate.upgrade(empty_url)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upgrade, range(8)))
    assert ran(caplog.text) == REVISIONS
    assert version(empty_url) == HEAD
    assert column(empty_url, HOLDS) == []


def test_tenants_are_upgraded_at_the_same_time(migrated_to: Callable[..., URL]) -> None:
    url = migrated_to("head")
    tenants = ["one", "two", "three"]
    code = "import sys; from alfred_db import migrate; migrate.upgrade(schema=sys.argv[1])"
    processes = [python(code.replace("sys.argv[1]", repr(tenant)), url) for tenant in tenants]
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert [version(url, tenant) for tenant in tenants] == [HEAD] * 3


def test_an_upgrade_killed_inside_a_revision_is_finished_by_the_next(sleepy_url: URL, start: Start) -> None:
    first = start(sleepy_url)
    (sleeping,) = wait_until(lambda: column(sleepy_url, SLEEPS))
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert version(sleepy_url) == "alfred_0019_scheduler"
    run(sleepy_url, "DROP EVENT TRIGGER sleepy")
    begun = time.monotonic()
    migrate.upgrade(sleepy_url)
    assert time.monotonic() - begun < 50, "it waited for the sleep of the dead to end"
    assert version(sleepy_url) == HEAD
    migrate.check(sleepy_url)
    wait_until(lambda: sleeping not in column(sleepy_url, "SELECT pid FROM pg_stat_activity"), 30)


def test_one_that_waits_polls_and_takes_over_from_the_dead(sleepy_url: URL, start: Start) -> None:
    first = start(sleepy_url)
    wait_until(lambda: column(sleepy_url, SLEEPS))
    (holder,) = column(sleepy_url, HOLDS)
    state = f"SELECT state || ' ' || (xact_start IS NULL) FROM pg_stat_activity WHERE pid = {holder}"
    assert scalar(sleepy_url, state) == "idle true", "the lock's connection must be in no transaction"

    second = start(sleepy_url)
    assert second.stdout is not None
    said = ""
    while "another process is migrating" not in said:
        said = second.stdout.readline()
        assert said, "it ended without waiting"
    watched = """
        SELECT pid FROM pg_stat_activity
        WHERE application_name = 'alfred-db migration' AND datname = current_database()
            AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep')
            AND (state = 'idle in transaction' OR wait_event_type = 'Lock' OR now() - xact_start > interval '1 s')
    """
    for _ in range(20):
        assert column(sleepy_url, watched) == [], "one that waits must hold no snapshot and no lock"
        time.sleep(0.02)
    assert second.poll() is None

    run(sleepy_url, "DROP EVENT TRIGGER sleepy")
    first.send_signal(signal.SIGKILL)
    output, _ = second.communicate(timeout=180)
    assert second.returncode == 0, output
    assert ran(output)[-1] == HEAD
    assert version(sleepy_url) == HEAD


def test_one_that_waited_too_long_names_what_to_do(empty_url: URL) -> None:
    engine = engine_of(empty_url)
    with lock.locked(engine, None):
        (holder,) = column(empty_url, HOLDS)
        with (
            pytest.raises(MigrationLockTimeout, match=rf"pid {holder}\b") as caught,
            lock.locked(engine, None, 0.2),
        ):
            pass
        assert caught.value.retryable
        with lock.locked(engine, "acme", 0.2):
            pass
    with lock.locked(engine, None, 0.2):
        pass


def test_at_head_an_upgrade_takes_no_lock(database_url: URL) -> None:
    engine = engine_of(database_url)
    with ThreadPoolExecutor(1) as pool, lock.locked(engine, None), lock.locked(engine, "acme"):
        assert len(column(database_url, HOLDS)) == 2
        pool.submit(migrate.upgrade, database_url).result(60)
        pool.submit(migrate.upgrade, database_url, schema="acme").result(60)


def test_what_comes_behind_a_revision_that_waits_for_a_table_waits_for_less_than_two_seconds() -> None:
    """A claim that comes just after it waits as long, and then takes its own time: benchmarks/upgrade_filled.py."""
    assert int(preflight.TABLE_LOCK_TIMEOUT.removesuffix("ms")) <= 1600


def test_a_revision_waits_until_the_server_cancels_an_autovacuum(database_url: URL) -> None:
    """The server does so for who has waited for its `deadlock_timeout`, and not at all for who steps back before or then."""
    with engine_of(database_url).connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{preflight.TABLE_LOCK_TIMEOUT}'")
        row = connection.execute(
            text(
                "SELECT CAST(boot_val AS integer), (SELECT CAST(setting AS integer) FROM pg_settings WHERE name = 'lock_timeout')"
                " FROM pg_settings WHERE name = 'deadlock_timeout'"
            )
        ).one()
    assert row[1] >= row[0] + 250


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "TABLE_LOCK_TIMEOUT", "300ms")


@pytest.mark.usefixtures("impatient")
def test_a_long_reader_holds_up_the_migration_but_no_other_reader(database_url: URL) -> None:
    waits: list[float] = []
    stop = threading.Event()

    def read() -> None:
        with connected(database_url) as connection:
            while not stop.is_set():
                begun = time.monotonic()
                connection.exec_driver_sql("SELECT count(*) FROM task_results")
                waits.append(time.monotonic() - begun)
                time.sleep(0.005)

    migrate.downgrade(database_url, "alfred_0022_events")  # later ones change the same table
    with ThreadPoolExecutor(2) as pool, engine_of(database_url).connect() as long_reader:
        long_reader.exec_driver_sql("SELECT count(*) FROM task_results")
        migration = pool.submit(migrate.downgrade, database_url, REVISIONS[6])
        others = pool.submit(read)
        # Until it has stepped back twice.
        wait_until(lambda: len([wait for wait in waits if wait > 0.1]) >= 2 or others.done())
        stop.set()
        others.result(60)
        assert version(database_url) == REVISIONS[7]
        assert not migration.done()
        long_reader.rollback()
        migration.result(30)
    assert max(waits) < 20, "no reader waited for the other one to end"
    assert len(waits) > 20
    assert version(database_url) == REVISIONS[6]


@pytest.mark.usefixtures("impatient")
def test_a_reader_that_never_ends_is_named(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "TRIES", 2)
    migrate.downgrade(database_url, "alfred_0022_events")
    with engine_of(database_url).connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM task_results")
        pid = reader.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with pytest.raises(MigrationLockTimeout, match=rf"stayed locked in 2 tries.*pid {pid}\b") as caught:
            migrate.downgrade(database_url, REVISIONS[6])
        assert caught.value.retryable
    assert version(database_url) == REVISIONS[7]
    migrate.upgrade(database_url)
    migrate.check(database_url)


def test_others_transactions_in_other_databases_are_not_blamed(
    database_url: URL, empty_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env, "TRIES", 1)
    monkeypatch.setattr(preflight, "TABLE_LOCK_TIMEOUT", "50ms")
    with engine_of(empty_url).connect() as elsewhere, engine_of(database_url).connect() as reader:
        bystander = elsewhere.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        reader.exec_driver_sql("SELECT count(*) FROM task_results")
        with pytest.raises(MigrationLockTimeout) as caught:
            migrate.downgrade(database_url, REVISIONS[6])
    assert f"pid {bystander}" not in str(caught.value)


def test_the_event_loop_goes_on_while_migrating(empty_url: URL) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    async def main() -> int:
        ticking = asyncio.create_task(tick())
        async with AsyncDatabase(empty_url) as db:
            await asyncio.sleep(0.05)
            before = ticks
            await db.upgrade()
            after = ticks
            await db.verify()
        ticking.cancel()
        return after - before

    assert asyncio.run(main()) >= 5
    assert version(empty_url) == HEAD


@pytest.mark.parametrize("configured", [True, False])
def test_the_applications_logging_is_unchanged(empty_url: URL, configured: bool) -> None:
    code = f"""
import logging
if {configured}:
    logging.basicConfig(level=logging.ERROR, format="mine %(message)s")
    logging.getLogger("alembic").setLevel(logging.CRITICAL)
    logging.getLogger("app.quiet").disabled = True
    logging.getLogger("app").addHandler(logging.NullHandler())
from alfred_db import Database, migrate
import alembic.command, alembic.autogenerate

def state():
    loggers = {{"root": logging.root, **logging.root.manager.loggerDict}}
    return {{
        name: (item.level, item.disabled, item.propagate, list(item.handlers), list(item.filters))
        for name, item in loggers.items() if isinstance(item, logging.Logger)
    }}, logging.root.manager.disable

before = state()
with Database() as db:
    db.upgrade()
    db.verify()
migrate.downgrade(None, "base")
after = state()
assert {{name: after[0][name] for name in before[0]}} == before[0], (before, after)
assert after[1] == before[1]
assert all(not now[1] and not now[3] for name, now in after[0].items() if name not in before[0])
print("unchanged")
"""
    assert fresh_python(code, empty_url) == "unchanged\n"


def test_a_service_may_upgrade_at_every_start(empty_url: URL) -> None:
    with Database(empty_url) as db:
        db.upgrade()
        db.upgrade()
        db.verify()
        db.upgrade(REVISIONS[7])
        assert version(empty_url) == HEAD
