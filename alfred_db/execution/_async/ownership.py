"""Statements that need the owner of a table, run as the owner or by a function of the owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.base import Executable

from ...models import Task
from ...models.base import table_of
from ...queries.shapes import ownership as queries
from .copy import table_name

_HOME = table_of(Task)
"""A table in the schema of the tenant, where the functions are too."""


async def as_owner(
    session: AsyncSession,
    owned: str,
    function: str,
    arguments: Sequence[str | int],
    statements: Sequence[Executable],
) -> Any:
    """Run statements as the owner of a table, or else the function that runs them; return the first value.

    A role that does neither own the table nor may call the function runs the statements, and the error of the server
    names what it lacks.

    Args:
        session: The session whose transaction is used.
        owned: The name of the table, quoted where necessary.
        function: One of `OWNER_FUNCTIONS`, which does the same.
        arguments: Its arguments.
        statements: The statements.
    """
    name = await function_of(session, owned, function)
    if name is not None:
        return await session.scalar(queries.call(function, name, arguments))
    found = None
    for statement in statements:
        result: Any = await session.execute(statement)
        found = result.scalar() if result.returns_rows else found
    return found


async def function_of(session: AsyncSession, owned: str, function: str) -> str | None:
    """Return the name of the function that does what only the owner of a table may; None for the owner itself."""
    row = (await session.execute(queries.way(table_name(session, _HOME), owned, function))).one_or_none()
    return None if row is None or row.owns else row.function
