"""What goes wrong on the way to the database: one clear error each, through every door, and no secret anywhere."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from servers import free_port, running
from sqlalchemy import URL, create_engine, text

from alfred_db import AsyncDatabase, Database
from alfred_db.cli import main
from alfred_db.config import parse_url
from alfred_db.embedded import system
from alfred_db.errors import (
    AlfredDBError,
    ConfigurationError,
    DatabaseUnavailable,
    InvalidInputError,
    SchemaError,
)

PASSWORD = "pa%ss@wo/rd:?#&=ü"
WRONG = "s3cr3t-Wort"
LOGGERS = ("sqlalchemy", "alfred_db", "alembic", "psycopg", "psycopg.pool", "asyncio")


@pytest.fixture(scope="module")
def guarded() -> Iterator[URL]:
    """A superuser's URL on a server that asks for the password, over TCP on 127.0.0.1."""
    if not system.available():
        pytest.skip("the embedded server's binaries are not installed")
    with running(system.binaries(), password=PASSWORD) as url:
        yield parse_url(url)


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The logs of all libraries between us and the server, at DEBUG."""
    with contextlib.ExitStack() as stack:
        for name in LOGGERS:
            stack.enter_context(caplog.at_level(logging.DEBUG, logger=name))
        yield caplog


# The doors


def begin(url: str) -> None:
    with Database(url) as db, db.begin() as uow:
        uow.agents.list()


def verify(url: str) -> None:
    with Database(url) as db:
        db.verify()


def upgrade(url: str) -> None:
    with Database(url) as db:
        db.upgrade()


async def async_begin(url: str) -> None:
    async with AsyncDatabase(url) as db, db.begin() as uow:
        await uow.agents.list()


async def async_verify(url: str) -> None:
    async with AsyncDatabase(url) as db:
        await db.verify()


async def async_upgrade(url: str) -> None:
    async with AsyncDatabase(url) as db:
        await db.upgrade()


DOORS: list[Callable[[str], Awaitable[None] | None]] = [
    begin,
    verify,
    upgrade,
    async_begin,
    async_verify,
    async_upgrade,
]


async def fails(door: Callable[[str], Awaitable[None] | None], url: str) -> AlfredDBError:
    try:
        waiting = door(url)
        if waiting is not None:
            await waiting
    except AlfredDBError as error:
        return error
    raise AssertionError("nothing was raised")


def command(*arguments: str, **environment: str | None) -> tuple[int, str]:
    """Exit status and whole output of `alfred-db`."""
    done = CliRunner().invoke(main, arguments, env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@dataclass(frozen=True)
class Case:
    """A URL that does not lead to a database, and what is said about it."""

    url: Callable[[URL], str]
    kind: type[AlfredDBError]
    says: str
    retryable: bool = False


def rendered(url: URL) -> str:
    return url.render_as_string(hide_password=False)


CASES = {
    "wrong password": Case(
        lambda url: rendered(url.set(password=WRONG)),
        ConfigurationError,
        "password authentication failed for user .*: check user and password of the database URL",
    ),
    "no password": Case(
        lambda url: f"postgresql://postgres@127.0.0.1:{url.port}/postgres",
        ConfigurationError,
        "no password supplied: check user and password",
    ),
    "unknown user": Case(
        lambda url: rendered(url.set(username="nobody", password=WRONG)),
        ConfigurationError,
        "check user and password of the database URL",
    ),
    "wrong database": Case(
        lambda url: rendered(url.set(database="nowhere")),
        ConfigurationError,
        'database "nowhere" does not exist.*: create the database, or name another in the URL',
    ),
    "server down": Case(
        lambda url: rendered(url.set(port=free_port())),
        DatabaseUnavailable,
        "onnection refused.*: check that the server runs and can be reached",
        retryable=True,
    ),
    "no such host": Case(
        lambda url: f"postgresql://u:{WRONG}@nowhere.invalid/d",
        DatabaseUnavailable,
        "nowhere.invalid.*: check that the server runs and can be reached",
        retryable=True,
    ),
    "no such socket": Case(
        lambda url: f"postgresql://u:{WRONG}@/d?host=/nowhere",
        DatabaseUnavailable,
        "No such file or directory.*: check that the server runs",
        retryable=True,
    ),
    "a server without SSL": Case(
        lambda url: rendered(url.update_query_dict({"sslmode": "require"})),
        ConfigurationError,
        "does not support SSL.*: check sslmode in the URL",
    ),
    "an unknown sslmode": Case(
        lambda url: rendered(url.update_query_dict({"sslmode": "maybe"})),
        ConfigurationError,
        "invalid sslmode value",
    ),
    "malformed": Case(
        lambda url: f"postgresql://u:{WRONG}@127.0.0.1:port/d", ConfigurationError, "use postgresql://user:"
    ),
    "not a URL": Case(lambda url: f"host=127.0.0.1 password={WRONG}", ConfigurationError, "no scheme found"),
    "another database's URL": Case(
        lambda url: f"mysql://u:{WRONG}@127.0.0.1/d", ConfigurationError, "'mysql' is not supported"
    ),
    "password in the query": Case(
        lambda url: f"postgresql://u@127.0.0.1/d?password={WRONG}",
        ConfigurationError,
        "`password` in the query string would reach logs",
    ),
}


def secrets_in(shown: str) -> list[str]:
    return [
        secret for secret in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), WRONG) if secret in shown
    ]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("name", CASES)
async def test_it_is_one_clear_error(
    name: str,
    door: Callable[[str], Awaitable[None] | None],
    guarded: URL,
    everything_logged: pytest.LogCaptureFixture,
) -> None:
    case = CASES[name]
    error = await fails(door, case.url(guarded))
    assert type(error) is case.kind
    assert error.retryable is case.retryable
    with pytest.raises(case.kind, match=case.says):
        raise error
    shown = "".join(traceback.format_exception(error))
    assert secrets_in(f"{error} {error!r} {shown} {everything_logged.text}") == []


@pytest.mark.parametrize("variable", ["ALFRED_DB_URL", "DATABASE_URL", "ALFRED_DB_MIGRATION_URL", "--url"])
@pytest.mark.parametrize("name", CASES)
def test_the_command_shows_it_in_one_line(
    name: str, variable: str, guarded: URL, everything_logged: pytest.LogCaptureFixture
) -> None:
    case = CASES[name]
    url = case.url(guarded)
    if variable == "--url":
        status, output = command("current", "--url", url)
    else:
        status, output = command("current", **{variable: url})
    assert status == 2
    assert output.startswith("alfred-db: ")
    assert output.count("\n") == 1
    assert secrets_in(output + everything_logged.text) == []


@pytest.mark.parametrize(
    "spelling",
    [quote(PASSWORD, safe=""), PASSWORD.replace("%ss", "%25ss"), PASSWORD],
    ids=["encoded", "half", "raw"],
)
async def test_a_password_of_special_characters_works(
    spelling: str, guarded: URL, everything_logged: pytest.LogCaptureFixture
) -> None:
    url = f"postgres://postgres:{spelling}@127.0.0.1:{guarded.port}/postgres"
    with Database(url) as db, db.session() as session:
        assert db.url.password == PASSWORD
        assert session.scalar(text("SELECT 1")) == 1
        shown = f"{db!r} {db.url} {db.engine!r} {session.get_bind()!r}"
    async with AsyncDatabase(url) as other, other.session() as session_:
        assert await session_.scalar(text("SELECT 1")) == 1
        shown += f"{other!r} {other.engine!r}"
    assert secrets_in(shown + everything_logged.text) == []
    assert command("current", ALFRED_DB_URL=url)[0] == 0


async def test_an_upgrade_shows_no_password(
    guarded: URL, everything_logged: pytest.LogCaptureFixture
) -> None:
    url = rendered(guarded)
    status, output = command("upgrade", ALFRED_DB_URL=url)
    assert status == 0, output
    assert secrets_in(output + everything_logged.text) == []
    await async_verify(url)
    begin(url)


def test_without_a_url_the_error_names_what_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alfred_db.embedded.available", lambda: False)
    for kind in (Database, AsyncDatabase):
        with pytest.raises(ConfigurationError, match=r"ALFRED_DB_URL or DATABASE_URL.*alfred-db\[embedded\]"):
            kind()
    status, output = command("current")
    assert (status, output.count("\n")) == (2, 1)
    assert "ALFRED_DB_URL" in output


# A server that takes no writes


@pytest.fixture
def read_only_url(database_url: URL) -> URL:
    """A migrated database that refuses writes, as one on a standby does."""
    _make_read_only(database_url)
    return database_url


def _make_read_only(url: URL) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {url.database} SET default_transaction_read_only = on"))
    engine.dispose()


def test_a_read_only_server_can_be_read_and_verified(read_only_url: URL) -> None:
    begin(rendered(read_only_url))
    verify(rendered(read_only_url))
    upgrade(rendered(read_only_url))
    status, output = command("current", ALFRED_DB_URL=rendered(read_only_url))
    assert (status, output.startswith("alfred_")) == (0, True)


async def test_a_read_only_server_refuses_a_write_in_words(read_only_url: URL) -> None:
    def write() -> None:
        with Database(read_only_url) as db, db.begin() as uow:
            uow.agents.register("writer", type="llm", version="1")

    async def async_write() -> None:
        async with AsyncDatabase(read_only_url) as db, db.begin() as uow:
            await uow.agents.register("writer", type="llm", version="1")

    says = "cannot execute INSERT in a read-only transaction: this server or connection is read-only; connect to the primary"
    with pytest.raises(DatabaseUnavailable, match=says):
        write()
    with pytest.raises(DatabaseUnavailable, match=says):
        await async_write()


async def test_a_read_only_server_cannot_be_upgraded(empty_url: URL) -> None:
    _make_read_only(empty_url)
    for door in (upgrade, async_upgrade):
        error = await fails(door, rendered(empty_url))
        assert isinstance(error, DatabaseUnavailable)
        assert "read-only" in str(error)
    status, output = command("upgrade", ALFRED_DB_URL=rendered(empty_url))
    assert (status, output.count("\n")) == (2, 1)
    assert "read-only" in output


async def test_a_writable_server_can_be_asked_for(read_only_url: URL) -> None:
    url = rendered(read_only_url.update_query_dict({"target_session_attrs": "read-write"}))
    for door in (begin, async_begin):
        error = await fails(door, url)
        assert isinstance(error, DatabaseUnavailable)
        assert error.retryable
        assert "no server among the hosts is what target_session_attrs asks for" in str(error)


# Values


async def test_a_database_without_the_schema_names_what_to_run(empty_url: URL) -> None:
    for door in (begin, verify, async_begin, async_verify):
        error = await fails(door, rendered(empty_url))
        assert isinstance(error, SchemaError)
        assert "`alfred-db upgrade" in str(error) or "extension" in str(error)


@pytest.mark.parametrize("name", ["a\0b", "\udcff"])
async def test_a_text_that_cannot_be_stored_is_invalid_input(name: str, migrated_url: URL) -> None:
    with Database(migrated_url) as db, db.session() as session:
        from alfred_db.repositories import UnitOfWork

        with pytest.raises(InvalidInputError):
            UnitOfWork(session).agents.register(name, type="llm", version="1")


def test_nothing_is_printed(guarded: URL) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        with contextlib.suppress(ConfigurationError):
            begin(CASES["wrong password"].url(guarded))
        verify(rendered(guarded))
    assert output.getvalue() == ""
