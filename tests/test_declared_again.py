"""What is created under a known key: the second call's arguments are taken over, refused, or said not to count."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import pytest
from injection.ground import Ground
from injection.signatures import hints, repositories
from injection.specimens import SPECIMENS
from sqlalchemy import URL
from sqlalchemy import inspect as mapped

from alfred_db import Database, errors
from alfred_db.models.base import Base
from alfred_db.repositories import UnitOfWork

REFUSED = (errors.ConflictError, errors.InvalidInputError, errors.InvalidTransition, errors.NotFoundError)
EXEMPT = {
    ("events.subscribe", "start"): "where a new consumer begins; `seek` moves one",
    ("events.subscribe", "topics"): "are added to those it has",
    ("events.seek", "to"): "a time or a word, which becomes a place in the log",
    ("spaces.create", "building"): "how a new space begins; `activate` ends it",
    ("model_registry.register", "capabilities"): "rows of their own, which its own test looks at",
}
"""Arguments that do not say what a row is to be."""


def method(name: str) -> Any:
    noun, _, rest = name.partition(".")
    return getattr(repositories()[noun], rest)


def gives_a_row(name: str) -> bool:
    """Whether it returns a row, and nothing beside it that says whether the row is new."""
    hint = typing.get_type_hints(method(name))["return"]
    return isinstance(hint, type) and issubclass(hint, Base)


def other(hint: Any, value: Any) -> Any:
    """A value that differs; None where nobody knows one."""
    words = [one for one in typing.get_args(hint) or (hint,) if one is not type(None)]
    for word in words:
        if typing.get_origin(word) is typing.Literal:
            return next(one for one in typing.get_args(word) if one != value)
        if isinstance(word, type) and issubclass(word, StrEnum):
            return next(one for one in word if one != value)
    if str in words:
        return f"{value or 'o'}2"
    if bool in words:
        return not value
    if int in words or float in words:
        return (value or 0) + 7
    if any(typing.get_origin(word) in (Mapping, dict) for word in [*words, hint]):
        return {**(value or {}), "other": "o"}
    return None


CALLS = [name for name in SPECIMENS if "," not in name and gives_a_row(name)]


@pytest.fixture(scope="module")
def uow(grounds: tuple[URL, dict[str | None, Ground]]) -> Iterator[UnitOfWork]:
    with Database(grounds[0]) as database, database.session() as session:
        yield UnitOfWork(session)


@pytest.mark.parametrize("name", CALLS)
def test_no_argument_for_a_known_key_is_dropped_in_silence(
    uow: UnitOfWork, grounds: tuple[URL, dict[str | None, Ground]], name: str
) -> None:
    wrong: list[str] = []
    for parameter, hint in hints(method(name)).items():
        savepoint = uow.session.begin_nested()
        if (name, parameter) not in EXEMPT and not counts(
            uow, name, SPECIMENS[name](grounds[1][None]), parameter, hint
        ):
            wrong.append(parameter)
        savepoint.rollback()
    assert wrong == []


def counts(uow: UnitOfWork, name: str, given: dict[str, Any], parameter: str, hint: Any) -> bool:
    """Whether another value of the parameter in a second call is seen in the row, refused, or makes another row."""
    noun, _, rest = name.partition(".")
    call = getattr(getattr(uow, noun), rest)
    key = mapped(call(**given)).identity
    default = inspect.signature(method(name)).parameters[parameter].default
    value = other(hint, given.get(parameter, None if default is inspect.Parameter.empty else default))
    if value is None:
        return True
    try:
        again = call(**{**given, parameter: value})
    except REFUSED:
        return True
    if mapped(again).identity != key:
        return True
    attribute = next((one for one in (f"{parameter}_", parameter) if hasattr(again, one)), None)
    return attribute is not None and getattr(again, attribute) == value
