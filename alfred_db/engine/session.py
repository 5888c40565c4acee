"""A session that leaves its connection to the driver until SQLAlchemy is needed.

The states of a `DirectSession`, by who uses its connection:

    FREE -------------- a repository asks for the driver -----------> TAKEN
     |                                                                |  |
     |                                                                |  | a driver statement
     |                                                                |  v
     |          <------------------- commit ------------------------- BEGUN
     |                                                                |  |
     | SQLAlchemy needs a connection,                                 |  | SQLAlchemy needs a connection,
     | or an object is added                                          |  | or an object is added
     v                                                                v  v
    SQLALCHEMY'S -------- commit ------> FREE <-------- commit ------- JOINED

`rollback` and `close` lead from every state to FREE.

FREE: No connection is held, and no transaction is open.
TAKEN: `taken` is a connection that the last unit of work has kept, or one of the pool. No transaction is open. A driver
    statement that only reads may run here in autocommit, and then does not change the state (`reads_alone`).
BEGUN: The driver has begun the transaction, with its first statement. `direct` is true up to here. The driver alone
    commits (`driver_commits`), unless there are listeners to `before_commit`. The connection is kept for the next unit.
    A session with objects that are not to be written is BEGUN too: SQLAlchemy knows them, and has no connection.
JOINED: SQLAlchemy uses the same connection and the same transaction. It flushes before the driver runs a statement, and
    it commits. The connection returns to the pool.
SQLALCHEMY'S: As without this class. Driver statements run on SQLAlchemy's own connection, as in any other `Session`: one
    of the caller, or one in AUTOCOMMIT.

The driver runs a `DriverStatement` and nothing else; see `alfred_db/execution/_async/driver.py`. When a statement leaves
the connection closed or in the middle of a command, `settle` there closes it, in whatever state the session is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from ..errors import failed_transaction
from .pool import ConnectionState, connection_state, needs_ping
from .status import status_of

__all__ = [
    "AloneSession",
    "AutocommitSession",
    "DirectSession",
    "Held",
    "Kept",
    "SessionState",
    "must_flush",
    "refuse_failed",
    "state_of",
    "take",
    "take_alone",
]

KEPT_SECONDS = 60.0
"""How long units of work pass one connection on; then it returns to the pool, which replaces old ones."""

_STATE = "alfred_db"

Kind = tuple[str, str]
"""The queue and the intent of a task."""


@dataclass(slots=True)
class SessionState:
    """What the library stores in a session's `info`. All of it belongs to one transaction."""

    driver: Any = None
    """The driver's connection in `transaction`, as SQLAlchemy returned it."""
    known: ConnectionState | None = None
    """What is known about that connection."""
    reads_committed: bool = False
    """Whether that connection is in AUTOCOMMIT, and each statement then sees what is committed."""
    transaction: object | None = None
    """The transaction or savepoint of `driver`; in another one SQLAlchemy is asked again."""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """The settings that searches have made by SET LOCAL."""
    set_in: object | None = None
    """The transaction in which `settings` were made; they end with it."""
    set_within: object | None = None
    """The savepoint in which they were made; they end with it if it is rolled back."""
    enqueued: set[Kind | None] = field(default_factory=set["Kind | None"])
    """The kinds of the tasks that were enqueued, None for any: their workers are notified after the commit."""
    ended: set[UUID] = field(default_factory=set[UUID])
    """The tasks that ended and that others may wait for: callers of `wait` are notified after the commit."""
    catalog_changed: bool = False
    """Whether the session has changed the catalog of spaces: what it reads of that is not kept for others."""


def state_of(session: Session | AsyncSession) -> SessionState:
    """Return the state of a session; it is created at the first call."""
    found: SessionState | None = session.info.get(_STATE)
    if found is None:
        found = session.info[_STATE] = SessionState()
    return found


class Held(NamedTuple):
    """A connection outside of the pool, with what each use of it needs: looking that up costs as much as a check."""

    pooled: PoolProxiedConnection
    driver: Any
    state: ConnectionState

    def give_back(self) -> None:
        """Return it to the pool, outside of autocommit. The pool drops a closed one."""
        if not self.pooled.is_valid:
            return
        if self.driver.closed:
            self.pooled.invalidate()
            return
        if self.driver.autocommit:
            self.pooled.dbapi_connection.autocommit = False  # type: ignore[union-attr]
        self.pooled.close()


def _held(pooled: PoolProxiedConnection) -> Held:
    return Held(pooled, pooled.driver_connection, connection_state(pooled.info))


class Kept:
    """The connection that the last unit of work has left for the next one.

    Returning a connection to the pool and checking it out again costs the client as much as a statement. At
    most one connection is kept, so that the pool has all others. It returns to the pool when the pool should
    check it. It may be in autocommit, as the last statement left it.
    """

    def __init__(self, engine: Engine) -> None:
        self._connections: deque[Held] = deque()
        self._pooled = isinstance(engine.pool, QueuePool)
        event.listen(engine, "engine_disposed", self._close)

    def take(self) -> Held | None:
        """Return the connection, unless none is kept or the pool should check it first."""
        # `pop` and `append` of a deque are atomic: a connection is owned by one thread at a time.
        try:
            held = self._connections.pop()
        except IndexError:  # none is kept, or another thread was faster
            return None
        state = held.state
        if needs_ping(state, held.driver):
            self._connections.append(held)
            return None
        state.unused_since = None
        return held

    def keep(self, held: Held) -> bool:
        """Keep the connection, unless one is kept already or a transaction is open; return whether it is kept."""
        if self._connections or not self._pooled or status_of(held.driver) != TransactionStatus.IDLE:
            return False
        state, now = held.state, time.monotonic()
        if state.kept_since is None:
            state.kept_since = now
        if now - state.kept_since > KEPT_SECONDS:
            state.kept_since = None
            return False
        state.unused_since = now
        self._connections.append(held)
        return True

    def give_back(self) -> None:
        """Return the kept connection to the pool."""
        with suppress(IndexError):
            self._connections.pop().give_back()

    def forget(self) -> None:
        """Drop the connection without closing it: in a child process it still belongs to the parent."""
        self._connections.clear()

    def _close(self, engine: Engine) -> None:
        with suppress(IndexError):
            while True:  # two threads that kept a connection at the same time leave two
                self._connections.pop().pooled.invalidate()


class DirectSession(Session):
    """A session for one unit of work on one engine.

    Many units of work are one or two statements that the driver runs. For these, SQLAlchemy's `Connection`
    and transaction would cost the client more than the statements. The connection always comes from the pool
    and the transaction is always the driver's: SQLAlchemy joins both when it is first needed.
    """

    commits_alone: ClassVar[bool] = False
    """Whether each statement commits by itself."""
    together: bool = False
    """Whether the next statements are one transaction nevertheless; see `together` in `execution/_async/driver.py`."""
    driver: Any = None
    """The driver's connection, while one is taken."""
    _taken: Held | None = None
    _joined: Connection | None = None
    _transaction_of_driver: object | None = None
    _listeners: ClassVar[Any]

    def __init__(self, bind: Engine | None = None, *, kept: Kept | None = None, **options: Any) -> None:
        super().__init__(bind, **options)
        self._kept = kept

    @property
    def taken(self) -> Held | None:
        """The connection, if it was taken from the pool without SQLAlchemy's transaction."""
        return self._taken

    @property
    def driver_transaction(self) -> object | None:
        """An object that identifies the driver's transaction; the next one may use the same connection."""
        if self._transaction_of_driver is None and self._taken is not None:
            self._transaction_of_driver = object()
        return self._transaction_of_driver

    @property
    def direct(self) -> bool:
        """Whether SQLAlchemy has no part in the transaction so far, so that nothing can wait to be flushed."""
        return not Session.in_transaction(self)

    @property
    def listeners(self) -> Any:
        """The event listeners of this session or of its class.

        The class shares one object, because one for each session costs more than the pool does.
        """
        found = self.__dict__.get("dispatch") or type(self).__dict__.get("_listeners")
        if found is None:
            type(self)._listeners = found = type(self)().dispatch
        return found

    @property
    def driver_commits(self) -> bool:
        """Whether the driver alone commits: SQLAlchemy has not joined and no listener expects `before_commit`."""
        return self._taken is not None and self.direct and not self.listeners.before_commit

    @property
    def reads_alone(self) -> bool:
        """Whether a statement that only reads sees the same outside of the transaction, which has not begun.

        Reading outside saves two of three round trips, and the connection does not idle in a transaction
        while the caller waits for a model.
        """
        taken = self._taken
        if taken is None or not self.direct or self.has_begun:
            return False
        return taken.state.sees_latest

    @property
    def has_begun(self) -> bool:
        """Whether a transaction is open on the connection that is taken, or its state is unknown."""
        return _has_begun(self.driver)

    def take_kept(self) -> Held | None:
        """Return the connection if it is taken already or one is kept; never waits."""
        if self._taken is None and self._kept is not None:
            self._hold(self._kept.take())
        return self._taken

    def take(self) -> Held:
        """Return the connection, from the pool if none is taken yet; the driver begins the transaction."""
        if self.take_kept() is None:
            self._hold(_pooled(self.bind, self._kept))
        assert self._taken is not None
        return self._taken

    def _hold(self, taken: Held | None) -> None:
        """Become TAKEN, if there is a connection."""
        self._taken = taken
        if taken is not None:
            self.driver = taken.driver

    def in_transaction(self) -> bool:
        """Return whether a transaction is open, SQLAlchemy's or the driver's alone."""
        return self._taken is not None or Session.in_transaction(self)

    def get_bind(self, *arguments: Any, **options: Any) -> Engine | Connection:
        """Return the engine, or the connection once it is taken, so that SQLAlchemy joins its transaction."""
        if self._taken is None:
            return super().get_bind(*arguments, **options)
        if self._joined is None:
            # TAKEN or BEGUN becomes JOINED: the connection is not kept any more, as SQLAlchemy may change its settings.
            assert isinstance(self.bind, Engine)
            self._joined = Connection(self.bind, connection=self._taken.pooled)
        return self._joined

    def commit(self) -> None:
        """Commit the transaction.

        Raises:
            InvalidTransition: A statement of the transaction has failed; the server would roll back silently.
        """
        taken, direct = self._taken, self.driver_commits
        if taken is not None:
            refuse_failed(self.driver)
            if not direct and (self.listeners.before_commit or must_flush(self)):
                self.connection()  # TAKEN or BEGUN becomes JOINED: what is written now is part of the transaction
        try:
            # `after_commit` is called at the end of SQLAlchemy's commit. If SQLAlchemy does not use the connection,
            # nothing is committed by it, and the driver's transaction must be committed before.
            if taken is not None and self.has_begun and not (self._joined and self._joined.in_transaction()):
                taken.pooled.commit()
            if not direct:
                super().commit()
        finally:
            self._release()
        if direct and self.listeners.after_commit:
            self.dispatch.after_commit(self)

    def rollback(self) -> None:
        """Roll back, whether SQLAlchemy or the driver began the transaction."""
        super().rollback()
        self._release()

    def close(self) -> None:
        """Roll back what was not committed, and return the connection."""
        try:
            if not self.direct or self.identity_map:
                super().close()
        finally:
            self._release()

    def _release(self) -> None:
        """Become FREE: leave the connection to the next unit of work, or to the pool, which rolls back what is open."""
        taken, joined = self._taken, self._joined
        if taken is None:
            return
        self._taken = self._joined = self._transaction_of_driver = self.driver = None
        # SQLAlchemy may have changed the settings of what it has joined.
        if joined is not None or self._kept is None or not self._kept.keep(taken):
            taken.give_back()


class AutocommitSession(DirectSession):
    """A session whose statements each commit alone; its engine is in AUTOCOMMIT. It is BEGUN within `together` only."""

    commits_alone = True


class AloneSession(DirectSession):
    """A session whose statements each run alone, in autocommit; it holds no connection between them.

    Several threads or asyncio tasks may use it at the same time: what belongs to a statement is never stored in it.
    """

    def take_alone(self) -> Held | None:
        """Return the connection that is kept, if any; never waits."""
        return None if self._kept is None else self._kept.take()

    def take_pooled(self) -> Held:
        """Return a connection of the pool."""
        return _pooled(self.bind, self._kept)

    def keeps(self, used: Held) -> bool:
        """Keep the connection for the next statement; return whether it is kept."""
        return used.pooled.is_valid and self._kept is not None and self._kept.keep(used)


def _pooled(engine: Engine | Connection | None, kept: Kept | None) -> Held:
    """Return a connection of the pool; one that is kept returns there first, so that the pool can check it."""
    assert isinstance(engine, Engine)
    if kept is not None:
        kept.give_back()
    return _held(engine.raw_connection())


def _has_begun(driver: Any) -> bool:
    begun: bool = status_of(driver) != TransactionStatus.IDLE
    return begun


def must_flush(session: Session) -> bool:
    """Return whether objects of the session wait to be written."""
    # `dirty` and `deleted` are slow, and empty without objects in the session.
    return bool(session.new or (session.identity_map and (session.dirty or session.deleted)))


def refuse_failed(driver: Any) -> None:
    """Refuse to commit a transaction in which a statement has failed.

    Raises:
        InvalidTransition: The server would answer COMMIT by rolling back.
    """
    if status_of(driver) == TransactionStatus.INERROR:
        raise failed_transaction()


def take(session: Session) -> Held:
    """Return the connection of a `DirectSession`; for `AsyncSession.run_sync`."""
    assert isinstance(session, DirectSession)
    return session.take()


def take_alone(session: Session) -> Held:
    """Return a connection of an `AloneSession`; for `AsyncSession.run_sync`."""
    assert isinstance(session, AloneSession)
    return session.take_pooled()
