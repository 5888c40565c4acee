"""Each parameter of each repository method is given values of wrong types: one clear error, before anything is sent.

The calls are those of tests/injection/; the wrong values are derived from the signatures.
"""

from __future__ import annotations

import typing
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from injection.ground import Ground
from injection.signatures import hints, methods, repositories
from injection.specimens import SPECIMENS
from sqlalchemy import URL, event

from alfred_db import AsyncDatabase
from alfred_db.errors import InvalidInputError
from alfred_db.execution.arguments import _alternatives, _fits
from alfred_db.repositories import AsyncUnitOfWork

WRONG: Mapping[str, Any] = {
    "none": None,
    "text": "x",
    "number": 5,
    "fraction": 1.5,
    "true": True,
    "nan": float("nan"),
    "infinity": float("inf"),
    "huge": 10**400,
    "bytes": b"\x80",
    "list": ["a", "b"],
    "numbers": [1, 2],
    "mixed": ["a", 5, None],
    "set": {"a"},
    "mapping": {"a": 1},
    "uuid": uuid.UUID(int=7),
    "timedelta": timedelta(seconds=5),
    "naive": datetime(2026, 1, 1),
    "aware": datetime(2026, 1, 1, tzinfo=UTC),
    "decimal": Decimal("1.5"),
    "object": SimpleNamespace(id=1),
    "class": int,
}

SCALARS = (str, int, float, bool, uuid.UUID, datetime, timedelta, Decimal)


def acceptable(hint: Any, kind: str, value: Any) -> bool:
    """Whether a value is one that the type allows, so that what becomes of it is another test's business."""
    kinds = _alternatives(hint)
    if kind in ("nan", "infinity", "huge", "naive"):
        return Any in kinds
    found = [one for one in kinds if _fits(one, value)]
    if isinstance(value, list | set) and found:
        (inner, *_) = typing.get_args(found[0]) or (Any,)
        return all(acceptable(inner, "", one) for one in value)
    return bool(found)


CALLS: dict[str, Any] = {}
for name in SPECIMENS:
    CALLS.setdefault(name.partition(",")[0], SPECIMENS[name])


@pytest.fixture
def ground(grounds: tuple[URL, dict[str | None, Ground]], schema: str | None) -> Ground:
    """What the calls refer to."""
    return grounds[1][schema]


@pytest.fixture
async def uow(
    grounds: tuple[URL, dict[str | None, Ground]], schema: str | None
) -> AsyncIterator[AsyncUnitOfWork]:
    """A unit of work whose statements are counted."""
    async with AsyncDatabase(grounds[0], schema=schema) as database, database.session() as session:
        yield AsyncUnitOfWork(session)


def wrong_calls(
    noun: str, method: Any, usual: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for parameter, hint in hints(method).items():
        for kind, value in WRONG.items():
            if parameter == "names":
                continue
            if not acceptable(hint, kind, value):
                yield parameter, kind, {**usual, parameter: value}


def minimal(parameters: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    """Arguments for a method that has no specimen; the wrong one is refused whatever the others are."""
    usual: tuple[Any, ...] = (
        1,
        "x",
        1.0,
        True,
        uuid.UUID(int=1),
        [1.0],
        [],
        {},
        datetime.now(UTC),
        timedelta(1),
    )
    usual += (ground.task, ground.execution, ground.run)
    found = {
        name: [value for value in usual if acceptable(hint, "", value)] for name, hint in parameters.items()
    }
    return {name: values[0] for name, values in found.items() if values}


@pytest.mark.parametrize("noun", repositories())
async def test_a_wrong_type_is_named_before_anything_is_sent(
    uow: AsyncUnitOfWork, ground: Ground, noun: str
) -> None:
    sent: list[str] = []
    await uow.session.connection()
    event.listen(
        uow.session.sync_session.get_bind(),
        "before_cursor_execute",
        lambda *arguments: sent.append(arguments[2]),
    )
    wrong: list[str] = []
    for name, method in methods(repositories()[noun]):
        made = CALLS.get(f"{noun}.{name}")
        usual = made(ground) if made else minimal(hints(method), ground)
        for parameter, kind, arguments in wrong_calls(noun, method, usual):
            said = await outcome(getattr(getattr(uow, noun), name), parameter, arguments)
            if sent and not parameter.startswith("embedding"):  # a vector is checked as it is bound
                said = f"sends {sent[0]!r:.100}"
            sent.clear()
            if said:
                wrong.append(f"{name}, {parameter}, {kind}: {said}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)


async def outcome(call: Any, parameter: str, arguments: dict[str, Any]) -> str | None:
    """What is wrong with how the call ended."""
    given = dict(arguments)
    try:
        await call(*given.pop("names", ()), **given)
    except InvalidInputError as error:
        message = str(error)
        named = message.startswith((parameter, "position", "line ", "point ", "expected either ids")) or (
            parameter.startswith("embedding") and "embedding" in message
        )
        if not named or not message.isprintable() or len(message) > 500:
            return f"says {message[:300]!r}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return "is accepted"
