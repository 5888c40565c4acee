"""Deleting by a policy: kind by kind, batch by batch, each batch in a separate transaction."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from ..checks import within
from ..database import AsyncDatabase, Database
from ..errors import AlfredDBError, InvalidInputError, shown, translated
from .policy import RetentionPolicy

__all__ = ["BATCH", "KINDS", "PurgeKind", "PurgeResult", "purge"]

BATCH = 1000
"""Rows that are deleted in one transaction."""

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
    "working_memory": PurgeKind("working_memory"),
    "cache": PurgeKind("cache"),
    "rate_limits": PurgeKind("rate_limits"),
    "web_sessions": PurgeKind("web_sessions"),
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
        batch: Rows in one transaction, 1 to 10,000. Fewer keep the transactions shorter.
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
            rows = 0
            try:
                if dry_run:
                    with database.begin() as uow:
                        rows = getattr(uow, kind.noun).purgeable(**given)
                else:
                    deleted = batch
                    while deleted >= batch and not stopping():
                        deleted = _delete(database, kind, {**given, "limit": batch})
                        rows += deleted
                        if progress is not None:
                            progress(PurgeResult(name, rows))
            except AlfredDBError as error:
                done.append(PurgeResult(name, rows, error))
            else:
                done.append(PurgeResult(name, rows))
    return done


def _arguments(name: str, kind: PurgeKind, policy: RetentionPolicy) -> dict[str, Any] | None:
    """Return the arguments of the kind's methods, or None if the policy keeps its rows."""
    if not kind.aged:
        return {} if policy.expired else None
    seconds = policy.seconds(name)
    return None if seconds is None else {"older_than": seconds}


def _delete(database: Database, kind: PurgeKind, given: dict[str, Any]) -> int:
    """Delete one batch in a transaction, and return the number of rows."""
    for left in reversed(range(TRIES)):
        try:
            with translated(), database.begin() as uow:
                # The planner expects trees that are large and deep, and would compile the statement: for seconds.
                uow.session.execute(text("SET LOCAL jit = off"))
                deleted: int = getattr(getattr(uow, kind.noun), kind.method)(**given)
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
