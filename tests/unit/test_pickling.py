"""What the package returns and takes can be copied, pickled, and read by another process: results, parameters, errors."""

from __future__ import annotations

import collections.abc
import copy
import dataclasses
import enum
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import types
import typing
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import URL, ClauseElement, ColumnElement, Row, Table, make_url
from sqlalchemy import inspect as inspected
from sqlalchemy.engine import result_tuple

import alfred_db
from alfred_db import Document, models
from alfred_db.durable.ends import RunEnded
from alfred_db.engine.session import Held
from alfred_db.errors import AlfredDBError
from alfred_db.indexes.measuring import Subject
from alfred_db.models import Base
from alfred_db.tenants.move_ends import Ends
from alfred_db.types import EnumText, VectorType
from alfred_db.worker.settings import Settings

SAMPLES: dict[Any, Any] = {
    str: "x",
    int: 1,
    float: 0.5,
    bool: True,
    bytes: b"x",
    object: {"x": [1, None]},
    list: ["x"],
    dict: {"x": [1, None]},
    Any: {"x": [1, None]},
    uuid.UUID: uuid.UUID(int=1),
    datetime: datetime(2026, 1, 1, tzinfo=UTC),
    date: date(2026, 1, 1),
    timedelta: timedelta(1),
    Decimal: Decimal("1.5"),
    Path: Path("x"),
    np.ndarray: np.ones(3, np.float32),
    Row: result_tuple(["id", "content"])([1, "x"]),
    ColumnElement: Document.id == 1,
    Table: Document.__table__,
    URL: make_url("postgresql://localhost/x"),
    BaseException: ValueError("x"),
}


def values_of_the_package() -> Iterator[type[Any]]:
    """Each public class that holds values: no repository, no database, nothing that has a connection."""
    seen: set[type[Any]] = set()
    for module in pkgutil.walk_packages(alfred_db.__path__, "alfred_db."):
        if (
            any(part.startswith("_") for part in module.name.split("."))
            or ".migrations" in module.name
            or ".queries" in module.name
        ):
            continue
        for name, found in vars(importlib.import_module(module.name)).items():
            if not inspect.isclass(found) or not found.__module__.startswith("alfred_db.") or found in seen:
                continue
            public = getattr(importlib.import_module(module.name), "__all__", None)
            if name in public if public is not None else found.__module__ == module.name:
                seen.add(found)
                if not name.startswith("_") and is_value(found):
                    yield found


def is_value(found: type[Any]) -> bool:
    bases = (enum.Enum, BaseException, Base, VectorType)
    named = issubclass(found, tuple) and hasattr(found, "_fields")
    if issubclass(found, Settings) and found is not Settings:
        return False  # a worker: it holds a database
    if issubclass(found, RunEnded):
        return False  # ends a run within one thread or task
    if found in (Ends, Held, Subject):
        return False  # a connection; a table of SQLAlchemy
    return (dataclasses.is_dataclass(found) or named or issubclass(found, bases)) and found not in (
        Base,
        VectorType,
        enum.StrEnum,
    )


VALUES = sorted(values_of_the_package(), key=lambda found: found.__qualname__)


def made(hint: Any) -> Any:
    """A value of a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return made(hint.__value__)
    if origin in (typing.Union, types.UnionType):
        return made(next(one for one in arguments if one is not type(None)))
    if origin is typing.Literal:
        return arguments[0]
    if origin is typing.Annotated or origin is typing.Required or origin is typing.NotRequired:
        return made(arguments[0])
    if origin is type:
        return arguments[0]
    known = SAMPLES.get(origin or hint)
    if known is not None:
        return known
    if origin is tuple:
        return tuple(made(one) for one in arguments if one is not Ellipsis)
    if origin in (set, frozenset, collections.abc.Set):
        return frozenset([made(arguments[0])])
    if origin in (dict, collections.abc.Mapping):
        return {made(arguments[0]): made(arguments[1])}
    if origin is not None and issubclass(origin, collections.abc.Callable):  # type: ignore[arg-type]
        return len
    if origin in (list, collections.abc.Sequence, collections.abc.Iterable):
        return [made(arguments[0])]
    if isinstance(hint, typing.TypeVar):
        return made(hint.__bound__ or str)
    return instance(origin or hint)


def instance(found: type[Any]) -> Any:
    if typing.is_typeddict(found):
        return {name: made(hint) for name, hint in typing.get_type_hints(found).items()}
    if issubclass(found, enum.Enum):
        return next(iter(found))
    if issubclass(found, BaseException):
        options: dict[str, Any] = {"code": "x", "retry": False}
        if issubclass(found, AlfredDBError):
            options = {"retryable": True}
        elif found.__init__ is Exception.__init__:  # type: ignore[comparison-overlap]
            options = {}
        error = found("what is wrong; what to do", **options)
        error.add_note("noted")
        return error
    if issubclass(found, Base):
        values = {one.key: made(python_type(one.columns[0])) for one in inspected(found).column_attrs}
        return found(**values)
    if issubclass(found, VectorType):
        return found(3)
    hints = typing.get_type_hints(found)
    names = inspect.signature(found).parameters
    return found(**{name: made(hints[name]) for name in names if names[name].kind not in (2, 4)})


def with_defaults(found: type[Any]) -> Any:
    """An instance that was given nothing but what it must be given."""
    if not dataclasses.is_dataclass(found) and not issubclass(found, tuple):
        return instance(found)
    hints = typing.get_type_hints(found)
    names = inspect.signature(found).parameters
    return found(**{name: made(hints[name]) for name, one in names.items() if one.default is one.empty})


def python_type(column: Any) -> Any:
    if isinstance(column.type, VectorType):
        return np.ndarray
    if isinstance(column.type, EnumText):
        return column.type.enum
    try:
        return column.type.python_type
    except NotImplementedError:
        return str


def content(value: Any) -> Any:
    """What a value says, in a form that compares."""
    if isinstance(value, ClauseElement | VectorType):
        return str(value), getattr(value, "dim", None)
    if isinstance(value, np.ndarray):
        return value.dtype, value.tolist()
    if isinstance(value, BaseException):
        return type(value), value.args, {name: one for name, one in vars(value).items() if name != "original"}
    if isinstance(value, Base):
        return type(value), {
            one.key: content(getattr(value, one.key)) for one in inspected(type(value)).column_attrs
        }
    if dataclasses.is_dataclass(value):
        return type(value), {one.name: content(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, collections.abc.Mapping):
        return {name: content(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [content(one) for one in value]
    return value


def test_there_are_such_classes() -> None:
    assert len(VALUES) > 100
    assert {getattr(models, name) for name in models.__all__ if is_value(getattr(models, name))} <= set(
        VALUES
    )


@pytest.mark.parametrize("make", [instance, with_defaults])
@pytest.mark.parametrize("found", VALUES, ids=lambda found: found.__qualname__)
def test_a_value_can_be_copied_and_pickled(found: type[Any], make: Any) -> None:
    value = make(found)
    for again in (
        copy.copy(value),
        copy.deepcopy(value),
        *(pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)),
    ):
        assert type(again) is type(value)
        assert content(again) == content(value)


def test_another_process_reads_them() -> None:
    packed = pickle.dumps([instance(found) for found in VALUES])
    program = "import pickle, sys; sys.stdout.buffer.write(pickle.dumps(pickle.load(sys.stdin.buffer)))"
    answer = subprocess.run([sys.executable, "-c", program], input=packed, capture_output=True, check=True)
    assert [content(one) for one in pickle.loads(answer.stdout)] == [
        content(instance(found)) for found in VALUES
    ]


def test_the_values_of_an_error_stay_in_the_process() -> None:
    error = AlfredDBError("x", retryable=True)
    vars(error)["original"] = RuntimeError("Failing row contains (secret)")
    packed = pickle.dumps(error)
    assert b"secret" not in packed
    assert pickle.loads(packed).retryable
