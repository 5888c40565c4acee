"""A session that leaves its connection to the driver until SQLAlchemy is needed."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Any, ClassVar

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from ..errors import failed_transaction
from .pool import left_unused, needs_ping, sees_latest, used_again

__all__ = ["KEPT", "DirectSession", "Kept", "has_begun", "refuse_failed", "take"]

KEPT = "alfred_db kept"
"""The key in a session's `info` under which the `Kept` of its engine is stored."""

KEPT_SECONDS = 60.0
"""How long units of work pass one connection on; then it returns to the pool, which replaces old ones."""

_SINCE = "alfred_db kept since"


class Kept:
    """The connection that the last unit of work has left for the next one.

    Returning a connection to the pool and checking it out again costs the client as much as a statement. At
    most one connection is kept, so that the pool has all others. It returns to the pool when the pool should
    check it.
    """

    def __init__(self, engine: Engine) -> None:
        self._connections: deque[PoolProxiedConnection] = deque()
        self._pooled = isinstance(engine.pool, QueuePool)
        event.listen(engine, "engine_disposed", self._close)

    def take(self) -> PoolProxiedConnection | None:
        """Return the connection, unless none is kept or the pool should check it first."""
        # `pop` and `append` of a deque are atomic: a connection is owned by one thread at a time.
        with suppress(IndexError):  # none is kept, or another thread was faster
            kept = self._connections.pop()
            if not needs_ping(kept.info, kept.driver_connection):
                used_again(kept.info)
                return kept
            self._connections.append(kept)
        return None

    def keep(self, used: PoolProxiedConnection) -> bool:
        """Keep the connection, unless one is kept already or a transaction is open; return whether it is kept."""
        if self._connections or not self._pooled or has_begun(used):
            return False
        now = time.monotonic()
        if now - used.info.setdefault(_SINCE, now) > KEPT_SECONDS:
            del used.info[_SINCE]
            return False
        left_unused(used.info)
        self._connections.append(used)
        return True

    def give_back(self) -> None:
        """Return the kept connection to the pool."""
        with suppress(IndexError):
            self._connections.pop().close()

    def forget(self) -> None:
        """Drop the connection without closing it: in a child process it still belongs to the parent."""
        self._connections.clear()

    def _close(self, engine: Engine) -> None:
        with suppress(IndexError):
            while True:  # two threads that kept a connection at the same time leave two
                self._connections.pop().invalidate()


class DirectSession(Session):
    """A session for one unit of work on one engine.

    Many units of work are one or two statements that the driver runs. For these, SQLAlchemy's `Connection`
    and transaction would cost the client more than the statements. The connection always comes from the pool
    and the transaction is always the driver's: SQLAlchemy joins both when it is first needed.
    """

    _taken: PoolProxiedConnection | None = None
    _joined: Connection | None = None
    _transaction_of_driver: object | None = None
    _listeners: ClassVar[Any]

    @property
    def _kept(self) -> Kept:
        found: Kept = self.info[KEPT]
        return found

    @property
    def taken(self) -> PoolProxiedConnection | None:
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
        return not super().in_transaction()

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
        return taken is not None and self.direct and sees_latest(taken.info) and not has_begun(taken)

    def take_kept(self) -> PoolProxiedConnection | None:
        """Return the connection if it is taken already or one is kept; never waits."""
        if self._taken is None:
            self._taken = self._kept.take()
        return self._taken

    def take(self) -> PoolProxiedConnection:
        """Return the connection, from the pool if none is taken yet; the driver begins the transaction."""
        if self.take_kept() is None:
            assert isinstance(self.bind, Engine)
            self._kept.give_back()
            self._taken = self.bind.raw_connection()
        assert self._taken is not None
        return self._taken

    def in_transaction(self) -> bool:
        """Return whether a transaction is open, SQLAlchemy's or the driver's alone."""
        return self._taken is not None or super().in_transaction()

    def get_bind(self, *arguments: Any, **options: Any) -> Engine | Connection:
        """Return the engine, or the connection once it is taken, so that SQLAlchemy joins its transaction."""
        if self._taken is None:
            return super().get_bind(*arguments, **options)
        if self._joined is None:
            assert isinstance(self.bind, Engine)
            self._joined = Connection(self.bind, connection=self._taken)
        return self._joined

    def commit(self) -> None:
        """Commit the transaction.

        Raises:
            InvalidTransition: A statement of the transaction has failed; the server would roll back silently.
        """
        taken, direct = self._taken, self.driver_commits
        if taken is not None:
            refuse_failed(taken)
        if not direct:
            super().commit()
        try:
            if taken is not None and has_begun(taken):
                # Also after SQLAlchemy's commit: without anything to write it has not joined, and the
                # driver's transaction is still open.
                taken.commit()
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
        """Leave the connection to the next unit of work, or to the pool, which rolls back what was not committed."""
        taken, joined = self._taken, self._joined
        self._taken = self._joined = self._transaction_of_driver = None
        if taken is None or not taken.is_valid:
            return
        driver: Any = taken.driver_connection
        if driver.closed:
            taken.invalidate()
        elif joined is not None or not self._kept.keep(taken):  # SQLAlchemy may have changed its settings
            taken.close()


def has_begun(taken: PoolProxiedConnection) -> bool:
    """Return whether a transaction is open on the connection, or its state is unknown."""
    return _status(taken) != TransactionStatus.IDLE


def refuse_failed(taken: PoolProxiedConnection) -> None:
    """Refuse to commit a transaction in which a statement has failed.

    Raises:
        InvalidTransition: The server would answer COMMIT by rolling back.
    """
    if _status(taken) == TransactionStatus.INERROR:
        raise failed_transaction()


def _status(taken: PoolProxiedConnection) -> int:
    driver: Any = taken.driver_connection
    status: int = driver.pgconn.transaction_status
    return status


def take(session: Session) -> PoolProxiedConnection:
    """Return the connection of a `DirectSession`; for `AsyncSession.run_sync`."""
    assert isinstance(session, DirectSession)
    return session.take()
