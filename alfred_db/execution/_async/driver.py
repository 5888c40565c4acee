"""Statements of the hot paths, run by the driver itself inside the session's transaction.

SQLAlchemy compiles each of them once. Running them through it would cost the client more than the rest of the call.
Their type, `DriverStatement`, ensures that each is also built once. `alfred_db/engine/session.py` describes the states of
a session's connection.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import wraps
from types import NoneType
from typing import Any, NamedTuple, TypeVar, TypeVarTuple, cast

from psycopg import AsyncRawCursor
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Dialect, Engine, Row
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine import result_tuple
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import TypeEngine

from ...engine.plans import DROP_PLANS, can_drop
from ...engine.pool import ConnectionState, connection_state, name_upgrade
from ...engine.session import (
    AloneSession,
    DirectSession,
    must_flush,
    refuse_failed,
    state_of,
    take,
    take_alone,
)
from ...engine.status import status_of
from ...errors import UnreadableRow, translated
from ...failures.marks import mark_lost
from ...queries.shapes.driver_statement import DriverStatement, DriverText, Tenant
from ...types import bind_text
from .unreadable import located

DIALECT: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]
bind_text(DIALECT)
_NUMBERED: Dialect = psycopg.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
"""Compiles statements as the server reads them, with $1, $2 and so on for the parameters.

The driver would translate named ones in each call. It keeps 128 translations, and each tenant has other texts.
"""
bind_text(_NUMBERED)

CANCEL_SECONDS = 2.0
"""How long to wait for the server to accept the cancellation of a statement."""

KEPT_BYTES = 4096
"""The longest value that a cursor keeps while it waits for its next statement."""

_FIXED = frozenset({int, float, bool, NoneType, uuid.UUID, datetime, timedelta})
_TEXTS = (str, bytes)

MethodT = TypeVar("MethodT", bound=Callable[..., Any])
Ts = TypeVarTuple("Ts")
_Read = Callable[[Any], Any]
"""Reads what a statement returns from its cursor; awaited."""
_Call = tuple[DriverText, Mapping[str, Any], _Read]
"""A statement, its parameters, and what reads its cursor. A named tuple would cost each call more."""


async def fetch(
    session: AsyncSession,
    statement: DriverStatement[*Ts],
    parameters: Mapping[str, Any],
    *,
    reads: bool = False,
) -> Sequence[tuple[*Ts]]:
    """Return the rows of a statement.

    Args:
        session: The session whose transaction is used.
        statement: The statement.
        parameters: All parameters of the statement. Values are passed to and returned by the driver
            unchanged, so psycopg must know their types.
        reads: Whether the statement only reads and locks nothing. If so, and no transaction is open, it runs
            without beginning one.
    """
    with translated():
        rows: Sequence[tuple[*Ts]] = await _run(session, statement, parameters, _rows, begin=not reads)
        return rows


async def affected(
    session: AsyncSession, statement: DriverStatement[*Ts], parameters: Mapping[str, Any]
) -> int:
    """Return the number of rows that a statement writes."""
    with translated():
        number: int = await _run(session, statement, parameters, _count)
        return number


async def fetch_rows(
    session: AsyncSession,
    statement: DriverStatement[*Ts],
    parameters: Mapping[str, Any],
    *,
    locks: bool = False,
) -> Sequence[Row[*Ts]]:
    """Return named rows of a SELECT, with columns of any type.

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
        raise await located(session, driver, error, statement.built, parameters) from None


async def _fetched(
    session: AsyncSession, statement: DriverStatement[*Ts], parameters: Mapping[str, Any], *, locks: bool
) -> Sequence[Row[*Ts]]:
    async def named(cursor: Any) -> Sequence[Row[*Ts]]:
        result = cursor.pgresult  # `description` would create an object for each column
        type_codes = tuple([result.ftype(number) for number in range(result.nfields)])
        row_of = statement.rows.get(type_codes) or _row_of(statement, type_codes)
        return [row_of(row) for row in await cursor.fetchall()]

    with translated():
        binding = _binding_of(statement)
        bound = {name: process(parameters[name]) for name, process in binding.given}
        complete = {**binding.constants, **parameters, **bound}
        rows: Sequence[Row[*Ts]] = await _run(session, statement, complete, named, begin=locks)
        return rows


async def driver_of(session: AsyncSession) -> Any:
    """Return the driver's connection, in the session's transaction."""
    own = session.sync_session
    if isinstance(own, DirectSession) and own.direct:
        if own.take_kept() is None:
            with translated():
                await session.run_sync(take)
        if own.driver.autocommit and not own.commits_alone:  # as the last statement has left it
            await own.driver.set_autocommit(False)
        return own.driver
    # SQLAlchemy sends SAVEPOINT when the nested transaction is first asked for its connection. So the driver's
    # connection that is stored in the session belongs to one transaction or savepoint, and to no other.
    transaction = own.get_nested_transaction() or own.get_transaction()
    state = state_of(own)
    if transaction is None or transaction is not state.transaction or state.driver.closed:
        with translated():
            connection: Any = await session.connection()
        state.driver = connection.sync_connection.connection.driver_connection
        known = connection_state(connection.sync_connection.info)
        state.known = known
        state.reads_committed = known.sees_latest and state.driver.autocommit
        state.transaction = own.get_nested_transaction() or own.get_transaction()
    return state.driver


async def commits_alone(session: AsyncSession) -> bool:
    """Return whether each statement of the session commits by itself: its connection is in AUTOCOMMIT."""
    own = session.sync_session
    if isinstance(own, DirectSession) and own.commits_alone:
        return not own.together
    autocommit: bool = (await driver_of(session)).autocommit
    return autocommit


async def together(session: AsyncSession, work: Callable[[], Any], *, joins: bool = False) -> Any:
    """Return what `work` returns. If each of its statements would commit by itself, they are one transaction.

    For what must not be done by halves: a process that is killed between two statements leaves nothing of either.

    Args:
        session: The session whose statements they are.
        work: What runs them; awaited.
        joins: Whether some of them are SQLAlchemy's, which has to join before the transaction begins.
    """
    if not await commits_alone(session):
        return await work()
    if joins:
        with translated():
            await session.connection()
    driver = await driver_of(session)
    own = session.sync_session
    if isinstance(own, DirectSession):
        own.together = True
    try:
        await driver.set_autocommit(False)
        try:
            done = await work()
            refuse_failed(driver)
            await _commit(session, driver)
        except BaseException:
            if not driver.closed:
                await driver.rollback()
            raise
        return done
    finally:
        if isinstance(own, DirectSession):
            own.together = False
        if not driver.closed:
            await driver.set_autocommit(True)


def in_transaction(method: MethodT) -> MethodT:
    """Have the statements of a repository method be one transaction, also where each would commit by itself.

    For methods that lock a row by one statement and rely on that in the next, or that write by several statements.
    """

    @wraps(method)
    async def whole(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await together(self._session, lambda: method(self, *args, **kwargs), joins=True)

    return cast("MethodT", whole)


async def _commit(session: AsyncSession, driver: Any) -> None:
    with translated():
        try:
            await driver.commit()
        except BaseException as error:
            await settle(session, driver, error, undone=False)
            raise


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
    if status_of(driver) == TransactionStatus.ACTIVE:
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


def is_read_committed(session: AsyncSession) -> bool:
    """Return whether the transaction is known to be READ COMMITTED, from how its connection was set up.

    It is unknown once SQLAlchemy takes part, which may have set another level.
    """
    own = session.sync_session
    if isinstance(own, DirectSession) and own.taken is not None:
        return own.direct and own.taken.state.sees_latest
    state = state_of(own)
    return state.reads_committed and state.driver is not None and state.driver.autocommit


def transaction_of(session: AsyncSession) -> object:
    """Return an object that identifies the session's transaction as long as it lasts."""
    own = session.sync_session
    return (own.driver_transaction if isinstance(own, DirectSession) else None) or own.get_transaction()


def bind_of(session: AsyncSession) -> Engine | Connection:
    """Return the session's bind; `get_bind` of a `DirectSession` would join SQLAlchemy to its transaction."""
    return session.sync_session.bind or session.get_bind()


async def _rows(cursor: Any) -> Any:
    return await cursor.fetchall()


async def _count(cursor: Any) -> Any:
    return cursor.rowcount


async def _run(
    session: AsyncSession,
    statement: DriverStatement[*Ts],
    parameters: Mapping[str, Any],
    read: _Read,
    *,
    begin: bool = True,
) -> Any:
    """Run a statement, and return what `read` returns for its cursor."""
    own = session.sync_session
    tenant = tenant_of(session)
    call = (statement.texts.get(tenant) or _text(statement, tenant), parameters, read)
    if isinstance(own, AloneSession):
        return await _run_between(session, own, call, undone=not begin)
    if isinstance(own, DirectSession) and own.direct:
        driver = own.driver or await driver_of(session)
        taken = own.taken
        assert taken is not None
        known = taken.state
        # In autocommit a single read needs no BEGIN and no ROLLBACK. It is allowed only before the transaction begins,
        # and it ends before the connection is used for anything else.
        if own.commits_alone and not own.together:
            return await _run_alone(session, driver, known, call, undone=not begin)
        if not begin and own.reads_alone:
            try:
                return await _run_alone(session, driver, known, call, undone=True)
            finally:
                if not driver.closed:
                    await driver.set_autocommit(False)
    else:
        if own.autoflush and must_flush(own):
            await session.flush()
        driver = await driver_of(session)
        own_state = state_of(own)
        assert own_state.known is not None
        known = own_state.known
    return await _execute(session, driver, known, call, undone=not driver.autocommit)


async def _run_between(session: AsyncSession, own: AloneSession, call: _Call, *, undone: bool) -> Any:
    """Run a statement in autocommit, on a connection that is held only meanwhile."""
    held: Any = own.take_alone()
    if held is None:
        held = await session.run_sync(take_alone)
    driver = held.driver
    try:
        if not driver.autocommit:
            await driver.set_autocommit(True)
        return await _execute(session, driver, held.state, call, undone=undone)
    finally:
        if not own.keeps(held):  # it keeps none in a transaction, which the next statement must not run in
            if status_of(driver) != TransactionStatus.IDLE:
                await driver.close()

            def give_back(_: object) -> None:
                held.give_back()

            await session.run_sync(give_back)


async def _run_alone(
    session: AsyncSession, driver: Any, known: ConnectionState, call: _Call, *, undone: bool
) -> Any:
    """Run a statement in autocommit, and leave the connection in it: the next one may be alone too."""
    if not driver.autocommit:
        await driver.set_autocommit(True)
    try:
        return await _execute(session, driver, known, call, undone=undone)
    finally:
        if status_of(driver) != TransactionStatus.IDLE:
            await driver.close()  # the next statement must not run in a transaction of this one


async def _execute(
    session: AsyncSession, driver: Any, known: ConnectionState, call: _Call, *, undone: bool
) -> Any:
    text, parameters, read = call
    try:
        cursor: Any = known.cursor
        known.cursor = None
        if known.plans.due() and can_drop(driver):
            await driver.execute(DROP_PLANS)
        if cursor is None:
            cursor = AsyncRawCursor(driver)
        await cursor.execute(text.sql, [parameters[name] for name in text.order])
        found = await read(cursor)
        if _holds_little(cursor, parameters, found):
            known.cursor = cursor
        return found
    except BaseException as error:
        await settle(session, driver, error, parameters, undone=undone)
        raise


def _holds_little(cursor: Any, parameters: Mapping[str, Any], found: Any) -> bool:
    """Return whether a cursor may wait for its next statement: it keeps the parameters and the rows until then."""
    number: int = cursor.pgresult.ntuples
    if number:
        rows = cast("list[Sequence[object]]", found) if isinstance(found, list) else []
        if number > 1 or len(rows) != number or not _are_short(rows[0]):
            return False
    return _are_short(parameters.values())


def _are_short(values: Iterable[object]) -> bool:
    for value in values:
        if type(value) not in _FIXED and not (isinstance(value, _TEXTS) and len(value) <= KEPT_BYTES):
            return False
    return True


def tenant_of(session: AsyncSession) -> Tenant:
    """Return the schema translation of the session's statements: whose tables they use."""
    options: Mapping[str, Any] = bind_of(session).get_execution_options()
    translation: Mapping[str | None, str | None] | None = options.get("schema_translate_map")
    return tuple(translation.items()) if translation else ()


def _text(statement: DriverStatement[*Ts], tenant: Tenant) -> DriverText:
    options: dict[str, Any] = {}
    if tenant:
        options = {"schema_translate_map": dict(tenant), "render_schema_translate": True}
    compiled = statement.compile(dialect=_NUMBERED, **options)
    text = DriverText(str(compiled), tuple(compiled.positiontup))
    statement.texts[tenant] = text
    return text


class _Binding(NamedTuple):
    constants: Mapping[str, Any]
    """The parameters that the statement defines."""
    given: Sequence[tuple[str, Callable[[Any], Any]]]
    """The conversions of the others by name."""


def _binding_of(statement: DriverStatement[*Ts]) -> _Binding:
    known: _Binding | None = statement.binding
    if known is not None:
        return known
    constants: dict[str, Any] = {}
    given: list[tuple[str, Callable[[Any], Any]]] = []
    for name, bound in statement.compile(dialect=DIALECT).binds.items():
        process = _implemented(bound.type).bind_processor(DIALECT)
        if not bound.required:
            constants[name] = bound.effective_value if process is None else process(bound.effective_value)
        elif process is not None:
            given.append((name, process))
    statement.binding = binding = _Binding(constants, given)
    return binding


def _row_of(
    statement: DriverStatement[*Ts], type_codes: tuple[int, ...]
) -> Callable[[Sequence[Any]], Row[*Ts]]:
    """Return the function that converts the driver's values into a row."""
    columns = statement.built.selected_columns
    named: Any = result_tuple([str(column.key) for column in columns])
    processes = [
        _implemented(column.type).result_processor(DIALECT, type_code)
        for column, type_code in zip(columns, type_codes, strict=True)
    ]

    def processed(row: Sequence[Any]) -> Row[*Ts]:
        made: Row[*Ts] = named(
            [
                value if process is None else process(value)
                for process, value in zip(processes, row, strict=True)
            ]
        )
        return made

    made = statement.rows[type_codes] = processed if any(processes) else named
    return made


def _implemented(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    return type_.dialect_impl(DIALECT)
