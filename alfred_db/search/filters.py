"""Filters as data, which callers can receive as JSON.

    Filter(must=[eq("metadata.lang", "en"), range_("metadata.year", gte=2020)], must_not=[exists("metadata.draft")])

`Filter.from_dict` reads the JSON form, and `Filter.as_dict` writes it:

    {"must": [{"field": "metadata.lang", "eq": "en"}, {"field": "metadata.year", "range": {"gte": 2020}}]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..errors import InvalidFilter, shown

__all__ = ["Filter", "FilterCondition", "contains", "eq", "exists", "in_", "range_", "size"]

OPERATORS = ("eq", "in", "range", "contains", "exists", "size", "qdrant")
GROUPS = ("must", "should", "must_not")
BOUNDS = ("gt", "gte", "lt", "lte")
MAX_DEPTH = 8
MAX_CONDITIONS = 200


@dataclass(frozen=True, slots=True)
class FilterCondition:
    """One condition on a field: a column, or a path into a JSON column such as `metadata.author.name`."""

    field: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Filter:
    """A combination of conditions.

    A row matches all of `must`, at least `min_should` of `should` if it has any, and none of `must_not`.
    """

    must: Sequence[FilterCondition | Filter] = ()
    should: Sequence[FilterCondition | Filter] = ()
    must_not: Sequence[FilterCondition | Filter] = ()
    min_should: int = 1

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Filter:
        """Return the filter of its JSON form.

        Raises:
            InvalidFilter: The form is invalid; the message names the error and its position.
        """
        return _filter(data, "filter", 0)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        parts = {"must": self.must, "should": self.should, "must_not": self.must_not}
        groups: dict[str, Any] = {
            name: [
                part.as_dict()
                if isinstance(part, Filter)
                else {"field": part.field, part.operator: part.value}
                for part in group
            ]
            for name, group in parts.items()
            if group
        }
        return groups if self.min_should == 1 else {**groups, "min_should": self.min_should}


def eq(field: str, value: Any) -> FilterCondition:
    """Return the condition that a field equals a value.

    Arrays and objects are compared as a whole; use `contains` for a part of one.
    """
    return FilterCondition(field, "eq", value)


def in_(field: str, values: Sequence[Any]) -> FilterCondition:
    """Return the condition that a field equals one of several values, each compared as by `eq`.

    Raises:
        InvalidFilter: `values` is not a sequence of values.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidFilter(
            f"in_: {shown(field)}: expected a sequence of values, got {type(values).__name__}; put it into a list"
        )
    return FilterCondition(field, "in", list(values))


def range_(field: str, **bounds: float | str) -> FilterCondition:
    """Return the condition that a field lies within the bounds `gt`, `gte`, `lt`, `lte`.

    Numbers are compared with numbers, and text (such as ISO times) with text.
    """
    return FilterCondition(field, "range", dict(bounds))


def contains(field: str, value: Any) -> FilterCondition:
    """Return the condition that a JSON value contains another.

    An array contains an element, and an object contains keys with their values.
    """
    return FilterCondition(field, "contains", value)


def exists(field: str) -> FilterCondition:
    """Return the condition that a field exists and is not NULL."""
    return FilterCondition(field, "exists", True)


def size(field: str, **bounds: float) -> FilterCondition:
    """Return the condition that the number of elements of a JSON array lies within bounds.

    A missing field or null has 0 elements; any other value has 1.
    """
    return FilterCondition(field, "size", dict(bounds))


def _filter(data: Any, where: str, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"{where}: more than {MAX_DEPTH} filters inside one another; flatten it")
    given = cast("Mapping[str, Any]", data if isinstance(data, Mapping) else {"": data})
    if not given.keys() <= {*GROUPS, "min_should"}:
        raise InvalidFilter(f"{where}: expected an object with must, should or must_not")
    least = given.get("min_should", 1)
    if least.__class__ is not int or least < 1:
        raise InvalidFilter(f"{where}.min_should: expected a whole number from 1, got {shown(least)}")
    groups: dict[str, list[FilterCondition | Filter]] = {}
    for name, parts in given.items():
        if name == "min_should":
            continue
        if parts.__class__ not in (list, tuple) or len(parts) > MAX_CONDITIONS:
            raise InvalidFilter(f"{where}.{name}: expected an array of at most {MAX_CONDITIONS} conditions")
        groups[name] = [_part(part, f"{where}.{name}[{number}]", depth) for number, part in enumerate(parts)]
    return Filter(**groups, min_should=least)


def _part(data: Any, where: str, depth: int) -> FilterCondition | Filter:
    given = cast("Mapping[str, Any]", data if isinstance(data, Mapping) else {"field": None})
    if "field" not in given:
        return _filter(given, where, depth + 1)
    operators = [name for name in OPERATORS if name in given]
    if len(operators) != 1 or len(given) != 2 or not isinstance(given["field"], str):
        raise InvalidFilter(f"{where}: expected a field and one of {', '.join(OPERATORS)}")
    return FilterCondition(given["field"], operators[0], given[operators[0]])
