"""The migration lock: one process at a time migrates a tenant of a database."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Engine, exc, text

from ..engine.pool import shares_sessions
from ..errors import ConfigurationError, MigrationLockTimeout
from ..server.databases import VERSION_TABLE

__all__ = ["LOCK_TIMEOUT", "locked"]

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another process that migrates the same tenant."""

_log = logging.getLogger("alfred_db")

_HOLDER = """
    SELECT pid FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) = :key
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""


_PID = text("SELECT pg_catalog.pg_backend_pid()")


@contextmanager
def locked(
    engine: Engine, schema: str | None, timeout: float = LOCK_TIMEOUT, *, beside: Connection | None = None
) -> Generator[None]:
    """Hold the migration lock of one tenant of one database, on a separate connection.

    The lock is polled, because a session that waits inside `pg_advisory_lock` holds a snapshot that stops every
    CREATE INDEX CONCURRENTLY of the holder. The server releases the lock when the holder dies.

    Args:
        engine: The engine of the database to migrate.
        schema: The schema of the tenant; None is the default tenant.
        timeout: Seconds to wait for another holder.
        beside: The connection that will migrate, outside of a transaction. The two connections show whether a
            transaction pooler shares sessions between clients: the lock would pass to the session's next client.

    Raises:
        ConfigurationError: A pooler shares sessions. Nothing has been locked.
        MigrationLockTimeout: Another process held the lock for `timeout` seconds.
    """
    key = int.from_bytes(sha256(f"{VERSION_TABLE}:{schema or ''}".encode()).digest()[:8], signed=True)
    deadline = time.monotonic() + timeout
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if beside is not None:
            _refuse_shared_sessions(beside, connection)
        reported = False
        while not connection.scalar(text("SELECT pg_catalog.pg_try_advisory_lock(:key)"), {"key": key}):
            if time.monotonic() > deadline:
                holder = connection.scalar(text(_HOLDER), {"key": key})
                raise MigrationLockTimeout(
                    f"another process (pid {holder} of the server) has been migrating for {timeout:.0f} s; wait for it,"
                    f" or end its session (SELECT pg_terminate_backend({holder})) and upgrade again",
                    retryable=True,
                )
            if not reported:
                _log.info("another process is migrating this database; waiting for it")
                reported = True
            time.sleep(random.uniform(0.1, 0.3))
        try:
            yield
        finally:
            # A pooler in session mode may keep the session for somebody else; one that is gone has freed it.
            with suppress(exc.DBAPIError):
                connection.execute(text("SELECT pg_catalog.pg_advisory_unlock(:key)"), {"key": key})


def _refuse_shared_sessions(first: Connection, second: Connection) -> None:
    def ask() -> int:
        with first.begin():
            return int(first.scalar(_PID) or 0)

    @contextmanager
    def hold() -> Generator[int]:
        second.exec_driver_sql("BEGIN")
        try:
            yield int(second.scalar(_PID) or 0)
        finally:
            second.exec_driver_sql("ROLLBACK")

    driver: Any = first.connection.driver_connection
    if shares_sessions(ask, hold, direct=driver.info.backend_pid == ask()):
        raise ConfigurationError(
            "this connection goes through a transaction pooler, where the migration lock does not hold:"
            " set ALFRED_DB_MIGRATION_URL to the server's own address"
        )
