"""A session that leaves its connection to the driver until SQLAlchemy has something to do with it."""

from __future__ import annotations

from typing import Any, ClassVar

from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import PoolProxiedConnection

__all__ = ["DirectSession", "refuse_failed", "take"]


class DirectSession(Session):
    """A session for one unit of work on one engine, of which many are a statement or two that the driver runs.

    For these, a `Connection` and a transaction of SQLAlchemy would cost the client more than the statements do. The
    connection is the pool's and the transaction the driver's either way: once something needs SQLAlchemy, it joins.
    """

    _taken: PoolProxiedConnection | None = None
    _joined: Connection | None = None
    _listeners: ClassVar[Any]

    @property
    def taken(self) -> PoolProxiedConnection | None:
        """The connection, if it was taken from the pool without SQLAlchemy's transaction."""
        return self._taken

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

    def take(self) -> PoolProxiedConnection:
        """The connection, taken from the pool unless that was done; the driver begins the transaction."""
        if self._taken is None:
            assert isinstance(self.bind, Engine)
            self._taken = self.bind.raw_connection()
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
        """Commit; raises InFailedSqlTransaction where the server would roll back without a word."""
        if self._taken is not None:
            refuse_failed(self._taken)
        if self._taken is None or not self.driver_commits:
            super().commit()
            self._release()
            return
        try:
            self._taken.commit()
        finally:
            self._release()
        if self.listeners.after_commit:
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
        """Give the connection back to the pool, which rolls back what was not committed."""
        taken, self._taken, self._joined = self._taken, None, None
        if taken is None or not taken.is_valid:
            return
        driver: Any = taken.driver_connection
        if driver.closed:
            taken.invalidate()
        else:
            taken.close()


def refuse_failed(taken: PoolProxiedConnection) -> None:
    """Raise if a statement of the transaction has failed: the server would answer COMMIT by rolling it back."""
    driver: Any = taken.driver_connection
    if driver.pgconn.transaction_status == TransactionStatus.INERROR:
        raise InFailedSqlTransaction(
            "a statement of this transaction has failed, so that it was rolled back; let the error end it, or try the"
            " statement in a savepoint, `with uow.session.begin_nested()`"
        )


def take(session: Session) -> PoolProxiedConnection:
    """The same, for `AsyncSession.run_sync`."""
    assert isinstance(session, DirectSession)
    return session.take()
