"""Units of work: one transaction each, committed at the end, rolled back on an exception."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from ..errors import translated
from .session import DirectSession, refuse_failed

__all__ = ["AsyncBegun", "Begun", "close"]

U = TypeVar("U")


class Begun(Generic[U]):
    """The context manager of one transaction.

    It is a class because a generator would take a third of the time that the library adds to a transaction.
    """

    __slots__ = ("_first", "_lost", "_session", "_unit")

    def __init__(
        self,
        session: Session,
        unit: Callable[[Session], U],
        first: Callable[[], Session] | None = None,
        lost: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._session = session
        self._unit = unit
        self._first = first
        self._lost = lost

    def __enter__(self) -> U:
        if self._first is not None:
            self._session = self._first()  # the tenant may be on another server
        return self._unit(self._session)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with translated():  # a connection that is gone by now cannot be rolled back
            try:
                if kind is None:
                    self._session.commit()
            finally:
                self._session.close()
                if error is not None and self._lost is not None:
                    self._lost(error)


class AsyncBegun(Generic[U]):
    """The context manager of one transaction for asyncio."""

    __slots__ = ("_first", "_lost", "_session", "_unit")

    def __init__(
        self,
        session: AsyncSession,
        unit: Callable[[AsyncSession], U],
        first: Callable[[], Awaitable[AsyncSession]] | None = None,
        lost: Callable[[BaseException], Awaitable[None]] | None = None,
    ) -> None:
        self._session = session
        self._unit = unit
        self._first = first
        self._lost = lost

    async def __aenter__(self) -> U:
        if self._first is not None:
            self._session = await self._first()  # the tenant may be on another server
        return self._unit(self._session)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            await close(self._session)
            if self._lost is not None:
                await self._lost(error)
            return
        try:
            with translated():
                await _commit(self._session)
        except BaseException:
            await close(self._session)
            raise
        await _release(self._session)


async def _commit(session: AsyncSession) -> None:
    own = session.sync_session
    if isinstance(own, DirectSession) and own.taken is not None and own.driver_commits:
        refuse_failed(own.driver)
        if own.has_begun:
            await own.driver.commit()  # through SQLAlchemy this would cost twice as much
        if own.listeners.after_commit:
            own.dispatch.after_commit(own)
    else:
        await session.commit()


async def _release(session: AsyncSession) -> None:
    """Close a session whose transaction is committed."""
    own = session.sync_session
    pool = own.bind.pool if isinstance(own.bind, Engine) else None
    if isinstance(pool, QueuePool) and pool.checkedin() < pool.size():
        own.close()  # the pool keeps the connection, so closing sends nothing
    else:
        await session.close()


async def close(session: AsyncSession) -> None:
    """Close a session; works while its asyncio task is being cancelled."""
    with translated():  # a connection that is gone by now cannot be rolled back
        async with session:  # SQLAlchemy shields this exit from the cancellation
            pass
