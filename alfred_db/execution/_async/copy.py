"""Bulk writes by COPY, inside the session's own transaction."""

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
from .driver import driver_of, settle


async def copy_rows(
    session: AsyncSession, table: Table, columns: Sequence[Column[Any]], rows: Iterable[Sequence[Any]]
) -> int:
    """COPY rows into a table of the session's tenant and return their number. Defaults fill the other columns.

    What interrupts it, such as the cancellation of the task, closes the connection and goes on.
    """
    interruption: BaseException | None = None
    with translated():
        try:
            # The savepoint keeps the transaction's earlier work when a row is refused.
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
            if interruption is not None:  # what it leaves behind cannot be rolled back
                raise interruption from None
            raise


async def _copy(driver: Any, statement: str, blocks: Iterable[bytes]) -> int:
    async with driver.cursor() as cursor:
        async with cursor.copy(statement) as copy:
            for block in blocks:
                await copy.write(block)
        return int(cursor.rowcount)


async def reserve_ids(session: AsyncSession, table: Table, count: int) -> Sequence[int]:
    """The next `count` values of the table's identity: rows that are copied with them come back in order."""
    with translated():
        sequence = func.pg_get_serial_sequence(table_name(session, table), "id")
        numbers = func.generate_series(1, count).table_valued("number")
        return (await session.scalars(select(func.nextval(sequence)).select_from(numbers))).all()


def table_name(session: AsyncSession, table: Table) -> str:
    """The table's name where the session's tenant has it."""
    options: Mapping[str, Any] = session.get_bind().get_execution_options()
    mapping: Mapping[str | None, str | None] = options.get("schema_translate_map") or {}
    return qualified(mapping.get(table.schema, table.schema), table.name)
