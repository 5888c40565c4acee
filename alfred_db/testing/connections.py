"""Connections of one test, which share one transaction: each of their transactions is a savepoint of it.

The library commits on the driver, SQLAlchemy commits on the driver, and so does whoever holds a connection. So this is
where a commit becomes RELEASE SAVEPOINT: below all of them. The code under test cannot tell the difference, with these
exceptions: `now()` is the start of the test, no other session of the server sees what the test has committed, and of
transactions that overlap, the one that ends first takes the statements of the others with it.

The states of a connection, as those of a transaction: IDLE without a savepoint, INTRANS from its first statement to its
commit, INERROR after a statement that failed. In autocommit each statement has a savepoint, which is released
before the next one.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, ConnectionInfo, Cursor
from psycopg.errors import InFailedSqlTransaction, OperationalError, ProgrammingError
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import Engine

__all__ = ["OuterTransaction"]

LOCK_SECONDS = 60.0
"""How long a thread waits for the statement of another one."""


class _Lock:
    """A lock for threads and for asyncio tasks of any event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise OperationalError(
                f"the connection of the test has been in use for {LOCK_SECONDS:.0f} s: an asyncio task waits in the same"
                " thread; use the async fixtures, or alfred_fresh_url"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    async def __aenter__(self) -> Self:
        while not self._lock.acquire(blocking=False):
            await asyncio.sleep(0.001)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class OuterTransaction:
    """The transaction of one test, on one connection to the server; it is never committed.

    Args:
        conninfo: The parameters of libpq.
    """

    def __init__(self, **conninfo: Any) -> None:
        self._connection = psycopg.connect(**conninfo, autocommit=True)
        self._connection.execute("BEGIN")
        self.pgconn = self._connection.pgconn
        self.lock = _Lock()
        self.open: list[Any] = []
        """The connections with a savepoint, in the order of the savepoints."""
        self.abandoned: set[Any] = set()
        """Those of them that were closed: what they did is rolled back."""
        self.last: Any = None
        """The connection that ran the last statement."""
        self.in_statement = False
        """Whether that statement has a savepoint, which is still there."""
        self._joined: dict[Engine, Any] = {}
        """The engines that share the transaction, with how they connect otherwise."""
        self._numbers = itertools.count(1)

    def name(self) -> bytes:
        """Return the name of a new savepoint."""
        return b"alfred_db_test_%d" % next(self._numbers)

    def join(self, engine: Engine) -> None:
        """Let all new connections of an engine share the transaction, until this one is closed."""
        dialect: Any = engine.dialect
        usual = self._joined.setdefault(engine, dialect.connect)

        async def create(*_: Any, **__: Any) -> AsyncConnection:
            return _AsyncShared(self)

        def connect(*arguments: Any, **options: Any) -> Any:
            if dialect.is_async:
                return usual(*arguments, **{**options, "async_creator_fn": create})
            return _SyncShared(self)

        # Listeners to `do_connect` cannot be put before the one of the library.
        dialect.connect = connect

    def close(self) -> None:
        """Roll everything back, and let the engines connect as usual again.

        An engine of the application may outlive the test: what its pool keeps belongs to this transaction.
        """
        for engine, usual in self._joined.items():
            dialect: Any = engine.dialect
            dialect.connect = usual
            engine.dispose(close=not dialect.is_async)
        self._joined.clear()
        self._connection.close()


class _Shared:
    """What a connection of psycopg does otherwise when it shares a transaction. Overrides `psycopg.BaseConnection`."""

    pgconn: Any
    _autocommit: bool
    _pipeline: Any
    _closed: bool

    def _share(self, outer: OuterTransaction) -> None:
        self._outer = outer
        self._savepoint: bytes | None = None
        self._failed = False
        self._settings: dict[str, str | None] = {}
        self.lock = outer.lock
        self._pool = None  # without a pool, psycopg would warn that it is not closed
        self._prepared: Any = self._prepared
        self._prepared.prepare_threshold = None  # the names of prepared statements belong to the session

    @property
    def transaction_status(self) -> TransactionStatus:
        """The status of this connection's own transaction."""
        real = TransactionStatus(self.pgconn.transaction_status)
        if real in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
            return real
        if self._savepoint is None:
            return TransactionStatus.IDLE
        if self._failed or (real == TransactionStatus.INERROR and self._outer.last is self):
            return TransactionStatus.INERROR
        return TransactionStatus.INTRANS

    @property
    def info(self) -> ConnectionInfo:
        return _Info(self)

    @property
    def closed(self) -> bool:
        return self._closed or self.pgconn.status != psycopg.pq.ConnStatus.OK

    def _leave(self) -> None:
        """Close this connection alone: what is open is rolled back before the next statement of the test."""
        self._closed = True
        if self._savepoint is not None:
            self._outer.abandoned.add(self)
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            self.pgconn.finish()  # in the middle of a statement, nobody can use it any more

    def _check_connection_ok(self) -> None:
        if self._closed:
            raise OperationalError("the connection is closed")
        super()._check_connection_ok()  # type: ignore[misc]

    def _check_intrans_gen(self, attribute: str) -> Any:
        yield from ()
        if self.transaction_status != TransactionStatus.IDLE:
            raise ProgrammingError(
                f"can't change {attribute!r} now: connection in transaction status {self.transaction_status.name}"
            )

    def _start_query(self) -> Any:
        self._check_connection_ok()
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            raise ProgrammingError(
                "the transaction of the test has ended: COMMIT or ROLLBACK was sent as a statement; use the methods of the"
                " session or the connection, or alfred_fresh_url"
            )
        yield from self._tidy_gen()
        if self._failed:
            raise InFailedSqlTransaction(
                "current transaction is aborted, commands ignored until end of transaction block"
            )
        if not self._autocommit and self._savepoint is None:
            name = self._outer.name()
            yield from self._exec(b"SAVEPOINT " + name)
            self._savepoint = name
            self._outer.open.append(self)
        elif self._autocommit or self._outer.open[-1] is not self:
            yield from self._exec(b"SAVEPOINT alfred_db_statement")
            self._outer.in_statement = True
        self._outer.last = self
        if self._pipeline:
            yield from self._pipeline._sync_gen()

    def _tidy_gen(self) -> Any:
        """End what others have left: a statement in autocommit, a failed transaction, those of closed connections."""
        outer, last = self._outer, self._outer.last
        failed = self.pgconn.transaction_status == TransactionStatus.INERROR
        if outer.in_statement:
            outer.in_statement = False
            if failed:
                yield from self._exec(b"ROLLBACK TO SAVEPOINT alfred_db_statement")
                last._failed = last._savepoint is not None
            yield from self._exec(b"RELEASE SAVEPOINT alfred_db_statement")
        elif failed and last is not self:
            yield from self._exec(b"ROLLBACK TO SAVEPOINT " + last._savepoint)
            last._failed = True
        for one in [one for one in reversed(outer.open) if one in outer.abandoned]:
            outer.abandoned.discard(one)
            yield from self._undo_gen(one)

    def _note_gen(self, name: str) -> Any:
        """Note a setting before SET LOCAL: it ends with the transaction, which here is only a savepoint."""
        if self._savepoint is not None and name not in self._settings:
            result = yield from self._exec(f"SELECT pg_catalog.current_setting('{name}', true)".encode())
            value = result.get_value(0, 0)
            self._settings[name] = None if value is None else value.decode()

    def _commit_gen(self) -> Any:
        if self._savepoint is None:
            return
        yield from self._tidy_gen()
        if self.transaction_status == TransactionStatus.INERROR:
            yield from self._undo_gen(self)
            return
        # What is checked at the commit is checked now. To go back leaves deferred constraints deferred.
        checks = (
            b"SAVEPOINT alfred_db_check",
            b"SET CONSTRAINTS ALL IMMEDIATE",
            b"ROLLBACK TO SAVEPOINT alfred_db_check",
            b"RELEASE SAVEPOINT alfred_db_check",
        )
        try:
            for command in checks:
                yield from self._exec(command)
        except psycopg.Error:
            yield from self._undo_gen(self)
            raise
        for name, value in self._settings.items():
            literal = "" if value is None else value.replace("'", "''")
            yield from self._exec(f"SELECT pg_catalog.set_config('{name}', '{literal}', true)".encode())
        yield from self._exec(b"RELEASE SAVEPOINT " + self._savepoint)
        yield from self._ended_gen(self)

    def _rollback_gen(self) -> Any:
        if self._pipeline:
            yield from self._pipeline._sync_gen()
        if self._savepoint is not None:
            yield from self._tidy_gen()
            yield from self._undo_gen(self)

    def _undo_gen(self, one: Any) -> Any:
        yield from self._exec(b"ROLLBACK TO SAVEPOINT " + one._savepoint)
        yield from self._exec(b"RELEASE SAVEPOINT " + one._savepoint)
        yield from self._ended_gen(one)

    def _ended_gen(self, one: Any) -> Any:
        """Become IDLE. The savepoints above are gone as well: their connections get new ones."""
        place = self._outer.open.index(one)
        one._savepoint, one._failed = None, False
        one._settings.clear()
        above = self._outer.open[place + 1 :]
        del self._outer.open[place]
        for other in above:
            yield from self._exec(b"SAVEPOINT " + other._savepoint)
            other._failed = False

    def _exec(self, command: bytes) -> Generator[Any, Any, Any]:
        own: Any = self
        sent: Generator[Any, Any, Any] = own._exec_command(command)
        return sent


_SET_LOCAL = re.compile(r"\s*SET\s+LOCAL\s+([A-Za-z_][A-Za-z0-9_.]*)\s*(?:=|TO\b)", re.IGNORECASE)


class _Cursor:
    """What a cursor does otherwise. Overrides `psycopg.BaseCursor`."""

    _conn: Any

    def _start_query(self, query: Any = None) -> Any:
        yield from super()._start_query(query)  # type: ignore[misc]
        text = query.decode(errors="replace") if isinstance(query, bytes) else query
        if isinstance(text, str) and (found := _SET_LOCAL.match(text)):
            yield from self._conn._note_gen(found[1])


class _SyncCursor(_Cursor, Cursor[Any]):
    pass


class _AsyncCursor(_Cursor, AsyncCursor[Any]):
    pass


class _Info(ConnectionInfo):
    """Facts about a connection, with the status of its own transaction."""

    def __init__(self, connection: _Shared) -> None:
        super().__init__(connection.pgconn)
        self._connection = connection

    @property
    def transaction_status(self) -> TransactionStatus:
        return self._connection.transaction_status


class _SyncShared(_Shared, Connection[Any]):  # type: ignore[misc]
    """A connection of psycopg that shares the transaction of the test."""

    def __init__(self, outer: OuterTransaction) -> None:
        Connection.__init__(self, outer.pgconn, tuple_row)
        self._share(outer)
        self.cursor_factory = _SyncCursor

    def close(self) -> None:
        self._leave()


class _AsyncShared(_Shared, AsyncConnection[Any]):  # type: ignore[misc]
    """The same for asyncio."""

    def __init__(self, outer: OuterTransaction) -> None:
        AsyncConnection.__init__(self, outer.pgconn, tuple_row)
        self._share(outer)
        self.cursor_factory = _AsyncCursor

    async def close(self) -> None:
        self._leave()
