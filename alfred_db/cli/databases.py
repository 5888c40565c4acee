"""The databases that the options of commands name. The library is imported when one is opened."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from ..database import Database

__all__ = ["connected", "engine_of", "opened"]


def opened(
    url: str | None,
    schema: str | None = None,
    *,
    owner: bool = False,
    notify: bool = False,
    application_name: str = "alfred-db",
) -> Database:
    """Return the database of `--url` and `--schema`.

    Args:
        url: The URL; None takes that of the environment, else the embedded server.
        schema: The tenant.
        owner: Whether ALFRED_DB_MIGRATION_URL comes before the other variables.
        notify: Whether idle workers are woken.
        application_name: The name of its connections.
    """
    from ..config import database_url, migration_url
    from ..database import Database

    found = migration_url(url) if owner else database_url(url)
    return Database(found, schema=schema, notify=notify, application_name=application_name)


def engine_of(url: str | None, application_name: str, *, owner: bool = False) -> Engine:
    """Return an engine without a pool for the database of `--url`; `owner` is that of `opened`."""
    from ..config import database_url, migration_url
    from ..engine.pool import passing_engine

    return passing_engine(migration_url(url) if owner else database_url(url), application_name)


@contextmanager
def connected(url: str | None, application_name: str, *, owner: bool = False) -> Generator[Connection]:
    """Yield a connection of `engine_of` with a transaction, which is committed at the end."""
    from ..errors import translated

    with translated(), engine_of(url, application_name, owner=owner).begin() as connection:
        yield connection
