"""Shapes that recur in the statements: time intervals, locked rows, keyset pages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    CTE,
    CollectionAggregate,
    ColumnElement,
    DateTime,
    Integer,
    SQLColumnExpression,
    any_,
    case,
    cast,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.selectable import HasCTE
from sqlalchemy.types import TypeEngine

from ...errors import InvalidInputError
from ...types import Text
from .functions import func

_FIRST, _LAST = datetime(1, 1, 3, tzinfo=UTC), datetime(9999, 12, 28, tzinfo=UTC)


def interval(seconds: float) -> timedelta:
    """So many seconds; raises InvalidInputError for more than a timedelta can hold."""
    try:
        return timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise InvalidInputError("seconds: expected fewer, a timedelta cannot hold so many") from None


def seconds_ago(seconds: float) -> ColumnElement[Any]:
    """The database's time, `seconds` before the statement began."""
    return func.statement_timestamp() - interval(seconds)


def seconds_ahead(seconds: float | SQLColumnExpression[Any]) -> ColumnElement[Any]:
    """The database's time, `seconds` after the statement began; those of a column not in SET or WHERE."""
    if isinstance(seconds, int | float):
        return func.statement_timestamp() + interval(seconds)
    nothing = [literal_column("0", Integer)] * 6
    return func.statement_timestamp() + func.make_interval(*nothing, seconds)


def jsonb(text: str | None) -> ColumnElement[Any]:
    """A JSON text as jsonb; None is NULL."""
    return cast(literal(text, Text), JSONB)


def constant(member: StrEnum) -> ColumnElement[str]:
    """A member, written into the statement: a partial index serves no parameter that is only known later."""
    return literal_column(f"'{member.value}'")


def readable(time: ColumnElement[Any]) -> ColumnElement[Any]:
    """A time of a column, or the nearest that Python can hold: other means may have written `infinity`."""
    first, last = (literal(bound, DateTime(timezone=True)) for bound in (_FIRST, _LAST))
    return case((time.is_not(None), func.greatest(func.least(time, last), first)))


def number(value: int) -> ColumnElement[int]:
    """A LIMIT, written into the statement: the plan of a prepared one takes a parameter for a tenth of the rows."""
    return literal_column(str(int(value)), Integer)


def among(key: SQLColumnExpression[Any], locked: CTE) -> ColumnElement[bool]:
    """The rows that a CTE of their keys has locked, of which nothing has to be asked again.

    Looked up by an array: where the statistics are of a time without such rows, a join would compare each with each.
    """
    return key == any_(func.array(select(next(iter(locked.c))).scalar_subquery()))


def materialized(rows: HasCTE, name: str) -> CTE:
    """Return `rows` as a CTE that PostgreSQL computes once, and does not merge into the statement around it."""
    return rows.cte(name).prefix_with("MATERIALIZED")


def in_order(key: InstrumentedAttribute[Any], *conditions: ColumnElement[bool]) -> CTE:
    """The keys of the rows to be written, locked in their order: two calls wait for each other, and do not deadlock."""
    rows = select(key).where(*conditions).order_by(key).with_for_update()
    return materialized(rows, "held")


def any_of(values: Iterable[Any], type_: TypeEngine[Any]) -> CollectionAggregate[Any]:
    """What a column is compared with to be one of these; one parameter, however many they are."""
    return any_(literal(list(values), ARRAY(type_)))
