"""What a database answers: the rows of each table, and the results of exact and of text searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Table, func, select
from sqlalchemy.orm import Session

from ..execution._sync.search import search
from ..models import Base, Document, Memory, MemoryEntry, WorkingMemory
from ..models.base import table_of
from ..repositories import DocumentRepository
from ..search.params import SearchParams

__all__ = ["Answers", "answers", "differences"]

SEARCHED = (Document, Memory, MemoryEntry, WorkingMemory)
"""The models whose vectors are searched."""

SAMPLES = 3
"""How many vectors of each are searched for, and how many texts."""

LIMIT = 10
TOLERANCE = 1e-6
"""Differences of distances that another build of pgvector may make."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one tenant of a database answers."""

    rows: Mapping[str, int]
    """The number of rows by table."""
    distances: Mapping[str, list[float]]
    """The distances of the nearest rows by search, exactly."""
    found: Mapping[str, list[int]]
    """The ids of the documents found by words, by text."""


def answers(session: Session, *, shared: bool = True) -> Answers:
    """Return what the session's tenant answers.

    Args:
        session: A session of the tenant; nothing is written.
        shared: Count the rows of `auth` and `storage` too.
    """
    rows = {
        table.fullname: int(session.scalar(select(func.count()).select_from(table)) or 0)
        for table in _tables(shared)
    }
    distances: dict[str, list[float]] = {}
    for model in SEARCHED:
        table = table_of(model)
        key = next(iter(table.primary_key))
        vectors = select(key, table.c.embedding).where(table.c.embedding.is_not(None)).order_by(key)
        for number, embedding in session.execute(vectors.limit(SAMPLES)):
            result = search(session, model, embedding, limit=LIMIT, params=SearchParams(exact=True))
            distances[f"{table.fullname} near {number}"] = [float(hit.distance or 0.0) for hit in result]
    texts = select(Document.content).order_by(Document.id).limit(SAMPLES)
    found: dict[str, list[int]] = {}
    for content in session.scalars(texts):
        words = " ".join((content or "").split()[:5])
        if words:
            hits = DocumentRepository(session).hybrid_search(words, None, limit=LIMIT)
            found[words] = [hit.row.id for hit in hits]
    return Answers(rows, distances, found)


def differences(before: Answers, after: Answers) -> list[str]:
    """Return what the two answer differently, a sentence each."""
    found = [
        f"{table}: {number:,} rows, and {after.rows.get(table, 0):,} in the copy"
        for table, number in before.rows.items()
        if after.rows.get(table) != number
    ]
    found += [
        f"search of {name}: other distances in the copy"
        for name, expected in before.distances.items()
        if not _near(expected, after.distances.get(name, []))
    ]
    found += [
        f"text search {number} of {len(before.found)}: other documents in the copy"
        for number, (words, expected) in enumerate(before.found.items(), 1)
        if after.found.get(words) != expected
    ]
    return found


def _near(expected: list[float], got: list[float]) -> bool:
    return len(expected) == len(got) and all(
        abs(one - other) <= TOLERANCE for one, other in zip(expected, got, strict=True)
    )


def _tables(shared: bool) -> Iterator[Table]:
    for table in Base.metadata.sorted_tables:
        if shared or table.schema not in ("auth", "storage"):
            yield table
