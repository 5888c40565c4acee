"""The entry points: `Database` and `AsyncDatabase`, with their sessions and units of work."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Sequence,
    Sized,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy import URL, Engine, NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from .checks import from_json, sent_json
from .config import database_url, tenant_schema
from .engine.chunks import Chunks, Progress, parts
from .engine.listeners import AsyncTaskListener, TaskListener, refuse_pooler
from .engine.notifications import Notifier, channel_of
from .engine.plans import drop_plans_of
from .engine.pool import (
    check_before_use,
    check_pooled,
    connect_args,
    connection_state,
    drop_unopened,
    end_interrupted,
    prepare_connections,
    refuse_failed_commits,
    reset_after_use,
)
from .engine.session import AloneSession, AutocommitSession, DirectSession, Kept
from .engine.unit import AsyncBegun, Begun
from .engine.unit import close as close_session
from .errors import ConfigurationError, translated
from .sql import schema_translate_map
from .types import bind_text

if TYPE_CHECKING:
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

__all__ = ["AsyncDatabase", "Database"]

Pooler = Literal["transaction"]

T = TypeVar("T")

IDLE_IN_TRANSACTION_TIMEOUT = "60s"
"""How long a transaction may idle before the server ends its session and releases its locks."""


class Database:
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
    ) -> None:
        from .repositories import UnitOfWork

        self.url = database_url(url)
        self.schema = None if schema is None else tenant_schema(schema)
        self.pooler: Pooler | None = pooler
        self.read_only = _read_only(read_only, pooler)
        self.unit_of_work: Callable[[Session], UnitOfWork] = UnitOfWork
        """What makes a unit of work of a session."""
        self.wrap_handler: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
        """What wraps each handler of the workers of this database, as telemetry does; None leaves them as they are."""
        self.engine: Engine = create_engine(
            self.url, **_engine_options(self.url, schema, pooler, pool_size, application_name)
        )
        kept = _watch(self.engine, pooler, self.schema, read_only)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._units = sessionmaker(self.engine, class_=DirectSession, expire_on_commit=False, kept=kept)
        self._alone = AloneSession(self.engine, kept=kept)
        self._autocommit = sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"),
            class_=AutocommitSession,
            expire_on_commit=False,
            kept=kept,
        )
        self._notifier = _notifier(self, self._sessions, self._units, self._autocommit) if notify else None

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

    def begin(self) -> AbstractContextManager[UnitOfWork]:
        """Return a context manager for one transaction: commit at the end, roll back on an exception."""
        return Begun(self._units(), self.unit_of_work)

    def in_chunks(
        self,
        call: Callable[[UnitOfWork, int], int | Sized],
        *,
        limit: int = 1000,
        progress: Progress | None = None,
    ) -> int:
        """Call a method that takes a `limit` until nothing is left, and commit each time.

        Each call has its own transaction, so that long work holds back nobody: the size of a chunk is chosen so that
        it takes about a tenth of a second. What is committed stays when a later chunk fails.

            db.in_chunks(lambda uow, limit: uow.memory_banks.delete(bank, limit=limit), progress=print)

        Args:
            call: Called with a unit of work and the `limit` to pass on. It returns what the method returns: the number
                of rows, or the rows. Fewer than `limit` mean that nothing is left.
            limit: The maximum number of rows of a chunk, 1 to 10,000.
            progress: Called after each chunk with the number of rows so far.

        Returns:
            The number of rows.
        """
        chunks = Chunks(limit, progress)
        while True:
            size = chunks.size
            with chunks.timed(), self.begin() as uow:
                done = call(uow, size)
            if chunks.add(done) < size:
                return chunks.rows

    def in_chunks_of(
        self,
        items: Sequence[T],
        call: Callable[[UnitOfWork, Sequence[T]], int | Sized],
        *,
        limit: int = 1000,
        progress: Progress | None = None,
    ) -> int:
        """Call a method with part after part of a sequence, and commit each time.

        Each call has its own transaction; see `in_chunks`.

            db.in_chunks_of(points, lambda uow, part: uow.knowledge.upsert("facts", part), progress=print)

        Args:
            items: What the method takes many of.
            call: Called with a unit of work and a part of `items`. It returns the number of rows, or the rows.
            limit: The maximum number of items of a part, 1 to 10,000.
            progress: Called after each part with the number of rows so far.

        Returns:
            The number of rows.
        """
        chunks = Chunks(limit, progress)
        for part in parts(items, chunks):
            with chunks.timed(), self.begin() as uow:
                done = call(uow, part)
            chunks.add(done)
        return chunks.rows

    def autocommit(self) -> AbstractContextManager[UnitOfWork]:
        """Return a context manager for calls of which each statement commits by itself.

        `claim`, `heartbeat`, `complete`, `fail` and `release` are one statement each, and need no more: BEGIN and
        COMMIT would be two more round trips. Nothing is rolled back after an exception. Workers are notified of
        tasks that were enqueued when the context ends.
        """
        return Begun(self._autocommit(), self.unit_of_work)

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
        """Close the pooled connections."""
        if self._notifier is not None:
            self._notifier.close()
        self.engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return _repr(self)


class AsyncDatabase:
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
    ) -> None:
        from .repositories import AsyncUnitOfWork

        self.url = database_url(url)
        self.schema = None if schema is None else tenant_schema(schema)
        self.pooler: Pooler | None = pooler
        self.read_only = _read_only(read_only, pooler)
        self.unit_of_work: Callable[[AsyncSession], AsyncUnitOfWork] = AsyncUnitOfWork
        """What makes a unit of work of a session."""
        self.wrap_handler: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
        """What wraps each handler of the workers of this database, as telemetry does; None leaves them as they are."""
        self.engine: AsyncEngine = create_async_engine(
            self.url, **_engine_options(self.url, schema, pooler, pool_size, application_name)
        )
        kept = _watch(self.engine.sync_engine, pooler, self.schema, read_only)
        sessions, units = sessionmaker[Session](), sessionmaker(class_=DirectSession, kept=kept)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, sync_session_class=sessions)
        self._units = async_sessionmaker(self.engine, expire_on_commit=False, sync_session_class=units)
        autocommit = sessionmaker(class_=AutocommitSession, kept=kept)
        self._autocommit = async_sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"),
            expire_on_commit=False,
            sync_session_class=autocommit,
        )
        alone = sessionmaker(class_=AloneSession, kept=kept)
        self._alone = async_sessionmaker(self.engine, sync_session_class=alone)()
        self._notifier = _notifier(self, sessions, units, autocommit) if notify else None

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

    def begin(self) -> AbstractAsyncContextManager[AsyncUnitOfWork]:
        """Return a context manager for one transaction: commit at the end, roll back on an exception."""
        return AsyncBegun(self._units(), self.unit_of_work)

    async def in_chunks(
        self,
        call: Callable[[AsyncUnitOfWork, int], Awaitable[int | Sized]],
        *,
        limit: int = 1000,
        progress: Progress | None = None,
    ) -> int:
        """Call a method that takes a `limit` until nothing is left, and commit each time.

        Each call has its own transaction, so that long work holds back nobody: the size of a chunk is chosen so that
        it takes about a tenth of a second. What is committed stays when a later chunk fails.

            await db.in_chunks(lambda uow, limit: uow.memory_banks.delete(bank, limit=limit), progress=print)

        Args:
            call: Called with a unit of work and the `limit` to pass on. It returns what the method returns: the number
                of rows, or the rows. Fewer than `limit` mean that nothing is left.
            limit: The maximum number of rows of a chunk, 1 to 10,000.
            progress: Called after each chunk with the number of rows so far.

        Returns:
            The number of rows.
        """
        chunks = Chunks(limit, progress)
        while True:
            size = chunks.size
            with chunks.timed():
                async with self.begin() as uow:
                    done = await call(uow, size)
            if chunks.add(done) < size:
                return chunks.rows

    async def in_chunks_of(
        self,
        items: Sequence[T],
        call: Callable[[AsyncUnitOfWork, Sequence[T]], Awaitable[int | Sized]],
        *,
        limit: int = 1000,
        progress: Progress | None = None,
    ) -> int:
        """Call a method with part after part of a sequence, and commit each time.

        Each call has its own transaction; see `in_chunks`.

            await db.in_chunks_of(points, lambda uow, part: uow.knowledge.upsert("facts", part), progress=print)

        Args:
            items: What the method takes many of.
            call: Called with a unit of work and a part of `items`. It returns the number of rows, or the rows.
            limit: The maximum number of items of a part, 1 to 10,000.
            progress: Called after each part with the number of rows so far.

        Returns:
            The number of rows.
        """
        chunks = Chunks(limit, progress)
        for part in parts(items, chunks):
            with chunks.timed():
                async with self.begin() as uow:
                    done = await call(uow, part)
            chunks.add(done)
        return chunks.rows

    def autocommit(self) -> AbstractAsyncContextManager[AsyncUnitOfWork]:
        """Return a context manager for calls of which each statement commits by itself.

        `claim`, `heartbeat`, `complete`, `fail` and `release` are one statement each, and need no more: BEGIN and
        COMMIT would be two more round trips. Nothing is rolled back after an exception. Workers are notified of
        tasks that were enqueued when the context ends.
        """
        return AsyncBegun(self._autocommit(), self.unit_of_work)

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
        """Close the pooled connections."""
        if self._notifier is not None:
            await asyncio.to_thread(self._notifier.close)
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


def _notifier(database: Database | AsyncDatabase, *sessions: sessionmaker[Any]) -> Notifier:
    notifier = Notifier(database.url, channel_of(database.schema))
    for each in sessions:
        notifier.after_commits(each)
    return notifier


def _read_only(read_only: bool, pooler: Pooler | None) -> bool:
    if read_only and pooler is not None:
        raise ConfigurationError(
            'read_only: a pooler passes the server\'s sessions on, so none can be set read-only; leave out pooler="transaction",'
            " or connect as a role that may only read"
        )
    return read_only


def _migration_url(url: URL) -> str | URL:
    return os.environ.get("ALFRED_DB_MIGRATION_URL") or url


def _engine_options(
    url: URL, schema: str | None, pooler: Pooler | None, pool_size: int, application_name: str
) -> dict[str, Any]:
    arguments = connect_args(url, application_name)
    options: dict[str, Any] = {
        "hide_parameters": True,
        "use_native_hstore": False,  # SQLAlchemy's query for it uses operators of any schema in the search_path
        "json_deserializer": from_json,
        "json_serializer": sent_json,
        "connect_args": arguments,
        "pool_reset_on_return": None,
    }
    if schema is not None:
        options["execution_options"] = {"schema_translate_map": schema_translate_map(schema)}
    if pooler == "transaction":
        # Each transaction may run in another session of the server. The pooler keeps the connections, so
        # this side keeps none, and prepares no statement that a later session would not have.
        return {**options, "poolclass": NullPool, "connect_args": {**arguments, "prepare_threshold": None}}
    return {
        **options,
        "pool_size": pool_size,
        "pool_recycle": 1800,
        "pool_use_lifo": True,
    }


def _watch(engine: Engine, pooler: Pooler | None, schema: str | None, read_only: bool) -> Kept:
    """Register what the engine needs beyond its options.

    A child process must not use the parent's sockets. The type `vector` must be found in the schema where an
    administrator created it. Units of work pass a connection on to the next one.
    """
    kept = Kept(engine)
    engine_of, kept_of = weakref.ref(engine), weakref.ref(kept)

    def forget_in_child() -> None:
        if (found := kept_of()) is not None:
            found.forget()
        if (forgotten := engine_of()) is not None:
            forgotten.dispose(close=False)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget_in_child)
    bind_text(engine.dialect)
    drop_unopened(engine)
    reset_after_use(engine)
    refuse_failed_commits(engine)
    end_interrupted(engine)
    if pooler is None:
        options = str(engine.url.query.get("options") or os.environ.get("PGOPTIONS") or "")
        settings: dict[str, str] = {}
        if "idle_in_transaction_session_timeout" not in options:
            settings["idle_in_transaction_session_timeout"] = IDLE_IN_TRANSACTION_TIMEOUT
        if read_only:
            settings["default_transaction_read_only"] = "on"
        check_before_use(engine)
        drop_plans_of(engine, lambda info: connection_state(info).plans)
        prepare_connections(engine, settings=settings, default_tenant=schema is None)
    else:
        check_pooled(engine, default_tenant=schema is None)
    return kept
