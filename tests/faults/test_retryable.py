"""The table of docs/concepts/errors.md: each of its cases on real servers, and nothing else in it."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from servers import BINARIES, free_port
from sqlalchemy import text

from alfred_db import Database, Document, migrate
from alfred_db.errors import AlfredDBError, translated

from .conftest import execute
from .processes import Proxy, Server, new_server, proxy_to, wait_until
from .tls import PASSWORD, Authorities, guard

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "concepts" / "errors.md"
ROW = re.compile(r"^\| (?P<case>[^|]+?) +\| `(?P<kind>\w+)` +\| (?P<retryable>yes|no) +\|$", re.MULTILINE)


@dataclass
class Place:
    """A primary, its standby, a proxy in front of the primary, and a server that asks for TLS and SCRAM of some roles."""

    primary: Server
    guarded: Server
    standby: Server
    proxy: Proxy
    authorities: Authorities

    def url(self, role: str = "postgres", database: str | None = None, **parameters: Any) -> str:
        query = {"host": "127.0.0.1", "port": self.primary.port, "sslmode": "disable"}
        if role != "postgres":
            query["port"] = self.guarded.port
        database = database or ("work" if role == "postgres" else "postgres")
        password = f":{quote(PASSWORD, safe='')}" if role == "guarded" else ""
        query |= parameters
        listed = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
        return f"postgresql://{role}{password}@/{database}?{listed}"

    def verified(self, role: str = "guarded", **parameters: Any) -> str:
        given = {"host": "localhost", "hostaddr": "127.0.0.1", "sslmode": "verify-full"}
        return self.url(role, **{**given, "sslrootcert": self.authorities.known, **parameters})


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    binaries = BINARIES["debian15"]  # the embedded server cannot do TLS
    if not (binaries / "postgres").exists():
        pytest.skip("server debian15 is not installed")
    with new_server() as primary, new_server(binaries) as guarded:
        execute(primary, "CREATE DATABASE work")
        migrate.upgrade(primary.url("work"))
        authorities = guard(guarded)
        standby = primary.standby()
        try:
            with proxy_to(primary) as proxy:
                yield Place(primary, guarded, standby, proxy, authorities)
        finally:
            with suppress(AssertionError):
                standby.stop("immediate")


def use(url: str, work: Callable[[Any], object] = lambda uow: uow.tasks.count()) -> None:
    with Database(url) as db, db.begin() as uow:
        work(uow)


# What is done in a case


def shutting_down(place: Place) -> None:
    with psycopg.connect(place.primary.url("work")):
        stopping = threading.Thread(
            target=lambda: place.primary._tools.run("pg_ctl", "stop", "-m", "smart", "-D", "data")
        )
        stopping.start()
        try:
            wait_until(lambda: "shutting down" in refusal(place.url()))
            use(place.url())
        finally:
            place.primary.stop("fast")
            stopping.join()
            place.primary.start()


def refusal(url: str) -> str:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def pool_empty(place: Place) -> None:
    with Database(place.url(), pool_size=1) as db:
        pool: Any = db.engine.pool
        pool._timeout, pool._max_overflow = 0.1, 0
        with db.begin() as uow:
            uow.tasks.count()
            with db.begin() as other:
                other.tasks.count()


def idled(place: Place, setting: str, begun: bool) -> None:
    with Database(place.url(options=f"-c {setting}=2s")) as db:
        with db.begin() as uow:
            uow.documents.search([1.0] * 384)
        with db.begin() as uow:
            uow.messages.first_time("lost") if begun else uow.documents.search([1.0] * 384)
            pid = uow.session.taken.driver.info.backend_pid  # type: ignore[attr-defined]
            gone = f"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}"
            wait_until(lambda: asked(place, gone))
            uow.messages.first_time("lost")


def asked(place: Place, query: str) -> Any:
    with psycopg.connect(place.primary.url("work")) as connection:
        return (connection.execute(query.encode()).fetchone() or (None,))[0]


def ended(place: Place) -> None:
    with Database(place.url()) as db, db.begin() as uow:
        pid = uow.session.scalar(text("SELECT pg_backend_pid()"))
        execute(place.primary, f"SELECT pg_terminate_backend({pid}, 5000)")
        uow.tasks.count()


def lost(place: Place) -> None:
    with Database(place.url()) as db, db.begin() as uow:
        uow.messages.first_time("lost")
        taken: Any = uow.session
        with socket.socket(fileno=os.dup(taken.taken.driver.fileno())) as found:
            found.shutdown(socket.SHUT_RDWR)
        uow.messages.first_time("more")


def lost_in_commit(place: Place) -> None:
    with Database(place.url(port=place.proxy.port)) as db, db.begin() as uow:
        uow.messages.first_time("unknown")
        place.proxy.cut_next_commit("after")


def locked(place: Place) -> None:
    with psycopg.connect(place.primary.url("work")) as other:
        other.execute("LOCK TABLE tasks")
        use(place.url(options="-c lock_timeout=100ms"))


def failed(place: Place) -> None:
    def swallow(uow: Any) -> None:
        with suppress(Exception):
            uow.session.execute(text("SELECT 1 / 0"))

    use(place.url(), swallow)


def many_values(place: Place) -> None:
    where = Document.external_id.in_([str(number) for number in range(66_000)])
    use(place.url(), lambda uow: uow.documents.search([1.0] * 384, where=where))


def serialized(place: Place) -> None:
    def meet(uow: Any) -> None:
        uow.session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        uow.tasks.count()
        use(place.url(), lambda other: other.tasks.enqueue("x", task_id="one"))
        uow.tasks.count()
        uow.tasks.enqueue("x", task_id="one")

    use(place.url(), meet)


CASES: dict[str, Callable[[Place], object]] = {
    "nobody listens": lambda p: use(p.url(port=free_port())),
    "the host has no address": lambda p: use(p.url(host="nowhere.invalid")),
    "the server is shutting down": shutting_down,
    "too many connections": lambda p: use(p.url("crowded")),
    "no host is what `target_session_attrs` asks for": lambda p: use(
        p.url(
            host="127.0.0.1,127.0.0.1",
            port=f"{free_port()},{p.standby.port}",
            target_session_attrs="read-write",
        )
    ),
    "no pooled connection is free in time": pool_empty,
    "wrong password": lambda p: use(p.verified().replace(quote(PASSWORD, safe=""), "wrong")),
    "no password": lambda p: use(p.verified().replace(f":{quote(PASSWORD, safe='')}", "")),
    "unknown database": lambda p: use(p.url(database="nowhere")),
    "the database accepts no connections": lambda p: use(p.url("outside", "closed")),
    "no right to connect to the database": lambda p: use(p.url("outside", "private")),
    "the role may not log in": lambda p: use(p.url("sleeping")),
    "no entry of pg_hba.conf": lambda p: use(p.url("stranger")),
    "rejected by pg_hba.conf": lambda p: use(p.url("rejected")),
    "the server's certificate is of an unknown authority": lambda p: use(
        p.verified(sslrootcert=p.authorities.other)
    ),
    "the server's certificate is for another name": lambda p: use(p.verified(host="example.org")),
    "the server wants a client certificate": lambda p: use(p.verified("certified")),
    "an unknown parameter of the server in `options`": lambda p: use(p.url(options="-c nonsense=1")),
    "the connection idled too long outside of a transaction": lambda p: idled(
        p, "idle_session_timeout", False
    ),
    "the transaction idled too long": lambda p: idled(p, "idle_in_transaction_session_timeout", True),
    "an administrator ended the connection": ended,
    "the connection was lost before the commit": lost,
    "the connection was lost during the commit": lost_in_commit,
    "the statement ran into a timeout": lambda p: use(p.url(options="-c statement_timeout=1s"), _slow_purge),
    "a lock was not free in time": locked,
    "a conflict with another transaction": serialized,
    "a write to a standby": lambda p: use(p.url(port=p.standby.port), lambda uow: uow.tasks.enqueue("x")),
    "a commit after a swallowed failure": failed,
    "more than 65,535 values in one statement": many_values,
}


def _slow_purge(uow: Any) -> None:
    uow.tasks.purge(older_than=0)
    _sleep(uow)


def _sleep(uow: Any) -> None:
    with translated():
        uow.session.execute(text("SELECT pg_sleep(5)"))


def table() -> dict[str, tuple[str, bool]]:
    return {
        found["case"]: (found["kind"], found["retryable"] == "yes")
        for found in ROW.finditer(DOCUMENT.read_text())
    }


def test_the_table_has_each_case() -> None:
    assert list(table()) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_it_is_as_the_table_states(place: Place, case: str) -> None:
    with pytest.raises(AlfredDBError) as caught:
        CASES[case](place)
    assert (type(caught.value).__name__, caught.value.retryable) == table()[case], caught.value


def test_a_verified_connection(place: Place) -> None:
    """SCRAM over TLS, with the server's certificate and name checked."""
    with Database(place.verified()) as db, db.session() as session:
        assert session.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
