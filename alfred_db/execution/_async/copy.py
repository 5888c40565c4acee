"""COPY inside the session's transaction, and the ids and table names that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Table, select
from sqlalchemy.ext.asyncio import AsyncSession

from ...engine.pool import refuse_client_encoding
from ...errors import translated
from ...queries.shapes.functions import func
from ...sql import qualified
from ..copy_format import copy_statement, pack_rows
from .driver import bind_of, driver_of, settle


async def copy_rows(
    session: AsyncSession, table: Table, columns: Sequence[Column[Any]], rows: Iterable[Sequence[Any]]
) -> int:
    """COPY rows into a table of the session's tenant.

    Columns that are not listed take their defaults. An interruption, such as a cancelled task, closes the
    connection and is raised again.

    Args:
        session: The session whose transaction is used.
        table: The table.
        columns: The columns, in the order of the values of each row.
        rows: One value for each column in each row.

    Returns:
        The number of rows.

    Raises:
        InvalidInputError: A value does not fit its column; the message names row and column.
        ConfigurationError: The encoding of the connection is not UTF-8.
    """
    interruption: BaseException | None = None
    with translated():
        try:
            # The savepoint keeps the earlier work of the transaction when a row is refused.
            async with session.begin_nested():
                statement = copy_statement(table_name(session, table), columns)
                driver = await driver_of(session)
                refuse_client_encoding(driver)
                try:
                    return await _copy(driver, statement, pack_rows(columns, rows))
                except BaseException as error:
                    interruption = None if isinstance(error, Exception) else error
                    await settle(session, driver, error, closing=interruption is not None)
                    raise
        except Exception:
            # The connection is closed: rolling back to the savepoint fails too, and must not hide the cause.
            if interruption is not None:
                raise interruption from None
            raise


async def _copy(driver: Any, statement: str, blocks: Iterable[bytes]) -> int:
    async with driver.cursor() as cursor:
        async with cursor.copy(statement) as copy:
            for block in blocks:
                await copy.write(block)
        return int(cursor.rowcount)


async def reserve_ids(session: AsyncSession, table: Table, count: int) -> Sequence[int]:
    """Return the next `count` values of the table's identity, for rows whose ids must follow their order."""
    with translated():
        sequence = func.pg_get_serial_sequence(table_name(session, table), "id")
        numbers = func.generate_series(1, count).table_valued("number")
        return (await session.scalars(select(func.nextval(sequence)).select_from(numbers))).all()


def table_name(session: AsyncSession, table: Table) -> str:
    """Return the qualified name of the table in the session's tenant."""
    options: Mapping[str, Any] = bind_of(session).get_execution_options()
    mapping: Mapping[str | None, str | None] = options.get("schema_translate_map") or {}
    return qualified(mapping.get(table.schema, table.schema), table.name)
