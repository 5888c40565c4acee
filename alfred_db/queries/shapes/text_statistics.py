"""What the score of a text needs to know about all texts, from a sample of the table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Double, cast, column, literal_column, select, true
from sqlalchemy.sql.util import ClauseAdapter

from ...models import Base
from ...models.base import table_of
from ...types import Text
from .functions import func
from .literals import materialized, number, percentage
from .vector_search import AnySelect

COMMON, LEAST = 0.01, 20
"""The share of the sampled texts, and their number, from which on a word is common: its number is not counted."""

MOST_COMMON = 500


def text_statistics(
    model: type[Base],
    search: ColumnElement[Any],
    where: ColumnElement[bool] | None,
    percent: float,
    partition: ColumnElement[bool] | None = None,
) -> AnySelect:
    """Select from a sample the rows, those that match, the average length of their texts, and their common words.

    `common` is JSON as text, or NULL: each of these words, with the part of the matching rows that has it.
    """
    sampled = table_of(model).tablesample(func.system(percentage(percent)), name="sampled")
    moved = ClauseAdapter(sampled)
    matching = true() if where is None else moved.traverse(where)
    rows = select(moved.traverse(search).label("search"), matching.label("matching")).select_from(sampled)
    if partition is not None:
        rows = rows.where(moved.traverse(partition))
    texts = materialized(rows, "texts")
    words = func.unnest(func.tsvector_to_array(texts.c.search)).table_valued(
        column("word", Text), name="words"
    )
    words = words.render_derived()
    seen = cast(select(func.count()).where(texts.c.matching).scalar_subquery(), Double)
    enough = func.greatest(
        seen * literal_column(f"{COMMON}::float8", Double), literal_column(f"{LEAST}::float8", Double)
    )
    common = (
        select(words.c.word, (cast(func.count(), Double) / seen).label("frequency"))
        .select_from(texts)
        .join(words, true())
        .where(texts.c.matching)
        .group_by(words.c.word)
        .having(cast(func.count(), Double) >= enough)
        .order_by(func.count().desc(), words.c.word)
        .limit(number(MOST_COMMON))
        .cte("common")
    )
    return select(
        func.count().label("seen"),
        func.count().filter(texts.c.matching).label("matching"),
        cast(func.avg(func.length(texts.c.search)).filter(texts.c.matching), Double).label("average"),
        select(cast(func.json_object_agg(common.c.word, common.c.frequency), Text))
        .scalar_subquery()
        .label("common"),
    ).select_from(texts)
