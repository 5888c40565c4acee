"""Statements of the hot paths, run by the driver itself inside the session's transaction.

SQLAlchemy compiles them, once; running them through it would cost the client more than the rest of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from psycopg import OperationalError
from sqlalchemy import Dialect, Row, Select
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine import result_tuple
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import ClauseElement
from sqlalchemy.types import TypeEngine

from ...errors import translated

_DIALECT: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]


async def fetch(
    session: AsyncSession, statement: ClauseElement, parameters: Mapping[str, Any]
) -> Sequence[tuple[Any, ...]]:
    """The rows of a statement that a cached function of `queries` built, with all its parameters named.

    Values go and come as the driver has them, so the types must be such as psycopg knows.
    """
    with translated():
        rows: list[tuple[Any, ...]] = await (await _run(session, statement, parameters)).fetchall()
        return rows


async def fetch_rows(
    session: AsyncSession, statement: Select[Any], parameters: Mapping[str, Any]
) -> Sequence[Row[Any]]:
    """The same for a SELECT with any types, in rows with names."""
    with translated():
        constants, binding = _binding(statement)
        bound = {name: process(parameters[name]) for name, process in binding}
        cursor = await _run(session, statement, {**constants, **parameters, **bound})
        row_of = _row_of(statement, tuple(column.type_code for column in cursor.description))
        return [row_of(row) for row in await cursor.fetchall()]


async def driver_of(session: AsyncSession) -> Any:
    """The driver's own connection, in the session's transaction."""
    connection: Any = await session.connection()
    return connection.sync_connection.connection.driver_connection


async def drop_if_gone(session: AsyncSession, driver: Any) -> None:
    """Tell SQLAlchemy of a connection that ended in the driver's hands; it would roll it back, and fail again."""
    if driver.closed:
        await (await session.connection()).invalidate()


async def _run(session: AsyncSession, statement: ClauseElement, parameters: Mapping[str, Any]) -> Any:
    options: Mapping[str, Any] = session.get_bind().get_execution_options()
    tenant: Mapping[str | None, str] = options.get("schema_translate_map") or {}
    if session.autoflush and (session.new or session.dirty or session.deleted):
        await session.flush()
    driver = await driver_of(session)
    try:
        return await driver.execute(_text(statement, tenant.get(None)), parameters)
    except OperationalError:
        await drop_if_gone(session, driver)
        raise


@lru_cache(maxsize=2048)
def _text(statement: ClauseElement, schema: str | None) -> str:
    options: dict[str, Any] = {}
    if schema is not None:
        options = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
    return str(statement.compile(dialect=_DIALECT, **options))


@lru_cache(maxsize=2048)
def _binding(statement: Select[Any]) -> tuple[Mapping[str, Any], Sequence[tuple[str, Callable[[Any], Any]]]]:
    """The parameters that the statement itself gives, and what is done to the others, by their names."""
    constants: dict[str, Any] = {}
    binding: list[tuple[str, Callable[[Any], Any]]] = []
    for name, bound in statement.compile(dialect=_DIALECT).binds.items():
        process = _implemented(bound.type).bind_processor(_DIALECT)
        if not bound.required:
            constants[name] = bound.effective_value if process is None else process(bound.effective_value)
        elif process is not None:
            binding.append((name, process))
    return constants, binding


@lru_cache(maxsize=2048)
def _row_of(statement: Select[Any], type_codes: tuple[int, ...]) -> Callable[[Sequence[Any]], Row[Any]]:
    """What makes a row of the driver's values."""
    columns = statement.selected_columns
    named = result_tuple([str(column.key) for column in columns])
    processes = [
        _implemented(column.type).result_processor(_DIALECT, type_code)
        for column, type_code in zip(columns, type_codes, strict=True)
    ]
    if not any(processes):
        return named
    return lambda row: named(
        [value if process is None else process(value) for process, value in zip(processes, row, strict=True)]
    )


def _implemented(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    return type_.dialect_impl(_DIALECT)
