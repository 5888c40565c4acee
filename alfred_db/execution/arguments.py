"""Checks of the arguments of repository methods, by the types of their signatures, before a statement is built.

`checked` wraps a method. The check of each argument is compiled from the signature when the method is first
called: one comparison of a type for the usual value, and the full check only where that fails.
"""

from __future__ import annotations

import inspect
import numbers
import typing
import uuid
from collections import abc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache, partial, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, cast

from numpy import ndarray
from sqlalchemy import ClauseElement

from ..checks import aware, finite, json_text, kind, storable, whole
from ..errors import InvalidInputError
from ..values.broker import NewBrokerRequest
from ..values.broker_catalog import CatalogDocument
from ..values.documents import DocumentChanges, NewDocument
from ..values.events import NewEvent
from ..values.knowledge import NewKnowledgePoint
from ..values.memories import MemoryChanges
from ..values.memory_banks import MemoryBankChanges
from ..values.model_registry import RegistryModelChanges
from ..values.tasks import NewTask
from ..values.working_memory import WorkingMemoryChanges

__all__ = ["FROM_OUTSIDE", "checked"]

FROM_OUTSIDE = frozenset({"error", "error_code", "error_message", "error_output", "output", "result"})
"""Texts from outside, such as the output of a command: they are cleaned and stored, never refused.

So is the `code` of a method `fail`.
"""

_CHECKED_LATER = (
    CatalogDocument,
    DocumentChanges,
    MemoryBankChanges,
    MemoryChanges,
    NewBrokerRequest,
    NewDocument,
    NewEvent,
    NewKnowledgePoint,
    NewTask,
    RegistryModelChanges,
    WorkingMemoryChanges,
)
"""Mappings that their methods check: rows that arrive by the hundred thousand column by column, changes by the model."""

_NO_JSON = frozenset({"capabilities", "document", "values", "vectors"})
"""Mappings of attributes or of sections, which their methods check."""

_READ = frozenset({"schedule", "timezone"})
"""Texts that their methods parse, so that any content passes here."""

_RANGED = frozenset({"delay", "older_than", "threshold", "value", "warning_margin"})
"""Numbers whose range, without infinity, is checked by their methods."""

_POSITIONS = frozenset({"start", "to"})
"""Arguments that take a time among other types; messages call such a time a position."""

_POINT_ID = (str, int, uuid.UUID)

_LOOKED_INTO = frozenset({int, float, Decimal, datetime})
"""Types whose values can be out of range."""

_SAID = {
    "intents": "a sequence of names",
    "message_ids": "a sequence of ids",
    "parent_task_id": "the `id` of a task, a UUID",
    "topics": "a sequence of topics",
}

_PLAIN: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    Decimal: "a Decimal",
    uuid.UUID: "a UUID",
    datetime: "a datetime with a time zone",
    timedelta: "a timedelta",
    Path: "a path",
    NoneType: "None",
    Any: "a value",
}


def checked(owner: type, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method with a check of its arguments in front of it.

    A wrong type ends the call with InvalidInputError. The first call compiles the check and replaces the
    returned function in the class.
    """
    doors: list[Callable[..., Any]] = []

    def made() -> Callable[..., Any]:
        if not doors:
            doors.append(wraps(method)(_door(method)))
            if vars(owner).get(name) is first:  # it was not replaced meanwhile
                setattr(owner, name, doors[0])
        return doors[0]

    if inspect.iscoroutinefunction(method):

        @wraps(method)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await cast("Awaitable[Any]", made()(*args, **kwargs))

        first: Callable[..., Any] = awaited
    else:

        @wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            return made()(*args, **kwargs)

        first = called
    return first


def _door(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the method's parameters that checks them and calls the method."""
    try:
        hints = typing.get_type_hints(method)
    except NameError:  # a subclass of another package, whose types are imported for type checkers only
        hints = {}
    scope: dict[str, Any] = {
        "_type": type,
        "_vectors": frozenset({list, ndarray}),
        "_is_suspicious": _is_suspicious,
        "_is_usual": _is_usual,
        "_method": method,
    }
    cleaned = {*FROM_OUTSIDE, "code"} if method.__name__ == "fail" else FROM_OUTSIDE
    heads: list[str] = []
    passed: list[str] = []
    tests: list[str] = []
    keyword_only = False
    for number, (name, parameter) in enumerate(inspect.signature(method).parameters.items()):
        default = "" if parameter.default is parameter.empty else "=None"
        if parameter.kind is parameter.VAR_POSITIONAL:
            heads.append(f"*{name}")
            passed.append(f"*{name}")
            keyword_only = True
        elif parameter.kind is parameter.VAR_KEYWORD:
            heads.append(f"**{name}")
            passed.append(f"**{name}")
        else:
            if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
                heads.append("*")
                keyword_only = True
            heads.append(name + default)
            passed.append(f"{name}={name}" if keyword_only else name)
        if name in hints and parameter.kind is not parameter.VAR_KEYWORD:
            hint = hints[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                hint = Sequence[hint]  # type: ignore[valid-type]
            scope[f"_check{number}"] = partial(
                check, name, hint=hint, cleaned=name in cleaned or name in _READ
            )
            suspicion = _suspicion(name, hint, scope)
            if not suspicion and parameter.default is not parameter.empty:
                scope[f"_default{number}"] = parameter.default
                suspicion = f"if {name} is not _default{number}: "
            tests.append(f"    {suspicion}_check{number}({name})")
    begin, end = ("async ", "await ") if inspect.iscoroutinefunction(method) else ("", "")
    source = [
        f"{begin}def {method.__name__}({', '.join(heads)}):",
        *tests,
        f"    return {end}_method({', '.join(passed)})",
    ]
    exec("\n".join(source), scope)
    door: Any = scope[method.__name__]
    written: Any = inspect.unwrap(method)  # whose signature it is
    door.__defaults__ = written.__defaults__
    door.__kwdefaults__ = written.__kwdefaults__
    return cast("Callable[..., Any]", door)


def _suspicion(name: str, hint: Any, scope: dict[str, Any]) -> str:
    """Return the condition, as source, under which an argument gets the full check."""
    kinds = _alternatives(hint)
    condition = ""
    types = [one for one in kinds if one is not NoneType]
    if str in types:
        condition = f"_type({name}) is not str or not {name}.isascii() or '\\0' in {name}"
    elif int in types:
        condition = f"_type({name}) is not int or not -{1 << 62} < {name} < {1 << 62}"
    elif types == [float]:
        # A whole number is as usual as a float.
        condition = f"_type({name}) is not float"
        if name not in _RANGED:
            condition = f"({condition} or {name} - {name} != 0.0)"
        condition += f" and (_type({name}) is not int or not -{1 << 62} < {name} < {1 << 62})"
    elif types == [bool]:
        condition = f"{name} is not True and {name} is not False"
    elif any(map(_is_vector, types)):
        condition = f"_type({name}) not in _vectors"  # the column's type checks the numbers
    elif (
        len(types) == 1
        and isinstance(types[0], type)
        and types[0] is not datetime
        and types[0] is not Decimal
    ):
        scope[f"_class_{name}"] = types[0]
        condition = f"_type({name}) is not _class_{name}"
    elif len(types) == 1 and _is_json(name, types[0]):
        condition = f"_type({name}) is not dict or _is_suspicious('{name}', {name})"
    elif len(types) == 1 and (usual := _usual_in(name, types[0])) is not None:
        scope[f"_usual_{name}"] = usual
        condition = f"_type({name}) is not list or not _is_usual({name}, _usual_{name})"
    if NoneType in kinds:
        condition = f"{name} is not None" + (f" and ({condition})" if condition else "")
    return f"if {condition}: " if condition else ""


def _is_json(name: str, hint: Any) -> bool:
    return (
        _is_mapping(hint)
        and typing.get_args(hint)[1:] == (Any,)
        and name not in _NO_JSON
        and not name.endswith("]")
    )


def _is_suspicious(name: str, value: dict[Any, Any]) -> bool:
    """Check a mapping as JSON; return whether it has a key that is not text."""
    if value:
        json_text(name, value)
        for key in value:
            if type(key) is not str:
                return True
    return False


def _usual_in(name: str, hint: Any) -> frozenset[Any] | None:
    """Return the class of the elements of a sequence whose elements need no other check than for their class."""
    if typing.get_origin(hint) is not abc.Sequence or name == "points":
        return None
    (kind_of,) = _alternatives(typing.get_args(hint)[0])[:1]
    if len(_alternatives(typing.get_args(hint)[0])) > 1 or not isinstance(kind_of, type):
        return None
    plain = kind_of in (str, uuid.UUID) or issubclass(kind_of, tuple)
    return frozenset({kind_of}) if plain and typing.get_origin(kind_of) is None else None


def _is_usual(values: Sequence[Any], usual: frozenset[Any]) -> bool:
    """Return whether all elements are of that class, and of ASCII if they are text, as nearly all are."""
    if not usual.issuperset(map(type, values)):
        return False
    if str not in usual:
        return True
    text = "".join(values)
    return text.isascii() and "\0" not in text


def check(name: str, value: Any, hint: Any, cleaned: bool = False) -> None:
    """Check one value against a type.

    Raises:
        InvalidInputError: The value is of another type or out of range; the message names the argument.
    """
    kinds = _alternatives(hint)
    found = next((one for one in kinds if _fits(one, value)), _MISSING)
    if found is _MISSING:
        if value is not None and any(map(_is_vector, kinds)) and not any(map(_is_matrix, kinds)):
            return  # the column's type reports what is wrong
        got = (
            "one; put it into a list" if isinstance(value, str) and any(map(_is_list, kinds)) else kind(value)
        )
        raise InvalidInputError(f"{name}: expected {_SAID.get(name) or expected(hint)}, got {got}")
    if found is str:
        if not cleaned:
            storable(name, value)
    elif found is int:
        whole(name, value)
    elif found in (float, Decimal):
        if name not in _RANGED:
            finite(name, value)
    elif found is datetime:
        aware("position" if name in _POSITIONS else name, value)
    elif found in _CHECKED_LATER:
        return
    elif typing.is_typeddict(found):
        known = _keys(found)
        for key, one in value.items():
            if key in known:  # the method checks for unknown and missing keys
                if one is None and NoneType not in _alternatives(known[key]):
                    raise InvalidInputError(
                        f"{name}.{key}: expected {expected(known[key])}, got None, and a null value cannot be stored"
                    )
                check(f"{name}.{key}", one, known[key])
    else:
        _inside(name, value, found)


def expected(hint: Any) -> str:
    """Return a type in the words of a message."""
    words = dict.fromkeys(_word(one) for one in _alternatives(hint) if one is not NoneType)
    return " or ".join(words)


def _word(hint: Any) -> str:
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if _is_mapping(hint):
        return "a mapping"
    if origin is _FUNCTION:
        return "a function"
    if hint is ndarray or origin is ndarray:
        return "an array"
    if origin is not None and isinstance(origin, type) and issubclass(origin, abc.Iterable):
        return f"a sequence of {expected(arguments[0]) if arguments else 'values'}"
    if _is_enum(hint):
        return "one of " + ", ".join(hint)
    return f"a {getattr(hint, '__name__', hint)}"


_MISSING = object()
_FUNCTION: Any = abc.Callable


@cache
def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (Union, UnionType):
        return tuple(inner for one in typing.get_args(hint) for inner in _alternatives(one))
    if typing.get_origin(hint) in (Annotated, Required, NotRequired):
        return _alternatives(typing.get_args(hint)[0])
    return (hint,)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, StrEnum)


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return typing.is_typeddict(hint) or (isinstance(origin, type) and issubclass(origin, abc.Mapping))


def _fits(hint: Any, value: Any) -> bool:
    """Return whether the value is of the type, by its class."""
    if isinstance(value, bool):
        return hint in (bool, Any)
    if hint is Any or hint is None:
        return hint is Any or value is None
    if hint is int:
        return isinstance(value, numbers.Integral)
    if hint is float:
        return isinstance(value, numbers.Real | Decimal)
    if hint is Decimal:
        return isinstance(value, Decimal | numbers.Integral)
    origin: Any = typing.get_origin(hint)
    if origin is Literal or _is_enum(hint):
        return isinstance(value, str)
    if _is_mapping(hint):
        return isinstance(value, Mapping)
    if origin is _FUNCTION:
        return callable(value)
    if isinstance(hint, type) and issubclass(hint, ClauseElement):
        return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")
    if isinstance(origin, type) and issubclass(origin, ClauseElement):
        return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")
    if isinstance(origin, type) and issubclass(origin, abc.Iterable):
        return _lists(value, origin)
    if isinstance(origin, type):
        return isinstance(value, origin)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _is_list(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, abc.Iterable) and not _is_mapping(hint)


def _lists(value: Any, origin: Any) -> bool:
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping):
        return False
    return isinstance(value, origin) or (origin is abc.Sequence and isinstance(value, ndarray))


def _inside(name: str, value: Any, hint: Any) -> None:
    """Check the content of a mapping or of a list."""
    arguments = typing.get_args(hint)
    if _is_mapping(hint) and arguments:
        if any(type(key) is not str for key in value):
            wrong = next((key for key in value if not isinstance(key, str)), "")
            if wrong != "":
                raise InvalidInputError(f"{name}: expected text as keys, got {kind(wrong)}")
        if arguments[1] is not Any:
            for key, one in value.items():
                storable(f"{name}, a key", key)
                if arguments[1] is not float:  # scores are checked by the method, which names them
                    check(f"{name}.*", one, arguments[1])
        elif value and _is_json(name, hint):
            json_text(name, dict(value))
    elif _is_list(hint) and isinstance(value, abc.Collection):
        _elements(name, cast("Any", value), arguments[0] if arguments else Any)


def _elements(name: str, values: Any, hint: Any) -> None:
    kinds = _alternatives(hint)
    if name == "points" or kinds in ((float,), _POINT_ID) or any(_is_vector(one) for one in kinds):
        return  # the column or the method checks each element, and reports more about it
    usual = {dict if one in _CHECKED_LATER else one for one in kinds}
    if set(map(type, values)) <= usual:  # one comparison for all elements
        if hint is str:
            text = "".join(values)
            if text.isascii() and "\0" not in text:
                return
        elif all(one is dict or (isinstance(one, type) and one not in _LOOKED_INTO) for one in usual):
            return
    for number, value in enumerate(values):
        check(f"{name}[{number}]", value, hint)


def _is_vector(hint: Any) -> bool:
    return hint is ndarray or typing.get_origin(hint) is ndarray


def _is_matrix(hint: Any) -> bool:
    return _is_list(hint) and any(map(_is_vector, _alternatives(typing.get_args(hint)[0])))


@cache
def _keys(hint: Any) -> dict[str, Any]:
    """Return the types of the keys of a TypedDict."""
    return typing.get_type_hints(hint)
