"""The base class of repositories: the statements that they run in their session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import isfunction
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate
from sqlalchemy.sql.selectable import TypedReturnsRows

from ...errors import UnreadableRow, translated
from ..arguments import checked
from .driver import driver_of
from .unreadable import located

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Rows that the session already holds are refreshed; a write does not search the session for them.
_OPTIONS = {"populate_existing": True, "synchronize_session": False}


class AsyncRepository:
    """Runs statements in the caller's session and transaction; opens, commits and closes nothing."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def __init_subclass__(cls) -> None:
        """Wrap each public method in a check of its arguments, compiled from its signature."""
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            if not name.startswith("_") and isfunction(method):
                setattr(cls, name, checked(cls, name, method))

    async def _first(self, statement: Select[T]) -> T | None:
        try:
            with translated():
                return (await self._session.scalars(statement, execution_options=_OPTIONS)).first()
        except UnreadableRow as error:
            raise await self._located(error, statement) from None

    async def _all(self, statement: Select[T]) -> Sequence[T]:
        try:
            with translated():
                return (await self._session.scalars(statement, execution_options=_OPTIONS)).all()
        except UnreadableRow as error:
            raise await self._located(error, statement) from None

    async def _write(
        self, statement: ReturningInsert[T] | ReturningUpdate[T] | ReturningDelete[T]
    ) -> T | None:
        """Run a statement that returns one value for a row; return the value, or None when no row was written."""
        try:
            with translated():
                return (await self._session.scalars(statement, execution_options=_OPTIONS)).first()
        except UnreadableRow as error:
            raise await self._located(error, statement) from None

    async def _rows(
        self, statement: TypedReturnsRows[*Ts], parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[*Ts]]:
        """Run a statement that returns rows of several columns, or that writes several rows."""
        try:
            with translated():
                return (await self._session.execute(statement, parameters, execution_options=_OPTIONS)).all()
        except UnreadableRow as error:
            raise await self._located(error, statement, parameters) from None

    async def _located(
        self, error: UnreadableRow, statement: Any, parameters: Mapping[str, Any] | None = None
    ) -> UnreadableRow:
        return await located(self._session, await driver_of(self._session), error, statement, parameters)
