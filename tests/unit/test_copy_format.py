"""Rows as COPY takes them, packed some at a time."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.numeric import Int2, Int4, Int8
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR
from sqlalchemy.types import TypeEngine

from alfred_db.errors import InvalidInputError
from alfred_db.execution.copy_format import HEADER, MAX_ROWS, TRAILER, _packer, pack_rows
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
from alfred_db.types import Text
from alfred_db.vectors.types import Vector, VectorType

_t = table_of(Task).c
COLUMNS = [_t.task_id, _t.assigned_to, _t.priority, _t.content]


def rows(count: int) -> list[Sequence[Any]]:
    """Some hold NULL, and some are large, so that the blocks have many sizes."""
    return [
        (f"t-{n}", None if n % 3 else "a", n, {"text": "x" * (5000 if n % 400 < 50 else n % 7)})
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 16, 17, 3 * MAX_ROWS])
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
        # What the server computes, and words, which a statement computes from a text.
        own = (
            column.computed is not None or column is table_of(Event).c.tx or isinstance(column.type, TSVECTOR)
        )
        if not own:
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


MOMENT = datetime(2026, 2, 28, 23, 59, 58, 123_456, UTC)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (SmallInteger(), -2),
        (Integer(), 70_000),
        (BigInteger(), 5_000_000_000),
        (Boolean(), True),
        (Double(), 0.1),
        (Numeric(), Decimal("-12.50")),
        (Text(), "\N{OWL}"),
        (LargeBinary(), b"\0\xff"),
        (Uuid(), uuid.UUID(int=7)),
        (DateTime(timezone=True), MOMENT),
        (DateTime(timezone=True), MOMENT.astimezone(timezone(timedelta(hours=-5)))),
        (DateTime(timezone=True), MOMENT.replace(year=1969)),
        (Date(), MOMENT.date()),
        (Date(), date(1969, 7, 20)),
    ],
    ids=repr,
)
def test_a_value_is_packed_as_the_driver_packs_it(type_: TypeEngine[Any], value: Any) -> None:
    column = Column("it", type_)
    Table("t", MetaData(), column)
    # A whole number has a type by its size there, and by its column here.
    wrapped = {SmallInteger: Int2, Integer: Int4, BigInteger: Int8}.get(type(type_), lambda same: same)(value)  # type: ignore[arg-type]
    expected = Transformer().get_dumper(wrapped, PyFormat.BINARY).dump(wrapped)
    _, row, *_ = pack_rows([column], [(value,)])
    assert expected is not None
    assert row == struct.pack(">hi", 1, len(expected)) + bytes(expected)
