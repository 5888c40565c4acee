"""Hybrid search in the session's transaction: by meaning and by word, for all nouns."""

from __future__ import annotations

import json
import re
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

LONGEST = 50
"""Characters of a word that are compared with common ones."""


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
    common: Mapping[str, Mapping[str, float]]
    """The words that are in many of them, by all but their last character, with the part of them that has each."""

    def parameters(self, text: str) -> dict[str, Any]:
        """Return the parameters of a statement that scores texts.

        The stem of a word begins as the word does, but for its last character: `poni` of `ponies`. What does not is counted,
        as all uncommon words are.
        """
        words = (word[:LONGEST] for word in _WORD.findall(text.lower()))
        beginnings = {word[:end] for word in words for end in range(len(word) + 1)}
        common: dict[str, float] = {}
        for beginning in beginnings & self.common.keys():
            common.update(self.common[beginning])
        return {"rows": self.rows, "average": self.average, "common": json.dumps(common)}


_WORD = re.compile(r"\w+")

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
            given |= known.parameters(text)
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
    return SearchResult(_hits(rows), path, False, len(rows))


def _hits(rows: Sequence[Row[Any]]) -> list[Hit[Any]]:
    names = [name for name in ("vector", "text", "trigram") if rows and hasattr(rows[0], f"{name}_place")]
    hits: list[Hit[Any]] = []
    for row in rows:
        places = {name: getattr(row, f"{name}_place") for name in names}
        found_by = {name: place for name, place in places.items() if place is not None}
        hits.append(Hit(row, row.distance, row.score, found_by))
    return hits


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
    if key in kept:
        known, until = kept[key]
        if until > time.monotonic():
            return known
        # Other calls use what is known while this one reads it anew.
        kept[key] = known, time.monotonic() + SMALL_STATISTICS_LAST
    rows, _ = await size_of(session, name)
    percent = min(100.0, 100.0 * SAMPLED_ROWS / max(rows, 1.0))
    statement = statistics.text_statistics(
        legs.model, legs.text, where, percent, None if partition is None else partition.where
    )
    found = (await session.execute(statement, partition.parameters if partition else {})).one()
    total = max(float(rows), float(found.seen))
    matching = total * found.matching / found.seen if found.seen else 0.0
    common: dict[str, dict[str, float]] = {}
    for word, share in json.loads(found.common or "{}").items():
        common.setdefault(word[:-1], {})[word] = share
    known = TextStatistics(matching, max(float(found.average or 1.0), 1.0), common)
    if len(kept) > 1000:
        kept.clear()
    kept[key] = (
        known,
        time.monotonic() + (STATISTICS_LAST if matching >= MAX_COMPARED else SMALL_STATISTICS_LAST),
    )
    return known
