"""Column types for vectors, in the binary formats of pgvector."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Self, cast

# Reflection knows the types by it.
import pgvector.sqlalchemy  # noqa: F401  # pyright: ignore[reportUnusedImport]
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy import ARRAY, Column, ColumnElement, CompoundSelect, Dialect, Label, Select, TextClause, event
from sqlalchemy.dialects.postgresql import ARRAY as PostgresqlArray
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import SchemaEventTarget
from sqlalchemy.sql.functions import FunctionElement, GenericFunction
from sqlalchemy.sql.visitors import iterate
from sqlalchemy.types import UserDefinedType

from . import formats
from .distances import BitDistances, Distances
from .formats import Matrix

_BLOCK = 256
"""Number of vectors that are packed at once."""


class _Packed(bytes):
    """A value in a binary format of pgvector, ready to send."""


class _PackedDumper(Dumper):
    """Sends the bytes unchanged.

    The statement casts the parameter to its type, so that the OID of the type need not be looked up.
    """

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Any) -> Buffer:
        return bytes(obj)


psycopg.adapters.register_dumper(_Packed, _PackedDumper)


class VectorType(UserDefinedType[Any], SchemaEventTarget):
    """Base of the four types of pgvector.

    Values are sent and received in binary, and checked before they are sent. A column that is compared by
    cosine refuses the zero vector, which has no direction: its distance is NaN, and an HNSW index would not
    hold the row.

    Args:
        dim: Dimensions of the column; None for any.
        allow_zero: Whether the zero vector is allowed.
    """

    render_bind_cast = True

    format: ClassVar[formats.Format]
    _where: str | None = None

    # SQLAlchemy copies and caches a type by its positional parameters: a keyword-only one would be lost.
    def __init__(self, dim: int | None = None, allow_zero: bool = False) -> None:
        self.dim = dim
        self.allow_zero = allow_zero

    def get_col_spec(self, **kw: Any) -> str:
        """Return the SQL of the type."""
        name = self.format.name.upper()
        return name if self.dim is None else f"{name}({self.dim:d})"

    def _set_parent(self, parent: SchemaEventTarget, **kw: Any) -> None:
        if isinstance(parent, Column):
            event.listen(parent, "after_parent_attach", self._set_table)

    def _set_table(self, column: Column[Any], table: Any) -> None:
        # The first table sets it: a staging table shares the type and must not change the name.
        if self._where is None:
            self._where = f"{table.fullname}.{column.name}"

    def named(self, where: str) -> Self:
        """Return a copy that messages name `where`, instead of the column."""
        copy = type(self)(self.dim, self.allow_zero)
        copy._where = where
        return copy

    def adapt(self, cls: Any, **kw: Any) -> Any:
        """Return a copy that keeps the name of the column for messages."""
        adapted = super().adapt(cls, **kw)
        adapted._where = self._where
        return adapted

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Return the same type for the other operand of an operator."""
        return self

    def pack(self, value: Any) -> bytes:
        """Return the checked binary form of a value, also for COPY BINARY.

        Raises:
            DimensionMismatch: The length is not that of the column.
            InvalidVector: The value is not a vector that the column accepts.
        """
        if isinstance(value, _Packed):
            return value
        return self.format.pack(value, self.dim, self._where or self.format.name, self.allow_zero)

    def bind_processor(self, dialect: Dialect) -> Any:
        """Return the conversion of a value to its binary form."""
        pack = self.pack

        def process(value: Any) -> _Packed | None:
            return None if value is None else _Packed(pack(value))

        return process

    def literal_processor(self, dialect: Dialect) -> Any:
        """Return the conversion of a value to a literal."""

        def process(value: Any) -> str:
            return f"'{self.format.values.from_binary(self.pack(value)).to_text()}'"

        return process

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the expression that selects the column in its binary form."""
        return _Sent(colexpr, self.format)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Any:
        """Return the conversion of a received value."""
        unpack, values = self.format.unpack, self.format.values

        def process(value: Any) -> Any:
            # Raw SQL with this type returns text; the loaders that pgvector registers return its classes.
            if isinstance(value, str):
                value = values.from_text(value)
            if isinstance(value, values):
                value = value.to_binary()
            return None if value is None else unpack(value)

        return process


class _Sent(FunctionElement[Any]):
    """A column of a vector type in its binary form, unless the statement compares or sorts its output.

    The bytes of two equal vectors can differ by the sign of a zero, and sort in another order. In such a
    statement the column is selected as text.
    """

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], format: formats.Format) -> None:
        super().__init__(column)
        self.column, self.format = column, format
        self.type = _SentType(format)


@compiles(_Sent)
def _compile_sent(element: _Sent, compiler: Any, **kw: Any) -> str:
    inner: str = compiler.process(element.column, **{**kw, "within_columns_clause": False})
    return inner if _compared(element.column, compiler.stack) else f"{element.format.name}_send({inner})"


def _compared(column: Any, stack: list[Any]) -> bool:
    """Whether the statement compares the values of the column in its result, and so their bytes."""
    statement: Any = stack[-1]["selectable"] if stack else None
    if isinstance(statement, CompoundSelect) or any(
        isinstance(entry["selectable"], CompoundSelect) for entry in stack
    ):
        return True
    if not isinstance(statement, Select):
        return False
    chosen = cast("Any", statement)
    if chosen._distinct and not chosen._distinct_on:
        return True
    by_name = [*chosen._order_by_clauses, *chosen._group_by_clauses]
    return any(_names(part, getattr(column, "name", None)) for clause in by_name for part in iterate(clause))


def _names(part: Any, name: str | None) -> bool:
    """Whether a part of ORDER BY or GROUP BY refers to the column of the result by name."""
    if isinstance(part, TextClause):
        return True
    if part.__visit_name__ == "textual_label_reference":
        return bool(part.element == name)
    return isinstance(part, Label) and isinstance(cast("Any", part).type, VectorType)


class _SentType(UserDefinedType[Any]):
    """The type of `_Sent`: bytes or text."""

    cache_ok = True

    def __init__(self, format: formats.Format) -> None:
        self.format = format

    def get_col_spec(self, **kw: Any) -> str:
        return "BYTEA"

    def result_processor(self, dialect: Dialect, coltype: Any) -> Any:
        return VectorType.result_processor(cast("VectorType", self), dialect, coltype)


class _VectorArray(PostgresqlArray[Any]):
    """An array.

    An array of vectors is sent as text, because the OID of the type differs between databases.
    """

    render_bind_cast = True

    def bind_processor(self, dialect: Dialect) -> Any:
        item: Any = self.item_type
        if not isinstance(item, VectorType):
            return super().bind_processor(dialect)
        depth = self.dimensions or 1

        def process(value: Any) -> str | None:
            return None if value is None else _array_text(value, item, depth)

        return process

    def literal_processor(self, dialect: Dialect) -> Any:
        item: Any = self.item_type
        if not isinstance(item, VectorType):
            process_other: Any = super().literal_processor(dialect)
            return process_other
        depth, spec = self.dimensions or 1, item.get_col_spec()

        def process(value: Any) -> str:
            return f"'{_array_text(value, item, depth)}'::{spec}[]"

        return process

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        process_list: Any = super().result_processor(dialect, coltype)
        item: Any = self.item_type
        if not isinstance(item, VectorType):
            return process_list

        def process(value: Any) -> Any:
            return process_list(_array_of(value) if isinstance(value, str) else value)

        return process


PGDialect_psycopg.colspecs[ARRAY] = _VectorArray


def _array_text(value: Any, item: VectorType, depth: int) -> str:
    if value is None:
        return "NULL"
    if depth == 0:
        return f'"{item.format.values.from_binary(item.pack(value)).to_text()}"'
    return "{" + ",".join(_array_text(one, item, depth - 1) for one in value) + "}"


def _array_of(text: str) -> list[Any]:
    """Return the elements of an array of vectors; none of them contains a quote."""
    inner: list[Any] = []
    stack: list[list[Any]] = []
    for token in re.findall(r'"[^"]*"|[{}]|[^{},"]+', text.partition("=")[2] if text[0] == "[" else text):
        if token == "{":
            stack.append([])
        elif token == "}":
            inner = stack.pop()
            if stack:
                stack[-1].append(inner)
        else:
            stack[-1].append(None if token == "NULL" else token.strip('"'))
    return inner


class _OfVectors(GenericFunction[Any]):
    """A function that returns a vector for vectors, or an element of an array of vectors.

    For other arguments it has no type, as without this class.
    """

    _register = False
    inherit_cache = True

    def __init__(self, *args: Any, type_: Any = None) -> None:
        super().__init__(*args, type_=type_)
        first: Any = next(iter(self.clauses), None)
        given: Any = getattr(first, "type", None)
        if isinstance(given, ARRAY):
            given = cast("Any", given).item_type
        if type_ is None and isinstance(given, VectorType):
            # `subvector` returns a vector of another length.
            self.type = given.adapt(type(given)) if self.name != "subvector" else type(given)()


for _name in [
    "avg",
    "first_value",
    "last_value",
    "nth_value",
    "lag",
    "lead",
    "nullif",
    "greatest",
    "least",
    "l2_normalize",
    "subvector",
    "unnest",
]:
    type(_name, (_OfVectors,), {"inherit_cache": True, "name": _name})


class Vector(VectorType):
    """`vector(n)`: accepts a list, tuple, ndarray or `pgvector.Vector`; returns a float32 ndarray."""

    cache_ok = True
    format = formats.VECTOR
    comparator_factory = Distances

    def packed(self, matrix: Matrix) -> Iterator[Any]:
        """Yield the rows of a matrix for `pack`: packed, unless a row of their block may be invalid."""
        for start in range(0, len(matrix), _BLOCK):
            block = matrix[start : start + _BLOCK]
            packed = formats.pack_all(block, self.dim)
            yield from block if packed is None else map(_Packed, packed)


class HalfVector(VectorType):
    """`halfvec(n)`: half the space, 11 bits of precision, numbers up to 65504.

    Accepts and returns the same values as `Vector`.
    """

    cache_ok = True
    format = formats.HALFVEC
    comparator_factory = Distances


class SparseVector(VectorType):
    """`sparsevec(n)`: accepts a mapping of values by index from 0, and returns a `pgvector.SparseVector`.

    It also accepts the values that `Vector` accepts, a sparse array of SciPy, and `pgvector.SparseVector`.
    """

    cache_ok = True
    format = formats.SPARSEVEC
    comparator_factory = Distances


class Bit(VectorType):
    """`bit(n)`: accepts True and False, or 1 and 0, in a list, tuple or ndarray, and returns a bool ndarray.

    It also accepts a text such as `101`, and `pgvector.Bit`.

    Args:
        dim: Number of bits.
    """

    cache_ok = True
    format = formats.BIT
    comparator_factory = BitDistances

    def __init__(self, dim: int) -> None:
        super().__init__(dim, True)
