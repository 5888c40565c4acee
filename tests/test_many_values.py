"""Lists of any length: more values than a statement can have parameters are one array, or refused as input.

The methods are those of the repositories, by their signatures; the other arguments are those of tests/injection/.
"""

from __future__ import annotations

import os
import typing
import uuid
from collections import abc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from injection.ground import Ground, vector
from injection.signatures import hints, methods, repositories
from injection.specimens import SPECIMENS
from sqlalchemy import (
    ARRAY,
    URL,
    Boolean,
    Column,
    DateTime,
    Float,
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
    Uuid,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

from alfred_db import ClaimedExecution, ClaimedTask, ClaimedWorkflow, Database, Document
from alfred_db.errors import AlfredDBError, DatabaseUnavailable, InvalidFilter, InvalidInputError
from alfred_db.models import Base
from alfred_db.queries.shapes.filters import compile_filter
from alfred_db.repositories import UnitOfWork
from alfred_db.search.filters import Filter, FilterCondition, eq, in_
from alfred_db.types import EnumText, VectorType

MANY = 70_000
"""More than the 65,535 parameters that the protocol counts."""

AT_LENGTH = "ALFRED_DB_FAULTS" in os.environ

OTHERS: dict[str, Callable[[Ground], dict[str, Any]]] = {
    "documents.search_many": lambda g: {"limit": 1},
    "entities.subgraph": lambda g: {},
    "knowledge.query_many": lambda g: {"collection": "ground", "limit": 1},
    "memories.touch": lambda g: {},
    "scheduler.heartbeat_many": lambda g: {},
    "tasks.complete_many": lambda g: {},
    "tasks.heartbeat_many": lambda g: {},
    "tasks.list_progress": lambda g: {},
    "workflows.heartbeat_many": lambda g: {},
    "workflows.waiting": lambda g: {},
}
"""The other arguments of methods that have no text to be given in tests/injection/."""


CLAIMED: dict[Any, str] = {ClaimedTask: "task", ClaimedExecution: "execution", ClaimedWorkflow: "run"}
"""What is held, by the class of what `claim` returned."""


def lists() -> Iterator[tuple[str, str, Any]]:
    """Method, parameter and type of the elements of each that takes several of something."""
    for noun, repository in repositories().items():
        for name, method in methods(repository):
            for parameter, hint in hints(method).items():
                if (element := element_of(hint)) is not None:
                    yield f"{noun}.{name}", parameter, element


def element_of(hint: Any) -> Any:
    """What a list holds; None for all that is no list, and for one vector."""
    options = [hint] if typing.get_origin(hint) in (abc.Sequence, abc.Collection) else typing.get_args(hint)
    for option in options:
        if (
            typing.get_origin(option) in (abc.Sequence, abc.Collection)
            and typing.get_args(option)[0] is not float
        ):
            return typing.get_args(option)[0]
    return None


LISTS = {f"{method}, {parameter}": (method, parameter, element) for method, parameter, element in lists()}


def is_row(element: Any) -> bool:
    kinds = (element, *typing.get_args(element))
    return any(typing.is_typeddict(kind) or typing.get_origin(kind) is abc.Mapping for kind in kinds) or (
        hasattr(element, "_fields") and element not in CLAIMED
    )


def is_vector(element: Any) -> bool:
    return np.ndarray in [typing.get_origin(kind) for kind in typing.get_args(element)]


def several(element: Any, ground: Ground, method: str, given: Any) -> Any:
    """So many elements of a list, all different."""
    kinds = typing.get_args(element) or (element,)
    if is_vector(element):
        return np.tile(np.float32(vector(384 if "documents" in method else 1536)), (MANY, 1))  # type: ignore[arg-type]
    if element in CLAIMED:
        one = getattr(ground, CLAIMED[element])
        is_uuid = isinstance(one.id, uuid.UUID)
        return [one._replace(id=uuid.UUID(int=number) if is_uuid else number) for number in range(MANY)]
    if is_row(element):
        return [varied(given[-1], number) for number in range(MANY)]
    if str in kinds:
        return [f"s{number}" for number in range(MANY)]
    if int in kinds:
        return list(range(1, MANY + 1))
    if uuid.UUID in kinds:
        return [uuid.UUID(int=number) for number in range(MANY)]
    return ["day"] * MANY


def varied(row: Any, number: int) -> Any:
    """The same row with other keys."""
    keys = ("id", "task_id", "dedupe_key", "external_id", "content")
    if isinstance(row, dict):
        return {
            key: f"{value}{number}" if key in keys and isinstance(value, str) else value
            for key, value in row.items()
        }
    return row


@pytest.fixture
def uow(grounds: tuple[URL, dict[str | None, Ground]]) -> Iterator[UnitOfWork]:
    """A unit of work on the ground, rolled back at the end."""
    with Database(grounds[0]) as database, database.session() as session:
        yield UnitOfWork(session)


@pytest.fixture
def ground(grounds: tuple[URL, dict[str | None, Ground]]) -> Ground:
    return grounds[1][None]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_any_length_is_taken_or_refused(uow: UnitOfWork, ground: Ground, name: str) -> None:
    method, parameter, element = LISTS[name]
    if (is_row(element) or is_vector(element)) and not AT_LENGTH:
        return  # a test of its own counts the parameters
    arguments = dict((SPECIMENS.get(method) or OTHERS[method])(ground))
    arguments[parameter] = several(element, ground, method, arguments.get(parameter))
    if parameter == "ids":
        arguments.pop("where", None)
    noun, _, call = method.partition(".")
    try:
        getattr(getattr(uow, noun), call)(*arguments.pop("names", ()), **arguments)
    except DatabaseUnavailable:
        raise
    except AlfredDBError:
        pass  # such as NotFoundError, or InvalidInputError for too many rows


def columns() -> Iterator[tuple[type[Base], str, Column[Any]]]:
    """Every column that a filter can name."""
    for mapper in Base.registry.mappers:
        for attribute in mapper.column_attrs:
            column: Any = attribute.columns[0]
            if not isinstance(column.type, VectorType | TSVECTOR | ARRAY):
                yield mapper.class_, attribute.key.rstrip("_"), column


def values_for(column: Column[Any], count: int) -> list[Any]:
    """Values that a filter compares a column with."""
    type_: Any = column.type
    if isinstance(type_, EnumText):
        return [str(member) for member in type_.enum] * count
    if isinstance(type_, Text | JSONB):
        return [f"s{number}" for number in range(count)]
    if isinstance(type_, Uuid):
        return [str(uuid.UUID(int=number)) for number in range(count)]
    if isinstance(type_, DateTime):
        return [
            (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)).isoformat()
            for number in range(count)
        ]
    if isinstance(type_, Boolean):
        return [True, False] * count
    if isinstance(type_, LargeBinary):
        return [number.to_bytes(4) for number in range(count)]
    if isinstance(type_, SmallInteger):
        count = min(count, 2**15)
    return [number / 2 if isinstance(type_, Float | Numeric) else number for number in range(count)]


def test_a_filter_has_a_parameter_for_each_of_its_conditions(uow: UnitOfWork) -> None:
    seen: set[str] = set()
    for model, name, column in columns():
        field = f"{name}.k" if isinstance(column.type, JSONB) else name
        found = compile_filter(model, Filter(must=[in_(field, values_for(column, 3))]))
        compiled = select(column).where(found).compile(dialect=uow.session.get_bind().dialect)
        assert len(compiled.params) == 1, (model, name)
        if repr(column.type) not in seen:  # once for each type
            seen.add(repr(column.type))
            found = compile_filter(model, Filter(must=[in_(field, values_for(column, MANY))]))
            uow.session.scalars(select(column).where(found).limit(1)).all()
    assert len(seen) > 10


@pytest.mark.parametrize(
    ("field", "given", "count"),
    [
        ("external_id", ["ground", "other"], 1),
        ("external_id", [], 0),
        ("id", [0.5], 0),
        ("metadata.k", ["v", 1, None, {"a": 1}], 1),
        ("metadata.k", [1, None], 0),
        ("metadata.k", [], 0),
        ("created_at", ["2026-01-01T00:00:00Z"], 0),
    ],
)
def test_what_is_one_of_several(uow: UnitOfWork, field: str, given: list[Any], count: int) -> None:
    found = compile_filter(Document, Filter(must=[in_(field, given)]))
    rows = uow.session.scalars(select(Document.external_id).where(found, Document.external_id == "ground"))
    assert len(rows.all()) == count
    forbidden = compile_filter(Document, Filter(must_not=[in_(field, given)]))
    rows = uow.session.scalars(
        select(Document.external_id).where(forbidden, Document.external_id == "ground")
    )
    assert len(rows.all()) == 1 - count


def test_more_conditions_than_parameters_are_refused_as_input(uow: UnitOfWork) -> None:
    many = Filter(should=[eq("external_id", str(number)) for number in range(MANY)])
    with pytest.raises(InvalidFilter, match="10,000"):
        uow.documents.search(vector(384), where=many)
    with pytest.raises(InvalidInputError, match="65,535"):
        uow.documents.search(vector(384), where=Document.external_id.in_(map(str, range(MANY))))
    with pytest.raises(InvalidFilter, match="array"):
        compile_filter(Document, Filter(must=[FilterCondition("title", "in", "abc")]))
