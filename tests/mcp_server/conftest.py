"""A database with rows of two tenants for the tests of the MCP server, and servers over it."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from mcp import Client
from sqlalchemy import URL, NullPool, create_engine, text

from alfred_db import AsyncDatabase
from alfred_db.mcp.server import create_server

Serve = Callable[..., AbstractAsyncContextManager[Client]]


def embed(texts: list[str]) -> list[list[float]]:
    """Vectors of the first letter: texts that begin alike are near each other."""
    return [
        [float(ord(text[:1].lower() or "a") % 7 == place % 7) + 0.01 for place in range(384)]
        for text in texts
    ]


@pytest.fixture(scope="module")
def served_url(template: URL, new_database: Callable[..., URL]) -> URL:
    """A migrated database with the tenant `acme`, both empty at first."""
    return new_database(template.database)


@pytest.fixture
def serve(served_url: URL) -> Serve:
    @asynccontextmanager
    async def served(**options: Any) -> AsyncIterator[Client]:
        url, schema = options.pop("url", served_url), options.pop("schema", None)
        options.setdefault("embedder", embed)
        with_reader = options.pop("with_reader", True)
        async with (
            AsyncDatabase(url, schema=schema, application_name="served") as database,
            AsyncDatabase(url, schema=schema, application_name="served", read_only=True) as reader,
            Client(create_server(database, reader=reader if with_reader else None, **options)) as client,
        ):
            yield client

    return served


@pytest.fixture
def no_connection_left(served_url: URL) -> Iterator[None]:
    """Afterwards no connection of the server is open, and no advisory lock is held."""
    gc.disable()  # which would close what nobody holds
    try:
        yield
        _check_connections(served_url)
    finally:
        gc.enable()


def _check_connections(url: URL) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        for _ in range(600):
            left = connection.execute(
                text(
                    "SELECT application_name, state, query FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            ).all()
            if not left:
                break
            time.sleep(0.05)
            connection.rollback()
        assert left == []
        assert connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0
