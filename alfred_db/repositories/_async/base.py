"""How a repository talks to its session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import isfunction
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import Row, Select, exc, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate
from sqlalchemy.sql.selectable import TypedReturnsRows

from ...errors import AlfredDBError, translated
from .direct import driver_of, fetch
from ...inputs.arguments import checked

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATIENCE = 0.5
"""Seconds that a call for several rows waits for those that other transactions have locked; less than a deadlock takes to
be found."""

# Rows that the session already holds are brought up to date; a write does not search the session for them.
_LOCKED = frozenset({"55P03", "40P01"})
_OPTIONS = {"populate_existing": True, "synchronize_session": False}


class AsyncRepository:
    """Runs statements in the caller's session and transaction; opens, commits and closes nothing."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def __init_subclass__(cls) -> None:
        """Have each public method check its arguments by its signature."""
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            if not name.startswith("_") and isfunction(method):
                setattr(cls, name, checked(method))

    async def _first(self, statement: Select[T]) -> T | None:
        with translated():
            return (await self._session.scalars(statement, execution_options=_OPTIONS)).first()

    async def _all(self, statement: Select[T]) -> Sequence[T]:
        with translated():
            return (await self._session.scalars(statement, execution_options=_OPTIONS)).all()

    async def _write(
        self, statement: ReturningInsert[T] | ReturningUpdate[T] | ReturningDelete[T]
    ) -> T | None:
        """Run a statement with RETURNING of one thing: that thing, or None when no row was written."""
        with translated():
            return (await self._session.scalars(statement, execution_options=_OPTIONS)).first()

    async def _rows(
        self, statement: TypedReturnsRows[*Ts], parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[*Ts]]:
        """Run a statement that gives rows of several columns, or writes several rows."""
        with translated():
            return (await self._session.execute(statement, parameters, execution_options=_OPTIONS)).all()

    async def _rows_within(
        self, seconds: float, statement: TypedReturnsRows[*Ts], parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Any] | None:
        """The same for one that waits no longer for a row which another transaction has locked; None is that it did.

        With parameters it is one of those that the driver runs by itself.
        """
        if seconds <= 0 or (await driver_of(self._session)).autocommit:
            return None
        with translated():
            try:
                async with self._session.begin_nested():
                    before = await self._session.scalar(text("SHOW lock_timeout"))
                    await self._session.execute(
                        text(f"SET LOCAL lock_timeout = '{max(1, int(seconds * 1000))}ms'")
                    )
                    if parameters is None:
                        rows: Sequence[Any] = await self._rows(statement)
                    else:
                        rows = await fetch(self._session, statement, parameters)
                    await self._session.execute(text(f"SET LOCAL lock_timeout = '{before}'"))
                    return rows
            except (exc.DBAPIError, AlfredDBError) as error:
                if _state(error) not in _LOCKED:
                    raise
                return None


def _state(error: BaseException | None) -> str | None:
    """The SQLSTATE of an error of the driver's, or of one that was made of it."""
    while error is not None:
        state = getattr(getattr(error, "orig", error), "sqlstate", None)
        if state is not None:
            return str(state)
        error = error.__cause__
    return None
