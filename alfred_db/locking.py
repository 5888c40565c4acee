"""The migration lock: one process at a time migrates a tenant of a database."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256

from sqlalchemy import Engine, text

from .errors import ConfigurationError, MigrationLockTimeout
from .migrate import VERSION_TABLE

__all__ = ["LOCK_TIMEOUT", "locked"]

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another process that migrates the same tenant."""

_log = logging.getLogger("alfred_db")

_HOLDER = """
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) = :key
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def locked(engine: Engine, schema: str | None, timeout: float = LOCK_TIMEOUT) -> Generator[None]:
    """Hold the migration lock of one tenant of one database, on a connection of its own.

    Polled, because a session that waits inside `pg_advisory_lock` holds a snapshot that stops every
    CREATE INDEX CONCURRENTLY of the one that works. The server frees it when the holder dies.
    """
    key = int.from_bytes(sha256(f"{VERSION_TABLE}:{schema or ''}".encode()).digest()[:8], signed=True)
    deadline = time.monotonic() + timeout
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        pids = {connection.scalar(text("SELECT pg_backend_pid()")) for _ in range(3)}
        if len(pids) > 1:
            raise ConfigurationError(
                "this connection goes through a transaction pooler, where the migration lock does not hold:"
                " set ALFRED_DB_MIGRATION_URL to the server's own address"
            )
        told = False
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
            if time.monotonic() > deadline:
                holder = connection.scalar(text(_HOLDER), {"key": key})
                raise MigrationLockTimeout(
                    f"another process (pid {holder} of the server) has been migrating for {timeout:.0f} s; wait for it,"
                    f" or end its session (SELECT pg_terminate_backend({holder})) and upgrade again",
                    retryable=True,
                )
            if not told:
                _log.info("another process is migrating this database; waiting for it")
                told = True
            time.sleep(random.uniform(0.1, 0.3))
        yield
