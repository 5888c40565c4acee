"""Reading from a real streaming replica: beside writers, behind, stopped in the middle, promoted."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from injection.ground import Ground, build
from injection.specimens import SPECIMENS
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from alfred_db import (
    AlfredDBError,
    AsyncDatabase,
    Database,
    InvalidInputError,
    InvalidTransition,
    TaskRepository,
    UnitOfWork,
    migrate,
)
from alfred_db.cli.doctor import examine
from alfred_db.config import parse_url
from alfred_db.engine import replicas

from .conftest import execute
from .processes import Server, new_server, wait_until

READS = 10_000 if "ALFRED_DB_FAULTS" in os.environ else 300


class Pair:
    """A primary and the standby that follows it."""

    def __init__(self, primary: Server, standby: Server) -> None:
        self.primary, self.standby = primary, standby

    @property
    def url(self) -> str:
        return self.primary.url("work")

    @property
    def replica_url(self) -> str:
        return self.standby.url("work")

    def caught_up(self) -> None:
        with psycopg.connect(self.primary.url(), autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        wait_until(lambda: self.standby_says(f"SELECT pg_last_wal_replay_lsn() >= '{row[0]}'"))

    def standby_says(self, query: str) -> object:
        with psycopg.connect(self.standby.url(), autocommit=True) as connection:
            row = connection.execute(query).fetchone()
        return None if row is None else row[0]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with new_server() as primary:
        execute(primary, "CREATE DATABASE work")
        migrate.upgrade(primary.url("work"))
        migrate.upgrade(primary.url("work"), schema="acme")
        standby = primary.standby()
        try:
            yield Pair(primary, standby)
        finally:
            with suppress(AssertionError):
                standby.stop("immediate")


@pytest.fixture
def db(pair: Pair) -> Iterator[Database]:
    pair.caught_up()
    with Database(pair.url, replica_url=pair.replica_url) as made:
        yield made


def port_of(uow: UnitOfWork) -> int:
    """The port of the server that answers."""
    return int(uow.session.scalar(text("SELECT current_setting('port')")) or 0)


def test_it_reads_from_the_replica_and_refuses_to_write(pair: Pair, db: Database) -> None:
    assert read_port(db) == pair.standby.port
    with Database(pair.url) as alone:
        assert read_port(alone) == pair.primary.port
        for reading in (db, alone):
            with pytest.raises(AlfredDBError, match="read-only"), reading.read() as uow:
                uow.tasks.enqueue("WRITTEN")
            with pytest.raises(DBAPIError, match="read-only"), reading.read() as uow:
                uow.session.execute(text("CREATE TABLE written (id integer)"))
        with alone.read() as uow:
            uow.session.rollback()
            with pytest.raises(InvalidTransition, match="the transaction has ended"):
                uow.tasks.enqueue("WRITTEN")
        with alone.begin() as uow:  # the connection is as it was
            uow.tasks.enqueue("WRITTEN")


def test_a_unit_reads_what_was_written_before_its_token(pair: Pair, db: Database) -> None:
    execute_on_standby(pair, "SELECT pg_wal_replay_pause()")
    try:
        with db.begin() as uow:
            task, _ = uow.tasks.enqueue("FRESH")
        token = db.position()
        with db.read(after=token) as uow:
            assert port_of(uow) == pair.primary.port
            assert uow.tasks.get(task.id) is not None
        with db.read() as uow:
            assert port_of(uow) == pair.standby.port
            assert uow.tasks.get(task.id) is None
    finally:
        execute_on_standby(pair, "SELECT pg_wal_replay_resume()")
    pair.caught_up()

    def on_the_replica() -> bool:
        with db.read(after=token) as uow:
            assert uow.tasks.get(task.id) is not None
            return port_of(uow) == pair.standby.port

    wait_until(on_the_replica)


def execute_on_standby(pair: Pair, statement: str) -> None:
    with psycopg.connect(pair.standby.url(), autocommit=True) as connection:
        connection.execute(statement)


def test_a_replica_that_lags_behind_is_not_read(pair: Pair, db: Database) -> None:
    execute_on_standby(pair, "SELECT pg_wal_replay_pause()")
    try:
        with db.begin() as uow:
            uow.tasks.enqueue("LATE")
        wait_until(lambda: pair.standby_says("SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"))
        time.sleep(1.1)  # what is known of the lag of a connection is forgotten
        with db.read(max_lag=0.5) as uow:
            assert port_of(uow) == pair.primary.port
        with db.read(max_lag=3600) as uow:
            assert port_of(uow) == pair.standby.port
    finally:
        execute_on_standby(pair, "SELECT pg_wal_replay_resume()")
    pair.caught_up()
    wait_until(lambda: read_port(db, max_lag=0.5) == pair.standby.port)


def read_port(db: Database, max_lag: float | None = None) -> int:
    with db.read(max_lag=max_lag) as uow:
        return port_of(uow)


@pytest.mark.parametrize(
    "wrong", ["", "x", "0/", "1/2/3", "0/123456789", "'; DROP TABLE tasks; --", 7, "0/0 "]
)
def test_what_is_no_position_is_refused_before_anything_is_sent(wrong: object) -> None:
    with Database("postgresql://127.0.0.1:1/none", replica_url="postgresql://127.0.0.1:1/none") as db:
        with pytest.raises(InvalidInputError, match="after: "):
            db.read(after=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="max_lag"):
            db.read(max_lag=-1)


def test_every_method_that_reads_does_so_on_the_replica(pair: Pair, db: Database, tmp_path: Path) -> None:
    with db.begin() as uow:
        ground = build(uow, tmp_path)
    pair.caught_up()
    with Database(pair.url) as alone:
        on_primary = refused(alone, ground)
    assert len(on_primary) > 100
    on_replica = refused(db, ground)
    assert on_replica.keys() == on_primary.keys(), on_replica.keys() ^ on_primary.keys()


def refused(db: Database, ground: Ground) -> dict[str, str]:
    """The methods that cannot run in a unit that only reads."""
    found: dict[str, str] = {}
    for name, specimen in SPECIMENS.items():
        noun, _, method = name.partition(",")[0].partition(".")
        given = specimen(ground)
        try:
            with db.read() as uow:
                getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
        except AlfredDBError as error:
            if re.search("read-only|during recovery", str(error)):
                found[f"{noun}.{method}"] = str(error)
    return found


def test_a_tenant_reads_from_the_same_replicas(pair: Pair, db: Database) -> None:
    acme = db.tenant("acme")
    with acme.begin() as uow:
        task, _ = uow.tasks.enqueue("TENANT")
    token = acme.position()
    wait_until(lambda: read_port(acme) == pair.standby.port)
    with acme.read(after=token) as uow:
        assert uow.tasks.get(task.id) is not None
        assert isinstance(uow.tasks, TaskRepository)
    with db.read() as uow:
        assert uow.tasks.get(task.id) is None or uow.tasks.get(task.id).intent != "TENANT"  # type: ignore[union-attr]


async def test_it_reads_from_the_replica_for_asyncio(pair: Pair) -> None:
    pair.caught_up()
    async with AsyncDatabase(pair.url, replica_url=pair.replica_url) as db:
        async with db.begin() as uow:
            task, _ = await uow.tasks.enqueue("ASYNC")
        token = await db.position()
        async with db.read(after=token) as uow:
            assert await uow.tasks.get(task.id) is not None
        pair.caught_up()
        async with db.read(after=token) as uow:
            assert await uow.tasks.get(task.id) is not None
            port = await uow.session.scalar(text("SELECT current_setting('port')"))
            assert int(str(port)) == pair.standby.port
        with pytest.raises(AlfredDBError, match="read-only"):
            async with db.read(after=token) as uow:
                await uow.tasks.enqueue("WRITTEN")
        execute_on_standby(pair, "SELECT pg_wal_replay_pause()")
        try:
            async with db.begin() as uow:
                task, _ = await uow.tasks.enqueue("ASYNC")
            token = await db.position()
            async with db.read(after=token) as uow:
                assert await uow.tasks.get(task.id) is not None
            with pytest.raises(AlfredDBError, match="read-only"):
                async with db.read(after=token) as uow:
                    await uow.tasks.enqueue("WRITTEN")
        finally:
            execute_on_standby(pair, "SELECT pg_wal_replay_resume()")


def test_the_doctor_warns_of_a_standby(pair: Pair) -> None:
    pair.caught_up()
    report = examine(parse_url(pair.replica_url), None)
    assert report.errors == []
    assert [one for one in report.warnings if "standby" in one and "read-only" in one]


class Reader(threading.Thread):
    """Writes and reads what it wrote; counts stale reads and errors."""

    def __init__(self, db: Database, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._db, self._ended = db, stop
        self.reads = self.stale = self.on_replica = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                with self._db.begin() as uow:
                    task, _ = uow.tasks.enqueue("READ")
                token = self._db.position()
                for _ in range(4):
                    with self._db.read(after=token) as uow:
                        self.stale += uow.tasks.get(task.id) is None
                        self.stale += not uow.tasks.list(limit=1).items
                        self.on_replica += port_of(uow) != self._db.url.port if self.reads % 10 == 0 else 0
                    self.reads += 1
            except BaseException as error:
                self.errors.append(error)
                return


def test_reads_beside_writers_are_never_stale_nor_fail_when_the_replica_stops(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.caught_up()
    monkeypatch.setattr(replicas, "LEFT_ALONE", 0.3)
    stop = threading.Event()
    with Database(pair.url, replica_url=pair.replica_url) as db:
        readers = [Reader(db, stop) for _ in range(3)]

        def reads() -> int:
            return sum(reader.reads for reader in readers)

        for reader in readers:
            reader.start()
        try:
            for how in ("fast", "immediate"):
                reached = reads() + READS // 4
                wait_until(lambda to=reached: reads() > to or broken(readers), 600)  # type: ignore[misc]
                pair.standby.stop(how)  # type: ignore[arg-type]
                reached = reads() + READS // 8
                wait_until(lambda to=reached: reads() > to or broken(readers), 600)  # type: ignore[misc]
                pair.standby.start()
            reached = reads() + READS // 4
            wait_until(lambda: reads() > reached or broken(readers), 600)
        finally:
            stop.set()
            for reader in readers:
                reader.join(60)
        assert [reader.errors for reader in readers] == [[]] * 3
        assert sum(reader.stale for reader in readers) == 0
        assert sum(reader.on_replica for reader in readers) > 0
        assert reads() >= READS
        print(f"reads {reads()}, stale 0, errors 0")


def broken(readers: list[Reader]) -> bool:
    return any(reader.errors for reader in readers)


def test_a_dead_replica_costs_one_attempt_for_a_while(pair: Pair) -> None:
    with Database(pair.url, replica_url="postgresql://postgres@127.0.0.1:1/work") as db:
        for _ in range(20):
            assert read_port(db) == pair.primary.port
        tried: list[object] = []
        engine = db._replica_engine
        assert engine is not None
        engine.dispose()
        event.listen(engine, "do_connect", lambda *given: tried.append(given))
        for _ in range(20):
            assert read_port(db) == pair.primary.port
        assert tried == []


def test_any_of_several_replicas_answers(pair: Pair) -> None:
    several = f"postgresql://postgres@/work?host=127.0.0.1:1,127.0.0.1:{pair.standby.port}"
    with Database(pair.url, replica_url=several) as db:
        assert {read_port(db) for _ in range(5)} == {pair.standby.port}
        given = db._replica_engine.url.query if db._replica_engine is not None else {}
        assert given["target_session_attrs"] == "standby"
        assert given["load_balance_hosts"] == "random"
    primaries = f"postgresql://postgres@127.0.0.1:{pair.primary.port}/work"
    with Database(pair.url, replica_url=primaries) as db:  # it is none
        assert read_port(db) == pair.primary.port
    with Database(pair.url, replica_url=f"{primaries}?target_session_attrs=any") as db:
        assert read_port(db) == pair.primary.port


def test_a_promoted_replica_is_not_read(pair: Pair) -> None:
    """The last test: the standby is no standby afterwards."""
    pair.caught_up()
    with Database(pair.url, replica_url=pair.replica_url) as db:
        assert read_port(db) == pair.standby.port
        pair.standby.promote()
        with db.begin() as uow:
            task, _ = uow.tasks.enqueue("AFTER")
        token = db.position()
        with db.read(after=token) as uow:
            assert uow.tasks.get(task.id) is not None
        wait_until(lambda: read_port(db) == pair.primary.port)
