"""Validation of arguments: numbers, text, times, JSON, names and cursors."""

from __future__ import annotations

import base64
import json
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from numbers import Integral, Real
from types import NoneType
from typing import Any, TypeVar, cast, get_args

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
    Uuid,
    inspect,
)
from sqlalchemy.orm import Mapper
from sqlalchemy.types import TypeEngine

from .errors import InvalidInputError, shown

__all__ = [
    "MAX_LIMIT",
    "MAX_SECONDS",
    "YEAR",
    "as_cursor",
    "attribute",
    "aware",
    "by_attribute",
    "check_column",
    "check_keys",
    "check_limit",
    "check_names",
    "check_objects",
    "check_text",
    "check_values",
    "check_word",
    "column_word",
    "cursor_values",
    "encodable",
    "finite",
    "from_json",
    "has_keys",
    "has_nul",
    "is_object",
    "json_text",
    "kind",
    "one_of",
    "plain_text",
    "sent_json",
    "storable",
    "to_json",
    "unstorable",
    "whole",
    "within",
    "written_out",
]

E = TypeVar("E", bound=StrEnum)

MAX_LIMIT = 1000
"""The maximum number of rows in a page, and of hits in a search."""

YEAR = 366 * 86_400
"""The longest delay or timeout of most kinds, in seconds."""

MAX_SECONDS = 100 * YEAR
"""The longest time that any argument takes, in seconds."""

MAX_CURSOR = 1 << 20
"""Maximum characters of a cursor, which exceeds the key of any row."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# A JSON string, or a number with a positive exponent; only the second has a group.
_WITH_EXPONENT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|(-?\d+(?:\.\d+)?e\+\d+)')
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_decode = json.JSONDecoder().decode


def kind(value: object) -> str:
    """Return the name of the type of a value for messages."""
    return "None" if value is None else type(value).__name__


def whole(name: str, value: int) -> None:
    """Check that an argument is a whole number of 64 bits.

    Args:
        name: Name of the argument for the message.
        value: The argument.

    Raises:
        InvalidInputError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"{name}: expected a whole number, got {kind(value)}")
    if not -(1 << 63) <= value < 1 << 63:
        raise InvalidInputError(f"{name}: expected a whole number of at most 64 bits, got one of more")


def finite(name: str, value: float | Decimal) -> None:
    """Check that an argument is a number, and neither NaN nor infinite.

    Args:
        name: Name of the argument for the message.
        value: The argument.

    Raises:
        InvalidInputError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"{name}: expected a number, got {kind(value)}")
    try:
        usable = math.isfinite(value)
    except (OverflowError, ValueError):
        raise InvalidInputError(f"{name}: expected a number that a float can hold") from None
    if not usable:
        raise InvalidInputError(f"{name}: expected a finite number, got {value}")


def within(name: str, value: float, low: float, high: float) -> None:
    """Check that an argument is a number from `low` to `high`.

    Args:
        name: Name of the argument for the message.
        value: The argument.
        low: The minimum.
        high: The maximum.

    Raises:
        InvalidInputError: It is not.
    """
    if type(value) is not int and type(value) is not float:
        finite(name, value)
    if not low <= value <= high:
        got = f"{value:,}" if -1e300 < value < 1e300 else "one far outside"
        raise InvalidInputError(f"{name}: expected {low:,} to {high:,}, got {got}")


def check_limit(limit: int, advice: str = "") -> None:
    """Raise InvalidInputError, which ends with the advice, unless a limit is 1 to `MAX_LIMIT`."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError(
            f"limit: expected 1 to {MAX_LIMIT:,}, got {limit:,}{advice and f'; {advice}'}"
        )


def has_keys(value: Mapping[str, Any], typed: type, *required: str) -> bool:
    """Return whether a mapping has the required keys of a TypedDict, and no other than its keys."""
    return set(required) <= set(value) <= set(typed.__annotations__)


def check_keys(name: str, value: Mapping[str, Any], typed: type, *required: str) -> None:
    """Check that an argument has the required keys of a TypedDict, and no other than its keys.

    Raises:
        InvalidInputError: It does not.
    """
    if not has_keys(value, typed, *required):
        other = [key for key in typed.__annotations__ if key not in required]
        optional = f" and at most {', '.join(f'`{key}`' for key in other)}" if other else ""
        got = ", ".join(map(shown, list(value)[:5])) or "nothing"
        raise InvalidInputError(
            f"{name}: expected {', '.join(f'`{key}`' for key in required)}{optional}, got {got}"
        )


def encodable(text: str) -> bool:
    """Return whether a text has no lone surrogate.

    The UnicodeEncodeError, which holds the text, is caught here so that it is not the context of the error of
    a caller.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(name: str, value: str) -> None:
    """Check that an argument is text that PostgreSQL can store.

    Args:
        name: Name of the argument for the message.
        value: The argument.

    Raises:
        InvalidInputError: It is not text, or holds a lone surrogate or a NUL character.
    """
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"{name}: expected text, got {kind(value)}")
    if not value.isascii() and not encodable(value):
        raise InvalidInputError(
            f"{name}: expected text without lone surrogates; decode it with errors='replace'"
        )
    if "\0" in value:
        raise InvalidInputError(f"{name}: holds a NUL character, which PostgreSQL text cannot")


def check_text(name: str, value: str, most: int = 1 << 30) -> None:
    """Check that an argument is text of 1 to `most` bytes that PostgreSQL can store.

    Args:
        name: Name of the argument for the message.
        value: The argument.
        most: Maximum number of bytes in UTF-8.

    Raises:
        InvalidInputError: It is not.
    """
    storable(name, value)
    length = len(value) if value.isascii() else len(value.encode())
    if not 1 <= length <= most:
        raise InvalidInputError(f"{name}: expected 1 to {most:,} bytes, got {length:,}")


def plain_text(text: str) -> str:
    """Return text that PostgreSQL can store: U+FFFD replaces NUL characters and lone surrogates."""
    return text.replace("\0", _REPLACEMENT) if encodable(text) else _UNSTORABLE.sub(_REPLACEMENT, text)


def aware(name: str, value: datetime) -> datetime:
    """Return a datetime that has a time zone.

    Raises:
        InvalidInputError: The value is not a datetime, or has no time zone.
    """
    if not isinstance(value, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"{name}: expected a datetime with a time zone, got {kind(value)}")
    if value.utcoffset() is None:
        raise InvalidInputError(
            f"{name}: a time without time zone; pass one with a time zone, such as datetime.now(UTC)"
        )
    return value


def check_word(name: str, value: str, words: Any) -> None:
    """Check that an argument is one of the values of a Literal.

    Raises:
        InvalidInputError: It is not.
    """
    if value not in get_args(words):
        expected = ", ".join(get_args(words))
        raise InvalidInputError(f"{name}: expected one of {expected}, got {shown(value)}")


def one_of(enum: type[E], value: E | str) -> E:
    """Return the member of an enum with a value.

    Raises:
        InvalidInputError: The enum has no such member.
    """
    try:
        return enum(value)
    except ValueError:
        expected = ", ".join(member.value for member in enum)
        raise InvalidInputError(f"{enum.__name__}: expected one of {expected}, got {shown(value)}") from None


def check_names(model: type[Any], names: Iterable[str]) -> None:
    """Check that all names are attributes of a model that can be written.

    Raises:
        InvalidInputError: A name is not.
    """
    mapper: Mapper[Any] = inspect(model)
    known = [name for name, _ in mapper.columns.items() if name != "id"]
    unknown = sorted(map(shown, set(names) - set(known)))
    if unknown:
        raise InvalidInputError(
            f"{model.__name__}: {', '.join(unknown[:5])}: no such attribute; expected some of {', '.join(known)}"
        )


def check_column(name: str, type_: TypeEngine[Any], values: Iterable[Any]) -> int | None:
    """Return the index of the first value that a column of the type does not accept, or None."""
    usual, takes = _TAKES.get(type_.__class__) or _takes(type_)
    if set(map(type, values)) <= usual:
        return None
    return next((place for place, value in enumerate(values) if not (value is None or takes(value))), None)


def attribute(name: str) -> str:
    """The attribute that a key of a mapping means: `metadata`, a name that SQLAlchemy keeps, is `metadata_`."""
    return "metadata_" if name == "metadata" else name


def by_attribute(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by the names of their attributes.

    Raises:
        InvalidInputError: An attribute is named twice.
    """
    named = {attribute(name): value for name, value in values.items()}
    if len(named) != len(values):
        raise InvalidInputError("metadata: passed twice, as metadata and as metadata_; leave one of them out")
    return named


def check_values(model: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values by the attributes of a model.

    Raises:
        InvalidInputError: A name is unknown, or a value does not fit its attribute.
    """
    values = by_attribute(given)
    check_names(model, values)
    mapper: Mapper[Any] = inspect(model)
    types: dict[str, TypeEngine[Any]] = {name: column.type for name, column in mapper.columns.items()}
    for name, value in values.items():
        if value is None or hasattr(value, "__clause_element__"):
            continue
        type_ = types[name]
        where = f"{model.__name__}.{name}"
        if check_column(name, type_, [value]) is not None:
            raise InvalidInputError(f"{where}: expected {column_word(type_)}, got {kind(value)}")
        if isinstance(value, str):
            storable(where, value)
        elif isinstance(value, datetime):
            aware(where, value)
        elif isinstance(value, float | Decimal):
            finite(where, value)
        elif isinstance(type_, JSON):
            if is_object(model, name) and not isinstance(value, Mapping):
                raise InvalidInputError(f"{where}: expected a mapping, got {kind(value)}")
            json_text(where, value)
    return values


def check_objects(model: type[Any], name: str, values: Iterable[Any]) -> None:
    """Check that all values of an attribute that holds JSON objects are mappings or None.

    Raises:
        InvalidInputError: A value is other JSON; the message names its row.
    """
    if is_object(model, name) and not set(map(type, values)) <= {dict, NoneType}:
        for place, value in enumerate(values):
            if not isinstance(value, Mapping | None):
                raise InvalidInputError(
                    f"row {place}: {model.__name__}.{name}: expected a mapping, got {kind(value)}"
                )


def is_object(model: type[Any], name: str) -> bool:
    """Return whether an attribute holds JSON objects, and no other JSON."""
    for one in model.__mro__:
        annotation = str(vars(one).get("__annotations__", {}).get(name, ""))
        if annotation:
            return "dict[" in annotation or "Json" in annotation
    return False


def column_word(type_: TypeEngine[Any]) -> str:
    """Return a description of what a column of the type holds, for messages."""
    return next((word for known, (word, _, _) in _COLUMNS.items() if isinstance(type_, known)), "a value")


def _takes(type_: TypeEngine[Any]) -> tuple[frozenset[type], Callable[[Any], bool]]:
    found = next((rule for known, rule in _COLUMNS.items() if isinstance(type_, known)), None)
    usual, takes = (frozenset[type](), _any) if found is None else found[1:]
    _TAKES[type_.__class__] = usual | {NoneType}, takes
    return _TAKES[type_.__class__]


def _any(value: object) -> bool:
    return True


def _is_number(value: object) -> bool:
    return value.__class__ is not bool and isinstance(value, Real | Decimal)


def _is_whole(value: object) -> bool:
    return value.__class__ is not bool and isinstance(value, Integral)


_TAKES: dict[type, tuple[frozenset[type], Callable[[Any], bool]]] = {}
_COLUMNS: Mapping[Any, tuple[str, frozenset[type], Callable[[Any], bool]]] = {
    Integer: (
        "a whole number",
        frozenset({int}),
        _is_whole,
    ),
    Boolean: ("True or False", frozenset({bool}), lambda value: isinstance(value, bool)),
    Float: ("a number", frozenset({float, int}), _is_number),
    Numeric: ("a number", frozenset({Decimal, float, int}), _is_number),
    Text: ("text", frozenset({str}), lambda value: isinstance(value, str)),
    Uuid: ("a UUID", frozenset({uuid.UUID}), lambda value: isinstance(value, str | uuid.UUID)),
    DateTime: (
        "a datetime with a time zone",
        frozenset({datetime}),
        lambda value: isinstance(value, datetime),
    ),
    Date: (
        "a date",
        frozenset({date}),
        lambda value: isinstance(value, date) and not isinstance(value, datetime),
    ),
    LargeBinary: (
        "bytes",
        frozenset({bytes}),
        lambda value: isinstance(value, bytes | bytearray | memoryview),
    ),
}


def to_json(value: Any) -> str:
    """Return a value as the JSON text that PostgreSQL stores.

    jsonb stores numbers as decimal digits, so that a float that Python writes with an exponent (1e+22) would
    be read as an int. It is written as digits with a fraction, so that it is read as the same float.

    Raises:
        TypeError: JSON cannot represent the value.
        ValueError: A number is NaN or infinite, or the value contains itself.
        RecursionError: The value is nested too deeply.
    """
    return written_out(_encode(value))


def written_out(text: str) -> str:
    """Return a JSON text with numbers with positive exponents written as digits."""
    return _WITH_EXPONENT.sub(_digits, text) if "e+" in text else text


def from_json(text: bytes) -> Any:
    """Return the value of a JSON text that the driver has received.

    `json.loads` takes twice as long, because it detects the encoding.
    """
    return {} if text == b"{}" else _decode(text.decode())


def json_text(name: str, value: Any, most: int = 1 << 28) -> str | None:
    """Return a JSON value as text; None is returned unchanged.

    Args:
        name: Name of the argument for the message.
        value: The value.
        most: Maximum number of bytes in UTF-8.

    Raises:
        InvalidInputError: The value is not JSON that PostgreSQL can store, or is too long.
    """
    if value is None:
        return None
    try:
        text = to_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{name}: not a JSON value ({error}); pass a value that json.dumps accepts"
        ) from None
    if not text.isascii() and not encodable(text):
        raise InvalidInputError(unstorable(name, value) or f"{name}: holds a lone surrogate")
    if has_nul(text):
        raise InvalidInputError(unstorable(name, value) or f"{name}: holds a NUL character")
    size = len(text) if text.isascii() else len(text.encode())
    if size > most:
        raise InvalidInputError(
            f"{name}: has {size:,} bytes as JSON, at most {most:,} are stored; store it elsewhere and pass a"
            " reference to it"
        )
    return text


def sent_json(value: Any) -> str:
    """Return a JSON value as the driver sends it.

    Raises:
        InvalidInputError: PostgreSQL cannot store the value.
    """
    return json_text("a JSON value", value) or "null"


def has_nul(text: str) -> bool:
    """Return whether a JSON text holds a NUL character; `u0000` after an escaped backslash is not one."""
    return "\\u0000" in text and re.search(r"(?<!\\)(\\\\)*\\u0000", text) is not None


def unstorable(name: str, value: Any) -> str | None:
    """Describe the text in a JSON value that PostgreSQL cannot store, and its position.

    None if it can store all of them.
    """
    waiting: list[tuple[str, Any]] = [(name, value)]
    while waiting:
        place, inner = waiting.pop()
        if isinstance(inner, str):
            found = _UNSTORABLE.search(inner)
            if found:
                what = "a NUL character" if found.group() == "\0" else "a lone surrogate"
                return f"{place}: holds {what}, unsupported Unicode in jsonb; replace it, such as by U+FFFD"
        elif isinstance(inner, Mapping):
            for key, one in cast("dict[Any, Any]", inner).items():
                known = isinstance(key, str) and key.isidentifier() and len(key) < 60
                waiting += [(f"{place}, a key", key), (f"{place}.{key}" if known else f"{place}.*", one)]
        elif isinstance(inner, list | tuple):
            waiting += [
                (f"{place}[{number}]", one) for number, one in enumerate(cast("Sequence[Any]", inner))
            ]
    return None


def _digits(found: re.Match[str]) -> str:
    number = found.group(1)
    return found.group() if number is None else f"{Decimal(number):f}.0"


def as_cursor(values: Sequence[Any]) -> str:
    """Return the key of the last row of a page as a cursor, the argument `after` of the next page."""
    return base64.urlsafe_b64encode(json.dumps(values, default=str).encode()).decode()


def cursor_values(cursor: str, types: Sequence[TypeEngine[Any]]) -> Sequence[Any]:
    """Return the key in a cursor as values of the types of its columns.

    Raises:
        InvalidInputError: The cursor is not one of this list.
    """
    try:
        if len(cursor) <= MAX_CURSOR:
            values = json.loads(base64.b64decode(cursor.encode(), b"-_", validate=True))
            if values.__class__ is list and len(values) == len(types):
                return [_of_type(type_, value) for type_, value in zip(types, values, strict=True)]
    except (ArithmeticError, AttributeError, TypeError, ValueError, RecursionError):
        pass
    raise InvalidInputError(
        f"after: {shown(cursor)} is not a cursor of this list; pass `next` of the page before, unchanged"
    )


_WIDTHS = ((SmallInteger, 15), (BigInteger, 63), (Integer, 31))


def _of_type(type_: TypeEngine[Any], value: Any) -> Any:
    """Return a JSON value as a value of a column type; a wrong value is a ValueError or similar."""
    if isinstance(type_, DateTime):
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.utcoffset() is None else time
    if isinstance(type_, Uuid):
        return uuid.UUID(value)
    if isinstance(type_, Float | Numeric):
        number = Decimal(value) if isinstance(type_, Numeric) else float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError
        return number
    if isinstance(type_, Integer) or type_.python_type is int:
        bits = next((bits for known, bits in _WIDTHS if isinstance(type_, known)), 63)
        usable = value.__class__ is int and -(1 << bits) <= value < 1 << bits
    else:
        usable = value.__class__ is str and not _UNSTORABLE.search(value)
    if not usable:
        raise ValueError
    return value
