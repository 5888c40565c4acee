"""Rows that Python cannot read: which they are, and why, so that the others beside them can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from operator import eq
from typing import Any, NamedTuple

from psycopg.pq import Format
from sqlalchemy import (
    JSON,
    BindParameter,
    Column,
    ColumnElement,
    CompoundSelect,
    DateTime,
    Delete,
    Select,
    UniqueConstraint,
    Update,
    cast,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import BinaryExpression
from sqlalchemy.sql.visitors import iterate

from ...checks import from_json
from ...errors import AlfredDBError, UnreadableRow, shown, translated, why_unreadable
from ...types import EnumText, Text

NAMED = 3
"""Rows that a message names."""


class Unreadable(NamedTuple):
    """A value that cannot be read, and where it is."""

    table: str
    column: str
    key: Mapping[str, str]
    """The primary key of its row, as text; empty where the statement does not have it."""
    reason: str

    def __str__(self) -> str:
        key = ", ".join(f"{name} = {shown(value)}" for name, value in self.key.items())
        return f"{self.table} {key or 'row'}: column {self.column} cannot be read, {self.reason}"


async def unreadable(
    session: AsyncSession, driver: Any, statement: Any, parameters: Mapping[str, Any] | None = None
) -> list[Unreadable]:
    """What cannot be read of the rows of a SELECT, in their order: of each row the first such value.

    The server sends each value as text, which is read here as the driver and the models would read it.
    """
    whole = statement.subquery("whole")
    origins = [(column, origin) for column in whole.c if (origin := _origin(column)) is not None]
    readers = {
        place: _reader(origin, driver)
        for place, (_, origin) in enumerate(origins)
        if isinstance(origin.type, JSON | DateTime | EnumText)
    }
    texts = select(*(cast(column, Text) for column, _ in origins))
    await session.connection()  # which sets AUTOCOMMIT if that is what the engine has
    nested = nullcontext() if driver.autocommit else session.begin_nested()
    with translated():
        async with nested:
            rows = (await session.execute(texts, parameters)).all()
    found: list[Unreadable] = []
    for row in rows:
        for place, read in readers.items():
            try:
                if row[place] is not None:
                    read(row[place])
            except Exception as error:
                table, origin = origins[place][1].table, origins[place][1]
                key = {
                    other.name: row[number]
                    for number, (_, other) in enumerate(origins)
                    if other.table is table and other.primary_key
                }
                found.append(Unreadable(str(table), origin.name, key, why_unreadable(error)))
                break
    return found


async def located(
    session: AsyncSession,
    driver: Any,
    error: UnreadableRow,
    statement: Any,
    parameters: Mapping[str, Any] | None = None,
) -> UnreadableRow:
    """The error that names the rows of the statement that cannot be read, where they can be found again."""
    found: list[Unreadable] = []
    reading = _reading(statement)
    if reading is not None:
        with suppress(AlfredDBError, RecursionError):
            found = await unreadable(session, driver, reading, parameters if reading is statement else None)
    if not found:
        return error
    named = "; ".join(map(str, found[:NAMED])) + (f"; and {len(found) - NAMED} more" if found[NAMED:] else "")
    first = found[0]
    return UnreadableRow(
        f"{named}; correct the value by SQL, or delete the row",
        table=first.table,
        column=first.column,
        key=first.key,
    )


def _reading(statement: Any) -> Any:
    """A SELECT of the rows of a statement: itself, or of what an UPDATE or DELETE has named by its key."""
    selects: Any = (Select, CompoundSelect)
    if isinstance(statement, selects):
        return statement
    if not isinstance(statement, Update | Delete) or statement.whereclause is None:
        return None
    table: Any = statement.table
    keys: list[ColumnElement[bool]] = [
        part
        for part in iterate(statement.whereclause)
        if isinstance(part, BinaryExpression)
        and part.operator is eq
        and isinstance(part.left, Column)
        and _unique(part.left)
        and isinstance(part.right, BindParameter)
    ]
    return select(table).where(*keys) if keys else None


def _unique(column: Column[Any]) -> bool:
    """Whether a value of the column is that of one row."""
    table: Any = column.table
    keys = (one.columns for one in table.constraints if isinstance(one, UniqueConstraint))
    return column.primary_key or any(list(key) == [column] for key in keys)


def _origin(column: ColumnElement[Any]) -> Column[Any] | None:
    """The column of a table that a column of the result is."""
    found = [one for one in column.base_columns if isinstance(one, Column)]
    return found[0] if len(found) == 1 else None


def _reader(column: Column[Any], driver: Any) -> Callable[[str], Any]:
    """What reads the text of a value as the driver and the type of the column do."""
    kind: Any = column.type
    if isinstance(kind, JSON):
        return lambda text: from_json(text.encode())
    if isinstance(kind, EnumText):
        process: Callable[..., Any] = kind.process_result_value
        return lambda text: process(text, driver)
    oid = driver.adapters.types["timestamptz" if kind.timezone else "timestamp"].oid
    loader = driver.adapters.get_loader(oid, Format.TEXT)(oid, driver)
    return lambda text: loader.load(text.encode())
