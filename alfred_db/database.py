"""The entry points: `Database` and `AsyncDatabase`, with their sessions and units of work."""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from copy import copy
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from .config import database_url, parse_url, tenant_schema
from .engine.chunks import AsyncInChunks, InChunks
from .engine.ends import TaskEnds
from .engine.engines import Pooler, engine_options, refuse_pooler_read_only, watch
from .engine.listeners import AsyncTaskListener, TaskListener, refuse_pooler
from .engine.notifications import Notifier, announce
from .engine.replicas import (
    ReadSession,
    Replicas,
    allowed_lag,
    current_position,
    prepare,
    reading,
    replica_of,
    wal_position,
)
from .engine.session import AloneSession, AutocommitSession, DirectSession
from .engine.unit import AsyncBegun, Begun
from .engine.unit import close as close_session
from .errors import DatabaseUnavailable, SchemaOutdatedError, translated
from .sql import schema_translate_map

if TYPE_CHECKING:
    from .execution._async.waiting import AsyncTaskWaiter
    from .execution._sync.waiting import TaskWaiter
    from .repositories import (
        AsyncCacheRepository,
        AsyncRateLimitRepository,
        AsyncUnitOfWork,
        AsyncWebSessionRepository,
        CacheRepository,
        RateLimitRepository,
        UnitOfWork,
        WebSessionRepository,
    )
    from .tenants import AsyncTenants, Tenants

__all__ = ["AsyncDatabase", "Database"]


class Database(InChunks["UnitOfWork"]):
    """One PostgreSQL database, or one tenant of it.

    Creating the object connects to nothing; the first use does.

    Args:
        url: The database; without it `alfred_db.config.database_url` looks for one.
        schema: The tenant, by the name of its schema; None is the default tenant.
        pooler: `"transaction"` behind PgBouncer or another pooler in transaction mode: statements are not
            prepared, and no state is kept in the server's session.
        pool_size: The number of connections that the pool keeps open.
        application_name: The name of the connections in `pg_stat_activity`.
        notify: Notify idle workers after a commit that enqueued tasks, through a separate connection. Without
            it workers find new tasks when they next poll.
        read_only: Have the server refuse every write through these connections. `upgrade` uses another one.
        replica_url: Standbys that `read` reads from, one or several hosts. libpq connects to any of them, unless the URL
            sets `target_session_attrs` or `load_balance_hosts`.
        max_lag: The seconds that a standby may lag behind; else `read` reads from the primary.

    Raises:
        ConfigurationError: No URL was found, or one of the arguments is wrong.
    """

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
        from .repositories import UnitOfWork

        self.url = database_url(url)
        self.schema = None if schema is None else tenant_schema(schema)
        self.pooler: Pooler | None = pooler
        self.read_only = refuse_pooler_read_only(read_only, pooler)
        self.unit_of_work: Callable[[Session], UnitOfWork] = UnitOfWork
        """What makes a unit of work of a session."""
        self.wrap_handler: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
        """What wraps each handler of the workers of this database, as telemetry does; None leaves them as they are."""
        self.wrap_tenant: Callable[[Database], None] | None = None
        """What is called with each tenant that `tenant` makes, as telemetry does."""
        self.engine: Engine = create_engine(
            self.url, **engine_options(self.url, schema, pooler, pool_size, application_name)
        )
        self._kept = watch(self.engine, pooler, self.schema, read_only)
        self._notifier = Notifier(self.url) if notify else None
        self._replicas: Replicas | None = None
        self._replica_engine: Engine | None = None
        self._max_lag = allowed_lag(max_lag)
        if replica_url is not None:
            replica = replica_of(parse_url(replica_url))
            options = engine_options(replica, schema, pooler, pool_size, application_name)
            self._replica_engine = create_engine(replica, **options)
            kept = watch(self._replica_engine, pooler, self.schema, read_only=True)
            self._replicas = Replicas(kept)
        self._root: Database | None = None
        self._opened: dict[str, Database] = {}
        self._find_first: Callable[[], None] | None = None
        self._options = (pooler, pool_size, application_name, notify, read_only)
        self._servers: dict[URL, Database] = {}
        self._make_sessions()

    def _make_sessions(self) -> None:
        kept = self._kept
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._units = sessionmaker(self.engine, class_=DirectSession, expire_on_commit=False, kept=kept)
        self._alone = AloneSession(self.engine, kept=kept)
        self._reads = sessionmaker(self.engine, class_=ReadSession, expire_on_commit=False, kept=kept)
        self._autocommit = sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"),
            class_=AutocommitSession,
            expire_on_commit=False,
            kept=kept,
        )
        announce(self._notifier, self.schema, self._sessions, self._units, self._autocommit)

    def tenant(self, name: str) -> Database:
        """Return a tenant of this database, with everything that a `Database` has, on the pool of this one.

        It opens no connection for itself and leaves nothing of the tenant in the server's session: each statement names
        the schema. Closing it closes nothing. The same name returns the same object.

            with db.tenant("acme").begin() as uow: ...

        The first unit of work checks that the tenant exists.

        Args:
            name: The name of the tenant, which is that of its schema.

        Raises:
            ConfigurationError: The name cannot be that of a tenant.
            NotFoundError: From the first unit of work or session: there is no such tenant.
        """
        root = self._root or self
        found = root._opened.get(name)
        if found is None:
            found = copy(root)
            found.schema = tenant_schema(name)
            options = {"schema_translate_map": schema_translate_map(name)}
            found.engine = root.engine.execution_options(**options)
            if root._replica_engine is not None:
                found._replica_engine = root._replica_engine.execution_options(**options)
            found._root = root
            found._find_first = found._find
            found.wrap_handler = found.wrap_tenant = None
            _forget(found)
            found._make_sessions()
            found = root._opened.setdefault(name, found)
            if root.wrap_tenant is not None:
                root.wrap_tenant(found)
        return found

    @property
    def opened(self) -> Sequence[Database]:
        """The tenants that `tenant` has returned so far."""
        return [] if self.shares_pool else list(self._opened.values())

    @property
    def shares_pool(self) -> bool:
        """Whether the connections are those of another one, which returned this one from `tenant`."""
        return self._root is not None

    @cached_property
    def tenants(self) -> Tenants:
        """The tenants of the database: create, list, upgrade and drop them, as the role that runs the migrations."""
        from .tenants import Tenants

        return Tenants(self.url, self._opened)

    def _find(self) -> None:
        """Find the server of the tenant, and check that the tenant exists; once."""
        from .tenants import require_tenant, server_of

        root, tenant = self._root or self, str(self.schema)
        with translated(), root._units() as session:
            url = server_of(session, tenant, root.url)
        if url is None:
            self._use(root)
        else:
            # Two threads may make one; the one that is not kept has opened no connection.
            self._use(root._servers.get(url) or root._servers.setdefault(url, root._beside(url)))
        with translated(), self._units() as session:
            require_tenant(session, tenant)
        self._find_first = None

    @property
    def alone(self) -> Session:
        """The session of single statements, which each commit alone. For the library only.

        It holds no connection between them.
        """
        return self._alone

    def _beside(self, url: URL) -> Database:
        """Make the database of another server, as this one is made."""
        pooler, size, name, notify, read_only = self._options
        return Database(
            url, pooler=pooler, pool_size=size, application_name=name, notify=notify, read_only=read_only
        )

    def _use(self, server: Database) -> None:
        """Go on with the pool of this server."""
        if self.url == server.url:
            return
        self.url, self._kept, self._notifier = server.url, server._kept, server._notifier
        options = {"schema_translate_map": schema_translate_map(self.schema)}
        self.engine = server.engine.execution_options(**options)
        self._replicas, replica = server._replicas, server._replica_engine
        self._replica_engine = None if replica is None else replica.execution_options(**options)
        _forget(self)
        self._make_sessions()

    def _find_units(self) -> Session:
        self._find()
        return self._units()

    def _find_autocommit(self) -> Session:
        self._find()
        return self._autocommit()

    def _lost(self, error: BaseException) -> None:
        """Find the server again after a unit of work whose tables were not found: the tenant may have been moved.

        Raises:
            DatabaseUnavailable: The tenant is on another server now; the next unit of work is there.
        """
        if isinstance(error, SchemaOutdatedError):
            before = self.url
            self._find()
            if self.url != before:
                raise _moved(self.schema) from error

    @cached_property
    def cache(self) -> CacheRepository:
        """Values with a time to live; each statement commits alone."""
        from .repositories import CacheRepository

        return CacheRepository(self._alone, evicts=True)

    @cached_property
    def web_sessions(self) -> WebSessionRepository:
        """Sessions of a web application; each statement commits alone."""
        from .repositories import WebSessionRepository

        return WebSessionRepository(self._alone)

    @cached_property
    def rate_limits(self) -> RateLimitRepository:
        """How often something is allowed; each statement commits alone."""
        from .repositories import RateLimitRepository

        return RateLimitRepository(self._alone)

    @cached_property
    def tasks(self) -> TaskWaiter:
        """Waits for the end of tasks, and for their results; each statement commits alone."""
        from .execution._sync.waiting import TaskWaiter

        ends = None if self.pooler is not None else TaskEnds(self.url, self.schema)
        return TaskWaiter(self._alone, ends, marks=not self.read_only)

    def begin(self) -> AbstractContextManager[UnitOfWork]:
        """Return a context manager for one transaction: commit at the end, roll back on an exception."""
        if self._root is None:
            return Begun(self._units(), self.unit_of_work)
        first = None if self._find_first is None else self._find_units
        return Begun(self._units(), self.unit_of_work, first, self._lost)

    def read(
        self, *, after: str | None = None, max_lag: float | None = None
    ) -> AbstractContextManager[UnitOfWork]:
        """Return a context manager for a unit of work that only reads: on a fresh replica, or on the primary.

        The primary answers where no replica does, such as when none is configured, none can be reached, or what was asked
        for has not been replayed there. A write is refused. To read what a unit of work has written:

            with db.begin() as uow: ...
            token = db.position()
            with db.read(after=token) as uow: ...

        If the replica ends while a call of a repository runs, the call is repeated on the primary, once.

        Args:
            after: A position of the primary's log, from `position`, that the replica must have replayed.
            max_lag: The seconds that the replica may lag behind; None is the one of the database.

        Raises:
            InvalidInputError: One of the arguments is invalid.
        """
        session, position = self._reads(), wal_position(after)
        lag = allowed_lag(max_lag, self._max_lag)

        def first() -> Session:
            chosen = session
            if self._find_first is not None:
                self._find_first()
                chosen = self._reads()
            prepare(chosen, self._replicas, self._replica_engine, position, lag)
            return chosen

        return Begun(session, reading(self.unit_of_work, self._replicas), first)

    def position(self) -> str:
        """Return the position of the primary's log: all that was committed before is at or before it.

        It is a short text that can be passed on to the next reader, as in a cookie.
        """
        with self._units() as session:
            return current_position(session)

    def autocommit(self) -> AbstractContextManager[UnitOfWork]:
        """Return a context manager for calls of which each statement commits by itself.

        `claim`, `heartbeat`, `complete`, `fail` and `release` are one statement each, and need no more: BEGIN and
        COMMIT would be two more round trips. Nothing is rolled back after an exception. Workers are notified of
        tasks that were enqueued when the context ends.
        """
        if self._root is None:
            return Begun(self._autocommit(), self.unit_of_work)
        first = None if self._find_first is None else self._find_autocommit
        return Begun(self._autocommit(), self.unit_of_work, first, self._lost)

    def listen(
        self, *, queues: Collection[str] | None = None, intents: Collection[str] | None = None
    ) -> TaskListener:
        """Return a context manager that waits for tasks to be enqueued, for a loop that claims them itself.

        It listens on a connection outside of the pool. Those who enqueue have to notify (`notify=True`).

        Args:
            queues: The queues that the loop claims from; None is all.
            intents: The intents that it claims; None is all.

        Raises:
            ConfigurationError: The database is behind a pooler in transaction mode.
        """
        refuse_pooler(self.pooler)
        return TaskListener(self.url, self.schema, queues, intents)

    @contextmanager
    def session(self) -> Generator[Session]:
        """Open a plain SQLAlchemy session; roll back at the end what was not committed."""
        if self._find_first is not None:
            self._find_first()
        session = self._sessions()
        try:
            yield session
        finally:
            with translated():
                session.close()

    def upgrade(self, revision: str = "head") -> None:
        """Migrate the schema to `revision`.

        The migration connects to the URL in ALFRED_DB_MIGRATION_URL if that variable is set.
        """
        from . import migrate

        migrate.upgrade(_migration_url(self.url), revision, schema=self.schema)

    def verify(self) -> None:
        """Check that the live schema is the one that the models need.

        Raises:
            SchemaError: The schema is missing, outdated or different; the message names the command to run.
        """
        from .migrate.verify import verify

        with translated(), self.engine.connect() as connection:
            verify(connection, self.schema)

    def close(self) -> None:
        """Close the pooled connections; does nothing for a tenant that `tenant` returned."""
        if self._root is not None:
            return
        for server in self._servers.values():
            server.close()
        if self._notifier is not None:
            self._notifier.close()
        if self._replica_engine is not None:
            self._replica_engine.dispose()
        self.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return _repr(self)


class AsyncDatabase(AsyncInChunks["AsyncUnitOfWork"]):
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
        from .repositories import AsyncUnitOfWork

        self.url = database_url(url)
        self.schema = None if schema is None else tenant_schema(schema)
        self.pooler: Pooler | None = pooler
        self.read_only = refuse_pooler_read_only(read_only, pooler)
        self.unit_of_work: Callable[[AsyncSession], AsyncUnitOfWork] = AsyncUnitOfWork
        """What makes a unit of work of a session."""
        self.wrap_handler: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
        """What wraps each handler of the workers of this database, as telemetry does; None leaves them as they are."""
        self.wrap_tenant: Callable[[AsyncDatabase], None] | None = None
        """What is called with each tenant that `tenant` makes, as telemetry does."""
        self.engine: AsyncEngine = create_async_engine(
            self.url, **engine_options(self.url, schema, pooler, pool_size, application_name)
        )
        self._kept = watch(self.engine.sync_engine, pooler, self.schema, read_only)
        self._notifier = Notifier(self.url) if notify else None
        self._replicas: Replicas | None = None
        self._replica_engine: AsyncEngine | None = None
        self._max_lag = allowed_lag(max_lag)
        if replica_url is not None:
            replica = replica_of(parse_url(replica_url))
            options = engine_options(replica, schema, pooler, pool_size, application_name)
            self._replica_engine = create_async_engine(replica, **options)
            kept = watch(self._replica_engine.sync_engine, pooler, self.schema, read_only=True)
            self._replicas = Replicas(kept)
        self._root: AsyncDatabase | None = None
        self._opened: dict[str, AsyncDatabase] = {}
        self._find_first: Callable[[], Awaitable[None]] | None = None
        self._options = (pooler, pool_size, application_name, notify, read_only)
        self._servers: dict[URL, AsyncDatabase] = {}
        self._make_sessions()

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
        root = self._root or self
        found = root._opened.get(name)
        if found is None:
            found = copy(root)
            found.schema = tenant_schema(name)
            options = {"schema_translate_map": schema_translate_map(name)}
            found.engine = root.engine.execution_options(**options)
            if root._replica_engine is not None:
                found._replica_engine = root._replica_engine.execution_options(**options)
            found._root = root
            found._find_first = found._find
            found.wrap_handler = found.wrap_tenant = None
            _forget(found)
            found._make_sessions()
            found = root._opened.setdefault(name, found)
            if root.wrap_tenant is not None:
                root.wrap_tenant(found)
        return found

    @property
    def opened(self) -> Sequence[AsyncDatabase]:
        """The tenants that `tenant` has returned so far."""
        return [] if self.shares_pool else list(self._opened.values())

    @property
    def shares_pool(self) -> bool:
        """Whether the connections are those of another one, which returned this one from `tenant`."""
        return self._root is not None

    @cached_property
    def tenants(self) -> AsyncTenants:
        """The tenants of the database: create, list, upgrade and drop them, as the role that runs the migrations."""
        from .tenants import AsyncTenants

        return AsyncTenants(self.url, self._opened)

    async def _find(self) -> None:
        """Find the server of the tenant, and check that the tenant exists; once."""
        from .tenants import require_tenant, server_of

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

    def _beside(self, url: URL) -> AsyncDatabase:
        """Make the database of another server, as this one is made."""
        pooler, size, name, notify, read_only = self._options
        return AsyncDatabase(
            url, pooler=pooler, pool_size=size, application_name=name, notify=notify, read_only=read_only
        )

    def _use(self, server: AsyncDatabase) -> None:
        """Go on with the pool of this server."""
        if self.url == server.url:
            return
        self.url, self._kept, self._notifier = server.url, server._kept, server._notifier
        options = {"schema_translate_map": schema_translate_map(self.schema)}
        self.engine = server.engine.execution_options(**options)
        self._replicas, replica = server._replicas, server._replica_engine
        self._replica_engine = None if replica is None else replica.execution_options(**options)
        _forget(self)
        self._make_sessions()

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
                raise _moved(self.schema) from error

    @cached_property
    def cache(self) -> AsyncCacheRepository:
        """Values with a time to live; each statement commits alone."""
        from .repositories import AsyncCacheRepository

        return AsyncCacheRepository(self._alone, evicts=True)

    @cached_property
    def web_sessions(self) -> AsyncWebSessionRepository:
        """Sessions of a web application; each statement commits alone."""
        from .repositories import AsyncWebSessionRepository

        return AsyncWebSessionRepository(self._alone)

    @cached_property
    def rate_limits(self) -> AsyncRateLimitRepository:
        """How often something is allowed; each statement commits alone."""
        from .repositories import AsyncRateLimitRepository

        return AsyncRateLimitRepository(self._alone)

    @cached_property
    def tasks(self) -> AsyncTaskWaiter:
        """Waits for the end of tasks, and for their results; each statement commits alone."""
        from .execution._async.waiting import AsyncTaskWaiter

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
        from . import migrate

        await asyncio.to_thread(migrate.upgrade, _migration_url(self.url), revision, schema=self.schema)

    async def verify(self) -> None:
        """Check that the live schema is the one that the models need.

        Raises:
            SchemaError: The schema is missing, outdated or different; the message names the command to run.
        """
        from .migrate.verify import verify

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

    def __repr__(self) -> str:
        return _repr(self)


def _repr(database: Database | AsyncDatabase) -> str:
    schema = "" if database.schema is None else f", schema={database.schema!r}"
    return f"{type(database).__name__}({database.url.render_as_string(hide_password=True)!r}{schema})"


def _forget(copied: Database | AsyncDatabase) -> None:
    """Take from the copy of a database, which becomes one of its tenants, what belongs to the database."""
    for name in ("cache", "web_sessions", "rate_limits"):
        vars(copied).pop(name, None)


def _moved(tenant: str | None) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"tenant {tenant!r}: it has been moved to another server; run the transaction again", retryable=True
    )


def _migration_url(url: URL) -> str | URL:
    return os.environ.get("ALFRED_DB_MIGRATION_URL") or url
