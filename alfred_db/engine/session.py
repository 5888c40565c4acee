"""A session that leaves its connection to the driver until SQLAlchemy has something to do with it."""

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
"""Under this name a session's `info` has the `Kept` of its engine."""

KEPT_SECONDS = 60.0
"""For so long units of work leave a connection to one another; then the pool sees it again, which replaces old ones."""

_SINCE = "alfred_db kept since"


class Kept:
    """The connection that the last unit of work has left for the next one.

    To give it to the pool and to take it again would cost the client as much as a statement does. It is one at most,
    so that the pool has all others, and goes back there when the pool should look at it.
    """

    def __init__(self, engine: Engine) -> None:
        self._connections: deque[PoolProxiedConnection] = deque()
        self._pooled = isinstance(engine.pool, QueuePool)
        event.listen(engine, "engine_disposed", self._close)

    def take(self) -> PoolProxiedConnection | None:
        """The connection, unless the pool should look at it first."""
        with suppress(IndexError):  # there is none, or another thread was faster
            kept = self._connections.pop()
            if not needs_ping(kept.info, kept.driver_connection):
                used_again(kept.info)
                return kept
            self._connections.append(kept)
        return None

    def keep(self, used: PoolProxiedConnection) -> bool:
        """Keep the connection, unless there is one, or it is in a transaction."""
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
        """Give the connection to the pool."""
        with suppress(IndexError):
            self._connections.pop().close()

    def forget(self) -> None:
        """Leave the connection as it is: in a child process it is still that of the parent."""
        self._connections.clear()

    def _close(self, engine: Engine) -> None:
        with suppress(IndexError):
            while True:  # there are two if two threads were at it at once
                self._connections.pop().invalidate()


class DirectSession(Session):
    """A session for one unit of work on one engine, of which many are a statement or two that the driver runs.

    For these, a `Connection` and a transaction of SQLAlchemy would cost the client more than the statements do. The
    connection is the pool's and the transaction the driver's either way: once something needs SQLAlchemy, it joins.
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
        """What stands for the driver's transaction as long as it lasts; the next one may have the same connection."""
        if self._transaction_of_driver is None and self._taken is not None:
            self._transaction_of_driver = object()
        return self._transaction_of_driver

    @property
    def direct(self) -> bool:
        """Whether SQLAlchemy has no part in the transaction so far, so that nothing can wait to be flushed either."""
        return not super().in_transaction()

    @property
    def listeners(self) -> Any:
        """Who listens to this session or to its class; an object of the session's own costs more than the pool."""
        found = self.__dict__.get("dispatch") or type(self).__dict__.get("_listeners")
        if found is None:
            type(self)._listeners = found = type(self)().dispatch
        return found

    @property
    def driver_commits(self) -> bool:
        """Whether to commit is the driver's part alone."""
        return self._taken is not None and self.direct and not self.listeners.before_commit

    @property
    def reads_alone(self) -> bool:
        """Whether a statement that only reads sees the same outside of the transaction, which has not begun.

        It saves two of three round trips, and nothing idles in a transaction while its caller asks a model.
        """
        taken = self._taken
        return taken is not None and self.direct and sees_latest(taken.info) and not has_begun(taken)

    def take_kept(self) -> PoolProxiedConnection | None:
        """The connection, if it is taken already or the last unit of work has left one: nothing to wait for."""
        if self._taken is None:
            self._taken = self._kept.take()
        return self._taken

    def take(self) -> PoolProxiedConnection:
        """The connection, taken from the pool unless that was done; the driver begins the transaction."""
        if self.take_kept() is None:
            assert isinstance(self.bind, Engine)
            self._kept.give_back()
            self._taken = self.bind.raw_connection()
        assert self._taken is not None
        return self._taken

    def in_transaction(self) -> bool:
        """Whether a transaction has begun, in either way."""
        return self._taken is not None or super().in_transaction()

    def get_bind(self, *arguments: Any, **options: Any) -> Engine | Connection:
        """The engine; the connection once it is taken, which SQLAlchemy joins."""
        if self._taken is None:
            return super().get_bind(*arguments, **options)
        if self._joined is None:
            assert isinstance(self.bind, Engine)
            self._joined = Connection(self.bind, connection=self._taken)
        return self._joined

    def commit(self) -> None:
        """Commit; raises InvalidTransition where the server would roll back without a word."""
        taken, direct = self._taken, self.driver_commits
        if taken is not None:
            refuse_failed(taken)
        if not direct:
            super().commit()
        try:
            if taken is not None and has_begun(taken):
                taken.commit()  # even after SQLAlchemy, which has not joined if it found nothing to write
        finally:
            self._release()
        if direct and self.listeners.after_commit:
            self.dispatch.after_commit(self)

    def rollback(self) -> None:
        """Roll back, whoever began."""
        super().rollback()
        self._release()

    def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""
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
        elif joined is not None or not self._kept.keep(taken):  # SQLAlchemy may have set it to something
            taken.close()


def has_begun(taken: PoolProxiedConnection) -> bool:
    """Whether the driver's transaction has begun, or nobody knows."""
    return _status(taken) != TransactionStatus.IDLE


def refuse_failed(taken: PoolProxiedConnection) -> None:
    """Raise if a statement of the transaction has failed: the server would answer COMMIT by rolling it back."""
    if _status(taken) == TransactionStatus.INERROR:
        raise failed_transaction()


def _status(taken: PoolProxiedConnection) -> int:
    driver: Any = taken.driver_connection
    status: int = driver.pgconn.transaction_status
    return status


def take(session: Session) -> PoolProxiedConnection:
    """The same, for `AsyncSession.run_sync`."""
    assert isinstance(session, DirectSession)
    return session.take()
