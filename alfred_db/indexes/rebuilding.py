"""Rebuilding of vector indexes beside running work."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from hashlib import sha256

from sqlalchemy import Connection, Engine, TextClause, text

from ..checks import within
from ..engine.repeating import repeating
from ..errors import ConfigurationError, ConflictError, InvalidInputError, translated
from ..sql import quoted
from .catalog import mapping_of, require, status
from .results import IndexState, IndexStatus, Progress, Rebuilt

__all__ = ["LOCK_TIMEOUT", "memory_size", "milliseconds", "rebuild", "two_connections", "watched"]

LOCK_TIMEOUT = 600.0
"""Seconds that a rebuild waits for other transactions; reads and writes go on meanwhile."""

POLLED_EVERY = 0.5
"""Seconds between two reports of the progress."""


def rebuild(
    engine: Engine,
    index: str | None = None,
    *,
    schema: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    maintenance_work_mem: str | None = None,
    lock_timeout: float = LOCK_TIMEOUT,
) -> list[Rebuilt]:
    """Rebuild one index, or all invalid ones, while others read and write.

    The index of a partitioned table is rebuilt partition by partition. Leftovers of earlier attempts are
    dropped. One rebuild of a tenant runs at a time.

    Args:
        engine: An engine of the tables' owner with a direct connection, not through a transaction pooler.
        index: The name of an index; None rebuilds all that are invalid.
        schema: The tenant; by default that of the engine.
        progress: Called twice a second, in another thread.
        maintenance_work_mem: A size such as "2GB" that should hold the whole index; with less, building takes
            many times as long.
        lock_timeout: Seconds to wait for another rebuild or for other transactions.

    Returns:
        What was done to each index, first the leftovers that were dropped.

    Raises:
        ConflictError: The wait took longer than `lock_timeout`.
        SchemaDriftError: The index is missing.
        InvalidInputError: No vector index has this name, or an argument is out of range.
        ConfigurationError: The connection goes through a transaction pooler.
    """
    settings = {"lock_timeout": f"{milliseconds(lock_timeout)}ms", "statement_timeout": "0"}
    if maintenance_work_mem is not None:
        settings["maintenance_work_mem"] = memory_size(maintenance_work_mem)
    with translated(), two_connections(engine) as (worker, watcher):
        for name, value in settings.items():
            worker.execute(text(f"SET {name} = '{value}'"))
        _wait_for_others(worker, schema, lock_timeout)
        found = status(worker, schema)
        done = [_drop(worker, left) for left in _leftovers(found, index)]
        for wanted in _wanted(found, index):
            done.append(_rebuild(worker, watcher, wanted, progress, schema))
        return done


def _leftovers(found: Sequence[IndexStatus], index: str | None) -> list[IndexStatus]:
    tables = {(one.schema, one.table) for one in found if index is None or _is(one, index)}
    return [one for one in found if one.state is IndexState.LEFTOVER and (one.schema, one.table) in tables]


def _wanted(found: Sequence[IndexStatus], index: str | None) -> list[IndexStatus]:
    if index is None:
        return [one for one in found if one.state is IndexState.INVALID]
    named = [one for one in found if _is(one, index)]
    if not named:
        known = ", ".join(dict.fromkeys(one.parent or one.name for one in found))
        raise InvalidInputError(
            f"index {index[:80]!r}: no vector index has this name; expected one of {known}"
        )
    for one in named:
        require(one, IndexState.VALID, IndexState.INVALID, IndexState.BUILDING, IndexState.LEFTOVER)
    return [one for one in named if one.state is not IndexState.LEFTOVER]


def _is(one: IndexStatus, index: str) -> bool:
    return index in (one.name, one.parent, f"{one.schema}.{one.name}")


def _drop(worker: Connection, left: IndexStatus) -> Rebuilt:
    started = time.monotonic()
    worker.execute(_named("DROP INDEX CONCURRENTLY IF EXISTS", left))
    seconds = time.monotonic() - started
    return Rebuilt(left.name, left.schema, left.table, seconds, left.size, None, dropped=True)


def _rebuild(
    worker: Connection,
    watcher: Connection,
    index: IndexStatus,
    progress: Callable[[Progress], None] | None,
    schema: str | None,
) -> Rebuilt:
    started = time.monotonic()
    with watched(worker, watcher, index.name, progress):
        try:
            with translated():
                worker.execute(_named("REINDEX INDEX CONCURRENTLY", index))
        except ConflictError as error:
            raise ConflictError(
                f"index {index.name}: {error}; it is as before, and the next rebuild drops what this one left",
                retryable=error.retryable,
            ) from error
    (now,) = (one for one in status(worker, schema) if (one.schema, one.name) == (index.schema, index.name))
    require(now, IndexState.VALID)
    seconds = time.monotonic() - started
    return Rebuilt(now.name, now.schema, now.table, seconds, index.size, now.size, dropped=False)


@contextmanager
def two_connections(engine: Engine) -> Generator[tuple[Connection, Connection]]:
    """Open a connection that works and one that watches.

    The first is detached from the pool for good, as its settings are changed.
    """
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as worker, autocommit.connect() as watcher:
        worker.detach()
        asked = (worker, worker, watcher, worker)
        one, two, other, three = (
            connection.scalar(text("SELECT pg_catalog.pg_backend_pid()")) for connection in asked
        )
        if len({one, two, three}) > 1 or one == other:
            raise ConfigurationError(
                "this connection goes through a transaction pooler, where the settings of a rebuild do not hold:"
                " use the server's own address, as in ALFRED_DB_MIGRATION_URL"
            )
        yield worker, watcher


def _wait_for_others(worker: Connection, schema: str | None, seconds: float) -> None:
    """Wait until no other rebuild of the tenant runs: the server lets two of one table deadlock.

    The advisory lock belongs to the session of `worker` and ends with it. It is polled, as a statement that
    waits for it would hold the snapshot that the other rebuild waits for.
    """
    tenant = schema or mapping_of(None, worker.get_execution_options()).get(None) or ""
    key = int.from_bytes(sha256(f"alfred_db_rebuild:{tenant}".encode()).digest()[:8], signed=True)
    deadline = time.monotonic() + seconds
    while not worker.scalar(text("SELECT pg_catalog.pg_try_advisory_lock(:key)"), {"key": key}):
        if time.monotonic() > deadline:
            raise ConflictError(
                f"another rebuild has been running for {seconds:g} s; wait for it, and run this one again",
                retryable=True,
            )
        time.sleep(0.1)


@contextmanager
def watched(
    worker: Connection, watcher: Connection, index: str, progress: Callable[[Progress], None] | None
) -> Generator[None]:
    """Report the progress of what `worker` builds."""
    if progress is None:
        yield
        return
    pid = worker.scalar(text("SELECT pg_catalog.pg_backend_pid()"))

    def report() -> None:
        for row in watcher.execute(_PROGRESS, {"pid": pid}):
            progress(Progress(index, row.phase, row.blocks_done, row.blocks_total))

    with repeating(report, POLLED_EVERY):
        yield


def _named(command: str, index: IndexStatus) -> TextClause:
    name = f"{quoted(index.schema)}.{quoted(index.name)}"
    return text(f"{command} {name}".replace(":", r"\:"))


def milliseconds(seconds: float) -> int:
    """Return a checked time to wait in milliseconds."""
    within("lock_timeout", seconds, 0.001, 86400)
    return int(seconds * 1000)


def memory_size(value: str) -> str:
    """Return a checked size of memory."""
    if re.fullmatch(r"[1-9][0-9]{0,9}(kB|MB|GB|TB)", value, re.ASCII) is None:
        raise InvalidInputError(
            f"maintenance_work_mem: expected a size such as 512MB or 2GB, got {value[:40]!r}"
        )
    return value


_PROGRESS = text("""
    SELECT phase, blocks_done, blocks_total FROM pg_catalog.pg_stat_progress_create_index
    WHERE pid = :pid AND phase IS NOT NULL
""")
