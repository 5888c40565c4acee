"""How tasks have ended, and their results as values of a type."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from enum import Enum
from typing import Any, Generic, TypeVar, cast

from ..errors import InvalidInputError
from ..models import TaskStatus

__all__ = ["RETURNED", "TaskOutcome", "outcome_of", "read_result"]

RETURNED = "return"
"""The `result_type` of what a decorated function has returned; it is stored under the name `value`."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class TaskOutcome(Generic[T_co]):
    """How a task has ended."""

    id: uuid.UUID
    """The task."""
    task_id: str
    """The caller's key of it."""
    status: TaskStatus
    """`completed`, `failed` or `cancelled`."""
    error_code: str | None
    """The kind of its last failure, also of one that was followed by a retry."""
    error: str | None
    """The text of its last failure."""
    results: Sequence[tuple[str, Mapping[str, Any]]]
    """The type and the content of each result, in the order in which they were stored."""
    result: T_co
    """The content of the last result, as the type that was asked for; None without results."""

    @property
    def completed(self) -> bool:
        """Whether it was completed."""
        return self.status is TaskStatus.COMPLETED


def outcome_of(row: Sequence[Any], results: Sequence[Sequence[Any]], kind: Any) -> TaskOutcome[Any]:
    """Return the outcome of a task of the rows of `task_waits.outcome` and `task_waits.outcome_results`."""
    id, task_id, status, code, error = row
    content = results[-1][1] if results else None
    if content is not None and kind is not None:
        content = read_result(kind, content["value"] if results[-1][0] == RETURNED else content)
    found = [(result[0], result[1]) for result in results]
    return TaskOutcome(id, task_id, TaskStatus(status), code, error, found, content)


def read_result(kind: type[T], value: Any) -> T:
    """Return a JSON value as a value of a type.

    Args:
        kind: A dataclass, a TypedDict, a model of pydantic, an Enum, a date or time, a UUID, a type of JSON, or a list,
            tuple, set, mapping, union or Literal of these.
        value: The value, as `json.loads` returns it.

    Raises:
        InvalidInputError: The value is not of the type; the message names the place, without the value.
    """
    return _read(kind, value, "result")  # type: ignore[no-any-return]


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        return _read(inner[0], value, place)
    if origin in (typing.Union, types.UnionType):
        return _one_of(inner, value, place)
    if origin is typing.Literal:
        if any(value == one and type(value) is type(one) for one in inner):
            return value
        raise _wrong(place, kind, value)
    if typing.is_typeddict(kind):
        return _typed_dict(kind, value, place)
    if isinstance(origin, type):
        return _several(origin, inner, value, place)
    if isinstance(kind, type):
        return _single(kind, value, place)
    raise InvalidInputError(f"{place}: {kind!r} is no type that JSON can be read as")


def _single(kind: Any, value: Any, place: str) -> Any:
    if hasattr(kind, "model_validate"):
        try:
            # As JSON, where a strict model takes a time as text.
            return kind.model_validate_json(json.dumps(value))
        except ValueError as error:
            wrong: Any = error
            found: list[dict[str, Any]] = wrong.errors() if hasattr(wrong, "errors") else []
            where = ".".join(str(part) for one in found[:1] for part in one["loc"])
            raise InvalidInputError(f"{place}: not a {kind.__name__}, at {where or 'its top'}") from None
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, place)
    if kind is type(None):
        if value is None:
            return None
        raise _wrong(place, kind, value)
    if issubclass(kind, Enum | uuid.UUID | datetime | date | time):
        made = kind if issubclass(kind, Enum | uuid.UUID) else kind.fromisoformat
        try:
            return made(value)
        except (ValueError, TypeError, AttributeError):
            raise _wrong(place, kind, value) from None
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    if kind in (tuple, set, frozenset) and isinstance(value, list):
        return cast(Any, kind)(value)
    raise _wrong(place, kind, value)


def _dataclass(kind: Any, value: Any, place: str) -> Any:
    value = _mapping(kind, value, place)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    _check_names(place, value, fields.keys(), {n for n, f in fields.items() if _is_required(f)})
    return kind(**{name: _read(hints[name], one, f"{place}.{name}") for name, one in value.items()})


def _typed_dict(kind: Any, value: Any, place: str) -> Any:
    value = _mapping(kind, value, place)
    hints = typing.get_type_hints(kind, include_extras=True)
    # Annotations that are text hide NotRequired from `__required_keys__`.
    required = {
        name for name in kind.__required_keys__ if typing.get_origin(hints[name]) is not typing.NotRequired
    }
    _check_names(place, value, hints.keys(), required)
    return {name: _read(hints[name], one, f"{place}.{name}") for name, one in value.items()}


def _mapping(kind: Any, value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(place, kind, value)
    return cast("Mapping[str, Any]", value)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _several(origin: Any, inner: Sequence[Any], value: Any, place: str) -> Any:
    if issubclass(origin, Mapping):
        items = _mapping(origin, value, place).items()
        return {name: _read(inner[1], one, f"{place}.{name}") for name, one in items}
    if not _is_list(value):
        raise _wrong(place, origin, value)
    values: list[Any] = value
    kinds: Sequence[Any] = [inner[0]] * len(values)
    if origin is tuple and inner[-1:] != (Ellipsis,):
        kinds = inner
        if len(kinds) != len(values):
            raise InvalidInputError(f"{place}: expected {len(kinds)} values, got {len(values)}")
    made = [
        _read(one, each, f"{place}[{at}]") for at, (one, each) in enumerate(zip(kinds, values, strict=True))
    ]
    return cast(Any, origin)(made) if origin in (tuple, set, frozenset) else made


def _one_of(kinds: Sequence[Any], value: Any, place: str) -> Any:
    for kind in kinds[:-1]:
        try:
            return _read(kind, value, place)
        except InvalidInputError:
            continue
    return _read(kinds[-1], value, place)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _check_names(place: str, value: Mapping[str, Any], known: Any, required: Any) -> None:
    if missing := sorted(set(required) - value.keys()):
        raise InvalidInputError(f"{place}: {', '.join(missing[:5])} missing")
    if unknown := len(value.keys() - set(known)):
        raise InvalidInputError(f"{place}: {unknown} unknown names; expected {', '.join(sorted(known))}")


def _wrong(place: str, kind: Any, value: Any) -> InvalidInputError:
    name = getattr(kind, "__name__", str(kind))
    return InvalidInputError(f"{place}: expected {name}, got {type(value).__name__}")
