"""Rows in the binary format of COPY, packed by the types of their columns.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format". Each value is written as the
`send` function of its type writes it.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import chain, islice, repeat
from typing import Any, cast

from psycopg.adapt import PyFormat, Transformer
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

from ..checks import check_column, column_word, has_nul, kind, written_out
from ..errors import InvalidInputError
from ..types import EnumText
from ..vectors.types import VectorType

__all__ = ["HEADER", "TRAILER", "copy_statement", "pack_rows"]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
BLOCK = 1 << 17
"""Approximate number of bytes in a block."""
FIRST_ROWS, MAX_ROWS = 16, 1000
"""Rows in the first block, when their size is not known yet, and at most in any other."""

_NULL = b"\xff\xff\xff\xff"
_WRONG = (TypeError, ValueError, AttributeError, struct.error, ArithmeticError)
"""What packing raises for a value that does not fit its column."""
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_length = struct.Struct(">i").pack
_numeric = Transformer().get_dumper(Decimal(), PyFormat.BINARY)
# A value that contains itself ends as a RecursionError; looking for cycles would take half of the time.
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)


def copy_statement(target: str, columns: Sequence[Column[Any]]) -> str:
    """Return the COPY statement for the blocks of `pack_rows`; `target` is the table's quoted name."""
    names = ", ".join(f'"{column.name}"' for column in columns)
    return f"COPY {target} ({names}) FROM STDIN (FORMAT binary)"


def pack_rows(columns: Sequence[Column[Any]], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """Pack rows into blocks of COPY's binary format.

    Args:
        columns: The columns, in the order of the values of each row.
        rows: One value for each column in each row.

    Yields:
        The header, blocks of rows, the trailer.

    Raises:
        InvalidInputError: A value does not fit its column; the message names row and column. No block with
            the wrong value has been yielded.
    """
    packers = [_packer(column) for column in columns]
    start = struct.pack(">h", len(packers))
    waiting = iter(rows)
    yield HEADER
    number, count = 0, FIRST_ROWS
    while some := list(islice(waiting, count)):
        # Column by column: a loop in C over each column takes half the time of a loop over rows.
        packed = [
            _pack(number, column, pack, values)
            for column, pack, values in zip(columns, packers, zip(*some, strict=True), strict=True)
        ]
        block = b"".join(chain.from_iterable(zip(repeat(start), *packed, strict=False)))
        yield block
        number += len(some)
        count = max(1, min(MAX_ROWS, BLOCK * len(some) // len(block)))
    yield TRAILER


def _pack(
    first: int, column: Column[Any], pack: Callable[[Any], bytes], values: Sequence[Any]
) -> list[bytes]:
    """Pack the values of one column, each after its length."""
    packed: list[bytes] = []
    wrong = check_column(column.name, column.type, values)
    if wrong is not None:
        raise InvalidInputError(
            f"row {first + wrong}: {column.table.name}.{column.name}: expected a value for"
            f" {column.type!r}, {column_word(column.type)}, got {kind(values[wrong])}"
        )
    usual, whole = _WHOLE.get(column.type.__class__, (None, None))
    if whole is not None and set(map(type, values)) == {usual}:
        with suppress(*_WRONG):  # the loop below finds the row
            return whole(values)
    try:
        for value in values:
            if value is None:
                packed.append(_NULL)
            else:
                one = pack(value)
                packed.append(_length(len(one)) + one)
    except InvalidInputError as error:
        raise type(error)(f"row {first + len(packed)}: {error}") from None
    except _WRONG as error:
        raise InvalidInputError(
            f"row {first + len(packed)}: {column.table.name}.{column.name}: expected a value for {column.type!r}, got"
            f" {type(values[len(packed)]).__name__} ({error})"
        ) from None
    return packed


def _packer(column: Column[Any]) -> Callable[[Any], bytes]:
    type_: Any = column.type
    if isinstance(type_, VectorType):
        return type_.pack
    if isinstance(type_, EnumText):
        members = [str(member) for member in cast("type[StrEnum]", cast("Any", type_).enum)]

        def member(value: Any) -> bytes:
            if value not in members:
                name = f"{column.table.name}.{column.name}"
                raise InvalidInputError(f"{name}: expected one of {', '.join(members)}")
            return str(value).encode()

        return member
    known = next((known for known in type(type_).__mro__ if known in _PACKERS), None)
    if known is None:
        raise InvalidInputError(
            f"{column.table.name}.{column.name}: COPY of {type_!r} is not supported; insert its rows instead"
        )
    return _PACKERS[known]


def _text(value: str) -> bytes:
    packed = value.encode()
    if b"\0" in packed:
        raise ValueError("PostgreSQL text holds no NUL character")
    return packed


def _texts(values: Sequence[str]) -> list[bytes]:
    if any("\0" in value for value in values):
        raise ValueError
    packed = [value.encode() for value in values]
    return [_length(len(one)) + one for one in packed]


def _json(value: Any) -> bytes:
    try:
        text = written_out(_encoder.encode(value))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if has_nul(text):
        raise ValueError("PostgreSQL jsonb holds no NUL character")
    return b"\x01" + text.encode()


def _timestamp(value: datetime) -> bytes:
    if value.tzinfo is None:
        raise ValueError("a time without time zone; pass one with it, such as datetime.now(UTC)")
    passed = value - _EPOCH
    return struct.pack(">q", (passed.days * 86400 + passed.seconds) * 1_000_000 + passed.microseconds)


def _decimal(value: Decimal) -> bytes:
    packed = _numeric.dump(Decimal(value))
    assert packed is not None
    return bytes(packed)


def _uuid(value: uuid.UUID | str) -> bytes:
    return (value if isinstance(value, uuid.UUID) else uuid.UUID(value)).bytes


def _uuids(values: Sequence[uuid.UUID]) -> list[bytes]:
    start = _length(16)
    return [start + value.int.to_bytes(16, "big") for value in values]


_WHOLE: Mapping[type, tuple[type, Callable[[Sequence[Any]], list[bytes]]]] = {
    Text: (str, _texts),
    Uuid: (uuid.UUID, _uuids),
}
"""Pack a whole column whose values have this type, in half the time; their errors do not name the row."""

_PACKERS: Mapping[type, Callable[[Any], bytes]] = {
    SmallInteger: struct.Struct(">h").pack,
    Integer: struct.Struct(">i").pack,
    BigInteger: struct.Struct(">q").pack,
    Boolean: struct.Struct(">?").pack,
    Float: struct.Struct(">d").pack,
    Double: struct.Struct(">d").pack,
    Numeric: _decimal,
    Text: _text,
    EnumText: _text,
    JSONB: _json,
    LargeBinary: bytes,
    Uuid: _uuid,
    DateTime: _timestamp,
    Date: lambda value: struct.pack(">i", (value - _EPOCH.date()).days),
}
