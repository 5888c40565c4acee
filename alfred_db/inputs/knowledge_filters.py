"""Filters of Qdrant, read into filters of this library.

qdrant_filter({"must": [{"key": "lang", "match": {"value": "en"}}], "must_not": [{"has_id": [42]}]})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidFilter
from ..filters import BOUNDS, MAX_CONDITIONS, MAX_DEPTH, Condition, Filter, contains, eq, exists, in_, size
from ..results.knowledge import is_array, is_object, point_id

__all__ = ["qdrant_filter"]

GROUPS = ("must", "should", "must_not")
TESTS = ("match", "range", "values_count")


def qdrant_filter(data: Mapping[str, Any]) -> Filter:
    """The filter of Qdrant's JSON form; raises InvalidFilter, which names what it cannot say, and where.

    Keys lead into the payload: `lang` is `payload.lang`. Known are `match` (value, any, except), `range` (numbers,
    or times written alike), `values_count`, `has_id`, `is_null`, `is_empty` and filters inside filters. A `range`
    looks at single values, not into arrays; `except` forbids every element of an array.
    """
    return _filter(data, "filter", 0)


def _filter(data: Any, where: str, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"{where}: more than {MAX_DEPTH} filters inside one another; flatten it")
    groups: dict[str, list[Condition | Filter]] = {}
    for name, parts in _given(data, where).items():
        if name not in GROUPS:
            raise InvalidFilter(f"{where}: {str(name)[:60]!r} is not supported; expected {', '.join(GROUPS)}")
        several: Any = [parts] if is_object(parts) else parts
        if not is_array(several) or len(several) > MAX_CONDITIONS:
            raise InvalidFilter(f"{where}.{name}: expected an array of at most {MAX_CONDITIONS} conditions")
        groups[name] = [
            _part(part, f"{where}.{name}[{number}]", depth) for number, part in enumerate(several)
        ]
    return Filter(**groups)


def _part(data: Any, where: str, depth: int) -> Condition | Filter:
    given = _given(data, where)
    if not given or given.keys() & set(GROUPS):
        return _filter(given, where, depth + 1)
    if "key" in given:
        return _of_key(given, where)
    if len(given) == 1:
        ((name, value),) = given.items()
        if name == "has_id":
            return in_("id", [point_id(one) for one in _array(value, f"{where}.has_id")])
        if name == "is_null":
            return eq(_field(_given(value, where).get("key"), where), None)
        if name == "is_empty":
            return size(_field(_given(value, where).get("key"), where), lte=0)
    raise InvalidFilter(
        f"{where}: {', '.join(sorted(map(str, given)))[:60]!r} is not supported; expected key, has_id, is_null,"
        " is_empty or a filter"
    )


def _of_key(given: Mapping[str, Any], where: str) -> Condition | Filter:
    tests = [name for name in given if name != "key"]
    if len(tests) != 1 or tests[0] not in TESTS:
        raise InvalidFilter(
            f"{where}: {', '.join(map(str, tests))[:60]!r} is not supported; expected one of {', '.join(TESTS)}"
        )
    test = tests[0]
    if test == "match":
        return _match(given["key"], _given(given["match"], f"{where}.match"), where)
    field, bounds = _field(given["key"], where), _given(given[test], f"{where}.{test}")
    if not bounds or not bounds.keys() <= set(BOUNDS):
        raise InvalidFilter(f"{where}.{test}: expected some of {', '.join(BOUNDS)}")
    return Condition(field, "size" if test == "values_count" else "range", dict(bounds))


def _match(key: Any, given: Mapping[str, Any], where: str) -> Filter:
    if len(given) == 1:
        ((kind, value),) = given.items()
        if kind == "value":
            return _any(key, [value], where)
        if kind == "any":
            return _any(key, _array(value, f"{where}.match.any"), where)
        if kind == "except":
            forbidden = _any(key, _array(value, f"{where}.match.except"), where)
            return Filter(must=[exists(_field(key, where))], must_not=[forbidden])
    raise InvalidFilter(
        f"{where}.match: {', '.join(map(str, given))[:60]!r} is not supported; expected value, any or except"
    )


def _any(key: Any, values: Sequence[Any], where: str) -> Filter:
    """One of the values, itself or as an element of an array; containment is what the index serves."""
    if not values:
        return Filter(must=[in_("id", [])])
    return Filter(
        should=[contains("payload", form) for value in values for form in _forms(key, value, where)]
    )


def _forms(key: Any, value: Any, where: str) -> list[Any]:
    """The payloads that say so; `tags[].name` leads through the elements of an array."""
    if not isinstance(value, str | int | float):
        raise InvalidFilter(f"{where}.match: expected a text, a number, true or false")
    steps = _steps(key, where)
    forms: list[Any] = [value] if steps[-1].endswith("[]") else [value, [value]]
    for step in reversed(steps):
        name = step.removesuffix("[]")
        forms = [{name: form if name == step else [form]} for form in forms]
    return forms


def _field(key: Any, where: str) -> str:
    steps = _steps(key, where)
    if any(step.endswith("[]") for step in steps):
        raise InvalidFilter(f"{where}: `[]` in the key {key[:60]!r} is supported in `match` only")
    return "payload." + ".".join(steps)


def _steps(key: Any, where: str) -> list[str]:
    steps = key.split(".") if isinstance(key, str) else []
    if not steps or not all(step.removesuffix("[]") for step in steps) or '"' in key:
        raise InvalidFilter(f"{where}: expected a key such as language or author.name, got {str(key)[:60]!r}")
    return steps


def _given(data: Any, where: str) -> Mapping[str, Any]:
    """The object without its nulls, which the clients of Qdrant write for what is not set."""
    if not is_object(data):
        raise InvalidFilter(f"{where}: expected an object, got {type(data).__name__}")
    return {name: value for name, value in data.items() if value is not None}


def _array(value: Any, where: str) -> Sequence[Any]:
    if not is_array(value) or len(value) > MAX_CONDITIONS:
        raise InvalidFilter(f"{where}: expected an array of at most {MAX_CONDITIONS} values")
    return value
