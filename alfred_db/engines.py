"""What every connection of the library is opened with, how it is kept, and an engine for a few statements."""

from __future__ import annotations

import select
import time
from typing import Any

from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Engine, NullPool, create_engine, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

__all__ = [
    "check_before_use",
    "connect_args",
    "left_unused",
    "needs_ping",
    "passing_engine",
    "prepare_connections",
    "reset_after_use",
    "sees_latest",
    "used_again",
]

_USED = "alfred_db_used"
_SEES_LATEST = "alfred_db_sees_latest"

TRUSTED_SECONDS = 5.0
"""A pooled connection that was used so lately is not pinged, unless its socket has something to say."""


def connect_args(url: URL, application_name: str) -> dict[str, Any]:
    """libpq's parameters that the URL leaves open: SQLAlchemy would let these win over the URL."""
    defaults: dict[str, Any] = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "application_name": application_name,
    }
    return {name: value for name, value in defaults.items() if name not in url.query}


def passing_engine(url: URL, application_name: str) -> Engine:
    """An engine that keeps no connection and prepares no statement: right for migrations and for one look."""
    arguments = {**connect_args(url, application_name), "prepare_threshold": None}
    return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=arguments)


def reset_after_use(engine: Engine) -> None:
    """Roll back what a pooled connection was left in; the pool's own reset would roll back what has ended, too."""

    def reset(dbapi_connection: Any, record: ConnectionPoolEntry | None, state: PoolResetState) -> None:
        # It may be detached from the pool, or have been left unused before.
        if record is not None and _USED not in record.info:
            left_unused(record.info)
        driver: Any = engine.dialect.get_driver_connection(dbapi_connection)
        if state.asyncio_safe and driver.pgconn.transaction_status != TransactionStatus.IDLE:
            dbapi_connection.rollback()

    event.listen(engine, "reset", reset)


def check_before_use(engine: Engine) -> None:
    """Replace pooled connections that the server or the network has closed, as SQLAlchemy's pre-ping does.

    A ping is a round trip for each transaction. A server that stops or ends a connection closes the socket, which
    can be seen without one; only what vanished in silence cannot, and that takes longer than `TRUSTED_SECONDS`.
    """

    def check(dbapi_connection: Any, record: ConnectionPoolEntry, fairy: Any) -> None:
        try:
            if needs_ping(record.info, record.driver_connection):
                engine.dialect.do_ping(dbapi_connection)
            used_again(record.info)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    event.listen(engine, "checkout", check)


def prepare_connections(engine: Engine) -> None:
    """Have new connections find `vector` where an administrator put it, and note what their transactions see."""
    event.listen(engine, "connect", _prepare)


_PREPARE = """
    SELECT
        current_setting('default_transaction_isolation'),
        (
            SELECT current_setting('search_path') || ', ' || quote_ident(nspname)
            FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
            WHERE extname = 'vector' AND nspname <> ALL (current_schemas(true))
        )
"""


def _prepare(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(_PREPARE)
        isolation, search_path = cursor.fetchone()
        if search_path is not None:
            cursor.execute(f"SET search_path = {search_path}")
        dbapi_connection.commit()
    finally:
        cursor.close()
    record.info[_SEES_LATEST] = isolation == "read committed"


def sees_latest(info: dict[Any, Any]) -> bool:
    """Whether each statement of a transaction sees what was committed when it started, and not when the first did."""
    seen: bool = info.get(_SEES_LATEST, False)
    return seen


def left_unused(info: dict[Any, Any]) -> None:
    """Note in the `info` of a connection that it is not in use from now on."""
    info[_USED] = time.monotonic()


def used_again(info: dict[Any, Any]) -> None:
    """Note that it is."""
    info.pop(_USED, None)


def needs_ping(info: dict[Any, Any], driver: Any) -> bool:
    """Whether the other side may have closed the connection while it was not in use."""
    used: float | None = info.get(_USED)
    if used is None:  # it was opened just now
        return False
    return time.monotonic() - used > TRUSTED_SECONDS or _has_input(driver.fileno())


def _has_input(descriptor: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
