"""Re-embedding of a space while everything runs: filled in batches, indexed, measured, and switched."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from sqlalchemy import Engine, text

from ..checks import within
from ..errors import AlfredDBError, ConflictError, InvalidInputError, translated
from ..execution._sync.copy import table_name
from ..execution._sync.space_search import search
from ..models import EmbeddingSpace, SpaceKind, SpaceState
from ..models.base import table_of
from ..models.spaces import BUILTIN
from ..queries import spaces as queries
from ..queries.shapes.spaces import KINDS, Space, partition
from ..repositories import UnitOfWork
from ..search.params import SearchParams
from ..values.spaces import SpaceCoverage
from ..vectors.formats import MatrixLike

__all__ = [
    "FOLLOWED",
    "VALID",
    "Embedder",
    "SpaceDatabase",
    "build_space",
    "reembed",
    "space_from",
    "space_recall",
    "switch_space",
]

Embedder = Callable[[list[str]], MatrixLike]
"""A function from texts to a matrix, with one vector for each text."""

ATTEMPTS = 5
"""How often a batch is stored, when the database refuses it for a reason that passes."""

PASSES = 10
"""How often a space is filled again, because rows were written meanwhile."""

FOLLOWED = 6.0
"""Seconds after a switch in which other processes may still write to the space before."""


class SpaceDatabase(Protocol):
    """What is needed of a `Database`."""

    @property
    def engine(self) -> Engine:
        """The engine."""
        ...

    def begin(self) -> AbstractContextManager[UnitOfWork]:
        """Begin a unit of work."""
        ...


@dataclass(frozen=True, slots=True)
class _Progress:
    report: Callable[[int, int], None] | None
    total: int

    def __call__(self, done: int) -> None:
        if self.report is not None:
            self.report(min(done, self.total), self.total)


def reembed(
    database: SpaceDatabase,
    space: str,
    embedder: Embedder,
    *,
    kind: str | None = None,
    batch: int = 100,
    rate: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Embed the rows that have no vector of their content in a space, and build its index.

    Rows that are written meanwhile are embedded too, until less than a batch of them is left. Each batch is one
    transaction, and the embedder runs outside of it. A process that is killed loses its batch: the next call goes on
    after it.

    Args:
        database: The database; building the index needs the role that owns the tables.
        space: The space.
        embedder: The embedding model.
        kind: The kind of the space; needed for `builtin`.
        batch: The number of texts in one call of the embedder.
        rate: The greatest number of texts in a second; None for no limit.
        progress: Called after each batch with the number of rows that were embedded, and of those to be.

    Returns:
        The number of rows that were embedded.

    Raises:
        NotFoundError: The space does not exist.
        DimensionMismatch: The embedder returns vectors of another length than those of the space.
        InvalidInputError: The embedder returns another number of vectors than it got texts.
        ConflictError: The space is retired.
    """
    within("batch", batch, 1, 1000)
    if rate is not None:
        within("rate", rate, 0.001, 1e9)
    with database.begin() as uow:
        report = _Progress(progress, uow.spaces.coverage(space, kind=kind).pending)
    done = 0
    for _ in range(PASSES):
        after, seen = None, 0
        while rows := _pending(database, space, kind, batch, after):
            started, after, seen = time.monotonic(), rows[-1].id, seen + len(rows)
            matrix = embedder([row.content for row in rows])
            if len(matrix) != len(rows):
                raise InvalidInputError(
                    f"embedder: expected {len(rows)} vectors, one for each text, got {len(matrix)}"
                )
            done += _store(database, space, kind, rows, matrix)
            report(done)
            if rate is not None:
                time.sleep(max(0.0, len(rows) / rate - (time.monotonic() - started)))
        if seen < batch:  # the rest was written meanwhile, and more always will be
            break
    build_space(database, space)
    return done


def _pending(database: SpaceDatabase, space: str, kind: str | None, batch: int, after: Any) -> Sequence[Any]:
    with database.begin() as uow:
        return uow.spaces.pending(space, batch, kind=kind, after_id=after)


def _store(database: SpaceDatabase, space: str, kind: str | None, rows: Sequence[Any], matrix: Any) -> int:
    ids, hashes = [row.id for row in rows], [row.hash for row in rows]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with database.begin() as uow:
                return len(uow.spaces.store(space, ids, matrix, hashes, kind=kind))
        except AlfredDBError as error:
            if attempt == ATTEMPTS or not getattr(error, "retryable", False):
                raise
            time.sleep(0.1 * 2**attempt)
    return 0


def build_space(database: SpaceDatabase, space: str) -> None:
    """Build the index of a space that is being filled, while others read and write, and make the space active.

    What an attempt that was killed has left is dropped first.

    Raises:
        NotFoundError: The space does not exist.
        ConfigurationError: The role does not own the table.
    """
    if space == BUILTIN:
        return
    with database.begin() as uow:
        found = uow.spaces.describe(space).space
        if found.state is not SpaceState.BUILDING:
            return
        chosen = space_from(found)
        own = partition(chosen.kind, chosen.id)
        table = table_name(uow.session, own)
    index = f"idx_{own.name}"
    home = table.rpartition(".")[0]
    named = f"{home}.{index}" if home else index
    create = queries.create_index(table, index, chosen, concurrently=True)
    with translated(), database.engine.connect() as connection:
        worker = connection.execution_options(isolation_level="AUTOCOMMIT")
        valid = worker.scalar(VALID, {"index": named})
        if create is not None and not valid:
            worker.execute(text("SET statement_timeout = 0"))
            worker.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {named}"))
            worker.execute(create)
            worker.execute(text(f"ANALYZE {table}"))
            worker.execute(text("RESET statement_timeout"))
    with database.begin() as uow:
        uow.spaces.activate(space)


VALID = text(
    "SELECT indisvalid FROM pg_catalog.pg_index WHERE indexrelid = CAST(pg_catalog.to_regclass(:index) AS oid)"
)


def space_recall(database: SpaceDatabase, space: str, *, k: int = 10, samples: int = 100) -> float | None:
    """Return the part of the nearest rows that a search of a space finds, compared with an exact search.

    The queries are stored vectors, the same ones for the same rows.

    Args:
        database: The database.
        space: The space, not `builtin`.
        k: The number of nearest rows.
        samples: The number of queries.

    Returns:
        The recall, or None for a space without vectors.

    Raises:
        NotFoundError: The space does not exist.
    """
    within("k", k, 1, 1000)
    within("samples", samples, 1, 100_000)
    with database.begin() as uow:
        chosen = space_from(uow.spaces.describe(space).space)
        model = KINDS[chosen.kind][0]
        parts: list[float] = []
        for (vector,) in uow.session.execute(queries.some_vectors(chosen, samples)).all():
            exact, approximate = (
                search(uow.session, model, vector, space=space, limit=k, params=SearchParams(exact=how))
                for how in (True, None)
            )
            if exact.hits:
                last = exact.hits[-1].distance or 0.0
                good = sum((hit.distance or 0.0) <= last + 1e-6 for hit in approximate)
                parts.append(min(good, len(exact)) / len(exact))
    return fmean(parts) if parts else None


def switch_space(
    database: SpaceDatabase,
    kind: str,
    space: str,
    *,
    embedder: Embedder | None = None,
    target: float = 0.95,
    batch: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> SpaceCoverage:
    """Make a space the default of its kind, if its searches find enough and no row lacks a vector.

    With an embedder, rows that were written meanwhile are embedded, before the switch and after the time in which other
    processes follow it. Writers wait while the last of them, less than a batch, are embedded.

    Args:
        database: The database.
        kind: The kind.
        space: The space.
        embedder: The embedding model; None only switches.
        target: The least recall of a search.
        batch: The number of texts in one call of the embedder.
        progress: Called after each batch.

    Returns:
        The coverage at the end.

    Raises:
        NotFoundError: The space does not exist.
        ConflictError: The recall is below the target, or rows have no vector.
    """
    if space != BUILTIN:
        measured = space_recall(database, space)
        if measured is not None and measured < target:
            raise ConflictError(
                f"space {space!r}: its searches find {measured:.3f} of the nearest rows, less than {target:.3f}; build its"
                " index anew, or choose another index or a lower target"
            )
    for attempt in range(1, PASSES + 1):
        try:
            with database.begin() as uow:
                if embedder is not None and attempt > 1:
                    _embed_the_rest(uow, kind, space, embedder, batch)
                uow.spaces.switch(kind, space)
            break
        except ConflictError:
            if embedder is None or attempt == PASSES:
                raise
            reembed(database, space, embedder, kind=kind, batch=batch, progress=progress)
    if embedder is not None:
        time.sleep(FOLLOWED)
        reembed(database, space, embedder, kind=kind, batch=batch, progress=progress)
    with database.begin() as uow:
        return uow.spaces.coverage(space, kind=kind)


def _embed_the_rest(uow: UnitOfWork, kind: str, space: str, embedder: Embedder, batch: int) -> None:
    """Keep writers waiting until the transaction ends, and embed what they wrote, if it is less than a batch.

    Among busy writers there would always be a row that was written after the last one was embedded.
    """
    table = table_name(uow.session, table_of(KINDS[SpaceKind(kind)][0]))
    with translated():
        uow.session.execute(queries.exclude_writers(table))
    rows = uow.spaces.pending(space, batch, kind=kind)
    if 0 < len(rows) < batch:
        matrix = embedder([row.content for row in rows])
        uow.spaces.store(space, [row.id for row in rows], matrix, [row.hash for row in rows], kind=kind)


def space_from(row: EmbeddingSpace) -> Space:
    """Return a space as searches know it."""
    return Space(row.id, row.name, row.kind, row.model, row.dimensions, row.storage, row.index, row.state)
