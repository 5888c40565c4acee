"""Column types: vectors in pgvector's binary format, and text columns that are enums in Python."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pgvector
import psycopg
from pgvector.sqlalchemy import VECTOR
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy import Column, ColumnElement, Dialect, Float, Text, event, func
from sqlalchemy.sql.base import SchemaEventTarget
from sqlalchemy.types import LargeBinary, TypeDecorator

from .errors import DimensionMismatch, InvalidInputError, InvalidVector, SchemaDriftError, shown

__all__ = ["Embedding", "EnumText", "Vector", "VectorLike"]

Embedding: TypeAlias = npt.NDArray[np.float32]
"""What a vector column gives: float32, one dimension, read-only."""

VectorLike: TypeAlias = Sequence[float] | npt.NDArray[Any] | pgvector.Vector
"""What a vector column takes."""

MAX_DIMENSIONS = 16_000
"""The longest vector that pgvector stores."""

E = TypeVar("E", bound=StrEnum)


class _Packed(bytes):
    """A vector in pgvector's binary format, on its way to the server."""


class _PackedDumper(Dumper):
    """Sends the bytes as they are; the statement's cast names the type, so no lookup of its OID is needed."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Any) -> Buffer:
        return bytes(obj)


psycopg.adapters.register_dumper(_Packed, _PackedDumper)


def pack(value: VectorLike, dimensions: int | None, where: str = "vector") -> bytes:
    """The binary form of one vector: two big-endian uint16 (dimensions, 0), then float32 each.

    Raises DimensionMismatch and InvalidVector; `where` names the column in their messages.
    """
    return _packed(_checked(value, dimensions, where))


def unpack(data: bytes | str) -> Embedding:
    """The vector of one binary value, or of the text that raw SQL gives."""
    if isinstance(data, str):
        data = pgvector.Vector.from_text(data).to_binary()
    array = np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32)
    array.flags.writeable = False
    return array


def _checked(value: VectorLike, dimensions: int | None, where: str) -> Embedding:
    """`value` as finite float32; no element of it is in the messages."""
    try:
        array = np.asarray(value.to_numpy() if isinstance(value, pgvector.Vector) else value)
    except (TypeError, ValueError, OverflowError):
        array = np.asarray(None)
    # A list of strings, of None or of numbers beyond int64 gives another kind than float, int or unsigned.
    if array.dtype.kind not in "fiu" and array.size:
        raise InvalidVector(
            f"{where}: expected a flat sequence of numbers, got {type(value).__name__} with elements that are none;"
            " give a list of float or an ndarray"
        )
    if array.ndim != 1:
        raise InvalidVector(
            f"{where}: expected one dimension, got shape {array.shape}; give one vector a row"
        )
    if array.shape[0] != dimensions and (dimensions is not None or not 1 <= array.shape[0] <= MAX_DIMENSIONS):
        expected = f"1 to {MAX_DIMENSIONS}" if dimensions is None else dimensions
        raise DimensionMismatch(
            f"{where}: expected {expected} dimensions, got {array.shape[0]}; embed with the model that the column"
            " was made for"
        )
    if array.dtype != np.float32:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InvalidVector(
            f"{where}: elements that are NaN, infinite or beyond float32; check the embedding model's output"
        )
    return array


def _packed(array: Embedding) -> bytes:
    return struct.pack(">HH", array.shape[0], 0) + array.astype(">f4").tobytes()


class Vector(VECTOR, SchemaEventTarget):
    """`vector(n)` that travels in binary both ways and is checked before it is sent.

    Takes a list, tuple, ndarray or `pgvector.Vector`; gives a float32 ndarray. A cosine column also refuses
    the zero vector, which has no direction: its distance is NaN and no HNSW index would hold the row.
    """

    cache_ok = True
    render_bind_cast = True
    _where = "vector"

    # SQLAlchemy copies and caches a type by its positional parameters: one behind a `*` would be lost.
    def __init__(self, dim: int | None = None, allow_zero: bool = False) -> None:
        super().__init__(dim)
        self.allow_zero = allow_zero

    def _set_parent(self, parent: SchemaEventTarget, **kw: Any) -> None:
        if isinstance(parent, Column):
            event.listen(parent, "after_parent_attach", self._set_table)

    def _set_table(self, column: Column[Any], table: Any) -> None:
        # The first table names it: a staging table that borrows the type must not.
        if self._where == "vector":
            self._where = f"{table.fullname}.{column.name}"

    def adapt(self, cls: Any, **kw: Any) -> Any:
        adapted = super().adapt(cls, **kw)
        adapted._where = self._where
        return adapted

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], _Packed | None]:
        def process(value: Any) -> _Packed | None:
            return None if value is None else _Packed(self.pack(value))

        return process

    def pack(self, value: VectorLike) -> bytes:
        """The checked binary form of `value`, as COPY BINARY wants it too."""
        array = _checked(value, self.dim, self._where)
        if not self.allow_zero and not array.any():
            raise InvalidVector(f"{self._where}: the zero vector has no direction; store NULL instead")
        return _packed(array)

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.vector_send(colexpr, type_=_VectorBytes())

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[Any], Embedding | None]:
        def process(value: Any) -> Embedding | None:
            return None if value is None else unpack(value)

        return process

    class Comparator(VECTOR.Comparator):
        """Distances; each takes a vector or another vector column and gives a float."""

        def cosine_distance(self, other: Any) -> ColumnElement[float]:
            return cast("ColumnElement[float]", self.op("<=>", return_type=Float())(other))

        def l2_distance(self, other: Any) -> ColumnElement[float]:
            return cast("ColumnElement[float]", self.op("<->", return_type=Float())(other))

        def l1_distance(self, other: Any) -> ColumnElement[float]:
            return cast("ColumnElement[float]", self.op("<+>", return_type=Float())(other))

        def max_inner_product(self, other: Any) -> ColumnElement[float]:
            return cast("ColumnElement[float]", self.op("<#>", return_type=Float())(other))

    comparator_factory = Comparator


class _VectorBytes(TypeDecorator[Embedding]):
    """What `vector_send` gives."""

    impl = LargeBinary
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> Embedding | None:
        return None if value is None else unpack(bytes(value))


class EnumText(TypeDecorator[E]):
    """A text column whose values are the members of a StrEnum; the column's CHECK holds the database to it."""

    impl = Text
    cache_ok = True

    def __init__(self, enum: type[E]) -> None:
        super().__init__()
        self.enum = enum
        self._members: dict[str, E] = {member.value: member for member in enum}

    def process_bind_param(self, value: E | str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        if value in self._members.values():  # also equal to a plain string, and never unhashable
            return str(value)
        expected = ", ".join(self._members)
        raise InvalidInputError(f"{self.enum.__name__}: expected one of {expected}, got {shown(value)}")

    def process_result_value(self, value: str | None, dialect: Dialect) -> E | None:
        if value is None:
            return None
        try:
            return self._members[value]
        except KeyError:
            raise SchemaDriftError(
                f"{self.enum.__name__}: the database holds {shown(value)}, which this version of alfred-db does not"
                " know; upgrade alfred-db"
            ) from None
