"""Column types: vectors, text columns that are enums in Python, and transaction ids."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeVar, cast

from sqlalchemy import Dialect, String
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.sql import sqltypes
from sqlalchemy.types import TypeDecorator, UserDefinedType

from .errors import InvalidInputError, SchemaDriftError, shown
from .vectors.formats import Bits, BitsLike, Embedding, Matrix, MatrixLike, SparseLike, VectorLike
from .vectors.types import Bit, HalfVector, SparseVector, Vector, VectorType

__all__ = [
    "Bit",
    "Bits",
    "BitsLike",
    "Embedding",
    "EnumText",
    "HalfVector",
    "Matrix",
    "MatrixLike",
    "SparseLike",
    "SparseVector",
    "Text",
    "TransactionId",
    "Vector",
    "VectorLike",
    "VectorType",
    "bind_text",
]

E = TypeVar("E", bound=StrEnum)


class Text(sqltypes.Text):
    """`text`, bound as `text`.

    SQLAlchemy binds strings as varchar. PostgreSQL has no operator of text and varchar, and prefers such an
    operator in a schema of the search_path, which any user may have created, to a cast.
    """

    cache_ok = True
    render_bind_cast = True

    def adapt(self, cls: Any, **kw: Any) -> Any:
        """Return the same type; the string type of the dialect is a varchar."""
        return super().adapt(Text, **kw)


def bind_text(dialect: Dialect) -> None:
    """Make a dialect bind strings of other types as text too."""
    own: Any = dialect
    own.colspecs = {**own.colspecs, String: Text}


class EnumText(TypeDecorator[E]):
    """A text column whose values are the members of a StrEnum.

    A CHECK constraint of the column enforces the values in the database.

    Args:
        enum: The enum.
    """

    impl = Text
    cache_ok = True

    def __init__(self, enum: type[E]) -> None:
        super().__init__()
        self.enum = enum
        self._members: dict[str, E] = {member.value: member for member in enum}

    def process_bind_param(self, value: E | str | None, dialect: Dialect) -> str | None:
        """Return a member or its value as text.

        Raises:
            InvalidInputError: The value is not a member of the enum.
        """
        if value is None:
            return None
        if value in self._members.values():  # also equal to a plain string, and never unhashable
            return str(value)
        expected = ", ".join(self._members)
        raise InvalidInputError(f"{self.enum.__name__}: expected one of {expected}, got {shown(value)}")

    def process_result_value(self, value: str | None, dialect: Dialect) -> E | None:
        """Return the member of a stored value.

        Raises:
            SchemaDriftError: The enum has no such member.
        """
        if value is None:
            return None
        try:
            return self._members[value]
        except KeyError:
            raise SchemaDriftError(
                f"{self.enum.__name__}: the database holds {shown(value)}, which this version of alfred-db does not"
                " know; upgrade alfred-db"
            ) from None


class TransactionId(UserDefinedType[int]):
    """`xid8` of PostgreSQL, the number of a transaction, which never wraps around; an int in Python."""

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the name of the type."""
        return "xid8"

    @property
    def python_type(self) -> type[int]:
        """The Python type of the values."""
        return int

    def bind_processor(self, dialect: Dialect) -> Any:
        # As untyped text: PostgreSQL has no cast of a number to xid8.
        """Return the conversion of an int to text."""
        return _as_text

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Return the conversion of text to an int."""
        return _as_number


def _as_text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _as_number(value: str | None) -> int | None:
    return None if value is None else int(value)


cast("dict[str, Any]", PGDialect.ischema_names)["xid8"] = TransactionId
