"""The database of programs with threads, or of one thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

from ..engine.chunks import InChunks
from ..engine.ends import TaskEnds
from ..engine.engines import Pooler
from ..engine.listeners import TaskListener, refuse_pooler
from ..engine.notifications import announce
from ..engine.replicas import ReadSession, allowed_lag, current_position, prepare, reading, wal_position
from ..engine.session import AloneSession, AutocommitSession, DirectSession
from ..engine.unit import Begun
from ..errors import SchemaOutdatedError, translated
from .base import DatabaseBase, migration_url, moved

if TYPE_CHECKING:
    from ..execution._sync.waiting import TaskWaiter
    from ..repositories import CacheRepository, RateLimitRepository, UnitOfWork, WebSessionRepository
    from ..tenants import Tenants

__all__ = ["Database"]


class Database(DatabaseBase[Engine], InChunks["UnitOfWork"]):
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
        from ..repositories import UnitOfWork

        self.unit_of_work: Callable[[Session], UnitOfWork] = UnitOfWork
        """What makes a unit of work of a session."""
        self._find_first: Callable[[], None] | None = None
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

    def _new_engine(self, url: URL, options: Mapping[str, Any]) -> Engine:
        return create_engine(url, **options)

    def _plain(self, engine: Engine) -> Engine:
        return engine

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
        return self._tenant(name)

    def _await_server(self) -> None:
        self._find_first = self._find

    @cached_property
    def tenants(self) -> Tenants:
        """The tenants of the database: create, list, upgrade and drop them, as the role that runs the migrations."""
        from ..tenants import Tenants

        return Tenants(self.url, self._opened)

    def _find(self) -> None:
        """Find the server of the tenant, and check that the tenant exists; once."""
        from ..tenants import require_tenant, server_of

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
                raise moved(self.schema) from error

    @cached_property
    def cache(self) -> CacheRepository:
        """Values with a time to live; each statement commits alone."""
        from ..repositories import CacheRepository

        return CacheRepository(self._alone, evicts=True)

    @cached_property
    def web_sessions(self) -> WebSessionRepository:
        """Sessions of a web application; each statement commits alone."""
        from ..repositories import WebSessionRepository

        return WebSessionRepository(self._alone)

    @cached_property
    def rate_limits(self) -> RateLimitRepository:
        """How often something is allowed; each statement commits alone."""
        from ..repositories import RateLimitRepository

        return RateLimitRepository(self._alone)

    @cached_property
    def tasks(self) -> TaskWaiter:
        """Waits for the end of tasks, and for their results; each statement commits alone."""
        from ..execution._sync.waiting import TaskWaiter

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
        from .. import migrate

        migrate.upgrade(migration_url(self.url), revision, schema=self.schema)

    def verify(self) -> None:
        """Check that the live schema is the one that the models need.

        Raises:
            SchemaError: The schema is missing, outdated or different; the message names the command to run.
        """
        from ..migrate.verify import verify

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
