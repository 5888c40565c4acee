"""Conditions of Qdrant on one JSON value: times, words of a text, places on the Earth.

Each accepts any value, and raises no error on the server whatever the payload holds.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Date,
    Double,
    Integer,
    Numeric,
    and_,
    case,
    cast,
    column,
    false,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from ...types import Text
from .functions import func
from .payload_paths import WHOLE, path_exists

TIME = (
    r"^\s*((?!0000)[0-9]{4})-(1[0-2]|0?[1-9])-(3[01]|[12][0-9]|0?[1-9])"
    r"(?:(?:[Tt]|\s+)(2[0-3]|[01]?[0-9]):([0-5]?[0-9])"
    r"(?::([0-5]?[0-9])(?:\.([0-9]+))?(?:\s*([+-])(2[0-3]|[01][0-9])(?::?([0-5][0-9]))?|\s*[Zz]|\s+UTC)?)?)?$"
)
"""The forms of a time that Qdrant reads, as a regular expression for Python and PostgreSQL.

A time without an offset is UTC.
"""

EARTH = 6371008.8
"""Mean radius in metres, as in Qdrant."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def instant(value: Any) -> int | None:
    """Return the microseconds since 1970 of a time or of its text; None if it is not a time."""
    if isinstance(value, str):
        parts = re.match(TIME, value)
        if parts is None:
            return None
        year, month, day, hour, minute, second = (int(part or 0) for part in parts.groups()[:6])
        try:
            moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            return None
        offset = int(parts[9] or 0) * 3600 + int(parts[10] or 0) * 60
        passed: int = (moment - _EPOCH) // _MICROSECOND + int(f"{(parts[7] or '')[:6]:0<6}")
        return passed - (-offset if parts[8] == "-" else offset) * 1_000_000
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def time_matches(
    value: ColumnElement[Any], compare: Callable[[ColumnElement[int]], ColumnElement[bool]]
) -> ColumnElement[bool]:
    """Whether a value is a time, and a comparison is true for its microseconds since 1970."""
    rows = (
        func.regexp_match(text_of(value), literal(TIME))
        .table_valued(column("parts", ARRAY(Text)))
        .render_derived()
    )
    parts = rows.c.parts

    def number(place: int) -> ColumnElement[int]:
        return func.coalesce(cast(parts[place], Integer), 0)

    first = func.make_date(number(1), number(2), 1)
    day = cast(first + (number(3) - 1), Date)
    days = cast(cast(first, Date) - literal_column("DATE '1970-01-01'", Date), BigInteger) + number(3) - 1
    offset = number(9) * 3600 + number(10) * 60
    seconds = days * 86400 + number(4) * 3600 + number(5) * 60 + number(6)
    seconds = seconds - case((parts[8] == "-", -offset), else_=offset)
    fraction = cast(func.rpad(func.left(func.coalesce(parts[7], ""), 6), 6, "0"), BigInteger)
    is_so = and_(
        cast(func.date_part("month", day), Integer) == number(2), compare(seconds * 1_000_000 + fraction)
    )
    # CASE, so that a date is built only if the text matched.
    return select(1).select_from(rows).where(case((parts.is_not(None), is_so), else_=false())).exists()


def text_of(value: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the text of a JSON value; a string is returned without quotes."""
    return value.op("#>>", return_type=Text())(WHOLE)


def is_text(value: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a JSON value is a string."""
    return func.jsonb_typeof(value) == "string"


def words_match(value: ColumnElement[Any], text: str, kind: str) -> ColumnElement[bool]:
    """Whether a value is a text with these words: all of them, any (`text_any`), or in this order (`phrase`).

    A word is a run of letters and digits; case is ignored. The patterns list every letter, because the
    character classes of the server depend on the locale of the database.
    """
    words = re.findall(r"[^\W_]+", text)
    content = text_of(value)
    if not words:
        return false()
    patterns = [_word(word) for word in words]
    if kind == "phrase":
        patterns = [f"[^{_letters()[0]}]+".join(patterns)]
    tests = [content.regexp_match(f"(?<![{_letters()[0]}]){one}(?![{_letters()[0]}])") for one in patterns]
    return and_(is_text(value), or_(*tests) if kind == "text_any" else and_(*tests))


def _word(word: str) -> str:
    return "".join(
        f"[{char}{''.join(_letters()[1].get(char.lower(), ()))}]" if len(char.lower()) == 1 else char
        for char in word
    )


@lru_cache(maxsize=1)
def _letters() -> tuple[str, Mapping[str, list[str]]]:
    """Return all letters and digits as ranges of a pattern, and the variants of each lower-case letter."""
    variants: dict[str, list[str]] = defaultdict(list)
    known = [char for char in map(chr, range(sys.maxunicode + 1)) if char.isalnum()]
    for char in known:
        variants[char.lower()].append(char)
    return "".join(_ranges(known)), variants


def _ranges(chars: list[str]) -> Iterator[str]:
    first = last = chars[0]
    for char in [*chars[1:], ""]:
        if char and ord(char) == ord(last) + 1:
            last = char
            continue
        yield first if first == last else f"{first}-{last}"
        first = last = char


def _place(value: ColumnElement[Any], inside: ColumnElement[bool]) -> ColumnElement[bool]:
    valid = "strict $ ? (@.lat >= -90 && @.lat <= 90 && @.lon >= -180 && @.lon <= 180)"
    return case((path_exists(value, valid), inside), else_=false())


def _degrees(value: ColumnElement[Any], name: str) -> ColumnElement[float]:
    # Rounded, because a number too small for a double is an error.
    return cast(func.round(cast(value[name], Numeric), 15), Double)


_TWO = literal_column("float8 '2'", Double)  # pg_catalog has no double precision / integer


def within_radius(
    value: ColumnElement[Any], latitude: float, longitude: float, radius: float
) -> ColumnElement[bool]:
    """Whether a value is a place less than `radius` metres away, by the haversine formula."""
    lat, lon = _degrees(value, "lat"), _degrees(value, "lon")
    north = func.power(func.sin(func.radians(literal(float(latitude), Double) - lat) / _TWO), _TWO)
    east = func.power(func.sin(func.radians(literal(float(longitude), Double) - lon) / _TWO), _TWO)
    part = (
        north + func.cos(func.radians(lat)) * func.cos(func.radians(literal(float(latitude), Double))) * east
    )
    distance = literal(2.0 * EARTH, Double) * func.asin(func.sqrt(func.least(part, literal(1.0, Double))))
    return _place(value, distance < literal(float(radius), Double))


def within_box(
    value: ColumnElement[Any], top: float, left: float, bottom: float, right: float
) -> ColumnElement[bool]:
    """Whether a value is a place inside a box.

    The box crosses the date line if `left` is greater than `right`.
    """
    lat, lon = _degrees(value, "lat"), _degrees(value, "lon")
    after, before = lon > literal(float(left), Double), lon < literal(float(right), Double)
    across = or_(after, before) if left > right else and_(after, before)
    return _place(
        value, and_(lat < literal(float(top), Double), lat > literal(float(bottom), Double), across)
    )
