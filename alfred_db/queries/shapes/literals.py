"""Building blocks of statements: time intervals, literals, and locked rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    CollectionAggregate,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    SQLColumnExpression,
    any_,
    case,
    cast,
    false,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.selectable import HasCTE
from sqlalchemy.types import TypeEngine

from ...errors import InvalidInputError
from ...models.tasks import DEFAULT_QUEUE
from ...types import Text
from .functions import func

_FIRST, _LAST = datetime(1, 1, 3, tzinfo=UTC), datetime(9999, 12, 28, tzinfo=UTC)


def interval(seconds: float) -> timedelta:
    """Return a number of seconds as an interval.

    Raises:
        InvalidInputError: A timedelta cannot hold the value.
    """
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise InvalidInputError("seconds: out of range for an interval; pass fewer") from None


def hashed(column: ColumnElement[Any], value: str, seed: int = 0) -> list[ColumnElement[bool]]:
    """Return the conditions of a column that equals a text, of which an index holds the hash.

    Two texts may have the same hash, so that they are compared too. The server would multiply the parts of the rows that
    it expects by both comparisons, and sort the few that remain instead of reading them in the order of the index. Of the
    result of a function it expects nothing.
    """
    start = literal_column(str(seed), BigInteger)
    text = literal(value, Text)
    hashes = [func.hashtextextended(one, start, type_=BigInteger) for one in (column, text)]
    return [hashes[0] == hashes[1], func.coalesce(column == text, false())]


def in_queue(column: ColumnElement[Any], queue: str) -> list[ColumnElement[bool]]:
    """Return the conditions of a queue; those of another than the default one fit the index, which leaves it out."""
    if queue == DEFAULT_QUEUE:
        return [column == queue]
    return [*hashed(column, queue, seed=1), column != literal_column(f"'{DEFAULT_QUEUE}'", Text)]


def seconds_ago(seconds: float) -> ColumnElement[Any]:
    """Return the time of the database `seconds` before the start of the statement."""
    return func.statement_timestamp() - interval(seconds)


def seconds_ahead(seconds: float | SQLColumnExpression[Any]) -> ColumnElement[Any]:
    """Return the time of the database `seconds` after the start of the statement.

    A column as `seconds` must not be used in SET or WHERE.
    """
    if isinstance(seconds, int | float):
        return func.statement_timestamp() + interval(seconds)
    nothing = [literal_column("0", Integer)] * 6
    return func.statement_timestamp() + func.make_interval(*nothing, seconds)


def jsonb(text: str | None) -> ColumnElement[Any]:
    """Return a JSON text as jsonb; None is NULL."""
    return cast(literal(text, Text), JSONB)


def constant(member: StrEnum) -> ColumnElement[str]:
    """Return a member as a literal: a predicate with a parameter does not match that of a partial index."""
    return literal_column(f"'{member.value}'")


def readable(time: ColumnElement[Any]) -> ColumnElement[Any]:
    """A time of a column, or the nearest that Python can hold: other means may have written `infinity`."""
    first, last = (literal(bound, DateTime(timezone=True)) for bound in (_FIRST, _LAST))
    return case((time.is_not(None), func.greatest(func.least(time, last), first)))


def number(value: int) -> ColumnElement[int]:
    """Return an integer as a literal, for LIMIT.

    For a LIMIT with a parameter, the planner assumes that a tenth of the rows are read.
    """
    return literal_column(str(int(value)), Integer)


def percentage(value: float) -> ColumnElement[float]:
    """Return a percentage as a literal, for TABLESAMPLE, where Citus accepts no parameter.

    It has two digits, so that a table that grows does not need another statement for each size.
    """
    return literal_column(f"{float(f'{value:.2g}'):f}", Double)


def among(key: SQLColumnExpression[Any], locked: CTE) -> ColumnElement[bool]:
    """Return the condition that a key is one of those that a CTE has locked.

    The keys are compared as an array: with statistics from a time without such rows, the planner would choose
    a join that compares all pairs.
    """
    return key == any_(func.array(select(next(iter(locked.c))).scalar_subquery()))


def one_row(key: SQLColumnExpression[Any]) -> ColumnElement[bool]:
    """Return a condition that is always true, and has the planner expect one row where `key` comes from.

    A plan that is kept while a table grows was made when the table was small. For several keys the planner
    then prefers reading such a table to looking up each key, and goes on reading it. For one key it does so only
    with a table of a few pages.
    """
    return key.is_not_distinct_from(key)


def materialized(rows: HasCTE, name: str) -> CTE:
    """Return `rows` as a CTE that PostgreSQL computes once, and does not merge into the statement around it."""
    return rows.cte(name).prefix_with("MATERIALIZED")


def in_order(
    key: InstrumentedAttribute[Any], *conditions: ColumnElement[bool], limit: int | None = None
) -> CTE:
    """Select the keys of the rows to be written, and lock the rows in the order of the keys.

    Two calls wait for each other instead of deadlocking. With a `limit`, that many rows are chosen first, in any
    order: to sort all rows for each part of them would read all of them each time.
    """
    if limit is not None:
        some = select(key).where(*conditions).limit(number(limit))
        conditions = (*conditions, among(key, materialized(some, "some")))
    rows = select(key).where(*conditions).order_by(key).with_for_update()
    return materialized(rows, "held")


def any_of(values: Iterable[Any], type_: TypeEngine[Any]) -> CollectionAggregate[Any]:
    """Return the right operand of `==` that compares a column with several values.

    It is one array parameter for any number of values.
    """
    return any_(literal(list(values), ARRAY(type_)))
