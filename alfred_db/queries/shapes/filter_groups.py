"""Combination of the conditions of a filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sqlalchemy import ColumnElement, and_, case, false, not_, or_, true

from ...errors import InvalidFilter
from ...search.filters import Filter, FilterCondition
from .functions import func

MAX_PARTS = 10_000
"""Maximum number of conditions of a filter; a statement has at most 65,535 parameters."""


def combined(
    where: Filter, condition: Callable[[FilterCondition], ColumnElement[bool]]
) -> ColumnElement[bool]:
    """Return the expression of a filter.

    Args:
        where: The filter.
        condition: Returns the expression of one condition.

    Raises:
        InvalidFilter: A group is not a sequence of conditions and filters, or the filter has too many
            conditions.
    """
    for name in ("must", "should", "must_not"):
        group: object = getattr(where, name)
        if not isinstance(group, list | tuple) or not all(
            isinstance(one, FilterCondition | Filter) for one in cast("list[object]", group)
        ):
            raise InvalidFilter(f"filter: {name}: expected a sequence of conditions and filters")
    if len(where.must) + len(where.should) + len(where.must_not) > MAX_PARTS:
        raise InvalidFilter(
            f"filter: more than {MAX_PARTS:,} conditions; pass the values of one field as `in`"
        )

    def part(one: FilterCondition | Filter) -> ColumnElement[bool]:
        return combined(one, condition) if isinstance(one, Filter) else condition(one)

    parts = [part(one) for one in where.must]
    if where.should:
        several = [part(one) for one in where.should]
        if where.min_should > 1:
            count = sum((case((one, 1), else_=0) for one in several[1:]), case((several[0], 1), else_=0))
            parts.append(count >= where.min_should)
        else:
            parts.append(or_(false(), *several))
    # NULL does not exclude a row: a missing field does not match a condition of `must_not`.
    parts += [not_(func.coalesce(part(one), false())) for one in where.must_not]
    return and_(true(), *parts)
