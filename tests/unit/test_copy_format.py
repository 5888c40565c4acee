"""Rows as COPY takes them, packed some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from alfred_db.errors import InvalidInputError
from alfred_db.execution.copy_format import HEADER, MANY, TRAILER, pack_rows
from alfred_db.models import Task
from alfred_db.models.base import table_of

_t = table_of(Task).c
COLUMNS = [_t.task_id, _t.assigned_to, _t.priority, _t.content]


def rows(count: int) -> list[Sequence[Any]]:
    """Some hold NULL, and some are large, so that the blocks have many sizes."""
    return [
        (f"t-{n}", None if n % 3 else "a", n, {"text": "x" * (5000 if n % 400 < 50 else n % 7)})
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 16, 17, 3 * MANY])
def test_blocks_hold_each_row_once_and_in_order(count: int) -> None:
    given = rows(count)
    alone = [list(pack_rows(COLUMNS, [row]))[1] for row in given]
    assert b"".join(pack_rows(COLUMNS, given)) == HEADER + b"".join(alone) + TRAILER


@pytest.mark.parametrize("place", [0, 15, 16, 1700])
def test_a_wrong_value_is_named_by_its_row_in_whatever_block(place: int) -> None:
    given = rows(2000)
    given[place] = ("t", None, "five", {})
    with pytest.raises(InvalidInputError, match=rf"^row {place}: tasks\.priority: expected a value for"):
        list(pack_rows(COLUMNS, given))


def test_json_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with pytest.raises(InvalidInputError, match=r"row 0: tasks\.content: .*too deep"):
        list(pack_rows([_t.content], [(endless,)]))
