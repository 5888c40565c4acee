"""The table of docs/howto/pgbouncer.md: each of its cases with a real PgBouncer, and nothing else in it."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from servers import free_port, pgbouncer
from sqlalchemy import URL, NullPool, create_engine, text

from alfred_db import AsyncDatabase, Database
from alfred_db.errors import AlfredDBError, DatabaseUnavailable, translated
from alfred_db.repositories import UnitOfWork

DOCUMENT = Path(__file__).parent.parent / "docs" / "howto" / "pgbouncer.md"
ROW = re.compile(r"^\| (?P<case>[^|]+?) +\| `(?P<kind>\w+)` +\| (?P<retryable>yes|no) +\|$", re.MULTILINE)
SLEEPING = f"alfred_sleeping_{os.getpid()}"


@pytest.fixture(scope="module")
def server(template: URL, new_database: Callable[..., URL]) -> Iterator[URL]:
    """A migrated database, and a role that may not log in."""
    url = new_database(template.database)
    execute(url, f"CREATE ROLE {SLEEPING} NOLOGIN")
    yield url
    execute(url, f"DROP ROLE {SLEEPING}")


def execute(url: URL, statement: str) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))


def connect(url: URL, **parameters: str) -> psycopg.Connection[tuple[object, ...]]:
    own = url.set(drivername="postgresql", **parameters).render_as_string(hide_password=False)  # type: ignore[arg-type]
    return psycopg.connect(own, autocommit=True, prepare_threshold=None)


def use(url: URL, work: Callable[[UnitOfWork], object] = lambda uow: uow.messages.get("x")) -> None:
    with Database(url, pooler="transaction") as db, db.begin() as uow:
        work(uow)


def pooled(settings: str, then: Callable[[URL], object], **changes: object) -> Callable[[URL], None]:
    """A case behind a pooler of its own."""

    def case(server: URL) -> None:
        with pgbouncer(server.set(**changes), settings=settings) as url:  # type: ignore[arg-type]
            then(url)

    return case


def twice(url: URL) -> None:
    """The second time the pooler itself refuses, without asking the server again."""
    with suppress(AlfredDBError):
        use(url)
    use(url)


def crowded(url: URL) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connect(url)).execute("BEGIN")
        use(url)


def slow(uow: UnitOfWork) -> None:
    with translated():
        uow.session.execute(text("SELECT pg_sleep(30)"))


def idles(uow: UnitOfWork) -> None:
    uow.messages.first_time("idle")
    hears(uow.session)


def hears(session: Any) -> None:
    """Wait until the pooler has told its client that it ends the connection."""
    assert select.select([session.taken.driver.fileno()], [], [], 30)[0]


def ended(server: URL, then: Callable[[UnitOfWork], object]) -> None:
    """An administrator of the server ends the transaction's connection to the pooler."""
    with pgbouncer(server) as url, Database(url, pooler="transaction") as db, db.begin() as uow:
        uow.messages.first_time("ended")
        pid = uow.session.scalar(text("SELECT pg_backend_pid()"))
        execute(server, f"SELECT pg_terminate_backend({pid}, 5000)")
        hears(uow.session)
        then(uow)


def administrated(words: str, *, inside: bool) -> Callable[[URL], None]:
    """A command of the pooler's administrator, within a transaction or before it."""

    def command(url: URL) -> None:
        with connect(url, database="pgbouncer") as console, suppress(psycopg.Error):
            console.pgconn.exec_(words.format(database=url.database).encode())

    def then(url: URL) -> None:
        if not inside:
            command(url)
        with Database(url, pooler="transaction") as db, db.begin() as uow:
            uow.messages.first_time("before")
            if inside:
                command(url)
            uow.messages.first_time("after")

    return pooled("admin_users = postgres\nclient_login_timeout = 1", then)


CASES: dict[str, Callable[[URL], object]] = {
    "`max_client_conn` is reached": pooled("max_client_conn = 2", crowded),
    "`query_wait_timeout`: no connection to the server is free": pooled("query_wait_timeout = 1", crowded),
    "the server does not answer (`client_login_timeout`)": pooled(
        "client_login_timeout = 1", use, host="127.0.0.1", port=free_port(), query={}
    ),
    "the server refuses the pooler's role or password": pooled("", use, username=SLEEPING),
    "the same, until `server_login_retry` has passed": pooled(
        "client_login_timeout = 1", twice, username=SLEEPING
    ),
    "the server does not have the database": pooled("", lambda url: use(url.set(database="nowhere"))),
    "the pooler refuses user or password": pooled(
        "auth_type = scram-sha-256", lambda url: use(url.set(password="wrong"))
    ),
    "`DISABLE`: the database takes no clients": administrated("DISABLE {database}", inside=False),
    "`KILL` in a transaction": administrated("KILL {database}", inside=True),
    "`SHUTDOWN` in a transaction": administrated("SHUTDOWN", inside=True),
    "`idle_transaction_timeout`": pooled("idle_transaction_timeout = 1", lambda url: use(url, idles)),
    "`query_timeout`": pooled("query_timeout = 1", lambda url: use(url, slow)),
    "the server ended the connection in a transaction": lambda server: ended(
        server, lambda uow: uow.messages.first_time("more")
    ),
    "the server ended the connection, and the next statement is the commit": lambda server: ended(
        server, lambda _: None
    ),
}


def table() -> dict[str, tuple[str, bool]]:
    return {
        found["case"]: (found["kind"], found["retryable"] == "yes")
        for found in ROW.finditer(DOCUMENT.read_text())
    }


def test_the_table_has_each_case() -> None:
    assert list(table()) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_it_is_as_the_table_states(server: URL, case: str) -> None:
    with pytest.raises(AlfredDBError) as caught:
        CASES[case](server)
    assert (type(caught.value).__name__, caught.value.retryable) == table()[case], caught.value


async def test_a_commit_by_asyncio_after_the_end_of_the_connection(server: URL) -> None:
    async def commit(db: AsyncDatabase) -> None:
        async with db.begin() as uow:
            await uow.messages.first_time("ended")
            pid = await uow.session.scalar(text("SELECT pg_backend_pid()"))
            execute(server, f"SELECT pg_terminate_backend({pid}, 5000)")
            hears(uow.session.sync_session)

    with pgbouncer(server) as url:
        async with AsyncDatabase(url, pooler="transaction") as db:
            with pytest.raises(DatabaseUnavailable):
                await commit(db)
