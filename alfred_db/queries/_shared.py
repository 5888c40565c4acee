"""Shapes that recur in the statements: time intervals, locked rows, keyset pages."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar, get_args

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    Select,
    SQLColumnExpression,
    Text,
    any_,
    cast,
    func,
    inspect,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute

from ..errors import InvalidInputError, shown
from ..models import Base
from ..results import Page

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

MAX_LIMIT = 1000


def seconds_ago(seconds: float) -> ColumnElement[Any]:
    """The database's time, `seconds` before the statement began."""
    return func.statement_timestamp() - timedelta(seconds=seconds)


def seconds_ahead(seconds: float | SQLColumnExpression[Any]) -> ColumnElement[Any]:
    """The database's time, `seconds` after the statement began; those of a column not in SET or WHERE."""
    if isinstance(seconds, int | float):
        return func.statement_timestamp() + timedelta(seconds=seconds)
    return func.statement_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def jsonb(text: str | None) -> ColumnElement[Any]:
    """A JSON text as jsonb; None is NULL."""
    return cast(literal(text, Text), JSONB)


def constant(member: StrEnum) -> ColumnElement[str]:
    """A member, written into the statement: a partial index serves no parameter that is only known later."""
    return literal_column(f"'{member.value}'")


def number(value: int) -> ColumnElement[int]:
    """A LIMIT, written into the statement: the plan of a prepared one takes a parameter for a tenth of the rows."""
    return literal_column(str(int(value)), Integer)


def among(key: SQLColumnExpression[Any], locked: CTE) -> ColumnElement[bool]:
    """The rows that a CTE of their keys has locked, of which nothing has to be asked again.

    Looked up by an array: where the statistics are of a time without such rows, a join would compare each with each.
    """
    return key == any_(func.array(select(next(iter(locked.c))).scalar_subquery()))


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise InvalidInputError unless the argument `name` is in the range."""
    if not low <= value <= high:
        raise InvalidInputError(f"{name}: expected {low:,} to {high:,}, got {value:,}")


def check_text(name: str, value: str, most: int = 1 << 30) -> None:
    """Raise InvalidInputError unless the argument `name` is text of 1 to `most` bytes that PostgreSQL can store."""
    try:
        length = len(value.encode())
    except (AttributeError, UnicodeEncodeError):
        raise InvalidInputError(
            f"{name}: expected text without lone surrogates, got {type(value).__name__}"
        ) from None
    if not 1 <= length <= most:
        raise InvalidInputError(f"{name}: expected 1 to {most:,} bytes, got {length:,}")
    if "\0" in value:
        raise InvalidInputError(f"{name}: holds a NUL character, which PostgreSQL text cannot")


def aware(name: str, value: datetime) -> datetime:
    """The time, unless it has no time zone and so names none; raises InvalidInputError."""
    if value.tzinfo is None:
        raise InvalidInputError(f"{name}: a time without time zone; give one, such as datetime.now(UTC)")
    return value


def check_word(name: str, value: str, words: Any) -> None:
    """Raise InvalidInputError unless the argument `name` is one of the words of a Literal."""
    if value not in get_args(words):
        expected = ", ".join(get_args(words))
        raise InvalidInputError(f"{name}: expected one of {expected}, got {shown(value)}")


def one_of(enum: type[E], value: E | str) -> E:
    """The member of that value; raises InvalidInputError."""
    try:
        return enum(value)
    except ValueError:
        expected = ", ".join(member.value for member in enum)
        raise InvalidInputError(f"{enum.__name__}: expected one of {expected}, got {shown(value)}") from None


def json_text(name: str, value: Any, most: int) -> str | None:
    """A JSON value as text of at most `most` bytes; None stays None. Raises InvalidInputError."""
    try:
        text = None if value is None else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name}: is no JSON value ({error}); use what json.dumps takes") from None
    if text is not None and len(text) > most:
        raise InvalidInputError(
            f"{name}: has {len(text):,} bytes as JSON, at most {most:,} are stored; store it elsewhere and pass a"
            " reference to it"
        )
    return text


def page(
    statement: Select[T],
    key: Sequence[InstrumentedAttribute[Any]],
    *,
    after: str | None,
    limit: int,
    newest_first: bool = False,
) -> Select[T]:
    """One page in the order of `key`, which must be unique; reads one row more to know whether another follows."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError(f"limit: expected 1 to {MAX_LIMIT}, got {limit}; page through with `after`")
    order = [column.desc() for column in key] if newest_first else key
    if after is not None:
        last = tuple_(*decode(after, len(key)), types=[column.type for column in key])
        statement = statement.where(tuple_(*key) < last if newest_first else tuple_(*key) > last)
    return statement.order_by(*order).limit(limit + 1)


def as_page(rows: Sequence[T], key: Sequence[str], limit: int) -> Page[T]:
    """The page that `page` asked for; `key` names the attributes that it was ordered by."""
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    return Page(rows[:limit], as_cursor([getattr(last, name) for name in key]))


def as_cursor(values: Sequence[Any]) -> str:
    """What `page` takes as `after`: the key of the last row before the page."""
    return base64.urlsafe_b64encode(json.dumps(values, default=str).encode()).decode()


def decode(cursor: str, length: int) -> Sequence[Any]:
    """The values of the last row before the page, which `as_page` gave as its `next`."""
    try:
        values: Any = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, RecursionError):
        values = None
    usable = values.__class__ is list and len(values) == length
    if usable and all(isinstance(value, str | int | float) for value in values):
        found: Sequence[Any] = values
        return found
    raise InvalidInputError(f"after: {shown(cursor)} is no cursor; pass `next` of the page before, unchanged")


def check_names(model: type[Base], names: Iterable[str]) -> None:
    """Raise InvalidInputError for a name that is no attribute of the model which can be written."""
    known = [name for name, _ in inspect(model).columns.items() if name != "id"]
    unknown = sorted(map(shown, set(names) - set(known)))
    if unknown:
        raise InvalidInputError(
            f"{model.__name__}: {', '.join(unknown[:5])}: no such attribute; expected some of {', '.join(known)}"
        )
