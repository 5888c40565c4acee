"""Rows as COPY takes them, packed some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects.postgresql import ARRAY

from alfred_db.errors import InvalidInputError
from alfred_db.execution.copy_format import HEADER, MANY, TRAILER, _packer, pack_rows
from alfred_db.models import (
    Base,
    BrokerRequest,
    Document,
    Event,
    KnowledgePoint,
    Memory,
    MemoryEntry,
    Task,
    WorkingMemory,
)
from alfred_db.models.base import table_of
from alfred_db.vectors.types import Vector, VectorType

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


# Columns that cannot be copied

COPIED = (Task, Event, BrokerRequest, Document, Memory, MemoryEntry, WorkingMemory, KnowledgePoint)
"""The models whose rows are copied by some method."""


def columns(*models: type[Base]) -> Iterator[Column[Any]]:
    for table in [table_of(model) for model in models] or Base.metadata.sorted_tables:
        yield from table.columns


def test_every_column_that_a_method_copies_can_be_copied() -> None:
    for column in columns(*COPIED):
        if column.computed is None and column is not table_of(Event).c.tx:  # the server's own
            assert callable(_packer(column))
    refused = {column for column in columns() if isinstance(column.type, ARRAY)}
    assert not any(isinstance(column.type.item_type, VectorType) for column in refused)  # type: ignore[attr-defined]
    for column in refused:
        with pytest.raises(InvalidInputError, match="not supported; insert its rows instead"):
            _packer(column)


def test_an_array_of_vectors_is_refused_before_anything_is_packed() -> None:
    table = Table("own", MetaData(), Column("many", ARRAY(Vector(3))))
    packed = pack_rows(list(table.c), [([[1.0, 2.0, 3.0]],)])
    with pytest.raises(InvalidInputError, match=r"own\.many: COPY of .* is not supported"):
        next(packed)
