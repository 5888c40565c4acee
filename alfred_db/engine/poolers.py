"""Which pooler a connection goes through, and in which mode it seems to be."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, text

from .pool import pid_within, shares_sessions

__all__ = ["PoolerFound", "recognise_pooler"]

PATIENCE = 3.0
"""Seconds to wait for a second session, which a pooler may not have."""

_HOSTS = (
    (r"\.pooler\.supabase\.(com|co)$", "Supavisor"),
    (r"\.proxy-[^.]+\.[^.]+\.rds\.amazonaws\.com", "RDS Proxy"),
)
_CONSOLES = ("pgbouncer", "pgcat")
"""The databases of the consoles of poolers; PgBouncer and pgcat answer SHOW VERSION there."""

_PID = text("SELECT pg_catalog.pg_backend_pid()")


@dataclass(frozen=True, slots=True)
class PoolerFound:
    """A pooler between this process and the server."""

    name: str | None
    """What it is, with its version where it shows it; None if nothing shows it."""
    transaction_mode: bool
    """Whether it passes a session of the server on after each transaction; False is session mode, as far as was seen."""

    def __str__(self) -> str:
        mode = "transaction" if self.transaction_mode else "session"
        return f"{self.name or 'an unknown one'}, it seems in {mode} mode"


def recognise_pooler(connection: Connection) -> PoolerFound | None:
    """Return the pooler of a connection that has no transaction open, or None if there seems to be none.

    A pooler announces another pid than the session of the server has. It cannot be recognised if it keeps the pid.
    """
    driver: Any = connection.connection.driver_connection
    name = _by_host(connection.engine.url)

    def ask() -> int:
        found = int(connection.scalar(_PID) or 0)
        connection.rollback()
        return found

    direct = ask() == driver.info.backend_pid
    if direct and name is None:
        return None
    shared = shares_sessions(ask, lambda: _held(connection.engine), direct=direct)
    return PoolerFound(name or _by_console(connection.engine.url), shared)


def _by_host(url: URL) -> str | None:
    return next((name for pattern, name in _HOSTS if re.search(pattern, url.host or "")), None)


def _by_console(url: URL) -> str | None:
    for database in _CONSOLES:
        place = url.set(database=database)
        arguments: dict[str, Any] = {
            **url.get_dialect()().create_connect_args(place)[1],
            "connect_timeout": 3,
        }
        # The console knows its own commands alone; SQLAlchemy would begin with others.
        with (
            suppress(psycopg.Error, OSError),
            psycopg.connect(**arguments, autocommit=True) as driver,
        ):
            result = driver.pgconn.exec_(b"SHOW VERSION")
            value = result.get_value(0, 0) if result.ntuples else None
            if value:
                return value.decode(errors="replace")[:40]
    return None


@contextmanager
def _held(engine: Engine) -> Generator[int | None]:
    """Hold a transaction open on another connection, and return its pid; None if it gets no session in time."""
    raw = engine.raw_connection()
    try:
        driver: Any = raw.driver_connection
        yield pid_within(driver.pgconn, PATIENCE)
    finally:
        raw.invalidate()  # a transaction is open, or its BEGIN still waits
