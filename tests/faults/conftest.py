"""A server of these tests' own, which they stop and start, and databases on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress

import pytest
from sqlalchemy import NullPool, create_engine, text

from alfred_db import Database, migrate
from alfred_db.config import parse_url

from .ledger import TABLES
from .processes import Proxy, Server, new_server, proxy_to

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def own_server() -> Iterator[Server]:
    """A server that runs at the start of every test."""
    with new_server() as server:
        execute(server, "CREATE DATABASE migrated")
        migrate.upgrade(server.url("migrated"))
        for table in TABLES:
            execute(server, table, database="migrated")
        yield server


@pytest.fixture
def database(own_server: Server) -> Iterator[str]:
    """The name of a migrated database of the test's own, with the tables of ledger.py."""
    if not own_server.answers():  # a test that failed has left it so
        with suppress(AssertionError):
            own_server.stop("immediate")
        own_server.start()
    name = f"faults_{next(_numbers)}"
    execute(own_server, f"CREATE DATABASE {name} TEMPLATE migrated")
    yield name
    if own_server.answers():  # after a crash it looks at every file of every database
        execute(own_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    with proxy_to(own_server) as found:
        yield found


@pytest.fixture
def db(own_server: Server, database: str) -> Iterator[Database]:
    """The database, reached directly."""
    with Database(own_server.url(database), pool_size=20) as found:
        yield found


@pytest.fixture
def through_proxy(own_server: Server, database: str, proxy: Proxy) -> Iterator[Database]:
    """The same, reached through the proxy."""
    with Database(own_server.url(database, proxy.port)) as found:
        yield found


def execute(server: Server, statement: str, *, database: str = "postgres") -> None:
    engine = create_engine(parse_url(server.url(database)), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
