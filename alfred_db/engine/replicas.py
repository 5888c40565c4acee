"""Reading from standbys: which one is fresh enough for a unit of work, and the primary where none is.

Each unit asks its connection's server how far it has replayed the primary's log, unless that is known: what a server has
replayed once stays replayed. A server that cannot be reached is left alone for a while, so that not every unit waits
for it.
"""

from __future__ import annotations

import inspect
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cached_property, wraps
from typing import Any, TypeVar, cast

import psycopg
from psycopg import pq
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Engine, exc
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from ..checks import kind, within
from ..errors import (
    UNLOGGED,
    AlfredDBError,
    ConflictError,
    DatabaseUnavailable,
    InvalidInputError,
    InvalidTransition,
    translate,
    translated,
)
from ..failures.messages import driver_error
from .session import DirectSession, Held, Kept

__all__ = [
    "POSITION",
    "ReadSession",
    "Replicas",
    "allowed_lag",
    "current_position",
    "prepare",
    "read_primary",
    "reading",
    "replica_of",
    "wal_position",
]

LEFT_ALONE = 5.0
"""Seconds for which replicas that cannot be reached are left alone; then one unit of work tries them again."""

CONNECT_TIMEOUT = "2"
"""Seconds to wait for a replica to accept a connection: the primary can answer instead."""

MAX_LAG = 86_400.0
"""The largest lag that can be allowed, in seconds."""

LAG_KNOWN = 1.0
"""Seconds for which what a replica lags behind is known."""

POSITION = "SELECT CAST(pg_catalog.pg_current_wal_insert_lsn() AS text)"
"""The statement for the position of the primary's log; what was committed before is at or before it."""

# A standby that has replayed all that it has received, and still receives, lags behind by nothing that it could know of.
_REPLAYED = """
    SELECT
        pg_catalog.pg_is_in_recovery(),
        CAST(pg_catalog.pg_last_wal_replay_lsn() AS text),
        CAST(CASE
            WHEN pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn()
                AND EXISTS (SELECT FROM pg_catalog.pg_stat_get_wal_receiver() AS receiver WHERE receiver.pid IS NOT NULL) THEN 0
            ELSE COALESCE(EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()), 0)
        END AS double precision)
"""

_READ_ONLY = "SET TRANSACTION READ ONLY"

_log = logging.getLogger("alfred_db")

U = TypeVar("U")


def wal_position(after: str | None) -> int:
    """Return a position of the log as a number; None is its beginning.

    Raises:
        InvalidInputError: It is no position.
    """
    if after is None:
        return 0
    if not isinstance(after, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"after: expected a position from `position()`, got {kind(after)}")
    found = re.fullmatch(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", after, re.IGNORECASE)
    if found is None:
        raise InvalidInputError("after: it is no position of the log; pass what `position()` returned")
    return int(found[1], 16) << 32 | int(found[2], 16)


def allowed_lag(max_lag: float | None, default: float = 0.0) -> float:
    """Return the seconds that a replica may lag behind; None is the default.

    Raises:
        InvalidInputError: It is not 0 to a day.
    """
    if max_lag is None:
        return default
    within("max_lag", max_lag, 0, MAX_LAG)
    return max_lag


def replica_of(url: URL) -> URL:
    """Return the URL of replicas with what it leaves open: any standby of several, in random order, and short waits."""
    wanted = {"target_session_attrs": "standby", "connect_timeout": CONNECT_TIMEOUT}
    if pq.version() >= 160000:
        wanted["load_balance_hosts"] = "random"
    return url.update_query_dict({name: value for name, value in wanted.items() if name not in url.query})


class Replicas:
    """The connection that is kept to the replicas, and whether they are left alone; all tenants share it."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self._left_alone_until = 0.0
        self._lock = threading.Lock()

    def try_now(self) -> bool:
        """Return whether to ask a replica; of those that ask while they are left alone, one may try when that ends."""
        if not self._left_alone_until:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._left_alone_until:
                return False
            self._left_alone_until = now + LEFT_ALONE
            return True

    def answered(self) -> None:
        """Note that a replica has answered."""
        self._left_alone_until = 0.0

    def leave_alone(self, why: object) -> None:
        """Leave the replicas alone for a while."""
        if not self._left_alone_until:
            with suppress(Exception):  # of a filter or a handler of the application's log
                _log.warning(
                    "replica: %s; reading from the primary, and trying again in %.0f s", why, LEFT_ALONE
                )
        self._left_alone_until = time.monotonic() + LEFT_ALONE


class ReadSession(DirectSession):
    """The session of a unit of work that only reads: on a replica, or in a READ ONLY transaction of the primary."""

    on_replica = False
    _ended = False
    _replicas: Replicas | None = None

    def __init__(self, bind: Engine | None = None, *, kept: Kept | None = None, **options: Any) -> None:
        super().__init__(bind, kept=kept, **options)
        self._primary = (bind, kept)

    def to_replica(self, engine: Engine, replicas: Replicas) -> None:
        """Run the statements on a replica; none has run yet."""
        self.bind, self._kept, self._replicas, self.on_replica = engine, replicas.kept, replicas, True

    def gives_way(self, error: AlfredDBError) -> bool:
        """Return whether to repeat what failed on the primary.

        The replica has gone, has cancelled what its replay conflicts with, or has no rows of an UNLOGGED table.
        """
        if not self.on_replica:
            return False
        state = None if error.original is None else error.original.sqlstate
        gone = isinstance(error, DatabaseUnavailable) and (error.retryable or state is None)
        if gone and self._replicas is not None:
            self._replicas.leave_alone(error)
        return gone or state == UNLOGGED or (isinstance(error, ConflictError) and error.retryable)

    def _execute_internal(self, *arguments: Any, **options: Any) -> Any:
        """Execute a statement of SQLAlchemy; on the primary, once more, if the replica ends meanwhile."""
        try:
            return super()._execute_internal(*arguments, **options)
        except exc.DBAPIError as error:
            if not self.gives_way(_translated(error)):
                raise
            read_primary(self)
        return super()._execute_internal(*arguments, **options)

    def to_primary(self) -> None:
        """Run the statements on the primary from now on; what has been read stays."""
        with suppress(exc.SQLAlchemyError):  # the connection to the replica may be gone
            self.close()
        self.bind, self._kept = self._primary
        self.on_replica = False

    def take_kept(self) -> Held | None:
        """Return the connection if it is taken already or one is kept; never waits.

        Raises:
            InvalidTransition: The unit of work has ended.
        """
        self._refuse_ended()
        return super().take_kept()

    def get_bind(self, *arguments: Any, **options: Any) -> Any:
        """Return the engine, or the connection once it is taken.

        Raises:
            InvalidTransition: The unit of work has ended.
        """
        self._refuse_ended()
        return super().get_bind(*arguments, **options)

    @property
    def driver_commits(self) -> bool:
        """False: the end of a replica in the middle of COMMIT is no error, which `commit` sees to."""
        return False

    def commit(self) -> None:
        """End the transaction; on a replica there is nothing to lose."""
        try:
            super().commit()
        except (exc.DBAPIError, psycopg.Error) as error:
            if not self.gives_way(_translated(error)):
                raise
        self._ended = not self.on_replica

    def rollback(self) -> None:
        """End the transaction."""
        super().rollback()
        self._ended = not self.on_replica

    def _refuse_ended(self) -> None:
        # The next transaction of the primary would not be READ ONLY.
        if self._ended and self.taken is None:
            raise InvalidTransition("read: the transaction has ended; begin another unit with `read()`")


def _translated(error: exc.DBAPIError | psycopg.Error) -> AlfredDBError:
    """Return the error of this library for one of SQLAlchemy or the driver, with the driver's."""
    ours = translate(error) or AlfredDBError("")
    ours.original = driver_error(error)
    return ours


class _Freshness:
    """Whether the server of one connection is a standby that is fresh enough."""

    def __init__(self, after: int, max_lag: float) -> None:
        self._after = after
        self._max_lag = max_lag

    def known(self, session: ReadSession) -> bool:
        taken = session.taken
        if taken is None:
            return False
        state = taken.state
        return (
            state.replayed >= self._after
            and state.lag <= self._max_lag
            and time.monotonic() - state.lag_known_since < LAG_KNOWN
        )

    def of(self, session: ReadSession, row: Any) -> bool:
        standby, replayed, lag = row
        if session.taken is not None and replayed is not None:
            state = session.taken.state
            state.replayed, state.lag, state.lag_known_since = wal_position(replayed), lag, time.monotonic()
            # A server that was promoted is no replica: another one may be the primary by now.
            return bool(standby) and state.replayed >= self._after and lag <= self._max_lag
        return False


def prepare(
    session: Session, replicas: Replicas | None, engine: Engine | None, after: int, max_lag: float
) -> None:
    """Have a session read from a replica that is fresh enough, or else in a READ ONLY transaction of the primary.

    Args:
        session: A `ReadSession` whose engine is that of the primary.
        replicas: The replicas; None is none.
        engine: Their engine, for the tenant of the session.
        after: What the replica must have replayed.
        max_lag: The seconds that it may lag behind.
    """
    assert isinstance(session, ReadSession)
    try:
        if replicas is not None and engine is not None and replicas.try_now():
            wanted = _Freshness(after, max_lag)
            try:
                session.to_replica(engine, replicas)
                with translated():
                    _take(session)
                    if wanted.known(session) or wanted.of(session, _row(session.driver, _REPLAYED)):
                        replicas.answered()
                        return
                replicas.answered()
            except AlfredDBError as error:
                replicas.leave_alone(error)
        read_primary(session)
    except BaseException:
        session.close()
        raise


def read_primary(session: Session) -> None:
    """Go on in a READ ONLY transaction of the primary."""
    assert isinstance(session, ReadSession)
    session.to_primary()
    with translated():
        _take(session)
        _done(session.driver.execute(_READ_ONLY))


def _take(session: DirectSession) -> None:
    """Take a connection for a transaction; the one that was kept may be in autocommit."""
    session.take()
    if session.driver.autocommit:
        _done(session.driver.set_autocommit(False))


def current_position(session: Session) -> str:
    """Return the position of the primary's log."""
    assert isinstance(session, DirectSession)
    with translated():
        session.take()
        found: str = _row(session.driver, POSITION)[0]
        return found


def _row(driver: Any, statement: str) -> Any:
    """Return the row of a statement, read in autocommit: BEGIN and ROLLBACK would each be a round trip."""
    _done(driver.set_autocommit(True))
    try:
        return _done(_done(driver.execute(statement)).fetchone())
    finally:
        if driver.pgconn.transaction_status == TransactionStatus.IDLE:
            _done(driver.set_autocommit(False))
        else:
            _done(driver.close())


def _done(called: Any) -> Any:
    """Return what a call of the driver returns; within `AsyncSession.run_sync` of what is awaited."""
    return await_only(called) if inspect.isawaitable(called) else called


def reading(unit: Callable[[Any], U], replicas: Replicas | None) -> Callable[[Any], U]:
    """Return what makes a unit of work of a `ReadSession`; a call that a replica ends is repeated on the primary.

    A call of a repository that only reads may be repeated: nothing of it has happened.
    """
    if replicas is None:
        return unit

    def make(session: Session | AsyncSession) -> U:
        made = unit(session)
        names = {name for base in type(made).__mro__ for name, value in vars(base).items() if _is_noun(value)}
        vars(made).update({name: _Noun(made, name, session) for name in names})
        return made

    return make


def _is_noun(attribute: object) -> bool:
    return isinstance(attribute, cached_property)


class _Noun:
    """Stands for a repository of a unit of work, which is made at the first call."""

    def __init__(self, unit: Any, name: str, session: Session | AsyncSession) -> None:
        self._unit = unit
        self._name = name
        self._session = session

    @cached_property
    def _repository(self) -> Any:
        for base in type(self._unit).__mro__:
            if self._name in vars(base):
                return vars(base)[self._name].func(self._unit)
        raise AttributeError(self._name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The class of the repository, for what looks at the type."""
        return cast(object, self._repository).__class__

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._repository, name)
        if name.startswith("_") or not callable(found):
            return found
        return self._awaited(found) if inspect.iscoroutinefunction(found) else self._called(found)

    def _called(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return method(*arguments, **named)
            except AlfredDBError as error:
                assert isinstance(self._session, ReadSession)
                if not self._session.gives_way(error):
                    raise
                read_primary(self._session)
            return method(*arguments, **named)

        return call

    def _awaited(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @wraps(method)
        async def call(*arguments: Any, **named: Any) -> Any:
            try:
                return await method(*arguments, **named)
            except AlfredDBError as error:
                assert isinstance(self._session, AsyncSession)
                own = self._session.sync_session
                if not (isinstance(own, ReadSession) and own.gives_way(error)):
                    raise
                await self._session.run_sync(read_primary)
            return await method(*arguments, **named)

        return call
