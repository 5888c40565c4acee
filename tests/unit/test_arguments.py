"""The door before a repository's methods."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

import alfred_db
from alfred_db import InvalidInputError
from alfred_db.execution._async.base import AsyncRepository
from alfred_db.execution.arguments import _CHECKED_LATER, _alternatives, _keys, check, checked


class Plain:
    def method(self, name: str, *more: int, limit: int = 5, **rest: Any) -> tuple[Any, ...]:
        return name, more, limit, rest


class Awaited:
    async def method(self, name: str, *, limit: int = 5) -> tuple[Any, ...]:
        return name, limit


def guarded(owner: type) -> Callable[..., Any]:
    """A subclass whose method is behind the door, which is not made yet."""
    made = type(owner.__name__, (owner,), {})
    first = checked(made, "method", vars(owner)["method"])
    setattr(made, "method", first)  # noqa: B010
    return made


def test_the_door_takes_the_place_of_what_made_it() -> None:
    guard = guarded(Plain)
    first = vars(guard)["method"]
    kept = guard().method
    assert guard().method("a", 1, 2, limit=3, other=4) == ("a", (1, 2), 3, {"other": 4})
    door = vars(guard)["method"]
    assert door is not first
    assert guard().method("a") == kept("a") == ("a", (), 5, {})
    assert vars(guard)["method"] is door, "made once"
    assert inspect.signature(door) == inspect.signature(Plain.method)
    for call in (kept, guard().method):
        for arguments, options in (((1,), {}), (("a", "b"), {}), (("a",), {"limit": "x"})):
            with pytest.raises(InvalidInputError):
                call(*arguments, **options)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
        guard().method()


def test_a_door_does_not_take_the_place_of_something_else() -> None:
    guard = guarded(Plain)
    kept = guard().method

    def other(self: object) -> str:
        return "other"

    setattr(guard, "method", other)  # noqa: B010
    assert kept("a") == ("a", (), 5, {})
    assert guard().method() == "other"


T = typing.TypeVar("T")


class Holder(AsyncRepository, typing.Generic[T]):
    async def hold(self, one: T, *, others: Sequence[T] = ()) -> T:
        return one


class OfTexts(Holder[str]):
    pass


def test_a_method_of_a_generic_base_is_checked_with_the_types_of_the_class() -> None:
    texts = OfTexts(cast("AsyncSession", None))
    assert asyncio.run(texts.hold("a", others=["b"])) == "a"
    for one, others in ((1, ()), ("a", [1])):
        with pytest.raises(InvalidInputError):
            asyncio.run(texts.hold(one, others=others))  # type: ignore[arg-type]


def test_a_coroutine_stays_one() -> None:
    guard = guarded(Awaited)
    for _ in range(2):
        assert inspect.iscoroutinefunction(vars(guard)["method"])
        assert asyncio.run(guard().method("a", limit=2)) == ("a", 2)
        waiting = guard().method(1)
        with pytest.raises(InvalidInputError):
            asyncio.run(waiting)


NAMED = [getattr(alfred_db, name) for name in alfred_db.__all__]
ROWS = [kind for kind in NAMED if typing.is_typeddict(kind) and kind not in _CHECKED_LATER]


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_no_key_of_a_row_is_null_unless_it_may_be_and_an_unknown_one_is_left_to_the_method(
    kind: type,
) -> None:
    for key, hint in _keys(kind).items():
        if type(None) not in _alternatives(hint):
            with pytest.raises(InvalidInputError, match=rf"^row\.{key}: expected .* got None"):
                check("row", {key: None}, kind)
