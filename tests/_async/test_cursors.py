"""A cursor of another list, or of none, is one clear error in each method that takes one."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from injection.ground import Ground
from injection.signatures import hints, methods, repositories
from injection.specimens import SPECIMENS
from sqlalchemy import URL

from alfred_db import AsyncDatabase
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork

PAGED = [
    (noun, name)
    for noun, repository in repositories().items()
    for name, method in methods(repository)
    if "after" in hints(method) and "str" in str(hints(method)["after"])
]

ELEMENTS: list[Any] = [
    True,
    -1,
    0,
    1e308,
    10**400,
    1.5,
    None,
    "x",
    "\0",
    "\ud800",
    [1],
    {"a": 1},
    "2026-13-01",
]
WHOLE = ["", "x", "é", "[1]", "A" * 70_000]

CALLS: dict[str, Any] = {}
for key, specimen in SPECIMENS.items():
    CALLS.setdefault(key.partition(",")[0], specimen)


def cursor(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


CURSORS = [
    *WHOLE,
    *(cursor([value] * length) for length in (1, 2, 3) for value in ELEMENTS),
    cursor([]),
    base64.urlsafe_b64encode(b"[NaN]").decode(),
    base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    base64.urlsafe_b64encode(b'{"a": 1}').decode(),
]


def test_there_are_many() -> None:
    assert len(PAGED) > 30


@pytest.mark.parametrize(("noun", "name"), PAGED)
async def test_a_wrong_cursor_is_one_clear_error(
    grounds: tuple[URL, dict[str | None, Ground]], schema: str | None, noun: str, name: str
) -> None:
    made = CALLS.get(f"{noun}.{name}")
    ground = grounds[1][schema]
    arguments = made(ground) if made else {}
    wrong: list[str] = []
    async with AsyncDatabase(grounds[0], schema=schema) as database, database.begin() as uow:
        call = getattr(getattr(uow, noun), name)
        missing = required(uow, noun, name, arguments, ground)
        for number, after in enumerate(CURSORS):
            try:
                passed = {**arguments, **missing, "after": after}
                await call(*passed.pop("names", ()), **passed)
            except InvalidInputError as error:
                if not str(error).startswith("after: ") or len(str(error)) > 300:
                    wrong.append(f"{number}, {after:.30}: {error!s:.200}")
            except Exception as error:
                wrong.append(f"{number}, {after:.30}: {type(error).__name__} {error!s:.200}")
    assert not wrong, "\n".join(wrong)


def required(
    uow: AsyncUnitOfWork, noun: str, name: str, given: dict[str, Any], ground: Ground
) -> dict[str, Any]:
    """Arguments that a method without a specimen cannot do without."""
    import inspect

    made = {"bank": ground.bank, "task_id": ground.scheduled, "suite_id": ground.suite, "id": ground.task.id}
    parameters = inspect.signature(getattr(getattr(uow, noun), name)).parameters
    return {
        one: made[one]
        for one, parameter in parameters.items()
        if parameter.default is parameter.empty and one not in given and one != "self"
    }
