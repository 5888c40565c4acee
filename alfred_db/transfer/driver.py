"""Connections for rows in bulk: without a pool, without a search_path, with settings that all texts are the same under."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from sqlalchemy import URL

from ..engine.pool import passing_engine

__all__ = ["Driver", "connected"]

_SETTINGS = (
    "SET search_path = pg_catalog",
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET extra_float_digits = 1",
    "SET row_security = off",  # a policy must be an error here: it would hide rows
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
)


class Driver:
    """A connection of the driver.

    Args:
        connection: The connection.
        homes: The schemas of the search_path that the role has.
    """

    def __init__(self, connection: Any, homes: Sequence[str]) -> None:
        self._connection = connection
        self.homes = homes

    @property
    def version(self) -> int:
        """The version of the server, such as 150004."""
        found: int = self._connection.info.server_version
        return found

    def rows(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> list[Any]:
        """Return the rows of a statement."""
        found: list[Any] = self._connection.execute(statement, parameters).fetchall()
        return found

    def one(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Return the only value of the first row of a statement; None if it has no row."""
        row: Any = self._connection.execute(statement, parameters).fetchone()
        return None if row is None else row[0]

    def run(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None) -> int:
        """Run a statement, and return the number of its rows."""
        found: int = self._connection.execute(statement, parameters).rowcount
        return found

    def copy(self, statement: str) -> AbstractContextManager[psycopg.Copy]:
        """Run a COPY."""
        found: AbstractContextManager[psycopg.Copy] = self._connection.cursor().copy(statement)
        return found

    def transaction(self) -> AbstractContextManager[Any]:
        """Return a context manager for one transaction, which ends the one that reading has begun."""
        self._connection.rollback()
        found: AbstractContextManager[Any] = self._connection.transaction()
        return found

    def rollback(self) -> None:
        """End the transaction, if one is open."""
        self._connection.rollback()


@contextmanager
def connected(url: URL, name: str, *, snapshot: bool = False) -> Generator[Driver]:
    """Open a connection.

    Args:
        url: The database.
        name: The name of the connection in `pg_stat_activity`.
        snapshot: Whether all statements of a transaction see the rows of one moment, and may write none.
    """
    engine = passing_engine(url, name)
    try:
        pooled = engine.raw_connection()
        try:
            connection: Any = pooled.driver_connection
            connection.rollback()
            connection.autocommit = True
            homes = [
                row[0]
                for row in connection.execute("SELECT pg_catalog.unnest(pg_catalog.current_schemas(false))")
            ]
            for setting in _SETTINGS:
                connection.execute(setting)
            connection.autocommit = False
            if snapshot:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
            yield Driver(connection, homes)
            connection.rollback()
        finally:
            pooled.close()
    finally:
        engine.dispose()
