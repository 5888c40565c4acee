"""Values of typed arguments as JSON and back: a type is compiled once, and values are checked both ways.

Messages name what was expected and the type of what came, never a value or a key of a mapping: both may be secret.
pydantic is not imported. A class that has its methods for validation and serialisation is used by these.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Literal, NamedTuple, NotRequired, Required, Union, cast

from ..checks import kind

__all__ = ["Conversion", "Misfit", "Unsupported", "conversion"]

Convert = Callable[[Any, str], Any]
"""Converts a value; the text is where it stands, for errors: `options.urls[3]`."""


class Misfit(Exception):
    """A value is not of its type.

    Args:
        path: Where it stands.
        expected: What was expected.
        got: What kind of value came instead.
    """

    def __init__(self, path: str, expected: str, got: str) -> None:
        super().__init__(f"{path}: expected {expected}, got {got}")


class Unsupported(Exception):
    """A type cannot be stored as JSON."""


class Conversion(NamedTuple):
    """How values of a type are stored and read."""

    expected: str
    """What the type is, for errors: `a whole number`."""
    to_json: Convert
    from_json: Convert

    def way(self, reading: bool) -> Convert:
        """Return the conversion of one direction."""
        return self.from_json if reading else self.to_json


def _both(expected: str, convert: Callable[[Any, str, bool], Any]) -> Conversion:
    """Return the conversion of a function that takes the direction."""

    def to_json(value: Any, path: str) -> Any:
        return convert(value, path, False)

    def from_json(value: Any, path: str) -> Any:
        return convert(value, path, True)

    return Conversion(expected, to_json, from_json)


def conversion(hint: Any) -> Conversion:
    """Return the conversion of a type.

    Raises:
        Unsupported: Values of the type cannot be stored as JSON.
    """
    return _Compiler().compile(hint)


class _Compiler:
    """Compiles one type; a class that refers to itself is found in `known`."""

    def __init__(self) -> None:
        self._known: dict[Any, list[Conversion]] = {}

    def compile(self, hint: Any) -> Conversion:
        """Return the conversion of a type."""
        if hint in (Any, object):
            return Conversion("a value", _same, _same)
        if hint in _SCALARS:
            return _SCALARS[hint]
        if isinstance(hint, typing.NewType):
            return self.compile(hint.__supertype__)
        if isinstance(value := getattr(hint, "__value__", None), type) or typing.get_origin(
            value
        ):  # type X = ...
            return self.compile(value)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Annotated, Required, NotRequired):
            return self.compile(arguments[0])
        if origin is Literal:
            return _choice(arguments)
        if origin in (Union, types.UnionType):
            return _union([self.compile(one) for one in arguments])
        if origin is not None or hint in _GENERIC:
            return self._generic(hint if origin is None else origin, arguments)
        if isinstance(hint, type):
            return self._class(hint)
        raise Unsupported(_named(hint))

    def _generic(self, origin: Any, arguments: tuple[Any, ...]) -> Conversion:
        if origin is tuple and arguments and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            return _tuple([self.compile(one) for one in arguments if one != ()])
        if origin in _SEQUENCES:
            made, accepted = _SEQUENCES[origin]
            return _sequence(self.compile(arguments[0] if arguments else Any), made, accepted)
        if origin in _MAPPINGS:
            key, value = arguments or (str, Any)
            if key is not str:
                raise Unsupported(f"a mapping with keys of {_named(key)}; JSON has text keys")
            return _mapping(self.compile(value))
        if dataclasses.is_dataclass(origin):
            raise Unsupported(f"{_named(origin)} with type arguments")
        raise Unsupported(_named(origin))

    def _class(self, hint: type[Any]) -> Conversion:
        if issubclass(hint, Enum):
            return _enum(hint)
        if hasattr(hint, "model_validate") and hasattr(hint, "model_dump"):
            return _model(hint)
        if typing.is_typeddict(hint):
            return self._fields(hint, self._typed_keys(hint), _same, lambda found: found)
        if dataclasses.is_dataclass(hint):
            hints = typing.get_type_hints(hint, include_extras=True)
            fields = {
                field.name: (hints[field.name], field.default is field.default_factory is dataclasses.MISSING)
                for field in dataclasses.fields(hint)
                if field.init
            }
            return self._fields(hint, fields, _attributes_of(hint, fields), _made(hint))
        if getattr(hint, "_fields", None) is not None and tuple in hint.__mro__:
            return self._named_tuple(hint)
        raise Unsupported(_named(hint))

    def _named_tuple(self, hint: Any) -> Conversion:
        hints = typing.get_type_hints(hint, include_extras=True)
        fields = {name: (hints.get(name, Any), name not in hint._field_defaults) for name in hint._fields}
        return self._fields(hint, fields, _attributes_of(hint, fields), _made(hint))

    def _typed_keys(self, hint: Any) -> dict[str, tuple[Any, bool]]:
        hints = typing.get_type_hints(hint, include_extras=True)
        # Of annotations that are text, as `from __future__ import annotations` makes them, the class knows only `total`.
        return {
            name: (
                found,
                typing.get_origin(found) is Required
                or (name in hint.__required_keys__ and typing.get_origin(found) is not NotRequired),
            )
            for name, found in hints.items()
        }

    def _fields(
        self,
        hint: type[Any],
        fields: Mapping[str, tuple[Any, bool]],
        opened: Callable[[Any, str], Any],
        made: Callable[[dict[str, Any]], Any],
    ) -> Conversion:
        """Return the conversion of a class with named fields, each with its type and whether it is required."""
        if hint in self._known:
            later = self._known[hint]
            return _both(_named(hint), lambda value, path, reading: later[0].way(reading)(value, path))
        box = self._known.setdefault(hint, [])
        compiled = {name: (self.compile(found), needed) for name, (found, needed) in fields.items()}

        def each(value: Any, path: str, reading: bool) -> dict[str, Any]:
            if not isinstance(value, Mapping):
                raise Misfit(path, _named(hint), kind(value))
            given = cast("Mapping[str, Any]", value)
            for name, (found, needed) in compiled.items():
                if needed and name not in given:
                    raise Misfit(f"{path}.{name}", found.expected, "nothing")
            if given.keys() - compiled.keys():
                raise Misfit(
                    path, f"{_named(hint)} with {', '.join(compiled) or 'no fields'}", "other fields"
                )
            return {
                name: compiled[name][0].way(reading)(one, f"{path}.{name}") for name, one in given.items()
            }

        def convert(value: Any, path: str, reading: bool) -> Any:
            if not reading:
                return each(opened(value, path), path, reading)
            found = each(value, path, reading)
            try:
                return made(found)
            except Exception as error:
                raise Misfit(path, _named(hint), f"values that it refuses ({type(error).__name__})") from None

        box.append(_both(_named(hint), convert))
        return box[0]


def _made(hint: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda found: hint(**found)


def _exact(value: Any) -> tuple[str, Any]:
    """Return a value with its type: True is not 1."""
    return kind(value), value


def _same(value: Any, _path: str) -> Any:
    return value


def _attributes_of(hint: type[Any], names: Mapping[str, Any]) -> Convert:
    def opened(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, hint):
            raise Misfit(path, _named(hint), kind(value))
        return {name: getattr(value, name) for name in names}

    return opened


def _checked(expected: str, fits: Callable[[Any], bool]) -> Conversion:
    def checked(value: Any, path: str) -> Any:
        if not fits(value):
            raise Misfit(path, expected, kind(value))
        return value

    return Conversion(expected, checked, checked)


def _text_of(
    expected: str, kinds: type, text: Callable[[Any], Any], read: Callable[[Any], Any], stored: type = str
) -> Conversion:
    """Return the conversion of a type that is stored as text, or as another JSON type."""

    def to_json(value: Any, path: str) -> Any:
        if type(value) is not kinds:
            raise Misfit(path, expected, kind(value))
        return text(value)

    def from_json(value: Any, path: str) -> Any:
        if isinstance(value, stored) or (stored is float and type(value) is int):
            try:
                return read(value)
            except (ValueError, OverflowError, InvalidOperation):
                raise Misfit(path, expected, f"{kind(value)} that is none") from None
        raise Misfit(path, expected, kind(value))

    return Conversion(expected, to_json, from_json)


def _is_number(value: Any) -> bool:
    return (type(value) is int) or (isinstance(value, float) and math.isfinite(value))


_SCALARS: dict[Any, Conversion] = {
    None: _checked("None", lambda value: value is None),
    types.NoneType: _checked("None", lambda value: value is None),
    bool: _checked("True or False", lambda value: type(value) is bool),
    int: _checked("a whole number", lambda value: isinstance(value, int) and type(value) is not bool),
    float: _checked("a finite number", _is_number),
    str: _checked("text", lambda value: isinstance(value, str)),
    uuid.UUID: _text_of("a UUID", uuid.UUID, str, uuid.UUID),
    Decimal: _text_of("a Decimal", Decimal, str, Decimal),
    datetime: _text_of("a datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    date: _text_of("a date", date, date.isoformat, date.fromisoformat),
    time: _text_of("a time", time, time.isoformat, time.fromisoformat),
    timedelta: _text_of(
        "a timedelta", timedelta, timedelta.total_seconds, lambda value: timedelta(seconds=value), float
    ),
}

_LISTS = (list, tuple)
_SEQUENCES: dict[Any, tuple[Callable[[list[Any]], Any], tuple[type, ...]]] = {
    list: (list, (list,)),
    tuple: (tuple, (tuple,)),
    set: (set, (set, frozenset)),
    frozenset: (frozenset, (set, frozenset)),
    abc.Sequence: (list, _LISTS),
    abc.MutableSequence: (list, (list,)),
    abc.Iterable: (list, (*_LISTS, set, frozenset)),
    abc.Collection: (list, (*_LISTS, set, frozenset)),
    abc.Set: (frozenset, (set, frozenset)),
}
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_GENERIC = (*_SEQUENCES, *_MAPPINGS)


def _sequence(of: Conversion, made: Callable[[list[Any]], Any], accepted: tuple[type, ...]) -> Conversion:
    expected = f"a list, each item {of.expected}"

    def convert(value: Any, path: str, reading: bool) -> Any:
        if not isinstance(value, list if reading else accepted):
            raise Misfit(path, expected, kind(value))
        items = cast("list[Any]", value)
        found = [of.way(reading)(one, f"{path}[{place}]") for place, one in enumerate(items)]
        try:
            return made(found) if reading else found
        except TypeError:  # of a set whose items cannot be hashed
            raise Misfit(path, expected, "items that cannot be hashed") from None

    return _both(expected, convert)


def _tuple(parts: list[Conversion]) -> Conversion:
    expected = f"{len(parts)} values ({', '.join(one.expected for one in parts)})"

    def convert(value: Any, path: str, reading: bool) -> Any:
        if not isinstance(value, list if reading else tuple):
            raise Misfit(path, expected, kind(value))
        items = cast("list[Any]", value)
        if len(items) != len(parts):
            raise Misfit(path, expected, f"{len(items)}")
        found = [
            of.way(reading)(one, f"{path}[{place}]")
            for place, (of, one) in enumerate(zip(parts, items, strict=True))
        ]
        return tuple(found) if reading else found

    return _both(expected, convert)


def _mapping(of: Conversion) -> Conversion:
    expected = f"a mapping from text, each value {of.expected}"

    def convert(value: Any, path: str, reading: bool) -> Any:
        if not isinstance(value, Mapping):
            raise Misfit(path, expected, kind(value))
        items = cast("Mapping[str, Any]", value)
        if not all(map(_is_text, items)):
            raise Misfit(path, expected, "keys that are not text")
        return {key: of.way(reading)(one, f"{path}[...]") for key, one in items.items()}

    return _both(expected, convert)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _choice(values: tuple[Any, ...]) -> Conversion:
    if any(type(value) not in (str, int, bool, types.NoneType) for value in values):
        raise Unsupported("a Literal of other values than text, whole numbers, True, False and None")
    known = set(map(_exact, values))
    expected = f"one of {', '.join(map(repr, values))}"

    def fits(value: Any) -> bool:
        return isinstance(value, str | int | types.NoneType) and _exact(value) in known

    return _checked(expected, fits)


def _enum(hint: type[Enum]) -> Conversion:
    members = list(hint)
    if any(type(member.value) not in (str, int) for member in members):
        raise Unsupported(f"{_named(hint)}: an Enum of other values than text and whole numbers")
    by_value = {_exact(member.value): member for member in members}
    expected = f"a {_named(hint)}"

    def to_json(value: Any, path: str) -> Any:
        if not isinstance(value, hint):
            raise Misfit(path, expected, kind(value))
        return value.value

    def from_json(value: Any, path: str) -> Any:
        found = by_value.get(_exact(value)) if isinstance(value, str | int) else None
        if found is None:
            raise Misfit(path, f"{expected}, one of {', '.join(map(repr, hint.__members__))}", kind(value))
        return found

    return Conversion(expected, to_json, from_json)


def _union(parts: list[Conversion]) -> Conversion:
    expected = " or ".join(dict.fromkeys(one.expected for one in parts))

    def convert(value: Any, path: str, reading: bool) -> Any:
        deeper: Misfit | None = None
        for one in parts:
            try:
                return one.way(reading)(value, path)
            except Misfit as error:
                if not str(error).startswith(f"{path}: "):
                    deeper = deeper or error  # the kind fits, and something in it does not
        raise deeper or Misfit(path, expected, kind(value))

    return _both(expected, convert)


def _model(hint: Any) -> Conversion:
    """Return the conversion of a model of pydantic, whose errors are reported without the values in them.

    It is validated as JSON, where a strict model takes a time as text. What is stored is what it can be read from: by its
    aliases, or else by the names of its fields.
    """

    def validated(value: Any, path: str) -> Any:
        try:
            return hint.model_validate_json(json.dumps(value))
        except (ValueError, TypeError) as error:
            raise Misfit(path, _named(hint), _reasons(error, hint)) from None

    def to_json(value: Any, path: str) -> Any:
        if not isinstance(value, hint):
            raise Misfit(path, _named(hint), kind(value))
        refused: list[Misfit] = []
        for by_alias in (True, False):
            try:
                stored = value.model_dump(mode="json", by_alias=by_alias, round_trip=True, warnings=False)
                validated(stored, path)
            except Misfit as error:
                refused.append(error)
            except (ValueError, TypeError) as error:
                refused.append(Misfit(path, _named(hint), _reasons(error, hint)))
            else:
                return stored
        raise refused[0]

    return Conversion(_named(hint), to_json, validated)


def _reasons(error: Exception, hint: Any) -> str:
    """Return where and how a value does not fit a model: fields and kinds of errors, no values."""
    try:
        found = cast("Any", error).errors(include_input=False, include_url=False, include_context=False)
        fields = hint.model_fields
        named = [(str(one["loc"][0]) if one["loc"] else "", str(one["type"])) for one in found[:5]]
        return "values that do not fit: " + ", ".join(
            f"{field}: {reason}" if field in fields else reason for field, reason in named
        )
    except Exception:
        return "values that it refuses"


def _named(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint)
