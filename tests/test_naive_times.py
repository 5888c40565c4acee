"""A time without time zone is refused wherever a call takes one: the server would read it in the session's.

tests/_async/test_argument_types.py passes one to each parameter of each method; here are filters and functions.
"""

from __future__ import annotations

import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from injection.ground import Ground
from injection.signatures import hints, methods, repositories
from injection.specimens import SPECIMENS
from sqlalchemy import URL, ColumnElement, DateTime, and_, any_, between, case, literal, not_, true
from sqlalchemy.dialects.postgresql import ARRAY

import alfred_db
from alfred_db import (
    Database,
    Document,
    KnowledgePoint,
    Memory,
    MemoryEntry,
    MisfirePolicy,
    OverlapPolicy,
    ScheduledTask,
    WorkingMemory,
    cron,
)
from alfred_db.errors import InvalidFilter, InvalidInputError
from alfred_db.repositories import UnitOfWork
from alfred_db.search.filters import Filter, eq, in_, range_

NAIVE = datetime(2026, 1, 1, 12)
AWARE = NAIVE.replace(tzinfo=UTC)

FILTERED = [
    (noun, name)
    for noun, repository in repositories().items()
    for name, method in methods(repository)
    if "where" in hints(method)
]
MODELS: dict[str, Any] = {
    "documents": Document,
    "knowledge": KnowledgePoint,
    "memories": Memory,
    "memory_entries": MemoryEntry,
    "rag": Document,
    "working_memory": WorkingMemory,
}
EXPRESSIONS: dict[str, Callable[[Any, datetime], ColumnElement[bool]]] = {
    "comparison": lambda column, time: column >= time,
    "equality": lambda column, time: column != time,
    "in": lambda column, time: column.in_([time, AWARE]),
    "not in": lambda column, time: not_(column.in_((AWARE, time))),
    "between": lambda column, time: between(column, AWARE, time),
    "nested": lambda column, time: and_(true(), not_(and_(column.is_not(None), column < time))),
    "literal": lambda column, time: column == literal(time),
    "array": lambda column, time: column == any_(literal([time], ARRAY(DateTime(timezone=True)))),
    "case": lambda column, time: case((column > time, True), else_=False) == true(),
    "arithmetic": lambda column, time: column > literal(time) - timedelta(days=1),
}


def names(noun: str) -> list[str]:
    """The times of a model."""
    model = MODELS[noun]
    return [key for key, column in model.__mapper__.columns.items() if isinstance(column.type, DateTime)]


def wheres(noun: str) -> Iterator[tuple[str, Callable[[datetime], Any]]]:
    """Everything that a filter on a time can be, from the time."""
    column = getattr(MODELS[noun], names(noun)[0])
    for kind, make in EXPRESSIONS.items():
        yield kind, lambda time, make=make: make(column, time)
    for name in names(noun):
        for text in (False, True):
            as_given: Callable[[datetime], Any] = datetime.isoformat if text else lambda time: time
            for kind, data in (
                ("eq", lambda value, name=name: eq(name, value)),
                ("in", lambda value, name=name: in_(name, [value])),
                ("range", lambda value, name=name: range_(name, gte=value)),
            ):
                yield (
                    f"{name} {kind} {text}",
                    lambda time, data=data, as_given=as_given: Filter(must_not=[data(as_given(time))]),
                )
    # A JSON field holds no times, but texts.
    field = "payload.at" if noun == "knowledge" else "metadata.at"
    yield "json", lambda time: Filter(must=[range_(field, gte=time if time is NAIVE else "2026")])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def uow(grounds: tuple[URL, dict[str | None, Ground]]) -> Iterator[UnitOfWork]:
    with Database(grounds[0]) as database, database.session() as session:
        yield UnitOfWork(session)


def test_each_method_with_a_filter_is_among_the_specimens() -> None:
    assert {noun for noun, _ in FILTERED} == set(MODELS)
    assert len(FILTERED) > 15


@pytest.mark.parametrize(("noun", "name"), FILTERED)
def test_no_filter_takes_a_naive_time(
    uow: UnitOfWork, grounds: tuple[URL, dict[str | None, Ground]], noun: str, name: str
) -> None:
    ground = grounds[1][None]
    given = next(
        (made(ground) for key, made in SPECIMENS.items() if key.partition(",")[0] == f"{noun}.{name}"), {}
    )
    given |= {"bank": ground.bank} if "bank" in hints(getattr(repositories()[noun], name)) else {}
    call = getattr(getattr(uow, noun), name)
    taken: list[str] = []
    for kind, make in wheres(noun):
        savepoint = uow.session.begin_nested()
        try:
            call(**{**given, "where": make(NAIVE)})
            taken.append(kind)
        except InvalidFilter as error:
            if kind != "json" and "time zone" not in str(error):
                taken.append(f"{kind}: {error}")
        finally:
            savepoint.rollback()
    assert taken == []
    savepoint = uow.session.begin_nested()
    for _, make in wheres(noun):
        call(**{**given, "where": make(AWARE)})
    savepoint.rollback()


# Functions


EVERY_MINUTE = ("* * * * *", "UTC")
TASK = ScheduledTask(
    id=1,
    schedule="* * * * *",
    timezone="UTC",
    next_run_at=AWARE,
    misfire_policy=MisfirePolicy.LATEST,
    misfire_grace_seconds=60,
    max_catchup=1,
    overlap_policy=OverlapPolicy.ALLOW,
)


def functions() -> Iterator[str]:
    """Each public function and method with a time in its signature, outside of the repositories."""
    for module in pkgutil.walk_packages(alfred_db.__path__, "alfred_db."):
        if any(
            part in ("_sync", "_async", "queries", "migrations", "__main__")
            for part in module.name.split(".")
        ):
            continue
        loaded = import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            found = getattr(loaded, name)
            if inspect.isfunction(found) and found.__module__ == module.name and takes_time(found):
                yield f"{module.name.removeprefix('alfred_db.')}.{name}"


def takes_time(function: Callable[..., Any]) -> bool:
    try:
        known = typing.get_type_hints(function)
    except NameError:  # of a name for type checkers alone
        return False
    return any("datetime" in str(hint) for name, hint in known.items() if name != "return")


INTERNAL = {
    "checks.aware",  # the check itself
    "retention.policy.seconds_of",  # a length of time
    "testing.clock.let_time_pass",
    "worker._app.unique_keys",
    "worker._app.window",
    "transfer.state.create",  # the time of the database's clock
    "values.broker_requests.filled",
}
"""Functions that take a length of time, or a time of the database."""

POLICY: Any = {"policy": MisfirePolicy.LATEST, "grace_seconds": 60, "max_catchup": 1}
CALLS: dict[str, list[Callable[[datetime], object]]] = {
    "cron.due": [
        lambda time: cron.due(*EVERY_MINUTE, first=time, now=AWARE),
        lambda time: cron.due(*EVERY_MINUTE, first=AWARE, now=time),
    ],
    "cron.first_slot": [lambda time: cron.first_slot(*EVERY_MINUTE, after=time)],
    "cron.next_runs": [lambda time: cron.next_runs(*EVERY_MINUTE, after=time)],
    "cron.plan": [lambda time: cron.plan(TASK, time)],
    "cron.run": [lambda time: cron.run(cron.Due([AWARE], 0, None), time, **POLICY)],
    "cron.slots": [lambda time: cron.slots(*EVERY_MINUTE, after=time)],
}


def test_each_function_with_a_time_has_a_call() -> None:
    assert sorted(set(functions()) - INTERNAL) == sorted(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_no_function_takes_a_naive_time(name: str) -> None:
    for call in CALLS[name]:
        call(AWARE)
        with pytest.raises(InvalidInputError, match="time zone"):
            call(NAIVE)
