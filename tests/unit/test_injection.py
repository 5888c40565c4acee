"""No parameter of a repository that can carry a text is left out of the injection tests."""

from __future__ import annotations

import typing
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from injection import paths
from injection.ground import Ground
from injection.signatures import choices, hints, repositories, text_parameters
from injection.specimens import EXEMPT, FORMATS, SPECIMENS
from sqlalchemy import JSON, Text, inspect

from alfred_db import Document, Memory, MemoryBank, RegistryModel, WorkingMemory
from alfred_db.models import BrokerRequest

ATTRIBUTES = {
    ("documents.add_many", "rows"): Document,
    ("documents.update", "values"): Document,
    ("memory_banks.update", "values"): MemoryBank,
    ("memories.update", "values"): Memory,
    ("working_memory.update", "values"): WorkingMemory,
    ("model_registry.update", "values"): RegistryModel,
    ("broker_requests.log_many", "rows"): BrokerRequest,
}
"""Mappings whose keys are the attributes of a model; `metadata_` is `metadata` there."""


def ground() -> Any:
    """Made up: only where texts are is looked at."""
    made: dict[str, Any] = {"str": "x", "int": 1, "Path": Path(), "uuid.UUID": uuid.UUID(int=0)}
    made |= {"datetime": datetime.now(UTC), "ClaimedTask": SimpleNamespace(id=uuid.UUID(int=0))}
    made |= dict.fromkeys(("ClaimedExecution", "ClaimedWorkflow"), SimpleNamespace(id=1))
    return Ground(**{name: made[str(kind)] for name, kind in Ground.__annotations__.items()})


def covered() -> set[tuple[str, str, str]]:
    """Repository, method and parameter of each text that is replaced."""
    found: set[tuple[str, str, str]] = set()
    for name, specimen in SPECIMENS.items():
        noun, _, method = name.partition(",")[0].partition(".")
        places = [*paths(specimen(ground())), *choices(name)]
        found |= {(noun, method, str(path[0])) for path in places}
    return found


def test_every_text_parameter_gets_hostile_values() -> None:
    parameters = set(text_parameters())
    assert len(parameters) > 400
    assert sorted(parameters - covered() - EXEMPT.keys()) == []


def test_no_exemption_or_specimen_is_left_over() -> None:
    parameters = set(text_parameters())
    assert sorted(EXEMPT.keys() - parameters) == []
    assert sorted(EXEMPT.keys() & covered()) == []
    assert sorted(covered() - parameters) == []
    assert set(FORMATS) <= set(SPECIMENS)


def test_rows_have_every_text_of_what_they_are() -> None:
    keys: dict[tuple[str, str], set[str]] = {}
    for name, specimen in SPECIMENS.items():
        for parameter, value in specimen(ground()).items():
            for mapping in value if isinstance(value, list) else [value]:
                if isinstance(mapping, dict):
                    keys.setdefault((name.partition(",")[0], parameter), set()).update(mapping)
    for place, model in ATTRIBUTES.items():
        texts = {
            "metadata" if attribute == "metadata_" else attribute
            for attribute, column in inspect(model).columns.items()
            if isinstance(column.type, Text | JSON) and column.computed is None
        }
        assert texts <= keys[place], place
    for noun, repository in repositories().items():
        for method in {
            name.split(".")[1].partition(",")[0] for name in SPECIMENS if name.startswith(f"{noun}.")
        }:
            for parameter, hint in hints(getattr(repository, method)).items():
                for kind in flattened(hint):
                    if typing.is_typeddict(kind):
                        texts = {key for key, inner in typing.get_type_hints(kind).items() if _is_text(inner)}
                        assert texts <= keys[f"{noun}.{method}", parameter], (noun, method, parameter)


def flattened(hint: Any) -> Iterator[Any]:
    """A type, and those it is made of."""
    yield hint
    for argument in typing.get_args(hint):
        yield from flattened(argument)


def _is_text(hint: Any) -> bool:
    parts = {hint, *typing.get_args(hint)}
    return str in parts or any("Mapping" in str(part) for part in parts)
