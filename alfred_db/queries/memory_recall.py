"""The statement that recalls memories: nearest by vector, ranked by similarity, importance and recency."""

from __future__ import annotations

import typing
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Double,
    FromClause,
    Select,
    and_,
    bindparam,
    cast,
    extract,
    literal_column,
    select,
)

from ..models import Memory
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import number
from .shapes.memories import alive
from .shapes.spaces import Space, nearest_vectors
from .shapes.vector_search import columns_of, distance, literal_limit

FULL_IMPORTANCE = 10
"""The importance from which on a memory has the full factor; models rate importance from 1 to 10."""

_ZERO, _ONE = literal_column("0::float8", Double), literal_column("1::float8", Double)


@driver_statement
def recall(limit: int, candidates: int) -> Select[Any]:
    """Select the best of the nearest `candidates` memories, and a bound of the score of those farther away.

    score = similarity * (1 - w_i + w_i * importance) * (1 - w_r + w_r * 2^(-age / half_life)), where
    similarity is 1 - distance and at least 0, importance is a tenth of the column and at most 1, and age is
    the time since the last use. These are relevance, importance and recency as in Park et al., Generative
    Agents (2023), section 4.1, but multiplied: an unrelated memory is not recalled however important it is.
    Both factors are at most 1, so that a memory farther away than all candidates scores at most `bound`: the
    similarity of the farthest candidate times the factor of the greatest importance in the table, at age 0.
    The index may miss a nearer one: only `recall_exactly` compares all.

    Parameters of the statement: `bank`, `embedding`, `importance_weight`, `recency_weight`, `half_life` in
    seconds, and `now` (None is the time of the statement).
    """
    found = distance(Memory).label("distance")
    inner = select(*columns_of(Memory), found).where(*_REMEMBERED).order_by(found)
    near = inner.limit(literal_limit(candidates)).subquery("candidates")
    most = select(func.max(Memory.importance)).scalar_subquery()
    bound = _similarity(func.max(near.c.distance).over()) * _importance(most)
    score = _score_of(near)
    statement: Any = (
        select(near, score.label("score"), bound.label("bound"), func.count().over().label("compared"))
        .order_by(score.desc(), near.c.id)
        .limit(literal_limit(limit))
    )
    return typing.cast("Select[Any]", statement)


@driver_statement
def recall_exactly(limit: int, space: Space | None = None, candidates: int | None = None) -> Select[Any]:
    """Select the best memories of the whole bank.

    The rows that are sorted hold few columns, and the others are joined to the best ones. In a space the nearest of
    several vectors of a memory counts.

    With `candidates`, the scan of the bank computes only the distance of most memories. The worst of the best `limit`
    among the nearest candidates has a score that the best of the bank reach as well, and no score is greater than its
    similarity: less similar memories are skipped, before their age is computed. The candidates come from the index. If
    it misses some, fewer memories are skipped, and the result is the same.
    """
    used = (Memory.importance, Memory.last_accessed, Memory.created_at)
    found: Any
    if space is None:
        found = select(Memory.id, distance(Memory).label("distance"), *used).where(*_REMEMBERED)
        if candidates is not None:
            found = found.where(_ONE - distance(Memory) >= _reached(limit, candidates))
    else:
        vectors = nearest_vectors(space, 1, and_(*_IN_BANK), exact=True).subquery("vectors")
        nearest = func.min(vectors.c.distance).label("distance")
        merged = select(vectors.c.row_id, nearest).group_by(vectors.c.row_id).subquery("merged")
        found = select(Memory.id, merged.c.distance, *used).join(merged, merged.c.row_id == Memory.id)
    # The OFFSET keeps the planner from computing the distance once for each use.
    each = found.offset(literal_column("0")).subquery("each")
    score = _score_of(each)
    best = (
        select(each.c.id, each.c.distance, score.label("score"), func.count().over().label("compared"))
        .order_by(score.desc(), each.c.id)
        .limit(literal_limit(limit))
        .subquery("best")
    )
    statement: Any = (
        select(*columns_of(Memory), best.c.distance, best.c.score, best.c.compared)
        .join(best, best.c.id == Memory.id)
        .order_by(best.c.score.desc(), best.c.id)
    )
    return typing.cast("Select[Any]", statement)


_IN_BANK = (Memory.memory_bank_id == bindparam("bank"), alive(Memory))
_REMEMBERED = (*_IN_BANK, Memory.embedding.is_not(None))


def _reached(limit: int, candidates: int) -> ColumnElement[float]:
    """The worst of the best scores of the nearest candidates, or less than any similarity where it excludes nothing.

    Memories without any similarity have the score 0: they are among the best where too few others are.
    """
    found = distance(Memory).label("distance")
    used = (Memory.importance, Memory.last_accessed, Memory.created_at)
    near = select(found, *used).where(*_REMEMBERED).order_by(found).limit(literal_limit(candidates))
    score = _score_of(near.subquery("candidates"))
    worst = select(score).order_by(score.desc()).offset(number(limit - 1)).limit(number(1))
    return func.coalesce(func.nullif(worst.scalar_subquery(), _ZERO), literal_column("-2::float8", Double))


def _score_of(row: FromClause) -> ColumnElement[float]:
    recency = _recency(func.coalesce(row.c.last_accessed, row.c.created_at))
    return _similarity(row.c.distance) * _importance(row.c.importance) * recency


def _similarity(distance: ColumnElement[Any]) -> ColumnElement[float]:
    return func.greatest(_ONE - distance, _ZERO)


def _importance(importance: Any) -> ColumnElement[float]:
    weight = bindparam("importance_weight", type_=Double)
    full = cast(func.least(func.greatest(importance, 0), FULL_IMPORTANCE), Double) / float(FULL_IMPORTANCE)
    return _ONE - weight + weight * full


def _recency(used: Any) -> ColumnElement[float]:
    weight = bindparam("recency_weight", type_=Double)
    now = func.coalesce(bindparam("now", type_=DateTime(timezone=True)), func.statement_timestamp())
    halvings = cast(extract("epoch", now - used), Double) / bindparam("half_life", type_=Double)
    # The exponent is limited: a power out of range is an error. A last use in the future counts as age 0.
    exponent = func.least(func.greatest(halvings, _ZERO), literal_column("1000::float8", Double))
    return _ONE - weight + weight * func.power(literal_column("2::float8", Double), -exponent)
