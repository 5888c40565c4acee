"""Statements of the hot paths, run by the driver itself inside the session's transaction.

SQLAlchemy compiles each of them once. Running them through it would cost the client more than the rest of the
call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVarTuple

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Dialect, Engine, Row, Select
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine import result_tuple
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import ClauseElement
from sqlalchemy.types import TypeEngine

from ...engine.pool import name_upgrade
from ...engine.session import DirectSession, take
from ...errors import UnreadableRow, mark_lost, translated
from ...types import bind_text
from .unreadable import located

DIALECT: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]
bind_text(DIALECT)
_DRIVER = "alfred_db driver"

CANCEL_SECONDS = 2.0
"""How long to wait for the server to accept the cancellation of a statement."""

Ts = TypeVarTuple("Ts")


async def fetch(
    session: AsyncSession, statement: ClauseElement, parameters: Mapping[str, Any]
) -> Sequence[tuple[Any, ...]]:
    """Return the rows of a statement built by a cached function of `queries`.

    Args:
        session: The session whose transaction is used.
        statement: The statement.
        parameters: All parameters of the statement. Values are passed to and returned by the driver
            unchanged, so psycopg must know their types.
    """
    with translated():
        rows: list[tuple[Any, ...]] = await (await _run(session, statement, parameters)).fetchall()
        return rows


async def affected(session: AsyncSession, statement: ClauseElement, parameters: Mapping[str, Any]) -> int:
    """Return the number of rows that such a statement writes."""
    with translated():
        number: int = (await _run(session, statement, parameters)).rowcount
        return number


async def fetch_rows(
    session: AsyncSession, statement: Select[*Ts], parameters: Mapping[str, Any], *, locks: bool = False
) -> Sequence[Row[*Ts]]:
    """Return named rows of such a SELECT, with columns of any type.

    Args:
        session: The session whose transaction is used.
        statement: The SELECT.
        parameters: The parameters that the statement does not define itself.
        locks: Whether the SELECT locks rows. If not, and no transaction is open, it runs without beginning
            one.
    """
    try:
        return await _fetched(session, statement, parameters, locks=locks)
    except UnreadableRow as error:
        driver = await driver_of(session)
        raise await located(session, driver, error, statement, parameters) from None


async def _fetched(
    session: AsyncSession, statement: Select[*Ts], parameters: Mapping[str, Any], *, locks: bool
) -> Sequence[Row[*Ts]]:
    with translated():
        constants, binding = _binding(statement)
        bound = {name: process(parameters[name]) for name, process in binding}
        cursor = await _run(session, statement, {**constants, **parameters, **bound}, begin=locks)
        result = cursor.pgresult  # `description` would create an object for each column
        type_codes: list[int] = [result.ftype(number) for number in range(result.nfields)]
        row_of: Any = _row_of(statement, tuple(type_codes))
        return [row_of(row) for row in await cursor.fetchall()]


async def driver_of(session: AsyncSession) -> Any:
    """Return the driver's connection, in the session's transaction."""
    own = session.sync_session
    if isinstance(own, DirectSession) and own.direct:
        taken = own.take_kept()
        if taken is None:
            taken = await session.run_sync(take)
        return taken.driver_connection
    # SQLAlchemy sends SAVEPOINT when the nested transaction is first asked for its connection. So the driver's
    # connection that is stored in the session belongs to one transaction or savepoint, and to no other.
    transaction = own.get_nested_transaction() or own.get_transaction()
    known, driver = session.info.get(_DRIVER, (None, None))
    if transaction is None or transaction is not known or driver.closed:
        connection: Any = await session.connection()
        driver = connection.sync_connection.connection.driver_connection
        session.info[_DRIVER] = own.get_nested_transaction() or own.get_transaction(), driver
    return driver


async def settle(
    session: AsyncSession,
    driver: Any,
    error: BaseException,
    parameters: Any = (),
    *,
    undone: bool = True,
    closing: bool = False,
) -> None:
    """Clean up after an error in the driver: close a connection that is in the middle of a statement.

    SQLAlchemy is notified of a closed connection: otherwise it would roll back on it and fail again.

    Args:
        session: The session whose transaction was used.
        driver: The driver's connection.
        error: The error.
        parameters: The parameters of the statement.
        undone: Whether nothing of the transaction remains when the connection is lost.
        closing: Close the connection in any case.
    """
    name_upgrade(error, bind_of(session).engine)
    if driver.pgconn.transaction_status == TransactionStatus.ACTIVE:
        with suppress(Exception):  # closing the socket would not end a statement that waits for a lock
            await driver.cancel_safe(timeout=CANCEL_SECONDS)
        closing = True
    if closing:
        await driver.close()
    if not driver.closed:
        return
    if undone:
        mark_lost(error, parameters)
    own = session.sync_session
    if not (isinstance(own, DirectSession) and own.direct):
        await (await session.connection()).invalidate()


def transaction_of(session: AsyncSession) -> object:
    """Return an object that identifies the session's transaction as long as it lasts."""
    own = session.sync_session
    return (own.driver_transaction if isinstance(own, DirectSession) else None) or own.get_transaction()


def bind_of(session: AsyncSession) -> Engine | Connection:
    """Return the session's bind; `get_bind` of a `DirectSession` would join SQLAlchemy to its transaction."""
    return session.sync_session.bind or session.get_bind()


async def _run(
    session: AsyncSession, statement: ClauseElement, parameters: Mapping[str, Any], *, begin: bool = True
) -> Any:
    own = session.sync_session
    direct = isinstance(own, DirectSession) and own.direct
    if not direct and own.autoflush and (own.new or (own.identity_map and (own.dirty or own.deleted))):
        await session.flush()
    options: Mapping[str, Any] = bind_of(session).get_execution_options()
    tenant: Mapping[str | None, str | None] = options.get("schema_translate_map") or {}
    driver = await driver_of(session)
    # In autocommit a single read needs no BEGIN and no ROLLBACK. It is allowed only before the transaction begins,
    # and it ends before the connection is used for anything else.
    alone = not begin and isinstance(own, DirectSession) and own.reads_alone
    try:
        if alone:
            await driver.set_autocommit(True)
        return await driver.execute(_text(statement, tuple(tenant.items())), parameters)
    except BaseException as error:
        await settle(session, driver, error, parameters, undone=alone or not driver.autocommit)
        raise
    finally:
        if alone:
            await _end_autocommit(driver)


async def _end_autocommit(driver: Any) -> None:
    if driver.pgconn.transaction_status == TransactionStatus.IDLE:
        await driver.set_autocommit(False)
    else:
        await driver.close()  # the next statement must not run outside of a transaction


@lru_cache(maxsize=2048)
def _text(statement: ClauseElement, tenant: tuple[tuple[str | None, str | None], ...]) -> str:
    options: dict[str, Any] = {}
    if tenant:
        options = {"schema_translate_map": dict(tenant), "render_schema_translate": True}
    return str(statement.compile(dialect=DIALECT, **options))


@lru_cache(maxsize=2048)
def _binding(
    statement: Select[*tuple[Any, ...]],
) -> tuple[Mapping[str, Any], Sequence[tuple[str, Callable[[Any], Any]]]]:
    """Return the parameters that the statement defines, and the conversions of the others by name."""
    constants: dict[str, Any] = {}
    binding: list[tuple[str, Callable[[Any], Any]]] = []
    for name, bound in statement.compile(dialect=DIALECT).binds.items():
        process = _implemented(bound.type).bind_processor(DIALECT)
        if not bound.required:
            constants[name] = bound.effective_value if process is None else process(bound.effective_value)
        elif process is not None:
            binding.append((name, process))
    return constants, binding


@lru_cache(maxsize=2048)
def _row_of(
    statement: Select[*tuple[Any, ...]], type_codes: tuple[int, ...]
) -> Callable[[Sequence[Any]], Row[Any]]:
    """Return the function that converts the driver's values into a row."""
    columns = statement.selected_columns
    named = result_tuple([str(column.key) for column in columns])
    processes = [
        _implemented(column.type).result_processor(DIALECT, type_code)
        for column, type_code in zip(columns, type_codes, strict=True)
    ]
    if not any(processes):
        return named
    return lambda row: named(
        [value if process is None else process(value) for process, value in zip(processes, row, strict=True)]
    )


def _implemented(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    return type_.dialect_impl(DIALECT)
