"""Hybrid search in the session's transaction: by meaning and by word, for all nouns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Engine, Row
from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import check_word
from ...errors import translated
from ...models.base import table_of
from ...queries.shapes import hybrid_search as queries
from ...queries.shapes import text_statistics as statistics
from ...queries.shapes.hybrid_search import Fusion, Legs
from ...queries.shapes.spaces import KIND_OF
from ...queries.shapes.vector_search import Partition, dimensions
from ...queries.shapes.words import Match, parameters
from ...search.params import SearchParams, SearchWeights
from ...search.results import Hit, SearchPath, SearchResult
from ...vectors.formats import VectorLike
from .citus import size_of
from .copy import table_name
from .driver import bind_of, fetch_rows
from .search import CHEAP, MAX_COMPARED, SMALL_PART, estimate, rows_of, scan_settings, set_local, text_of
from .spaces import space_of

CANDIDATES = 50
"""The number of rows of each leg."""

WHOLE = 4_000
"""At most this many matching rows are all read: that is faster than reading an index for each word, and exact."""

SAMPLED_ROWS = 3_000
STATISTICS_LAST, SMALL_STATISTICS_LAST = 600.0, 5.0
"""Seconds for which the statistics of a text index are kept; those of fewer than `MAX_COMPARED` rows change sooner."""


@dataclass(frozen=True, slots=True)
class Within:
    """The rows of a bank, namespace or session, as a condition that is built once and has parameters."""

    where: ColumnElement[bool]
    """The condition."""
    parameters: Mapping[str, Any]
    """Its parameters."""


class TextStatistics(NamedTuple):
    """What the score of a text needs to know about all texts."""

    rows: float
    """About how many match the condition."""
    average: float
    """Their average length."""
    common: Sequence[str]
    """Words that are in many of them."""
    frequencies: Sequence[float]
    """The part of them that has each of these words."""


_statistics: WeakKeyDictionary[Engine, dict[Any, tuple[TextStatistics, float]]] = WeakKeyDictionary()


async def hybrid_search(
    session: AsyncSession,
    legs: Legs,
    text: str,
    embedding: VectorLike | None,
    *,
    limit: int = 10,
    where: ColumnElement[bool] | None = None,
    within: Within | None = None,
    partition: Partition | None = None,
    space: str | None = None,
    weights: SearchWeights = SearchWeights(),
    language: str = "english",
) -> SearchResult[Any]:
    """Return the best rows by meaning and by word, ranked together in one statement.

    Args:
        session: The session whose transaction is used.
        legs: What is compared.
        text: The words to search for.
        embedding: The vector to search for; needed if the legs have one.
        limit: The maximum number of hits.
        where: Only rows that match this condition.
        within: The same condition with parameters, if it is that of a bank or the like alone.
        partition: Search only this partition, with its distance.
        space: The name of the embedding space; None is the default one of rows that have spaces.
        weights: The weight of each leg.
        language: The text search configuration of `text`.
    """
    check_word("match", legs.match, Match)
    check_word("fusion", legs.fusion, Fusion)
    if legs.model in KIND_OF and (legs.vector or space is not None):
        legs = replace(legs, space=await space_of(session, legs.model, space))
    given: dict[str, Any] = {
        "language": language,
        **parameters(text, legs.match),
        **(partition.parameters if partition else {}),
        "text_weight": float(weights.text),
    }
    if legs.vector:
        given |= {"embedding": embedding, "vector_weight": float(weights.vector)}
    if legs.trigram is not None:
        given |= {"text": text, "trigram_weight": float(weights.trigram)}
    with translated():
        whole, exact = await _way(session, legs, where, partition)
        if not whole:
            known = await text_statistics(session, legs, where, partition)
            given |= known._asdict()
            if legs.vector and not exact:
                filtered = where is not None or partition is not None
                await set_local(session, scan_settings(CANDIDATES, SearchParams(), iterative=filtered))
        options: Any = {"limit": limit, "candidates": max(CANDIDATES, limit), "whole": whole, "exact": exact}
        if where is None or within is not None:
            condition = within.where if within is not None else None if partition is None else partition.where
            given |= within.parameters if within is not None else {}
            rows = await fetch_rows(session, queries.hybrid(legs, condition, **options), given)
        else:
            condition = where if partition is None else where & partition.where
            rows = await rows_of(session, queries.hybrid_where(legs, condition, **options), given)
    if whole or exact or not legs.vector:
        path = SearchPath.EXACT
    else:
        path = SearchPath.HNSW if where is None and partition is None else SearchPath.HNSW_ITERATIVE
    return SearchResult([_hit(row) for row in rows], path, False, len(rows))


def _hit(row: Row[Any]) -> Hit[Any]:
    places: dict[str, int | None] = {
        name: getattr(row, f"{name}_place", None) for name in ("vector", "text", "trigram")
    }
    return Hit(
        row, row.distance, row.score, {name: place for name, place in places.items() if place is not None}
    )


async def _way(
    session: AsyncSession, legs: Legs, where: ColumnElement[bool] | None, partition: Partition | None
) -> tuple[bool, bool]:
    """Return whether all matching rows are read, and whether all vectors are compared."""
    exact = legs.operator is not None or (legs.space is not None and not legs.space.indexed)
    if where is None or not legs.indexed:
        return not legs.indexed, exact
    matches, rows = await estimate(session, legs.model, where, partition)
    length = dimensions(legs.model) if legs.space is None else legs.space.dimensions
    few = CHEAP / length if legs.vector else WHOLE
    return matches <= min(few, WHOLE), exact or matches <= max(few, min(MAX_COMPARED, rows * SMALL_PART))


async def text_statistics(
    session: AsyncSession,
    legs: Legs,
    where: ColumnElement[bool] | None = None,
    partition: Partition | None = None,
) -> TextStatistics:
    """Return the number of matching rows, the average length of their texts, and their common words, from a sample."""
    name = table_name(session, table_of(legs.model) if partition is None else partition.table)
    key = (name, *(() if where is None else text_of(where)))
    kept = _statistics.setdefault(bind_of(session).engine, {})
    if key in kept and kept[key][1] > time.monotonic():
        return kept[key][0]
    rows, _ = await size_of(session, name)
    percent = min(100.0, 100.0 * SAMPLED_ROWS / max(rows, 1.0))
    statement = statistics.text_statistics(
        legs.model, legs.text, where, percent, None if partition is None else partition.where
    )
    found = (await session.execute(statement, partition.parameters if partition else {})).one()
    total = max(float(rows), float(found.seen))
    matching = total * found.matching / found.seen if found.seen else 0.0
    frequencies = [number / found.matching for number in found.numbers or ()]
    known = TextStatistics(matching, max(float(found.average or 1.0), 1.0), found.common or [], frequencies)
    if len(kept) > 1000:
        kept.clear()
    kept[key] = (
        known,
        time.monotonic() + (STATISTICS_LAST if matching >= MAX_COMPARED else SMALL_STATISTICS_LAST),
    )
    return known
