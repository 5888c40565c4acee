"""Hybrid search: by vector, full text and trigrams, fused by rank in one statement.

Reciprocal rank fusion: each leg adds weight / (60 + rank in the leg) to the score of a row (Cormack, Clarke
and Büttcher, SIGIR 2009).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    Integer,
    Label,
    bindparam,
    cast,
    literal,
    literal_column,
    null,
    select,
    union_all,
)

from ...models import Base
from ...models.base import table_of
from ...types import Text
from .driver_statement import driver_statement
from .functions import func
from .literals import materialized
from .vector_search import AnySelect, columns_of, distance, has_vector, literal_limit
from .words import Match, bound_language, tsquery

K = 60
"""The constant of the fusion; the smaller, the more the first ranks of a leg count."""

DIVIDED_BY_LENGTH = 2
"""The normalization option of ts_rank that divides the rank by the length of the text."""


@driver_statement
def hybrid(
    model: type[Base],
    tsvector: ColumnElement[Any],
    trigram: ColumnElement[str] | None,
    *,
    limit: int,
    candidates: int,
    match: Match,
    nearest: bool = True,
) -> AnySelect:
    """Select the best rows of all legs.

    Run it with the result of `words.parameters`, `embedding`, `language` and the weights of the legs. The
    rank in a leg is NULL for a row that the leg did not find.

    Args:
        model: The searched model.
        tsvector: The indexed expression of the full-text search.
        trigram: The expression with a trigram index; None leaves the leg out.
        limit: Maximum number of rows.
        candidates: Maximum number of rows of each leg.
        match: Whether all words must match, or any.
        nearest: Whether there is a leg by vector; without it the parameters `embedding` and `vector_weight`
            are not used.
    """
    return _fused(model, tsvector, trigram, limit, candidates, match, None, nearest)


def hybrid_where(
    model: type[Base],
    tsvector: ColumnElement[Any],
    trigram: ColumnElement[str] | None,
    *,
    limit: int,
    candidates: int,
    match: Match,
    where: ColumnElement[bool],
    nearest: bool = True,
) -> AnySelect:
    """Select the best rows of all legs that match a filter; the other arguments are those of `hybrid`."""
    return _fused(model, tsvector, trigram, limit, candidates, match, where, nearest)


def _fused(
    model: type[Base],
    tsvector: ColumnElement[Any],
    trigram: ColumnElement[str] | None,
    limit: int,
    candidates: int,
    match: Match,
    where: ColumnElement[bool] | None,
    by_vector: bool,
) -> AnySelect:
    identity = table_of(model).c.id
    most = literal_limit(candidates)

    def leg(
        name: str, best: Label[Any], condition: ColumnElement[bool] | None, *, nearest: bool = False
    ) -> CTE:
        order = best if nearest else best.desc()
        found = select(identity, best).order_by(order).limit(most)
        for part in (condition, where):
            found = found if part is None else found.where(part)
        inner = found.subquery()
        place = func.row_number().over(order_by=(inner.c[1] if nearest else inner.c[1].desc(), inner.c.id))
        return materialized(select(inner, place.label("place")), name)

    query = materialized(select(tsquery(bound_language(), match).label("query")), "words")
    asked = select(query.c.query).scalar_subquery()
    text_rank = func.ts_rank(tsvector, asked, literal_column(str(DIVIDED_BY_LENGTH)))
    legs: dict[str, CTE] = {}
    if by_vector:
        legs["vector"] = leg("by_vector", distance(model).label("distance"), has_vector(model), nearest=True)
    legs["text"] = leg("by_text", text_rank.label("rank"), tsvector.op("@@")(asked))
    if trigram is not None:
        spelled = bindparam("text", type_=Text)
        similar = func.similarity(trigram, spelled).label("similarity")
        legs["trigram"] = leg("by_trigram", similar, trigram.op("%")(spelled))

    def share(name: str) -> AnySelect:
        part = legs[name]
        weight = bindparam(f"{name}_weight", type_=Double)
        places = [
            (part.c.place if name == other else cast(null(), Integer)).label(f"{other}_place")
            for other in legs
        ]
        near = part.c.distance if name == "vector" else cast(null(), Double)
        return select(
            part.c.id,
            near.label("distance"),
            (weight / cast(literal(K) + part.c.place, Double)).label("share"),
            *places,
        )

    shares = union_all(*(share(name) for name in legs)).subquery()
    fused = (
        select(
            shares.c.id,
            func.max(shares.c.distance).label("distance"),
            func.sum(shares.c.share).label("score"),
            *(func.max(shares.c[f"{name}_place"]).label(f"{name}_place") for name in legs),
        )
        .group_by(shares.c.id)
        .order_by(func.sum(shares.c.share).desc(), shares.c.id)
        .limit(literal_limit(limit))
        .subquery()
    )
    statement: AnySelect = (
        select(*columns_of(model), *(part for part in fused.c if part.name != "id"))
        .join_from(fused, table_of(model), identity == fused.c.id)
        .order_by(fused.c.score.desc(), fused.c.id)
    )
    return statement
