"""The base class of repositories: the statements that they run in their session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import isfunction, unwrap
from types import FunctionType
from typing import Any, TypeVar, TypeVarTuple, get_args, get_origin, get_type_hints

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate
from sqlalchemy.sql.selectable import TypedReturnsRows

from ...checks import within
from ...errors import UnreadableRow, translated
from ..arguments import checked
from .driver import driver_of
from .unreadable import located

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Rows that the session already holds are refreshed; a write does not search the session for them.
OPTIONS: Mapping[str, Any] = {"populate_existing": True, "synchronize_session": False}


MAX_CHUNK = 10_000
"""The maximum of a `limit` for the rows that a call writes."""


class AsyncRepository:
    """Runs statements in the caller's session and transaction; opens, commits and closes nothing."""

    _options = OPTIONS

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def __init_subclass__(cls) -> None:
        """Wrap each public method in a check of its arguments, compiled from its signature.

        A method of a generic base is copied, with the types that stand for the variables of the base.
        """
        super().__init_subclass__()
        for name, method in _methods(cls):
            setattr(cls, name, checked(cls, name, method))
        for base in vars(cls).get("__orig_bases__", ()):
            if isinstance(kind := get_origin(base), type) and issubclass(kind, AsyncRepository):
                types: dict[Any, Any] = dict(zip(kind.__parameters__, get_args(base), strict=True))  # type: ignore[attr-defined]
                for name, method in _methods(kind):
                    if name not in vars(cls):
                        setattr(cls, name, checked(cls, name, _bound(unwrap(method), cls, types)))

    async def _first(self, statement: Select[T]) -> T | None:
        try:
            with translated():
                return (await self._session.scalars(statement, execution_options=self._options)).first()
        except UnreadableRow as error:
            raise await self._located(error, statement) from None

    async def _all(self, statement: Select[T]) -> Sequence[T]:
        try:
            with translated():
                return (await self._session.scalars(statement, execution_options=self._options)).all()
        except UnreadableRow as error:
            raise await self._located(error, statement) from None

    async def _write(
        self, statement: ReturningInsert[T] | ReturningUpdate[T] | ReturningDelete[T]
    ) -> T | None:
        """Run a statement that returns one value for a row; return the value, or None when no row was written."""
        try:
            with translated():
                return (await self._session.scalars(statement, execution_options=self._options)).first()
        except UnreadableRow as error:
            raise await self._located(error, statement) from None

    async def _rows(
        self, statement: TypedReturnsRows[*Ts], parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[*Ts]]:
        """Run a statement that returns rows of several columns, or that writes several rows."""
        try:
            with translated():
                return (
                    await self._session.execute(statement, parameters, execution_options=self._options)
                ).all()
        except UnreadableRow as error:
            raise await self._located(error, statement, parameters) from None

    async def _in_turns(
        self, limit: int | None, statement: Callable[[int | None], TypedReturnsRows[*Ts]]
    ) -> list[Row[*Ts]]:
        """Run a statement until it has written `limit` rows or none are left.

        The statement writes at most as many rows as it is built for. It may find fewer while others write or lock its
        rows, and then it runs again: fewer than `limit` rows in the end mean that nothing is left. Without a limit,
        one statement writes all rows.
        """
        if limit is None:
            return list(await self._rows(statement(None)))
        within("limit", limit, 1, MAX_CHUNK)
        written: list[Row[*Ts]] = []
        while len(written) < limit and (rows := await self._rows(statement(limit - len(written)))):
            written += rows
        return written

    async def _located(
        self, error: UnreadableRow, statement: Any, parameters: Mapping[str, Any] | None = None
    ) -> UnreadableRow:
        return await located(self._session, await driver_of(self._session), error, statement, parameters)


def _bound(method: Any, owner: type, types: Mapping[Any, Any]) -> FunctionType:
    """Return a copy of a method for a class, with types instead of variables in its signature."""
    copy = FunctionType(
        method.__code__, method.__globals__, method.__name__, method.__defaults__, method.__closure__
    )
    copy.__kwdefaults__, copy.__doc__ = method.__kwdefaults__, method.__doc__
    copy.__module__, copy.__qualname__ = owner.__module__, f"{owner.__qualname__}.{method.__name__}"
    for name, hint in get_type_hints(method).items():
        variables = getattr(hint, "__parameters__", ())
        if variables:
            hint = hint[tuple(types[one] for one in variables)]
        copy.__annotations__[name] = types.get(hint, hint) if isinstance(hint, TypeVar) else hint
    return copy


def _methods(kind: type) -> list[tuple[str, FunctionType]]:
    """The public methods that a class defines itself."""
    return [
        (name, method)
        for name, method in vars(kind).items()
        if not name.startswith("_") and isfunction(method)
    ]
