"""Hybrid search: by vector, full text and trigrams, ranked together in one statement.

The best rows of each leg are candidates. All of them are compared again by each leg: a row that only the vector found
also gets the score of its words, and the other way round. A leg by text alone is compared once: its best rows are the
result. By `scores` the rank is the sum of

- the text's weight * its score / the score of a text that has each term once, those that no row has too,
- the vector's weight * (greatest distance - its distance) / (greatest - least distance of a candidate),
- the trigrams' weight * the similarity of the spelling;

without the other legs, the text's score is not divided.

By `ranks` it is the sum of weight / (K + rank in the leg) over the legs that found the row (reciprocal rank fusion,
Cormack, Clarke and Büttcher, SIGIR 2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    FromClause,
    bindparam,
    case,
    cast,
    literal_column,
    select,
    union,
)

from ...models import Base
from ...models.base import table_of
from ...types import Text
from .driver_statement import driver_statement
from .functions import func
from .literals import materialized, number
from .spaces import Space, distance_of_row, nearest_rows
from .text_terms import (
    MOST_SCORED,
    asked,
    best_score,
    counted_among,
    counted_in,
    float8,
    given_terms,
    matches,
    rated,
    text_score,
    wanted,
)
from .vector_search import AnySelect, Stored, columns_of, distance, has_vector, literal_limit
from .words import Match, bound_language

Fusion = Literal["scores", "ranks"]

K = 5
"""The constant of the fusion by ranks; the smaller, the more the first ranks of a leg count."""


_NOWHERE: ColumnElement[Any] = literal_column("NULL::float8", Double)


@dataclass(frozen=True, slots=True)
class Legs:
    """What a hybrid search compares; equal ones have the same statement."""

    model: type[Base]
    """The searched model."""
    search: ColumnElement[Any]
    """The column or expression of the text index."""
    ranked: ColumnElement[Any] | None = None
    """The same words where a row has been read, if they are stored apart from the indexed expression."""
    trigram: ColumnElement[str] | None = None
    """The expression with a trigram index; None leaves the leg out."""
    vector: bool = True
    """Whether there is a leg by vector, which needs the parameters `embedding` and `vector_weight`."""
    operator: str | None = None
    """The distance operator if it is not that of the model's index."""
    stored: Stored | None = None
    """The vectors, if they are not in the indexed column of the model."""
    match: Match = "any"
    """Whether all words must match, or any."""
    fusion: Fusion = "scores"
    """How the legs are ranked together."""
    indexed: bool = True
    """Whether there is an index on `search`; without one all matching rows are read."""
    space: Space | None = None
    """The space whose vectors are compared instead of those in the rows."""

    @property
    def text(self) -> ColumnElement[Any]:
        """The words of a row that has been read."""
        return self.search if self.ranked is None else self.ranked


@driver_statement
def hybrid(
    legs: Legs,
    where: ColumnElement[bool] | None,
    *,
    limit: int,
    candidates: int,
    whole: bool,
    exact: bool = False,
) -> AnySelect:
    """Select the best rows of all legs, for a condition that is built once.

    Run it with the result of `words.parameters`, `language`, `embedding`, the weights of the legs, the parameters of the
    condition and, unless `whole`, `rows`, `average` and `common`. The rank in a leg is NULL for a row that is not among the
    best of this leg.

    Args:
        legs: What is compared.
        where: The condition of the rows; None for all.
        limit: Maximum number of rows.
        candidates: Maximum number of rows of each leg.
        whole: Whether all rows that match the condition are read, and terms are counted among them. Otherwise the legs
            read their indexes.
        exact: Whether the leg by vector compares all rows that match, though not `whole`.
    """
    return hybrid_where(legs, where, limit=limit, candidates=candidates, whole=whole, exact=exact)


def hybrid_where(
    legs: Legs,
    where: ColumnElement[bool] | None,
    *,
    limit: int,
    candidates: int,
    whole: bool,
    exact: bool = False,
) -> AnySelect:
    """Select the best rows of all legs that match a filter; the arguments are those of `hybrid`."""
    table, language = table_of(legs.model), bound_language()
    identity = table.c.id
    near = _near(legs)
    if whole:
        columns = [identity.label("id"), legs.text.label("search")]
        columns += [near.label("distance")] if legs.vector else []
        rows = materialized(_matching(select(*columns), where), "rows")
        given = given_terms(language)
        size = select(
            cast(func.count(), Double).label("rows"), func.avg(func.length(rows.c.search)).label("average")
        )
        sizes = materialized(size.select_from(rows), "sizes")
        terms = rated(counted_among(given, rows.c.search, rows), select(sizes.c.rows).scalar_subquery())
        known = cast(select(sizes.c.average).scalar_subquery(), Double)
        average: ColumnElement[float] = func.greatest(known, float8(1.0), type_=Double)
        query = asked(terms, language, legs.match, some=False)
        scored = select(rows.c.id, text_score(rows.c.search, rows, terms, average).label("score")).where(
            matches(rows.c.search, select(query.c.found).scalar_subquery())
        )
        nearest = (
            select(rows.c.id, rows.c.distance).where(rows.c.distance.is_not(None)) if legs.vector else None
        )
    else:
        given = given_terms(language)
        terms = rated(counted_in(given, legs.search, table, where), bindparam("rows", type_=Double))
        average = bindparam("average", type_=Double)
        query = asked(terms, language, legs.match, some=True)
        found = _matching(select(identity.label("id"), legs.text.label("search")), where).where(
            matches(legs.search, select(query.c.found).scalar_subquery())
        )
        matching = materialized(found.limit(number(MOST_SCORED)), "matching")
        scored = select(matching.c.id, text_score(matching.c.search, matching, terms, average).label("score"))
        nearest = _nearest(legs, where, candidates, exact) if legs.vector else None
    wanted_rows = limit if nearest is None and legs.trigram is None else candidates
    found_by: dict[str, CTE] = {"text": _leg("text", scored.subquery("scored"), "score", wanted_rows)}
    if nearest is not None:
        order = nearest.selected_columns.distance
        # No index has the order of the sum, so that all rows are compared.
        order = order + float8(0.0) if exact and not whole else order
        within = nearest.order_by(order).limit(literal_limit(candidates)).subquery("nearest")
        found_by["vector"] = _leg("vector", within, "distance", candidates)
    if legs.trigram is not None:
        spelled = bindparam("text", type_=Text)
        similar = select(identity.label("id"), func.similarity(legs.trigram, spelled).label("similarity"))
        similar = _matching(similar.where(legs.trigram.op("%")(spelled)), where)
        found_by["trigram"] = _leg("trigram", similar.subquery("similar"), "similarity", candidates)
    return _fused(legs, found_by, terms, average, query, where, limit)


def _near(legs: Legs) -> ColumnElement[Any]:
    """Return the distance of a row; of several vectors in a space the nearest counts."""
    if not legs.vector:
        return _NOWHERE
    if legs.space is not None:
        return distance_of_row(legs.space)
    return distance(legs.model, legs.operator, legs.stored)


def _nearest(legs: Legs, where: ColumnElement[bool] | None, candidates: int, exact: bool) -> AnySelect:
    """Select keys and distances in the order of the index, or of all rows if `exact`."""
    if legs.space is not None:
        near = nearest_rows(legs.space, candidates, candidates, where, exact=exact).subquery("in_space")
        found: AnySelect = select(near.c.row_id.label("id"), near.c.distance)
        return found
    identity = table_of(legs.model).c.id.label("id")
    compared = distance(legs.model, legs.operator, legs.stored).label("distance")
    rows: AnySelect = select(identity, compared).where(has_vector(legs.model, legs.stored))
    return _matching(rows, where)


def _matching(statement: AnySelect, where: ColumnElement[bool] | None) -> AnySelect:
    return statement if where is None else statement.where(where)


def _leg(name: str, found: FromClause, value: str, candidates: int) -> CTE:
    """Select the best rows of a leg with their places."""
    best, key = found.c[value], found.c.id
    order = (best if value == "distance" else best.desc(), key)
    place = func.row_number().over(order_by=order).label("place")
    ranked = select(found.c.id, best, place).order_by(*order).limit(literal_limit(candidates))
    return materialized(ranked, f"by_{name}")


def _fused(
    legs: Legs,
    found_by: dict[str, CTE],
    terms: CTE,
    average: ColumnElement[float],
    query: CTE,
    where: ColumnElement[bool] | None,
    limit: int,
) -> AnySelect:
    """Compare the rows of all legs by all of them, and select the best."""
    table = table_of(legs.model)
    columns = [
        *columns_of(legs.model),
        _near(legs).label("distance"),
        *(leg.c.place.label(f"{name}_place") for name, leg in found_by.items()),
        *([found_by["trigram"].c.similarity] if legs.trigram is not None else []),
    ]
    if len(found_by) == 1:
        leg = found_by["text"]
        compared = select(*columns, leg.c.score.label("text_score")).select_from(leg)
        compared = compared.join(table, table.c.id == leg.c.id)
    else:
        ids = union(*(select(leg.c.id) for leg in found_by.values())).subquery("ids")
        rated_text = text_score(legs.text, table, terms, average).label("text_score")
        compared = select(*columns, rated_text).select_from(ids).join(table, table.c.id == ids.c.id)
        for leg in found_by.values():
            compared = compared.outerjoin(leg, leg.c.id == ids.c.id)
        compared = compared.where(wanted(legs.text, query))
    # The OFFSET keeps the planner from computing scores and distances once for each use.
    pool = _matching(compared, where).offset(number(0)).subquery("pool")
    score = (
        _by_scores(legs, pool, best_score(terms)) if legs.fusion == "scores" else _by_ranks(found_by, pool)
    )
    row: list[ColumnElement[Any]] = [pool.c[column.name] for column in columns_of(legs.model)]
    places: list[ColumnElement[Any]] = [pool.c[f"{name}_place"] for name in found_by]
    ranked = score.label("score")
    return (
        select(*row, pool.c.distance, ranked, *places)
        .order_by(ranked.desc(), pool.c.id)
        .limit(literal_limit(limit))
    )


def _by_scores(legs: Legs, pool: FromClause, best: ColumnElement[float]) -> ColumnElement[float]:
    nothing = float8(0.0)
    if not legs.vector and legs.trigram is None:
        return _weight("text") * func.coalesce(pool.c.text_score, nothing, type_=Double)
    parts = [_weight("text") * _or(pool.c.text_score / func.nullif(best, nothing, type_=Double), nothing)]
    if legs.vector:
        near = pool.c.distance
        least, most = func.min(near, type_=Double).over(), func.max(near, type_=Double).over()
        share = (most - near) / func.nullif(most - least, nothing, type_=Double)
        # The only distance there is, or one of several equal ones, is the best.
        alone = case((near.is_not(None), float8(1.0)), else_=nothing)
        parts.append(_weight("vector") * _or(share, alone))
    if legs.trigram is not None:
        parts.append(_weight("trigram") * _or(cast(pool.c.similarity, Double), nothing))
    return _sum(parts)


def _by_ranks(found_by: dict[str, CTE], pool: FromClause) -> ColumnElement[float]:
    return _sum(
        [
            _or(_weight(name) / (float8(float(K)) + cast(pool.c[f"{name}_place"], Double)), float8(0.0))
            for name in found_by
        ]
    )


def _or(value: ColumnElement[Any], other: ColumnElement[float]) -> ColumnElement[float]:
    return func.coalesce(value, other, type_=Double)


def _weight(name: str) -> ColumnElement[float]:
    return bindparam(f"{name}_weight", type_=Double)


def _sum(parts: list[ColumnElement[float]]) -> ColumnElement[float]:
    first, *others = parts
    for part in others:
        first = first + part
    return first
