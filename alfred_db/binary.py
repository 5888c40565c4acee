"""Rows in the binary format of COPY, packed by the types of their columns.

Format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; each value as its type's
`send` function writes it.
"""

from __future__ import annotations

import json
import re
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
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

from .errors import InvalidInputError
from .types import EnumText, VectorType

__all__ = ["HEADER", "TRAILER", "copy_statement", "has_nul", "pack_rows"]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
BLOCK = 1 << 18
"""Bytes that are sent at once."""

_NULL = b"\xff\xff\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_length = struct.Struct(">i").pack
_numeric = Transformer().get_dumper(Decimal(), PyFormat.BINARY)
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def copy_statement(target: str, columns: Sequence[Column[Any]]) -> str:
    """The COPY that takes what `pack_rows` gives; `target` is the table's name, quoted as it must be."""
    names = ", ".join(f'"{column.name}"' for column in columns)
    return f"COPY {target} ({names}) FROM STDIN (FORMAT binary)"


def pack_rows(columns: Sequence[Column[Any]], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """Blocks of COPY's binary format; each row has a value for each column.

    Raises InvalidInputError, which names row and column, before the block with the wrong value is given.
    """
    packers = [_packer(column) for column in columns]
    start = struct.pack(">h", len(packers))
    block = bytearray(HEADER)
    for number, row in enumerate(rows):
        block += start
        for pack, value in zip(packers, row, strict=True):
            if value is None:
                block += _NULL
                continue
            try:
                packed = pack(value)
            except InvalidInputError as error:
                raise type(error)(f"row {number}: {error}") from None
            except _REFUSALS:
                raise _refused(number, columns, packers, row) from None
            block += _length(len(packed))
            block += packed
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    block += TRAILER
    yield bytes(block)


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
    return _PACKERS[next(known for known in type(type_).__mro__ if known in _PACKERS)]


_REFUSALS = (TypeError, ValueError, AttributeError, struct.error, ArithmeticError)
"""What a packer raises for a value that is not of its type."""


def _refused(
    number: int, columns: Sequence[Column[Any]], packers: Sequence[Callable[[Any], bytes]], row: Sequence[Any]
) -> InvalidInputError:
    """The error of a row with such a value: the value is looked for again, so that good rows pay nothing."""
    for column, pack, value in zip(columns, packers, row, strict=True):
        try:
            if value is not None:
                pack(value)
        except _REFUSALS as error:
            return InvalidInputError(
                f"row {number}: {column.table.name}.{column.name}: expected a value for {column.type!r}, got"
                f" {type(value).__name__} ({error})"
            )
    raise AssertionError("no value was refused")


def _text(value: str) -> bytes:
    packed = value.encode()
    if b"\0" in packed:
        raise ValueError("PostgreSQL text holds no NUL character")
    return packed


def has_nul(text: str) -> bool:
    """Whether a JSON text, with all but ASCII escaped, holds a NUL character; a backslash before `u0000` is none."""
    return "\\u0000" in text and re.search(r"(?<!\\)(\\\\)*\\u0000", text) is not None


def _json(value: Any) -> bytes:
    try:
        text = _encoder.encode(value)
    except RecursionError:
        raise ValueError("it is too deep") from None
    if has_nul(text):
        raise ValueError("PostgreSQL jsonb holds no NUL character")
    return b"\x01" + text.encode()


def _timestamp(value: datetime) -> bytes:
    if value.tzinfo is None:
        raise ValueError("a time without time zone; give one, such as datetime.now(UTC)")
    passed = value - _EPOCH
    return struct.pack(">q", (passed.days * 86400 + passed.seconds) * 1_000_000 + passed.microseconds)


def _decimal(value: Decimal) -> bytes:
    packed = _numeric.dump(Decimal(value))
    assert packed is not None
    return bytes(packed)


def _uuid(value: uuid.UUID | str) -> bytes:
    return (value if isinstance(value, uuid.UUID) else uuid.UUID(value)).bytes


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
