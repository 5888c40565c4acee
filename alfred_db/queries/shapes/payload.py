"""Filters of Qdrant: translation to filters of this library, and of conditions to expressions on JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, cast, false, literal, not_, or_, select
from sqlalchemy.dialects.postgresql import JSONB

from ...errors import InvalidFilter, InvalidInputError
from ...search.filters import BOUNDS, GROUPS, MAX_CONDITIONS, MAX_DEPTH, Filter, FilterCondition, in_
from ...types import Text
from ...values.knowledge import is_array, is_object, spellings
from . import payload_paths as paths
from .filter_groups import combined
from .functions import func
from .payload_values import instant, is_text, text_of, time_matches, within_box, within_radius, words_match

TESTS = (
    "match", "range", "values_count", "geo_radius", "geo_bounding_box", "is_empty", "is_null"
)  # fmt: skip
MATCHES = ("value", "any", "except", "text", "text_any", "phrase", "prefix", "substring")

_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def read(data: Any, where: str = "filter", depth: int = 0) -> Filter:
    """Return the filter of its JSON form in Qdrant.

    `has_id` becomes a condition on the column `id`, every other condition one on the column `payload`.

    Raises:
        InvalidFilter: The filter is not supported; the message names the part.
    """
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"{where}: more than {MAX_DEPTH} filters inside one another; flatten it")
    given = _given(data, where)
    groups: dict[str, list[FilterCondition | Filter]] = {}
    for name in given:
        if name not in (*GROUPS, "min_should"):
            raise InvalidFilter(
                f"{where}: {str(name)[:60]!r} is not supported; expected {', '.join(GROUPS)} or min_should"
            )
    for name in GROUPS:
        parts: Any = given.get(name, ())
        several: Any = [parts] if is_object(parts) else parts
        groups[name] = _parts(several, f"{where}.{name}", depth)
    if "min_should" in given:
        asked = _given(given["min_should"], f"{where}.min_should")
        least: Any = asked.get("min_count")
        if set(asked) != {"conditions", "min_count"} or not _is_whole(least) or least < 1:
            raise InvalidFilter(f"{where}.min_should: expected conditions, and min_count from 1")
        parts = _parts(asked["conditions"], f"{where}.min_should.conditions", depth)
        # `min_should` without conditions matches nothing, while a filter without conditions matches everything.
        groups["must"].append(Filter(should=parts, min_should=least) if parts else in_("id", []))
    return Filter(groups["must"], groups["should"], groups["must_not"])


def _parts(several: Any, where: str, depth: int) -> list[FilterCondition | Filter]:
    if not is_array(several) or len(several) > MAX_CONDITIONS:
        raise InvalidFilter(f"{where}: expected an array of at most {MAX_CONDITIONS} conditions")
    return [_part(part, f"{where}[{number}]", depth) for number, part in enumerate(several)]


def _part(data: Any, where: str, depth: int) -> FilterCondition | Filter:
    given = _given(data, where)
    if not given or given.keys() & {*GROUPS, "min_should"}:
        return read(given, where, depth + 1)
    if set(given) == {"has_id"}:
        return in_("id", ids(given["has_id"], where))
    if given.keys() & {"key", "nested", "is_null", "is_empty"}:
        plain = _plain(given)
        matching(literal({}, JSONB), plain, where, depth)
        return FilterCondition("payload", "qdrant", plain)
    raise InvalidFilter(
        f"{where}: {', '.join(sorted(map(str, given)))[:60]!r} is not supported; expected key, has_id, is_null,"
        " is_empty, nested or a filter"
    )


def ids(value: Any, where: str) -> list[str]:
    """Return the ids of `has_id`.

    Raises:
        InvalidFilter: It is not an array of ids.
    """
    try:
        return spellings(_array(value, f"{where}.has_id"))
    except InvalidFilter:
        raise
    except InvalidInputError as error:
        raise InvalidFilter(f"{where}.has_id: {error}") from None


def matching(
    document: ColumnElement[Any], data: Any, where: str = "qdrant", depth: int = 0
) -> ColumnElement[bool]:
    """Return the expression of a condition of Qdrant on a JSON document.

    Raises:
        InvalidFilter: The condition is not supported.
    """
    given = _given(data, where)
    if len(given) == 1:
        ((name, value),) = given.items()
        if name == "nested":
            return _nested(document, _given(value, f"{where}.nested"), where, depth)
        if name in ("is_null", "is_empty"):
            return _presence(document, name, _key(_given(value, f"{where}.{name}"), where))
    tests = [name for name in given if name != "key"]
    key = _key(given, where)
    if len(tests) != 1 or tests[0] not in TESTS:
        raise InvalidFilter(
            f"{where}: {', '.join(map(str, tests))[:60]!r} is not supported; expected one of {', '.join(TESTS)}"
        )
    test, value = tests[0], given[tests[0]]
    if test in ("is_null", "is_empty"):
        if not isinstance(value, bool):
            raise InvalidFilter(f"{where}.{test}: expected true or false")
        asked = _presence(document, test, key)
        return asked if value else not_(func.coalesce(asked, false()))
    return _TESTS[test](document, key, _given(value, f"{where}.{test}"), f"{where}.{test}")


def _nested(
    document: ColumnElement[Any], given: Mapping[str, Any], where: str, depth: int
) -> ColumnElement[bool]:
    """Whether an object in the array matches a filter."""
    if set(given) != {"key", "filter"}:
        raise InvalidFilter(f"{where}.nested: expected key and filter")
    key = _key(given, where)
    objects = 'strict $[*] ? (@.type() == "array")[*] ? (@.type() == "object")'
    array = paths.query_array(paths.found(document, key.removesuffix("[]")), objects)
    rows, element = paths.elements(array)
    inside = read(given["filter"], f"{where}.nested.filter", depth + 1)

    def condition(one: FilterCondition) -> ColumnElement[bool]:
        if one.operator == "in" and not one.value:
            return false()
        if one.operator != "qdrant":
            raise InvalidFilter(f"{where}.nested: has_id is about points, and not about what is in them")
        return matching(element, one.value, where, depth + 1)

    return select(1).select_from(rows).where(combined(inside, condition)).exists()


def _presence(document: ColumnElement[Any], test: str, key: str) -> ColumnElement[bool]:
    found = paths.found(document, key)
    if test == "is_null":
        return paths.path_exists(found, "strict $[*] ? (@ == null || exists (@[*] ? (@ == null)))")
    filled = 'strict $[*] ? (@.type() != "null" && (@.type() != "array" || @.size() > 0))'
    return not_(paths.path_exists(found, filled))


def _match(
    document: ColumnElement[Any], key: str, given: Mapping[str, Any], where: str
) -> ColumnElement[bool]:
    # The client of Qdrant writes `except_` unless it serialises by alias.
    given = {"except" if name == "except_" else name: value for name, value in given.items()}
    if len(given) != 1 or (kind := next(iter(given))) not in MATCHES:
        raise InvalidFilter(
            f"{where}: {', '.join(map(str, given))[:60]!r} is not supported; expected one of {', '.join(MATCHES)}"
        )
    value = given[kind]
    if kind == "value":
        return _any(document, key, [value], where)
    if kind == "any":
        return _any(document, key, _array(value, f"{where}.any"), where)
    if kind == "except":
        texts = [_canonical(one, where) for one in _array(value, f"{where}.except")]
        others = (cast(one, Text) for one in texts)
        return _some(
            document,
            key,
            lambda found: and_(func.jsonb_typeof(found) != "null", cast(found, Text).not_in(list(others))),
        )
    text = _text(value, f"{where}.{kind}")
    if kind == "prefix":
        return _some(
            document, key, lambda found: and_(is_text(found), func.starts_with(text_of(found), text))
        )
    if kind == "substring":
        return _some(document, key, lambda found: and_(is_text(found), func.strpos(text_of(found), text) > 0))
    return _some(document, key, lambda found: words_match(found, text, kind))


def _any(document: ColumnElement[Any], key: str, wanted: Sequence[Any], where: str) -> ColumnElement[bool]:
    """Whether one of the values, or an element of an array, is among the wanted ones.

    The index serves the containment test.
    """
    texts = [cast(_canonical(value, where), Text) for value in wanted]
    contained: list[ColumnElement[bool]] = []
    for value in wanted:
        forms = paths.containing(key, value)
        if forms is None:
            break
        contained += (
            document.op("@>", is_comparison=True)(literal(form, JSONB(none_as_null=False))) for form in forms
        )
    else:
        if not any(_is_whole(value) for value in wanted):
            return or_(false(), *contained)
    # Containment treats 1.0 and 1 as equal, and Qdrant does not.
    exact = _some(document, key, lambda found: cast(found, Text).in_(texts))
    return and_(or_(*contained), exact) if contained else exact


def _canonical(value: Any, where: str) -> ColumnElement[Any]:
    """Return a value of `match` as JSON; the server writes equal values alike."""
    if isinstance(value, str):
        _text(value, where)
    elif not isinstance(value, int):
        raise InvalidFilter(
            f"{where}: expected a text, a whole number, true or false; use `range` for other numbers"
        )
    return literal(value, JSONB)


def _range(
    document: ColumnElement[Any], key: str, given: Mapping[str, Any], where: str
) -> ColumnElement[bool]:
    bounds = _bounds(given, where)
    if all(_is_number(limit) for limit in bounds.values()):
        tests = " && ".join(f"@ {_OPERATORS[bound]} ${bound}" for bound in bounds)
        doubles = {bound: _double(limit) for bound, limit in bounds.items()}
        return paths.path_exists(paths.values(document, key), f"strict $[*] ? ({tests})", doubles)
    instants = {bound: instant(limit) for bound, limit in bounds.items()}
    if any(limit is None for limit in instants.values()):
        raise InvalidFilter(
            f"{where}: the bounds must be all numbers, or all times such as 2026-01-31T12:00:00Z"
        )

    def compare(moment: ColumnElement[int]) -> ColumnElement[bool]:
        return and_(
            *(moment.op(_OPERATORS[bound], is_comparison=True)(limit) for bound, limit in instants.items())
        )

    return _some(document, key, lambda found: time_matches(found, compare))


def _values_count(
    document: ColumnElement[Any], key: str, given: Mapping[str, Any], where: str
) -> ColumnElement[bool]:
    """Whether the number of elements is in range: that of an array, 0 for null, 1 for any other value."""
    bounds = _bounds(given, where)
    if not all(_is_whole(limit) for limit in bounds.values()):
        raise InvalidFilter(f"{where}: the bounds must be whole numbers")

    def fits(count: int) -> bool:
        return all(_COMPARE[bound](count, limit) for bound, limit in bounds.items())

    found = paths.found(document, key)
    tests = " && ".join(f"@.size() {_OPERATORS[bound]} ${bound}" for bound in bounds)
    kinds = [f'(@.type() == "array" && {tests})']
    if fits(0):
        kinds.append('@.type() == "null"')
    if fits(1):
        kinds.append('(@.type() != "array" && @.type() != "null")')
    counted = paths.path_exists(found, f"strict $[*] ? ({' || '.join(kinds)})", bounds)
    return or_(counted, func.jsonb_array_length(found) == 0) if fits(0) else counted


def _geo_radius(
    document: ColumnElement[Any], key: str, given: Mapping[str, Any], where: str
) -> ColumnElement[bool]:
    radius: Any = given.get("radius")
    if set(given) != {"center", "radius"} or not _is_number(radius):
        raise InvalidFilter(f"{where}: expected center and radius, in metres")
    latitude, longitude = _geo_point(given["center"], f"{where}.center")
    return _some(document, key, lambda found: within_radius(found, latitude, longitude, radius))


def _geo_bounding_box(
    document: ColumnElement[Any], key: str, given: Mapping[str, Any], where: str
) -> ColumnElement[bool]:
    if set(given) != {"top_left", "bottom_right"}:
        raise InvalidFilter(f"{where}: expected top_left and bottom_right")
    top, left = _geo_point(given["top_left"], f"{where}.top_left")
    bottom, right = _geo_point(given["bottom_right"], f"{where}.bottom_right")
    return _some(document, key, lambda found: within_box(found, top, left, bottom, right))


def _geo_point(data: Any, where: str) -> tuple[float, float]:
    given = _given(data, where)
    latitude: Any = given.get("lat")
    longitude: Any = given.get("lon")
    if (
        set(given) != {"lat", "lon"}
        or not (_is_number(latitude) and abs(latitude) <= 90)
        or not (_is_number(longitude) and abs(longitude) <= 180)
    ):
        raise InvalidFilter(f"{where}: expected lat from -90 to 90 and lon from -180 to 180")
    return float(latitude), float(longitude)


_Test = Callable[[ColumnElement[Any], str, Mapping[str, Any], str], ColumnElement[bool]]

_TESTS: Mapping[str, _Test] = {
    "match": _match,
    "range": _range,
    "values_count": _values_count,
    "geo_radius": _geo_radius,
    "geo_bounding_box": _geo_bounding_box,
}

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": lambda left, right: left > right,
    "gte": lambda left, right: left >= right,
    "lt": lambda left, right: left < right,
    "lte": lambda left, right: left <= right,
}


def _some(
    document: ColumnElement[Any], key: str, test: Callable[[ColumnElement[Any]], ColumnElement[bool]]
) -> ColumnElement[bool]:
    """Whether a test is true for one of the values at a path."""
    rows, element = paths.elements(paths.values(document, key))
    return select(1).select_from(rows).where(test(element)).exists()


def _bounds(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not given or not given.keys() <= set(BOUNDS):
        raise InvalidFilter(f"{where}: expected some of {', '.join(BOUNDS)}")
    return dict(given)


def _key(given: Mapping[str, Any], where: str) -> str:
    key: Any = given.get("key")
    try:
        if isinstance(key, str):
            key.encode()
            paths.steps(key)
            return key
    except UnicodeEncodeError:
        pass
    except InvalidFilter as error:
        raise InvalidFilter(f"{where}: {error}") from None
    raise InvalidFilter(f"{where}: key: expected a path such as language, author.name or tags[]")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidFilter(f"{where}: expected a text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        pass
    else:
        if "\0" not in value:
            return value
    raise InvalidFilter(f"{where}: a NUL character or a lone surrogate, which PostgreSQL stores nowhere")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, float) and math.isfinite(value)


def _double(limit: float) -> float:
    """Return a bound in double precision, as Qdrant has it, written without an exponent."""
    rounded = float(limit)
    return int(rounded) if rounded.is_integer() else rounded


def _given(data: Any, where: str) -> Mapping[str, Any]:
    """Return an object without its nulls, which the clients of Qdrant write for unset fields."""
    if not is_object(data):
        raise InvalidFilter(f"{where}: expected an object, got {type(data).__name__}")
    return {name: value for name, value in data.items() if value is not None}


def _array(value: Any, where: str) -> Sequence[Any]:
    if not is_array(value) or len(value) > MAX_CONDITIONS:
        raise InvalidFilter(f"{where}: expected an array of at most {MAX_CONDITIONS} values")
    return value


def _plain(value: Any) -> Any:
    """Return a condition as JSON.

    Times, which the client of Qdrant passes as datetimes, become text.
    """
    if is_object(value):
        return {name: _plain(one) for name, one in value.items() if one is not None}
    if is_array(value):
        return [_plain(one) for one in value]
    return value.isoformat() if hasattr(value, "isoformat") else value
