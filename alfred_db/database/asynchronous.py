"""The database of programs that use asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from ..engine.chunks import AsyncInChunks
from ..engine.ends import TaskEnds
from ..engine.engines import Pooler
from ..engine.listeners import AsyncTaskListener, refuse_pooler
from ..engine.notifications import announce
from ..engine.replicas import ReadSession, allowed_lag, current_position, prepare, reading, wal_position
from ..engine.session import AloneSession, AutocommitSession, DirectSession
from ..engine.unit import AsyncBegun
from ..engine.unit import close as close_session
from ..errors import SchemaOutdatedError, translated
from .base import DatabaseBase, migration_url, moved

if TYPE_CHECKING:
    from ..execution._async.waiting import AsyncTaskWaiter
    from ..repositories import (
        AsyncCacheRepository,
        AsyncRateLimitRepository,
        AsyncUnitOfWork,
        AsyncWebSessionRepository,
    )
    from ..tenants import AsyncTenants

__all__ = ["AsyncDatabase"]


class AsyncDatabase(DatabaseBase[AsyncEngine], AsyncInChunks["AsyncUnitOfWork"]):
    """The `Database` for asyncio. Use each session in one asyncio task only."""

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        schema: str | None = None,
        pooler: Pooler | None = None,
        pool_size: int = 5,
        application_name: str = "alfred-db",
        notify: bool = False,
        read_only: bool = False,
        replica_url: str | URL | None = None,
        max_lag: float = 10.0,
    ) -> None:
        from ..repositories import AsyncUnitOfWork

        self.unit_of_work: Callable[[AsyncSession], AsyncUnitOfWork] = AsyncUnitOfWork
        """What makes a unit of work of a session."""
        self._find_first: Callable[[], Awaitable[None]] | None = None
        super().__init__(
            url,
            schema=schema,
            pooler=pooler,
            pool_size=pool_size,
            application_name=application_name,
            notify=notify,
            read_only=read_only,
            replica_url=replica_url,
            max_lag=max_lag,
        )

    def _new_engine(self, url: URL, options: Mapping[str, Any]) -> AsyncEngine:
        return create_async_engine(url, **options)

    def _plain(self, engine: AsyncEngine) -> Engine:
        return engine.sync_engine

    def _make_sessions(self) -> None:
        kept = self._kept
        sessions, units = sessionmaker[Session](), sessionmaker(class_=DirectSession, kept=kept)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, sync_session_class=sessions)
        self._units = async_sessionmaker(self.engine, expire_on_commit=False, sync_session_class=units)
        autocommit = sessionmaker(class_=AutocommitSession, kept=kept)
        self._autocommit = async_sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"),
            expire_on_commit=False,
            sync_session_class=autocommit,
        )
        reads = sessionmaker(class_=ReadSession, kept=kept)
        self._reads = async_sessionmaker(self.engine, expire_on_commit=False, sync_session_class=reads)
        alone = sessionmaker(class_=AloneSession, kept=kept)
        self._alone = async_sessionmaker(self.engine, sync_session_class=alone)()
        announce(self._notifier, self.schema, sessions, units, autocommit)

    def tenant(self, name: str) -> AsyncDatabase:
        """Return a tenant of this database, on the pool of this one; see `Database.tenant`.

            async with db.tenant("acme").begin() as uow: ...

        Args:
            name: The name of the tenant, which is that of its schema.

        Raises:
            ConfigurationError: The name cannot be that of a tenant.
            NotFoundError: From the first unit of work or session: there is no such tenant.
        """
        return self._tenant(name)

    def _await_server(self) -> None:
        self._find_first = self._find

    @cached_property
    def tenants(self) -> AsyncTenants:
        """The tenants of the database: create, list, upgrade and drop them, as the role that runs the migrations."""
        from ..tenants import AsyncTenants

        return AsyncTenants(self.url, self._opened)

    async def _find(self) -> None:
        """Find the server of the tenant, and check that the tenant exists; once."""
        from ..tenants import require_tenant, server_of

        root, tenant = self._root or self, str(self.schema)
        with translated():
            async with root._units() as session:
                url = await session.run_sync(server_of, tenant, root.url)
        if url is None:
            self._use(root)
        else:
            self._use(root._servers.get(url) or root._servers.setdefault(url, root._beside(url)))
        with translated():
            async with self._units() as session:
                await session.run_sync(require_tenant, tenant)
        self._find_first = None

    @property
    def alone(self) -> AsyncSession:
        """The session of single statements, which each commit alone. For the library only.

        It holds no connection between them.
        """
        return self._alone

    async def _find_units(self) -> AsyncSession:
        await self._find()
        return self._units()

    async def _find_autocommit(self) -> AsyncSession:
        await self._find()
        return self._autocommit()

    async def _lost(self, error: BaseException) -> None:
        """Find the server again after a unit of work whose tables were not found: the tenant may have been moved.

        Raises:
            DatabaseUnavailable: The tenant is on another server now; the next unit of work is there.
        """
        if isinstance(error, SchemaOutdatedError):
            before = self.url
            await self._find()
            if self.url != before:
                raise moved(self.schema) from error

    @cached_property
    def cache(self) -> AsyncCacheRepository:
        """Values with a time to live; each statement commits alone."""
        from ..repositories import AsyncCacheRepository

        return AsyncCacheRepository(self._alone, evicts=True)

    @cached_property
    def web_sessions(self) -> AsyncWebSessionRepository:
        """Sessions of a web application; each statement commits alone."""
        from ..repositories import AsyncWebSessionRepository

        return AsyncWebSessionRepository(self._alone)

    @cached_property
    def rate_limits(self) -> AsyncRateLimitRepository:
        """How often something is allowed; each statement commits alone."""
        from ..repositories import AsyncRateLimitRepository

        return AsyncRateLimitRepository(self._alone)

    @cached_property
    def tasks(self) -> AsyncTaskWaiter:
        """Waits for the end of tasks, and for their results; each statement commits alone."""
        from ..execution._async.waiting import AsyncTaskWaiter

        ends = None if self.pooler is not None else TaskEnds(self.url, self.schema)
        return AsyncTaskWaiter(self._alone, ends, marks=not self.read_only)

    def begin(self) -> AbstractAsyncContextManager[AsyncUnitOfWork]:
        """Return a context manager for one transaction: commit at the end, roll back on an exception."""
        if self._root is None:
            return AsyncBegun(self._units(), self.unit_of_work)
        first = None if self._find_first is None else self._find_units
        return AsyncBegun(self._units(), self.unit_of_work, first, self._lost)

    def read(
        self, *, after: str | None = None, max_lag: float | None = None
    ) -> AbstractAsyncContextManager[AsyncUnitOfWork]:
        """Return a context manager for a unit of work that only reads; see `Database.read`.

        Args:
            after: A position of the primary's log, from `position`, that the replica must have replayed.
            max_lag: The seconds that the replica may lag behind; None is the one of the database.

        Raises:
            InvalidInputError: One of the arguments is invalid.
        """
        session, position = self._reads(), wal_position(after)
        lag = allowed_lag(max_lag, self._max_lag)

        async def first() -> AsyncSession:
            chosen = session
            if self._find_first is not None:
                await self._find_first()
                chosen = self._reads()
            engine = None if self._replica_engine is None else self._replica_engine.sync_engine
            await chosen.run_sync(prepare, self._replicas, engine, position, lag)
            return chosen

        return AsyncBegun(session, reading(self.unit_of_work, self._replicas), first)

    async def position(self) -> str:
        """Return the position of the primary's log: all that was committed before is at or before it.

        It is a short text that can be passed on to the next reader, as in a cookie.
        """
        async with self._units() as session:
            return await session.run_sync(current_position)

    def autocommit(self) -> AbstractAsyncContextManager[AsyncUnitOfWork]:
        """Return a context manager for calls of which each statement commits by itself.

        `claim`, `heartbeat`, `complete`, `fail` and `release` are one statement each, and need no more: BEGIN and
        COMMIT would be two more round trips. Nothing is rolled back after an exception. Workers are notified of
        tasks that were enqueued when the context ends.
        """
        if self._root is None:
            return AsyncBegun(self._autocommit(), self.unit_of_work)
        first = None if self._find_first is None else self._find_autocommit
        return AsyncBegun(self._autocommit(), self.unit_of_work, first, self._lost)

    def listen(
        self, *, queues: Collection[str] | None = None, intents: Collection[str] | None = None
    ) -> AsyncTaskListener:
        """Return a context manager that waits for tasks to be enqueued, for a loop that claims them itself.

        It listens on a connection outside of the pool. Those who enqueue have to notify (`notify=True`).

        Args:
            queues: The queues that the loop claims from; None is all.
            intents: The intents that it claims; None is all.

        Raises:
            ConfigurationError: The database is behind a pooler in transaction mode.
        """
        refuse_pooler(self.pooler)
        return AsyncTaskListener(self.url, self.schema, queues, intents)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Open a plain SQLAlchemy session; roll back at the end what was not committed."""
        if self._find_first is not None:
            await self._find_first()
        session = self._sessions()
        try:
            yield session
        finally:
            await close_session(session)

    async def upgrade(self, revision: str = "head") -> None:
        """Migrate the schema to `revision`, in a thread.

        The migration connects to the URL in ALFRED_DB_MIGRATION_URL if that variable is set.
        """
        from .. import migrate

        await asyncio.to_thread(migrate.upgrade, migration_url(self.url), revision, schema=self.schema)

    async def verify(self) -> None:
        """Check that the live schema is the one that the models need.

        Raises:
            SchemaError: The schema is missing, outdated or different; the message names the command to run.
        """
        from ..migrate.verify import verify

        with translated():
            async with self.engine.connect() as connection:
                await connection.run_sync(verify, self.schema)

    async def close(self) -> None:
        """Close the pooled connections; does nothing for a tenant that `tenant` returned."""
        if self._root is not None:
            return
        for server in self._servers.values():
            await server.close()
        if self._notifier is not None:
            await asyncio.to_thread(self._notifier.close)
        if self._replica_engine is not None:
            await self._replica_engine.dispose()
        await self.engine.dispose()

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
