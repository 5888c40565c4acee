"""The pytest plugin: fixtures on a migrated database, where everything is rolled back after each test.

It is installed with the library (entry point `pytest11`), and needs pytest, which no other module imports. The fixtures:

    alfred_url            the URL of a migrated database, one for each worker of pytest-xdist
    alfred_db             a `Database` whose transactions are savepoints: what a test commits is rolled back at its end
    alfred_uow            a unit of work of it              alfred_session    a plain SQLAlchemy session of it
    alfred_async_db, alfred_async_uow, alfred_async_session the same for asyncio, in the same transaction
    alfred_join           lets a `Database` of the application share the transaction
    alfred_factory        makes rows of any model           alfred_travel     lets time pass for all rows
    alfred_fresh_url      a database of the test's own, for code that needs several real transactions
    alfred_prepare        to override: prepares each new database, such as with tables of your own

`assert_query_count`, `assert_uses_index` and `toy_embedder` are imported from here. The server is the one of
ALFRED_DB_TEST_URL or an embedded one; without either, the tests are skipped, or fail if ALFRED_DB_TEST_REQUIRED is set.

Nothing of the library is imported before the first fixture is used.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

    from ..database import AsyncDatabase, Database
    from ..repositories import AsyncUnitOfWork, UnitOfWork
    from ..vectors.toy import toy_embedder
    from .assertions import Statements, assert_query_count, assert_uses_index
    from .connections import OuterTransaction
    from .factories import RowFactory
    from .servers import Clones

__all__ = ["RowFactory", "Statements", "assert_query_count", "assert_uses_index", "toy_embedder"]

REQUIRED = "ALFRED_DB_TEST_REQUIRED"

_PLACES = {
    "RowFactory": "alfred_db.testing.factories",
    "Statements": "alfred_db.testing.assertions",
    "assert_query_count": "alfred_db.testing.assertions",
    "assert_uses_index": "alfred_db.testing.assertions",
    "toy_embedder": "alfred_db.vectors.toy",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


class _Join(Protocol):
    def __call__(self, database: Database | AsyncDatabase | Engine | AsyncEngine) -> None: ...


@pytest.fixture(scope="session")
def _alfred_clones() -> Iterator[Clones]:
    from .servers import Clones, NoServer, server_url

    try:
        server = server_url()
    except NoServer as error:
        if os.environ.get(REQUIRED):
            pytest.fail(f"alfred-db: {error}", pytrace=False)
        pytest.skip(f"alfred-db: {error}")
    clones = Clones(server, os.environ.get("PYTEST_XDIST_WORKER", ""))
    yield clones
    clones.close()


@pytest.fixture(scope="session")
def alfred_prepare() -> Callable[[str], None]:
    """Prepare a new database, such as with the tables of the application. Override it; this one does nothing.

    It returns a function that is called with the URL of each database: once for each worker, and for each `alfred_fresh_url`.
    """

    def prepare(url: str) -> None: ...

    return prepare


@pytest.fixture(scope="session")
def alfred_url(_alfred_clones: Clones, alfred_prepare: Callable[[str], None]) -> Iterator[str]:
    """Return the URL of the worker's database. What is committed there by other means than the fixtures stays."""
    with _alfred_clones.clone() as url:
        yield _prepared(url, alfred_prepare)


@pytest.fixture
def alfred_fresh_url(_alfred_clones: Clones, alfred_prepare: Callable[[str], None]) -> Iterator[str]:
    """Return the URL of a migrated database of the test's own, which is dropped after it."""
    with _alfred_clones.clone() as url:
        yield _prepared(url, alfred_prepare)


def _prepared(url: URL, prepare: Callable[[str], None]) -> str:
    text = url.render_as_string(hide_password=False)
    prepare(text)
    return text


@pytest.fixture
def _alfred_transaction(alfred_url: str) -> Iterator[OuterTransaction]:
    from ..config import parse_url
    from .connections import OuterTransaction
    from .servers import connection_parameters

    outer = OuterTransaction(**connection_parameters(parse_url(alfred_url)))
    yield outer
    outer.close()


@pytest.fixture
def alfred_join(_alfred_transaction: OuterTransaction) -> _Join:
    """Return a function that lets a database, or an engine, of the application share the test's transaction.

    Its URL is not used until the test ends: all its connections are those of the test. Call it before the application
    connects, in each test; it may be a database that the application makes once, at the top of a module.
    """

    def join(database: Database | AsyncDatabase | Engine | AsyncEngine) -> None:
        engine: Any = getattr(database, "engine", database)
        _alfred_transaction.join(getattr(engine, "sync_engine", engine))

    return join


@pytest.fixture
def alfred_db(_alfred_transaction: OuterTransaction, alfred_url: str) -> Iterator[Database]:
    """Return a database whose transactions are savepoints of one that is rolled back after the test."""
    from ..database import Database

    with Database(_without_timeout(alfred_url)) as database:
        _alfred_transaction.join(database.engine)
        yield database


@pytest.fixture
def alfred_uow(alfred_db: Database) -> Iterator[UnitOfWork]:
    """Return a unit of work of `alfred_db`; `alfred_uow.session.commit()` shows its rows to other units."""
    with alfred_db.begin() as uow:
        yield uow
        uow.session.rollback()


@pytest.fixture
def alfred_session(alfred_db: Database) -> Iterator[Session]:
    """Return a plain SQLAlchemy session of `alfred_db`."""
    with alfred_db.session() as session:
        yield session


@pytest.fixture
def alfred_async_db(_alfred_transaction: OuterTransaction, alfred_url: str) -> Iterator[AsyncDatabase]:
    """Return the `alfred_db` for asyncio, in the same transaction; works with pytest-asyncio, anyio and neither."""
    from ..database import AsyncDatabase

    database = AsyncDatabase(_without_timeout(alfred_url))
    _alfred_transaction.join(database.engine.sync_engine)
    yield database
    _run(database.close)


@pytest.fixture
def alfred_async_uow(alfred_async_db: AsyncDatabase) -> Iterator[AsyncUnitOfWork]:
    """Return a unit of work of `alfred_async_db`."""
    begun = alfred_async_db.begin()
    uow = _run(begun.__aenter__)
    yield uow
    _run(uow.session.rollback)
    _run(uow.session.close)


@pytest.fixture
def alfred_async_session(alfred_async_db: AsyncDatabase) -> Iterator[AsyncSession]:
    """Return a plain SQLAlchemy session of `alfred_async_db`."""
    opened = alfred_async_db.session()
    yield _run(opened.__aenter__)
    _run(lambda: opened.__aexit__(None, None, None))


@pytest.fixture
def alfred_factory(alfred_db: Database) -> RowFactory:
    """Return a function that makes rows of any model: `alfred_factory(Task, intent="X")`; see `RowFactory`."""
    from .factories import RowFactory

    return RowFactory(alfred_db.session)


@pytest.fixture
def alfred_travel(alfred_db: Database) -> Callable[[timedelta], None]:
    """Return a function that lets time pass: all times in the database move back, as if they were that much older."""
    from .clock import let_time_pass

    def travel(time: timedelta) -> None:
        with alfred_db.session() as session:
            let_time_pass(session, time)
            session.commit()

    return travel


def _without_timeout(url: str) -> URL:
    """Return the URL of connections that may idle in a transaction: a test may wait in a debugger."""
    from ..config import parse_url

    return parse_url(url).update_query_dict({"options": "-c idle_in_transaction_session_timeout=0"})


def _run(call: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine before or after the test, in a separate loop, which the connections of a test allow."""

    async def called() -> Any:
        return await call()

    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(called())
    finally:
        loop.close()
