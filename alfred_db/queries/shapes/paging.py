"""Keyset pagination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from ...checks import as_cursor, check_limit, cursor_values
from ...values import Page

T = TypeVar("T")


def page(
    statement: Select[T],
    key: Sequence[InstrumentedAttribute[Any]],
    *,
    after: str | None,
    limit: int,
    newest_first: bool = False,
) -> Select[T]:
    """One page in the order of `key`, which must be unique; reads one row more to know whether another follows."""
    check_limit(limit, "page through with `after`")
    order = [column.desc() for column in key] if newest_first else key
    if after is not None:
        types = [column.type for column in key]
        last = tuple_(*cursor_values(after, types), types=types)
        statement = statement.where(tuple_(*key) < last if newest_first else tuple_(*key) > last)
    return statement.order_by(*order).limit(limit + 1)


def as_page(rows: Sequence[T], key: Sequence[str], limit: int) -> Page[T]:
    """Return the rows of a statement of `page` as a `Page`; `key` names the attributes of the order."""
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    return Page(rows[:limit], as_cursor([getattr(last, name) for name in key]))
