"""Reads of the broker's catalog when it is linked from another database that cannot be reached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar, TypeVarTuple

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate
from sqlalchemy.sql.selectable import TypedReturnsRows

from ...errors import DatabaseUnavailable
from ...sql import LAST_KNOWN_CATALOG
from .base import OPTIONS, AsyncRepository

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_log = logging.getLogger("alfred_db")


class AsyncCatalogReader(AsyncRepository):
    """A repository whose statements read the broker's catalog."""

    _allowed = False

    @property
    def last_known(self) -> Self:
        """This repository, allowed to read the last known state of the broker's catalog.

        Where the catalog is linked from another database that cannot be reached, a statement is repeated on the last
        known state (`alfred-db catalog refresh` takes it). Without a link nothing differs but a savepoint.
        """
        allowed = type(self)(self._session)
        allowed._allowed = True
        return allowed

    async def _first(self, statement: Select[T]) -> T | None:
        found: T | None = await self._either(lambda reader: AsyncRepository._first(reader, statement))
        return found

    async def _all(self, statement: Select[T]) -> Sequence[T]:
        found: Sequence[T] = await self._either(lambda reader: AsyncRepository._all(reader, statement))
        return found

    async def _write(
        self, statement: ReturningInsert[T] | ReturningUpdate[T] | ReturningDelete[T]
    ) -> T | None:
        found: T | None = await self._either(lambda reader: AsyncRepository._write(reader, statement))
        return found

    async def _rows(
        self, statement: TypedReturnsRows[*Ts], parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[*Ts]]:
        found: Sequence[Row[*Ts]] = await self._either(
            lambda reader: AsyncRepository._rows(reader, statement, parameters)
        )
        return found

    async def _either(self, run: Callable[[AsyncRepository], Any]) -> Any:
        if not self._allowed:
            return await run(self)
        try:
            # The savepoint keeps the transaction when the catalog cannot be read.
            async with self._session.begin_nested():
                return await run(self)
        except DatabaseUnavailable as error:
            state = None if error.original is None else error.original.sqlstate
            if state is None or not state.startswith("08"):
                raise
            _log.warning(
                "the broker's catalog cannot be reached; its last known state is read instead: %s", error
            )
        reader = AsyncRepository(self._session)
        reader._options = {**OPTIONS, "schema_translate_map": _moved(self._session)}
        return await run(reader)


def _moved(session: AsyncSession) -> dict[str | None, str | None]:
    options: Mapping[str, Any] = session.get_bind().get_execution_options()
    return {**(options.get("schema_translate_map") or {}), "brk_registry": LAST_KNOWN_CATALOG}
