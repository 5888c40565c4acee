"""Moves of a tenant between two servers, while it is written."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner
from servers import running
from sqlalchemy import URL, NullPool, create_engine, text

from alfred_db import (
    AlfredDBError,
    AsyncDatabase,
    ConfigurationError,
    ConflictError,
    Database,
    DatabaseUnavailable,
    InvalidInputError,
    InvalidTransition,
    NotFoundError,
    migrate,
)
from alfred_db.cli import main
from alfred_db.config import parse_url
from alfred_db.embedded import system
from alfred_db.models.knowledge import partition_name
from alfred_db.tenants import Tenants, move_replication, moving
from alfred_db.tenants.move_ends import MARKER, ends_of

LOGICAL = "wal_level=logical -c max_wal_senders=10 -c max_replication_slots=10"
WRITERS = 4
LONG = "ALFRED_DB_FAULTS" in os.environ
LONGEST = 3.0 if LONG else 60.0
"""The longest pause in seconds: what is promised, or what a machine may take that does other things."""
PATIENT: dict[str, Any] = {"longest_pause": LONGEST}


@pytest.fixture(scope="module")
def servers_apart() -> Iterator[tuple[URL, URL]]:
    with (
        running(system.binaries(), setting=LOGICAL) as one,
        running(system.binaries(), setting=LOGICAL) as two,
    ):
        first, second = parse_url(one), parse_url(two)
        for server in (first, second):
            execute(server, "CREATE DATABASE template")
            migrate.upgrade(server.set(database="template"))
        migrate.upgrade(first.set(database="template"), schema="acme")
        yield first, second


@pytest.fixture
def ends(servers_apart: tuple[URL, URL], request: pytest.FixtureRequest) -> tuple[URL, URL]:
    """A database with the tenant `acme`, and one on another server without it."""
    name = f"move_{abs(hash(request.node.name)) % 10**9}"
    for server in servers_apart:
        execute(server, f"CREATE DATABASE {name} TEMPLATE template STRATEGY FILE_COPY")
    first, second = (server.set(database=name) for server in servers_apart)
    return first, second


def execute(url: URL, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        for statement in statements:
            driver.execute(statement)


def ask(url: URL, sql: str) -> Any:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return connection.scalar(text(sql))


def wal_senders(url: URL) -> int:
    return int(ask(url, "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"))


def rest(tenant: Database) -> list[str]:
    """Read the events that are left; the first unit of work after a move is run again."""
    read: list[str] = []
    while True:
        try:
            with tenant.begin() as uow:
                events = uow.events.read("reader", limit=1000)
        except DatabaseUnavailable:
            continue
        if not events:
            return read
        read += [event.payload["key"] for event in events]


def makers(*codes: str) -> Any:
    """A document for the broker's catalog."""
    return {"makers": [{"code": code, "name": code} for code in codes]}


def kept_schemas(url: URL) -> int:
    return int(ask(url, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'alfred\\_moved\\_%'"))


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


class Writer(threading.Thread):
    """Writes tasks, documents and events into a tenant until it is stopped, and runs again what is retryable."""

    def __init__(self, url: URL, number: int) -> None:
        super().__init__(daemon=True)
        self.url, self.number = url, number
        self.acknowledged: list[str] = []
        self.errors: list[BaseException] = []
        self.longest = 0.0
        self.ending = threading.Event()

    def run(self) -> None:
        with Database(self.url) as db:
            tenant, last = db.tenant("acme"), time.monotonic()
            for number in range(10**6):
                if self.ending.is_set():
                    return
                key = f"{self.number}-{number}"
                while True:
                    try:
                        with tenant.begin() as uow:
                            uow.tasks.enqueue("MOVED", {"key": key}, task_id=key)
                            uow.events.publish("moved", {"key": key})
                        break
                    except AlfredDBError as error:
                        if not error.retryable:
                            self.errors.append(error)
                            return
                self.acknowledged.append(key)
                self.longest = max(self.longest, time.monotonic() - last)
                last = time.monotonic()


@contextmanager
def writing(url: URL) -> Iterator[list[Writer]]:
    """Writers at work, which have ended at the end."""
    writers = [Writer(url, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.ending.set()
        for writer in writers:
            writer.join(60)


def test_a_tenant_moves_under_writers_and_nothing_acknowledged_is_lost(ends: tuple[URL, URL]) -> None:
    first, second = ends
    with Database(first) as db:
        with db.tenant("acme").begin() as uow:
            uow.events.subscribe("reader", ["moved"])
            uow.documents.add_many([{"content": "text", "embedding": [1.0] * 384}])
            uow.cache.set("key", b"value")
            uow.broker_catalog.import_catalog(makers("first"))
        stages: list[str] = []
        began = time.monotonic()
        with writing(first) as writers:
            read: list[str] = []
            with db.tenant("acme").begin() as uow:
                read += [event.payload["key"] for event in uow.events.read("reader")]
            report = db.tenants.move("acme", second, progress=stages.append, **PATIENT)
            time.sleep(0.3)
        assert [writer.errors for writer in writers] == [[]] * WRITERS
        acknowledged = {key for writer in writers for key in writer.acknowledged}
        assert 0 < report.pause <= LONGEST
        assert report.pause <= report.seconds <= time.monotonic() - began
        assert stages[0] == "copying the schema"
        assert stages[-2:] == ["switching", "moved"]
        assert ask(first, f"SELECT count(*) FROM {report.kept}.documents") == 1
        with Database(second, schema="acme") as there, there.begin() as uow:
            there.verify()
            # What is numbered there goes on after what was copied: rows of the tenant, and of the shared catalogs.
            assert uow.session.scalar(text("SELECT count(*) = count(DISTINCT id) FROM acme.events"))
            uow.broker_catalog.import_catalog(makers("second"))
            assert [maker.code for maker in uow.broker_catalog.list_makers()] == ["first", "second"]
            keys = set(uow.session.scalars(text("SELECT task_id FROM acme.tasks")))
            assert acknowledged <= keys
            assert uow.documents.list().items[0].content == "text"
            assert uow.cache.get("key") is None
        tenant = db.tenant("acme")
        read += rest(tenant)
        assert acknowledged <= set(read)
        assert len(acknowledged) > 20
    assert [wal_senders(url) for url in ends] == [0, 0]
    assert ask(first, "SELECT url IS NOT NULL AND state = 'moved' FROM extensions.alfred_db_servers")
    assert ask(first, "SELECT to_regnamespace('acme')") is None


async def test_an_async_database_follows_a_move_there_and_back(ends: tuple[URL, URL]) -> None:
    first, second = ends
    async with AsyncDatabase(first) as db:
        tenant = db.tenant("acme")
        async with tenant.begin() as uow:
            await uow.tasks.enqueue("MOVED", {}, task_id="one")
        report = await db.tenants.move("acme", second, drop=True, **PATIENT)
        assert report.kept is None
        with pytest.raises(AlfredDBError, match="moved to another server") as caught:
            async with tenant.begin() as uow:
                await uow.tasks.enqueue("MOVED", {}, task_id="two")
        assert caught.value.retryable
        async with tenant.begin() as uow:
            await uow.tasks.enqueue("MOVED", {}, task_id="two")
        assert ask(second, "SELECT count(*) FROM acme.tasks") == 2
        await db.tenants.move("acme", first, drop=True, **PATIENT)
        async with AsyncDatabase(first) as another, another.tenant("acme").begin() as uow:
            assert await uow.tasks.get_by_task_id("two") is not None
            await uow.tasks.enqueue("MOVED", {}, task_id="three")
    assert ask(first, "SELECT count(*) FROM acme.tasks") == 3
    assert ask(first, "SELECT count(*) FROM extensions.alfred_db_servers") == 0
    assert ask(second, "SELECT to_regnamespace('acme')") is None
    assert [kept_schemas(url) for url in ends] == [0, 0]


def command(url: URL, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*arguments, "--url", url.render_as_string(hide_password=False)])
    return done.exit_code, done.output


def test_a_moved_tenant_is_listed_upgraded_and_dropped_where_it_is(
    ends: tuple[URL, URL], tmp_path: Path
) -> None:
    first, second = ends
    with Database(first) as db:
        assert db.tenants.create("globex").changed == ["globex"]
        with db.tenant("acme").begin() as uow:
            uow.tasks.enqueue("MOVED", {}, task_id="one")
        db.tenants.move("acme", second, drop=True, **PATIENT)
        acme, globex = db.tenants.list()
        assert (acme.name, acme.revision, acme.at_head) == ("acme", migrate.head(), True)
        assert acme.size is not None
        assert acme.size > 1_000_000
        assert acme.node == second.set(password=None, drivername="postgresql").render_as_string()
        assert globex.node is None
        assert db.tenants.get("acme") == acme
        code, output = command(first, "tenants", "list")
        assert code == 0
        assert acme.node in output.splitlines()[0]

        # The name is taken, whichever door it comes through.
        for refused in (
            lambda: db.tenants.create("initech", "acme"),
            lambda: migrate.upgrade(first, schema="acme"),
        ):
            with pytest.raises(ConflictError, match="tenant 'acme': it is on another server, postgresql://"):
                refused()
        code, output = command(first, "tenants", "create", "acme")
        assert code == 2
        assert "it is on another server" in output
        assert ask(first, "SELECT to_regnamespace('acme') IS NULL AND to_regnamespace('initech') IS NULL")

        assert db.tenants.export("acme", tmp_path / "acme.dump") > 10_000
        migrate.downgrade(second, "alfred_0024", schema="acme")
        assert [tenant.at_head for tenant in db.tenants.list()] == [False, True]
        assert db.tenants.upgrade(["acme"]).changed == ["acme"]
        migrate.downgrade(second, "alfred_0024", schema="acme")
        numbers: list[tuple[int, int]] = []
        report = db.tenants.upgrade(progress=lambda done: numbers.append((done.number, done.total)))
        assert (report.changed, report.unchanged, report.failed) == (["acme"], ["globex"], {})
        assert numbers == [(1, 2), (2, 2)]

        db.tenants.drop("acme")
        assert ask(second, "SELECT to_regnamespace('acme')") is None
        assert ask(first, "SELECT count(*) FROM extensions.alfred_db_servers") == 0
        assert db.tenants.create("acme").changed == ["acme"]


def test_a_server_that_does_not_answer_hides_no_tenant(ends: tuple[URL, URL]) -> None:
    first, _ = ends
    gone = "postgresql://postgres@127.0.0.1:1/platform"
    execute(
        first,
        f"INSERT INTO extensions.alfred_db_servers (tenant, url, state) VALUES ('away', '{gone}', 'moved')",
        f"INSERT INTO extensions.alfred_db_servers (tenant, url, state) VALUES ('acme', '{gone}', 'moving')",
    )
    with Database(first) as db:
        acme, away = db.tenants.list()
        assert (acme.name, acme.node) == ("acme", None)
        assert (away.name, away.revision, away.at_head, away.size, away.node) == (
            "away",
            None,
            False,
            None,
            gone,
        )
        code, output = command(first, "tenants", "list")
        assert code == 0
        assert gone in output
        report = db.tenants.upgrade()
        assert (report.unchanged, list(report.failed)) == (["acme"], ["away"])
        with pytest.raises(DatabaseUnavailable):
            db.tenants.drop("away")
        with pytest.raises(ConflictError, match="being moved"):
            db.tenants.drop("acme")
        with db.tenant("acme").begin() as uow:
            uow.tasks.list()


STAGES = ["wait_for_copy", "_continue", "_record_moved"]
ALL_STAGES = [*STAGES, "replicate", "_switch", "_require_same", "_clean_up"]


@pytest.mark.parametrize("stage", ALL_STAGES if LONG else STAGES)
def test_a_move_that_stops_is_continued(
    ends: tuple[URL, URL], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ends
    with Database(first) as db:
        with db.tenant("acme").begin() as uow:
            uow.tasks.enqueue("MOVED", {}, task_id="before")

        with monkeypatch.context() as patch:
            patch.setattr(moving, stage, stop)
            with pytest.raises(KeyboardInterrupt):
                db.tenants.move("acme", second, **PATIENT)
        if stage == "_record_moved":  # the switch has done it here
            assert ask(first, "SELECT state FROM extensions.alfred_db_servers") == "moved"
        if stage not in ("_record_moved", "_clean_up"):
            with db.tenant("acme").begin() as uow:
                uow.tasks.enqueue("MOVED", {}, task_id="between")
        db.tenants.move("acme", second, **PATIENT)
        assert ask(second, "SELECT count(*) FROM acme.tasks WHERE task_id IN ('before', 'between')") >= 1
        with Database(first) as another, another.tenant("acme").begin() as uow:
            uow.tasks.enqueue("MOVED", {}, task_id="after")
        assert ask(second, "SELECT count(*) FROM acme.tasks WHERE task_id = 'after'") == 1
    assert [wal_senders(url) for url in ends] == [0, 0]


@pytest.mark.parametrize("stage", ["replicate", "wait_for_copy", "_switch"] if LONG else ["_switch"])
def test_a_move_is_aborted(ends: tuple[URL, URL], stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ends
    url = first.render_as_string(hide_password=False)
    with Database(first) as db:
        with monkeypatch.context() as patch:
            patch.setattr(moving, stage, stop)
            with pytest.raises(KeyboardInterrupt):
                db.tenants.move("acme", second, **PATIENT)
        done = CliRunner().invoke(main, ["tenants", "move", "acme", "--abort", "--url", url])
        assert done.output == "acme stays where it is\n"
        with db.tenant("acme").begin() as uow:
            uow.tasks.enqueue("STAYED", {})
        with pytest.raises(InvalidTransition, match="not being moved"):
            db.tenants.abort_move("acme")
    with Database(first, schema="acme") as tenant:
        tenant.verify()
    assert ask(second, "SELECT to_regnamespace('acme')") is None
    assert ask(first, "SELECT count(*) FROM extensions.alfred_db_servers") == 0
    assert [wal_senders(url) for url in ends] == [0, 0]


def test_a_tenant_is_moved_on_from_where_it_is(
    ends: tuple[URL, URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory stays where it was, and the third database is an empty one."""
    first, second = ends
    third = first.set(database=f"{first.database}_third")
    execute(first, f"CREATE DATABASE {third.database} STRATEGY FILE_COPY")
    place = "SELECT state || ' ' || url FROM extensions.alfred_db_servers"

    def shown(url: URL) -> str:
        return url.set(password=None, drivername="postgresql").render_as_string()

    execute(first, f"CREATE SCHEMA {ends_of(first, 'acme', second).old}")  # as an earlier move has left it
    with Database(first) as db:
        with db.tenant("acme").begin() as uow:
            uow.tasks.enqueue("MOVED", {}, task_id="one")
        db.tenants.move("acme", second, **PATIENT)

        stages: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(moving, "_switch", stop)
            with pytest.raises(KeyboardInterrupt):
                db.tenants.move("acme", third, progress=stages.append, **PATIENT)
        assert stages[:2] == ["upgrading the target", "copying the schema"]
        # Until the switch it is used where it is, also by those who look for it now, and cannot be moved elsewhere.
        assert ask(first, place) == f"moved {shown(second)}"
        assert ask(second, place) == f"moving {shown(third)}"
        with Database(first) as another, another.tenant("acme").begin() as uow:
            assert uow.tasks.get_by_task_id("one") is not None
            uow.tasks.enqueue("MOVED", {}, task_id="two")
        assert ask(second, "SELECT count(*) FROM acme.tasks") == 2
        with pytest.raises(ConflictError, match="it is being moved to"):
            db.tenants.move("acme", first, **PATIENT)
        with pytest.raises(ConflictError, match="it is being moved"):
            db.tenants.drop("acme")
        db.tenants.abort_move("acme")
        assert ask(first, place) == f"moved {shown(second)}"
        with pytest.raises(InvalidTransition, match="not being moved"):
            db.tenants.abort_move("acme")
        assert ask(third, "SELECT to_regnamespace('acme')") is None

        with monkeypatch.context() as patch:
            patch.setattr(moving, "_record_moved", stop)
            with pytest.raises(KeyboardInterrupt):
                db.tenants.move("acme", third, **PATIENT)
        with pytest.raises(InvalidTransition, match="not being moved"):
            db.tenants.abort_move("acme")
        assert ask(first, place) == f"moved {shown(second)}"
        assert ask(second, place) == f"moved {shown(third)}"
        report = db.tenants.move("acme", third, drop=True, **PATIENT)
        assert (report.pause, report.kept) == (0, None)
        assert ask(first, place) == f"moved {shown(third)}"
        assert ask(second, "SELECT count(*) FROM extensions.alfred_db_servers") == 0
        assert [kept_schemas(url) for url in (first, second, third)] == [1, 0, 0]
        with Database(first) as another, another.tenant("acme").begin() as uow:
            assert len(uow.tasks.list().items) == 2
    assert [wal_senders(url) for url in (*ends, third)] == [0, 0, 0]


def test_writers_go_on_here_when_the_switch_is_not_possible(
    ends: tuple[URL, URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ends
    waited = moving.wait_for_copy
    held = create_engine(second, poolclass=NullPool).connect()

    def hold(moved: Any, deadline: float, say: Any) -> None:
        waited(moved, deadline + 60, say)
        held.execute(text(f"LOCK TABLE acme.{MARKER} IN EXCLUSIVE MODE"))

    def write(db: Database, key: str) -> None:
        with db.tenant("acme").begin() as uow:
            uow.messages.first_time(key)

    with Database(first) as db:
        with monkeypatch.context() as patch:
            patch.setattr(moving, "wait_for_copy", hold)
            with pytest.raises(DatabaseUnavailable, match="did not catch up") as caught:
                db.tenants.move("acme", second, longest_pause=0.3)
        assert caught.value.retryable
        write(db, "one")
        held.close()

        # The move tries again until its timeout while another transaction holds a lock.
        held = create_engine(first, poolclass=NullPool).connect()
        held.execute(text("LOCK TABLE acme.documents IN ROW EXCLUSIVE MODE"))
        with monkeypatch.context() as patch:
            patch.setattr(moving, "wait_for_copy", lambda *given: waited(given[0], given[1] + 60, given[2]))
            with pytest.raises(ConflictError, match="another transaction holds the lock"):
                db.tenants.move("acme", second, timeout=1, longest_pause=LONGEST)
        write(db, "two")
        held.close()
        db.tenants.move("acme", second, **PATIENT)
    assert ask(second, "SELECT count(*) FROM acme.processed_messages") == 2


@pytest.mark.parametrize(("name", "low", "high"), [("timeout", 1, 864_000), ("longest_pause", 0.1, 600)])
def test_times_beyond_their_limits_are_refused_before_a_database_is_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, low: float, high: float
) -> None:
    monkeypatch.setattr(moving, "ends_of", stop)
    url = parse_url("postgresql://postgres@127.0.0.1:1/platform")
    move: Any = Tenants(url).move
    for value in (low, high):
        with pytest.raises(KeyboardInterrupt):
            move("acme", url, **{name: value})
    for value in (low - 0.01, high + 0.01):
        with pytest.raises(InvalidInputError, match=f"^{name}: expected"):
            move("acme", url, **{name: value})


def test_the_copy_is_reported_when_it_has_gone_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([(0, 0), (0, 3), (1, 3), (1, 3), (3, 3)])
    target = MagicMock()
    target.connect().__enter__().execute().one.side_effect = lambda: next(found)
    slept: list[float] = []
    monkeypatch.setattr(move_replication.time, "sleep", slept.append)
    said: list[str] = []
    move_replication.wait_for_copy(MagicMock(target=target), time.monotonic() + 60, said.append)
    assert said == ["copied 0 of 0 tables", "copied 1 of 3 tables", "copied 3 of 3 tables"]
    assert len(slept) == 4
    found = iter([(1, 3), (1, 3)])
    with pytest.raises(DatabaseUnavailable, match="1 of 3 tables") as caught:
        move_replication.wait_for_copy(MagicMock(target=target), time.monotonic() - 1, said.append)
    assert caught.value.retryable
    assert said[3:] == ["copied 1 of 3 tables"]


def test_what_would_fail_in_the_middle_is_refused_before(ends: tuple[URL, URL], database_url: URL) -> None:
    first, second = ends
    with (
        Database(database_url) as db,
        pytest.raises(ConfigurationError, match="wal_level=minimal, and a move needs logical"),
    ):
        db.tenants.move("acme", second, **PATIENT)
    with Database(first) as db:
        with pytest.raises(NotFoundError, match="tenant 'initech'"):
            db.tenants.move("initech", second, **PATIENT)
        with pytest.raises(ConflictError, match="it is in this database"):
            db.tenants.move("acme", first, **PATIENT)
        execute(
            first,
            f"CREATE ROLE only_here_{first.database}",
            f"GRANT SELECT ON acme.tasks TO only_here_{first.database}",
        )
        with pytest.raises(NotFoundError, match=f"roles only_here_{first.database}"):
            db.tenants.move("acme", second, **PATIENT)
        execute(first, f"DROP OWNED BY only_here_{first.database}")
        migrate.downgrade(first, migrate.history()[-2].id, schema="acme")
        with pytest.raises(ConflictError, match=f"it is at .*, and is moved at {migrate.head()}"):
            db.tenants.move("acme", second, **PATIENT)
        migrate.upgrade(first, schema="acme")
        migrate.upgrade(second, schema="acme")
        with pytest.raises(ConflictError, match="has a tenant of this name"):
            db.tenants.move("acme", second, **PATIENT)
    assert ask(first, "SELECT count(*) FROM extensions.alfred_db_servers") == 0


def test_a_transaction_that_holds_a_lock_is_waited_for(ends: tuple[URL, URL]) -> None:
    first, second = ends
    held = create_engine(first, poolclass=NullPool).connect()
    held.execute(
        text(
            "INSERT INTO acme.processed_messages (message_id, expires_at) VALUES ('late', now() + interval '1 day')"
        )
    )
    ended = threading.Timer(3, held.commit)
    with Database(first) as db:
        ended.start()
        report = db.tenants.move("acme", second, **PATIENT)
    held.close()
    assert ask(second, "SELECT count(*) FROM acme.processed_messages") == 1
    assert report.pause <= LONGEST


def test_a_collection_that_is_created_meanwhile_stops_the_switch(
    ends: tuple[URL, URL], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ends
    waited = moving.wait_for_copy

    def create(name: str) -> None:
        with Database(first, schema="acme") as tenant, tenant.begin() as uow:
            uow.knowledge.create_collection(name)

    def wait(*arguments: Any) -> None:
        waited(*arguments)
        create("made-meanwhile")

    with Database(first) as db:
        # Until the rows are copied, the schema is copied again.
        with monkeypatch.context() as patch:
            patch.setattr(moving, "replicate", stop)
            with pytest.raises(KeyboardInterrupt):
                db.tenants.move("acme", second, **PATIENT)
        create("made-before")
        monkeypatch.setattr(moving, "wait_for_copy", wait)
        changed = re.escape(partition_name("made-meanwhile"))
        with pytest.raises(ConflictError, match=rf"created or changed during the move \({changed}\)"):
            db.tenants.move("acme", second, **PATIENT)
        db.tenants.abort_move("acme")
        monkeypatch.undo()
        db.tenants.move("acme", second, **PATIENT)
        with db.tenant("acme").begin() as uow:
            assert {"made-before", "made-meanwhile"} <= {one.name for one in uow.knowledge.list_collections()}


@pytest.mark.skipif(not LONG, reason="a minute; ALFRED_DB_FAULTS=1 runs it")
def test_a_tenant_moves_there_and_back_under_writers_again_and_again(ends: tuple[URL, URL]) -> None:
    with Database(ends[0]) as db:
        pauses: list[float] = []
        with writing(ends[0]) as writers:
            for place in (1, 0, 1, 0, 1):
                time.sleep(5)
                pauses.append(db.tenants.move("acme", ends[place], drop=True, **PATIENT).pause)
            time.sleep(2)
    assert [writer.errors for writer in writers] == [[]] * WRITERS
    acknowledged = {key for writer in writers for key in writer.acknowledged}
    with create_engine(ends[1], poolclass=NullPool).connect() as connection:
        assert acknowledged <= set(connection.scalars(text("SELECT task_id FROM acme.tasks")))
        assert acknowledged <= set(connection.scalars(text("SELECT payload ->> 'key' FROM acme.events")))
    assert max(pauses) <= LONGEST
    print(f"{len(acknowledged)} rows acknowledged, pauses {[round(pause, 2) for pause in pauses]}")
