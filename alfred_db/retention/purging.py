"""Deleting by a policy: kind by kind, batch by batch, each batch in a separate short transaction.

A batch takes about a tenth of a second, whatever its rows weigh, and a pause follows it. What others wait for is not the
rows, which nobody else needs, but the log, the disk and the processors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from ..checks import within
from ..database import AsyncDatabase, Database
from ..engine.chunks import Chunks
from ..errors import AlfredDBError, InvalidInputError, shown, translated
from .policy import RetentionPolicy

__all__ = ["BATCH", "KINDS", "PurgeKind", "PurgeResult", "purge"]

BATCH = 1000
"""The most rows that are deleted in one transaction."""

PAUSE = 0.5
"""The pause after a batch, as a share of the time that the batch took."""

TRIES = 5
"""How often a batch is tried that met another transaction."""


@dataclass(frozen=True, slots=True)
class PurgeKind:
    """A kind of rows that can be purged."""

    noun: str
    """The repository, as the unit of work names it."""
    method: str = "purge"
    """The method that deletes."""
    aged: bool = False
    """Whether the policy has an age for it; otherwise its rows have their own times."""
    indexed: bool = True
    """Whether an index finds its rows; otherwise each batch reads the table, and small ones would read it often."""


KINDS = {
    "tasks": PurgeKind("tasks", aged=True),
    "executions": PurgeKind("scheduler", aged=True),
    "workflows": PurgeKind("workflows", aged=True),
    "conversations": PurgeKind("conversations", aged=True),
    "events": PurgeKind("events", aged=True),
    "requests": PurgeKind("broker_requests", aged=True),
    "messages": PurgeKind("messages"),
    "memories": PurgeKind("memories", "sweep"),
    "memory_entries": PurgeKind("memory_entries", "sweep"),
    "knowledge": PurgeKind("knowledge", "sweep"),
    "working_memory": PurgeKind("working_memory"),
    "cache": PurgeKind("cache", indexed=False),
    "rate_limits": PurgeKind("rate_limits", indexed=False),
    "web_sessions": PurgeKind("web_sessions", indexed=False),
}
"""The kinds of rows, by the names that policies and results have for them."""


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What was done about one kind of rows."""

    kind: str
    """Its name in `KINDS`."""
    rows: int
    """Rows deleted, or that would be deleted; rows that went with them, such as results of tasks, not counted."""
    error: AlfredDBError | None = None
    """What ended the purge of this kind early; the others were purged nevertheless."""


def purge(
    db: Database | AsyncDatabase,
    policy: RetentionPolicy,
    *,
    only: Sequence[str] | None = None,
    dry_run: bool = False,
    batch: int = BATCH,
    progress: Callable[[PurgeResult], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> list[PurgeResult]:
    """Delete what a policy does not keep, in batches that each commit alone.

    Rows that another transaction has locked are skipped, so that several calls at once share the work. From asyncio,
    call it in a thread: `await asyncio.to_thread(purge, db, policy)`.

    Args:
        db: The database. An AsyncDatabase is purged through one more connection.
        policy: What to keep for how long.
        only: Names of `KINDS`; other rows are kept. None is all.
        dry_run: Only count the rows; nothing is locked or written.
        batch: The most rows in one transaction, 1 to 10,000. It has fewer while these take longer than a tenth of a
            second.
        progress: Called after each batch, with the rows of that kind so far.
        stopping: Called before each batch; true ends the purge.

    Returns:
        One result for each kind that the policy names, in the order of `KINDS`.

    Raises:
        InvalidInputError: `only` has an unknown name, or `batch` is out of range.
        ConfigurationError: The connection cannot be used, such as because of its encoding.
        DatabaseUnavailable: The database cannot be reached.
    """
    within("batch", batch, 1, 10_000)
    for name in only or ():
        if name not in KINDS:
            raise InvalidInputError(f"only: {shown(name)} is unknown; use some of {', '.join(KINDS)}")
    done: list[PurgeResult] = []
    with _synchronous(db) as database:
        with translated(), database.begin() as uow:
            uow.session.execute(text("SELECT 1"))  # otherwise each kind would report the same
        for name, kind in KINDS.items():
            given = _arguments(name, kind, policy)
            if given is None or (only is not None and name not in only) or stopping():
                continue
            chunks = Chunks(batch, None)
            try:
                if dry_run:
                    with database.begin() as uow:
                        chunks.add(getattr(uow, kind.noun).purgeable(**given))
                else:
                    for _ in _batches(database, kind, given, chunks, stopping):
                        if progress is not None:
                            progress(PurgeResult(name, chunks.rows))
            except AlfredDBError as error:
                done.append(PurgeResult(name, chunks.rows, error))
            else:
                done.append(PurgeResult(name, chunks.rows))
    return done


def _arguments(name: str, kind: PurgeKind, policy: RetentionPolicy) -> dict[str, Any] | None:
    """Return the arguments of the kind's methods, or None if the policy keeps its rows."""
    if not kind.aged:
        return {} if policy.expired else None
    seconds = policy.seconds(name)
    return None if seconds is None else {"older_than": seconds}


def _batches(
    database: Database,
    kind: PurgeKind,
    given: dict[str, Any],
    chunks: Chunks,
    stopping: Callable[[], bool],
) -> Iterator[None]:
    """Delete batch by batch until one is not full, and yield after each."""
    size = deleted = 0
    while deleted >= size and not stopping():
        size = chunks.size if kind.indexed else chunks.limit
        began = time.monotonic()
        with chunks.timed():
            deleted = chunks.add(_delete(database, kind, {**given, "limit": size}))
        yield
        if deleted >= size:
            time.sleep(PAUSE * (time.monotonic() - began))


def _delete(database: Database, kind: PurgeKind, given: dict[str, Any]) -> int:
    """Delete one batch in a transaction, and return the number of rows."""
    for left in reversed(range(TRIES)):
        try:
            with translated(), database.begin() as uow:
                # The planner expects trees that are large and deep, and would compile the statement: for seconds.
                uow.session.execute(text("SET LOCAL jit = off"))
                deleted: int = getattr(getattr(uow, kind.noun), kind.method)(**given)
                if deleted >= given["limit"]:
                    # A claim that commits meanwhile would wait for the flush of this batch, and for its own. What a
                    # crash of the server brings back is deleted again; the last batch flushes all before it.
                    uow.session.execute(text("SET LOCAL synchronous_commit = off"))
            return deleted
        except AlfredDBError as error:
            if not error.retryable or not left:
                raise
    raise AssertionError


@contextmanager
def _synchronous(db: Database | AsyncDatabase) -> Generator[Database]:
    if isinstance(db, Database):
        yield db
        return
    with Database(
        db.url, schema=db.schema, pooler=db.pooler, pool_size=1, application_name="alfred-db purge"
    ) as own:
        yield own
