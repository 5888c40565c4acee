"""What users get and give is typed: rows and mappings agree with the models, and nothing public is `Any` without a reason."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Protocol, Union

import numpy as np
import pytest
from injection.signatures import methods, repositories
from numpy import ndarray
from numpy.typing import NDArray
from sqlalchemy import JSON as JSON_TYPE
from sqlalchemy import ColumnElement, Row
from sqlalchemy import inspect as inspected
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeEngine

import alfred_db
from alfred_db import FoundRow, Hit, SearchCandidates, SearchResult, models
from alfred_db.checks import attribute
from alfred_db.queries.shapes.vector_search import columns_of
from alfred_db.search import filters
from alfred_db.types import VectorType

PUBLIC = {name: getattr(module, name) for module in (alfred_db, filters) for name in module.__all__}
ROWS = [value for value in PUBLIC.values() if inspect.isclass(value) and FoundRow in value.__bases__]

JSON = {
    "capabilities",
    "configuration",
    "content",
    "definition",
    "headers",
    "input",
    "metadata",
    "metadata_",
    "payload",
    "properties",
    "request",
    "response",
}
"""Parameters and fields that hold a JSON object, whose keys are the caller's own."""

UNTYPED = {
    "FilterCondition.value": "depends on the operator, and is compared with what the column or the JSON holds",
    "Filter.as_dict.return": "JSON, which `from_dict` reads",
    "Filter.from_dict.data": "JSON from outside, which is checked",
    "ActiveWebSession.data": "JSON, chosen by the application",
    "TaskOutcome.results": "JSON, as it was stored",
    "TaskWaiter.wait.result": "the overloads type it",
    "TaskWaiter.wait.return": "the overloads type it",
    "Tasks.command.return": "the code of commands, synchronous or not",
    "Tasks.handlers.return": "the code of tasks with any parameters",
    "Tenants.__init__.opened": "the databases of the caller, sync or async; only their names are used",
    "WebSessionRepository.create.data": "JSON, chosen by the application",
    "WebSessionRepository.save.data": "JSON, chosen by the application",
    "WorkingMemoryChanges.action_log": "any JSON, as FireFoundry's services store it",
    "WorkingMemoryChanges.lookup_info": "any JSON, as FireFoundry's services store it",
    "WorkingMemoryChanges.memory_content": "any JSON, as FireFoundry's services store it",
    "WorkingMemoryRow.action_log": "any JSON, as FireFoundry's services store it",
    "WorkingMemoryRow.lookup_info": "any JSON, as FireFoundry's services store it",
    "WorkingMemoryRow.memory_content": "any JSON, as FireFoundry's services store it",
    "Worker.workflows": "the code of workflows with any parameters",
    "WorkflowWaitResult.payload": "any JSON, as it was delivered",
    "WorkflowChildResult.output": "any JSON, as the child returned it",
    "WorkflowContext.child.return": "any JSON, as the child returned it",
    "WorkflowContext.child.workflow": "the code of a workflow with any parameters",
    "WorkflowContext.child_result.return": "any JSON, as the child returned it",
    "WorkflowContext.set_state.value": "any JSON",
    "WorkflowContext.start_child.workflow": "the code of a workflow with any parameters",
    "WorkflowOutcome.output": "any JSON",
    "WorkflowRepository.state.return": "any JSON, by name",
    "Workflows.__init__.functions": "the code of workflows with any parameters",
    "Workflows.start.workflow": "the code of a workflow with any parameters",
    "WorkflowRepository.checkpoint.output": "any JSON",
    "WorkflowRepository.checkpoint.return": "any JSON: the output as it is stored",
    "WorkflowRepository.complete.output": "any JSON",
    "WorkflowRepository.deliver.payload": "any JSON",
    "contains.value": "any JSON",
    "eq.value": "a value of the column's type, or any JSON",
    "in_.values": "values of the column's type, or any JSON",
    "qdrant_filter.data": "JSON from outside, which is checked",
    "read_result.value": "JSON from outside, which is checked",
}
"""What is public and `Any`, and why."""


def parts(hint: Any) -> Iterator[Any]:
    """A type, and those that it is made of."""
    if not isinstance(hint, list):  # as of a Callable's arguments
        yield hint
    for argument in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from parts(argument)


def fields(kind: Any) -> bool:
    """Whether the type is known by its fields."""
    return (
        is_dataclass(kind)
        or typing.is_typeddict(kind)
        or hasattr(kind, "_fields")
        or Protocol in getattr(kind, "__bases__", ())
    )


def untyped(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object, dict, list, tuple, Mapping, Callable) or (origin or hint) is Row:
        return True
    return origin is not ndarray and any(map(untyped, hint if isinstance(hint, list) else arguments))


def places() -> Iterator[tuple[str, Any]]:
    """Each parameter, result and field of what is public, and its type."""
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            yield from signature(name, value)
        if not inspect.isclass(value) or issubclass(value, DeclarativeBase | TypeEngine | Exception):
            continue
        if fields(value):
            for field, hint in typing.get_type_hints(value).items():
                if not field.startswith("_"):
                    yield f"{name}.{field}", hint
        for method, function in inspect.getmembers(
            value, lambda found: inspect.isfunction(found) or inspect.ismethod(found)
        ):
            if not method.startswith("_") and function.__module__.startswith("alfred_db"):
                yield from signature(f"{name}.{method}", inspect.unwrap(function))
        if not fields(value) and "__init__" in vars(value):
            yield from signature(f"{name}.__init__", value.__init__)


def signature(name: str, function: Any) -> Iterator[tuple[str, Any]]:
    for parameter, hint in typing.get_type_hints(function, localns=PUBLIC).items():
        yield f"{name}.{parameter}", hint


def is_json(hint: Any) -> bool:
    """Whether it is a JSON object, or None."""
    alternatives = {*typing.get_args(hint)} if typing.get_origin(hint) in (Union, UnionType) else {hint}
    return {(typing.get_origin(one), *typing.get_args(one)) for one in alternatives - {NoneType}} in (
        {(Mapping, str, Any)},
        {(dict, str, Any)},
    )


def test_nothing_public_is_untyped_without_a_reason() -> None:
    found = dict(places())
    assert len(found) > 2000
    wrong = {name for name, hint in found.items() if untyped(hint)}
    wrong = {name for name in wrong if not (name.rpartition(".")[2] in JSON and is_json(found[name]))}
    assert sorted(name for name in wrong if name.removeprefix("Async") not in UNTYPED) == []
    assert sorted(UNTYPED.keys() - wrong) == []


def test_what_is_untyped_is_found() -> None:
    hint: Any
    for hint in (
        Any,
        dict,
        Mapping[int, Any],
        list[object],
        Callable[..., Any],
        Row[Any],
        tuple[str, Any] | None,
    ):
        assert untyped(hint), hint
        assert not is_json(hint), hint
    for hint in (
        int,
        dict[str, float],
        NDArray[np.float32],
        tuple[int, ...],
        ColumnElement[bool],
        Callable[[int], str],
    ):
        assert not untyped(hint), hint
    assert is_json(dict[str, Any])
    assert is_json(Mapping[str, Any] | None)


# Rows


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_a_row_has_the_columns_of_its_model(row: type) -> None:
    model = getattr(alfred_db, row.__name__.removesuffix("Row"))
    hints = typing.get_type_hints(model, localns=vars(models))
    expected = {column.name: typing.get_args(hints[column.name])[0] for column in columns_of(model)}
    assert {name: hint for name, hint in typing.get_type_hints(row).items() if name[0] != "_"} == expected


def found_by(noun: str, name: str, method: Callable[..., Any]) -> set[Any]:
    """The types of the rows that a method takes or returns."""
    kinds = {Hit, SearchResult, SearchCandidates}
    hints = [part for hint in typing.get_type_hints(method).values() for part in parts(hint)]
    hints += [
        part
        for hint in hints
        if isinstance(hint, type) and fields(hint)
        for field in typing.get_type_hints(hint).values()
        for part in parts(field)
    ]
    assert not kinds.intersection(hints), f"{noun}.{name}: of which row?"
    return {typing.get_args(hint)[0] for hint in hints if typing.get_origin(hint) in kinds}


def test_a_search_is_typed_by_the_noun_of_its_rows() -> None:
    found: dict[str, set[Any]] = {}
    for noun, repository in repositories().items():
        variables = type_arguments(repository)
        for name, method in methods(repository):
            found.setdefault(noun, set()).update(
                variables.get(one, one) for one in found_by(noun, name, method)
            )
    assert all(len(rows) <= 1 and rows <= {*ROWS} for rows in found.values()), found
    assert {row for rows in found.values() for row in rows} == {*ROWS}


def type_arguments(kind: type) -> dict[Any, Any]:
    """What stands for the type variables of its bases."""
    return {
        variable: argument
        for base in getattr(kind, "__orig_bases__", ())
        for variable, argument in zip(
            getattr(typing.get_origin(base), "__parameters__", ()), typing.get_args(base), strict=False
        )
    }


# Mappings


def mappings() -> Iterator[tuple[str, type[DeclarativeBase], Any]]:
    """Each method that takes attributes of a model in a TypedDict: its name, the model, and the TypedDict."""
    of_bulk = {"log_many": alfred_db.BrokerRequest, "add_many": alfred_db.Document}
    for noun, repository in repositories().items():
        for name, method in methods(repository):
            hints = typing.get_type_hints(method)
            if "values" in hints or name in of_bulk:
                hint = hints["values"] if "values" in hints else hints["rows"]
                for part in parts(hint):
                    if typing.is_typeddict(part):
                        yield f"{noun}.{name}", of_bulk.get(name) or hints["return"], part


LEFT_OUT = {"id", "content_hash", "search", "search_hash"}
"""What the library or the server computes."""


@pytest.mark.parametrize(
    ("name", "model", "keys"), list(mappings()), ids=lambda one: getattr(one, "__name__", one)
)
def test_a_mapping_of_attributes_has_those_of_its_model(
    name: str, model: type[DeclarativeBase], keys: Any
) -> None:
    given = {attribute(key): hint for key, hint in typing.get_type_hints(keys).items()}
    columns = inspected(model).columns
    assert sorted(given) == sorted({*columns.keys()} - LEFT_OUT)
    hints = typing.get_type_hints(model, localns=vars(models))
    for key, hint in given.items():
        if isinstance(columns[key].type, VectorType | JSON_TYPE):
            continue
        of_column = {*parts(typing.get_args(hints[key])[0])}
        assert of_column <= {*parts(hint), NoneType} or NoneType not in of_column, (name, key)


def test_every_mapping_of_attributes_is_typed() -> None:
    assert {name for name, _, _ in mappings()} >= {
        f"{noun}.{name}"
        for noun, repository in repositories().items()
        for name, method in methods(repository)
        if "values" in inspect.signature(method).parameters
    }
    assert {"documents.add_many", "broker_requests.log_many"} <= {name for name, _, _ in mappings()}
