"""Statements of the hot paths, run by the driver itself inside the session's transaction.

SQLAlchemy compiles them, once; running them through it would cost the client more than the rest of the call.
Rows come as the driver gives them, so the columns must be of types that psycopg knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from psycopg import OperationalError
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import ClauseElement

from ...errors import translated

_DIALECT: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]


async def fetch(
    session: AsyncSession, statement: ClauseElement, parameters: Mapping[str, Any]
) -> Sequence[tuple[Any, ...]]:
    """The rows of a statement that a cached function of `queries` built, with all its parameters named."""
    options: Mapping[str, Any] = session.get_bind().get_execution_options()
    tenant: Mapping[str | None, str] = options.get("schema_translate_map") or {}
    with translated():
        driver = await driver_of(session)
        try:
            cursor: Any = await driver.execute(_text(statement, tenant.get(None)), parameters)
            rows: list[tuple[Any, ...]] = await cursor.fetchall()
        except OperationalError:
            await drop_if_gone(session, driver)
            raise
        return rows


async def driver_of(session: AsyncSession) -> Any:
    """The driver's own connection, in the session's transaction."""
    connection: Any = await session.connection()
    return connection.sync_connection.connection.driver_connection


async def drop_if_gone(session: AsyncSession, driver: Any) -> None:
    """Tell SQLAlchemy of a connection that ended in the driver's hands; it would roll it back, and fail again."""
    if driver.closed:
        await (await session.connection()).invalidate()


@lru_cache(maxsize=2048)
def _text(statement: ClauseElement, schema: str | None) -> str:
    options: dict[str, Any] = {}
    if schema is not None:
        options = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
    return str(statement.compile(dialect=_DIALECT, **options))
