"""Matrices of vectors: read by the driver in the binary format and converted into one array."""

from __future__ import annotations

from typing import Any, TypeVar

from psycopg.pq import Format
from sqlalchemy import ColumnElement, LargeBinary, Select, type_coerce
from sqlalchemy.ext.asyncio import AsyncSession

from ...errors import InvalidInputError, translated
from ...vectors.formats import Matrix, unpack_all
from ...vectors.types import HalfVector, Vector
from .driver import driver_of

T = TypeVar("T")


async def fetch_matrix(session: AsyncSession, statement: Select[T, Any]) -> tuple[list[T], Matrix]:
    """Return the keys and the vectors that a SELECT of these two columns finds.

    See `AsyncUnitOfWork.fetch_matrix`.

    Raises:
        InvalidInputError: The statement does not select a key and a vector.
    """
    raw, type_ = _raw(statement)
    with translated():
        driver = await driver_of(session)
        factory = driver.cursor_factory

        def in_binary(*arguments: Any, **options: Any) -> Any:
            cursor = factory(*arguments, **options)
            cursor.format = Format.BINARY
            return cursor

        if session.autoflush:
            await session.flush()
        connection: Any = await session.connection()
        driver.cursor_factory = in_binary
        try:
            result = await connection.execute(raw)
        finally:
            driver.cursor_factory = factory
        # The driver's tuples: creating SQLAlchemy's rows would take as long as fetching.
        keys, data = zip(*result.cursor.fetchall(), strict=True) if result.rowcount else ((), ())
        result.close()
    return list(keys), unpack_all(data, type_.dim, half=isinstance(type_, HalfVector))


def _raw(statement: Select[Any, Any]) -> tuple[Select[Any, Any], Vector | HalfVector]:
    """Return the statement with its vectors in the server's binary format, and their type."""
    columns: list[ColumnElement[Any]] = list(statement.selected_columns)
    if len(columns) != 2 or not isinstance(columns[1].type, Vector | HalfVector):
        raise InvalidInputError(
            "statement: expected a SELECT of a key and a vector, such as select(Document.id, Document.embedding)"
        )
    key, vector = columns
    raw: Any = statement.with_only_columns(key, type_coerce(vector, LargeBinary)).where(vector.is_not(None))
    return raw, columns[1].type
