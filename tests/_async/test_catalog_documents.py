"""What the operations of the catalogs say to a page that there cannot be, and give for what they do not know."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from injection.signatures import hints, methods, repositories

from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork

NOUNS = (
    "model_registry",
    "broker_catalog",
    "broker_requests",
    "entities",
    "validation",
    "users",
    "storage",
)
NODE, TIME = uuid.UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC)
PAGES = [
    f"{noun}.{name}"
    for noun in NOUNS
    for name, method in methods(repositories()[noun])
    if "limit" in inspect.signature(method).parameters
]
"""The operations that give some of many."""

UNKNOWN: dict[str, tuple[Any, ...]] = {
    "model_registry.get": ("x",),
    "model_registry.find_best": ("x",),
    "model_registry.rank": ("x",),
    "model_registry.endpoints": ("x",),
    "broker_catalog.get_provider": ("x",),
    "broker_catalog.get_maker": ("x",),
    "broker_catalog.get_family": ("x",),
    "broker_catalog.get_model": ("x",),
    "broker_catalog.get_snapshot": ("x", "x"),
    "broker_catalog.get_hosted_model": ("x", "x"),
    "broker_catalog.get_price": ("x", "x"),
    "broker_catalog.list_snapshots": ("x",),
    "broker_catalog.list_prices": ("x", "x"),
    "broker_requests.get": (1, TIME),
    "broker_requests.attempts": ("x",),
    "entities.get_node": (NODE,),
    "entities.find_node": ("x", "x"),
    "entities.get_edge": (NODE,),
    "entities.facts": (NODE,),
    "entities.history": (NODE, NODE, "x"),
    "entities.neighbours": (NODE,),
    "entities.shortest_path": (NODE, NODE),
    "validation.get_suite": (-1,),
    "validation.get_case": (-1,),
    "validation.get_run": (-1,),
    "validation.get_baseline": (-1,),
    "validation.list_cases": (-1,),
    "validation.list_runs": (-1,),
    "validation.list_results": (-1,),
    "validation.trend": (-1, "x"),
    "users.get": (NODE,),
    "users.get_by_email": ("x",),
    "storage.get_bucket": ("x",),
    "storage.get": ("x", "x"),
    "storage.list": ("x",),
    "storage.list_references": ("x",),
    "storage.list_dangling": ("x",),
    "storage.list_unreferenced": ("x",),
}


def call(uow: AsyncUnitOfWork, operation: str) -> Any:
    noun, _, method = operation.partition(".")
    return getattr(getattr(uow, noun), method)


def needed(operation: str) -> dict[str, Any]:
    """Some arguments for the parameters that must be given."""
    noun, _, name = operation.partition(".")
    method = getattr(repositories()[noun], name)
    some = {str: "x", int: 1, float: 1.0, uuid.UUID: NODE, Sequence[uuid.UUID]: [NODE]}
    parameters = inspect.signature(method).parameters
    return {
        parameter: some[hint]
        for parameter, hint in hints(method).items()
        if parameters[parameter].default is inspect.Parameter.empty
    }


@pytest.mark.parametrize("operation", PAGES)
async def test_a_page_that_there_cannot_be_is_refused(uow: AsyncUnitOfWork, operation: str) -> None:
    given = needed(operation)
    for limit in (0, 1_000_000):
        with pytest.raises(
            InvalidInputError, match=f"limit: expected 1 to .*, got {limit:_}".replace("_", ",?")
        ):
            await call(uow, operation)(**given, limit=limit)
    noun, _, name = operation.partition(".")
    if "after" in inspect.signature(getattr(repositories()[noun], name)).parameters:
        with pytest.raises(InvalidInputError, match="after: 'x' is not a cursor"):
            await call(uow, operation)(**given, after="x")


@pytest.mark.parametrize("operation", UNKNOWN)
async def test_what_is_unknown_is_none_or_nothing(uow: AsyncUnitOfWork, operation: str) -> None:
    found = await call(uow, operation)(*UNKNOWN[operation])
    assert found is None or list(found) == []
    one = operation.partition(".")[2] in ("get", "get_by_email", "find_best", "find_node", "shortest_path")
    assert (found is None) is (one or ".get_" in operation)
