"""Connection parameters, the events of the pool, and an engine for a few statements."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import pq
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Dialect, Engine, NullPool, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import InvalidatePoolError, InvalidRequestError
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

from ..config import command
from ..errors import ConfigurationError, failed_transaction
from ..failures.marks import mark_lost, note_upgrade
from ..server.databases import VERSION_TABLES, not_utf8
from ..types import bind_text
from .plans import KeptPlans
from .status import status_of

__all__ = [
    "RELIED_ON",
    "ConnectionState",
    "check_before_use",
    "check_pooled",
    "connect_args",
    "connection_state",
    "drop_unopened",
    "end_interrupted",
    "name_upgrade",
    "needs_ping",
    "passing_engine",
    "prepare_connections",
    "refuse_client_encoding",
    "refuse_failed_commits",
    "refuse_tenant_in_path",
    "reset_after_use",
    "shares_sessions",
]

_STATE = "alfred_db"


@dataclass(slots=True)
class ConnectionState:
    """What the library stores in a pooled connection's `info`, which SQLAlchemy clears when it reconnects."""

    sees_latest: bool = False
    """Whether each statement of a transaction sees what was committed before that statement began."""
    unused_since: float | None = None
    """Since when the connection is unused, by `time.monotonic()`; None while it is in use."""
    kept_since: float | None = None
    """Since when units of work pass it on to one another."""
    poll: Any = None
    """What looks for input of the socket, made once."""
    cursor: Any = None
    """The driver's cursor of the last statement, for the next one; None while it is in use."""
    plans: KeptPlans = field(default_factory=KeptPlans)
    """When the plans that the server keeps for the connection are dropped."""
    replayed: int = 0
    """How far its server has replayed the primary's log, as far as is known."""
    lag: float = 0.0
    """The seconds that its server lagged behind."""
    lag_known_since: float = float("-inf")
    """When it did."""


def connection_state(info: dict[Any, Any]) -> ConnectionState:
    """Return the state of the connection with this `info`; it is created at the first call."""
    found: ConnectionState | None = info.get(_STATE)
    if found is None:
        found = info[_STATE] = ConnectionState()
    return found


TRUSTED_SECONDS = 5.0
"""A pooled connection that was used within this time is pinged only if its socket has input."""

UNASKED_SECONDS = 0.0002
"""Within this time not even the socket is asked: that would be a tenth of the client's time of a short statement."""


PREPARED = 1000
"""Statements that a connection keeps prepared: those of many tenants have different texts, and the driver keeps 100."""

RELIED_ON: Mapping[str, str] = {
    "DateStyle": "ISO",  # the driver reads dates and times in no other
    "IntervalStyle": "postgres",
    "standard_conforming_strings": "on",  # a backslash in a literal is a backslash
    "extra_float_digits": "1",  # fewer round what is read
    "array_nulls": "on",  # else a NULL in an array is stored as the text NULL
    "transform_null_equals": "off",
    "gin_fuzzy_search_limit": "0",  # a limit leaves rows out at random
    "quote_all_identifiers": "off",  # definitions from the catalog are compared
    "exit_on_error": "off",  # a savepoint could not be rolled back
}
"""Settings that change what statements mean, with the values that the library sets on its connections."""

_ODD = f"""
    FROM (VALUES {", ".join(f"('{name}', '{value}')" for name, value in RELIED_ON.items())}) AS relied (name, value)
    WHERE pg_catalog.current_setting(name, true) <> value AND (name <> 'DateStyle' OR pg_catalog.current_setting(name) NOT LIKE 'ISO%')
"""


def connect_args(url: URL, application_name: str) -> dict[str, Any]:
    """Return the libpq parameters that the URL leaves open; SQLAlchemy would let these override the URL.

    The encoding is always UTF-8, whatever the URL, the environment, the role or the database set: COPY sends
    UTF-8.
    """
    defaults: dict[str, Any] = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "application_name": application_name,
    }
    left_open = {name: value for name, value in defaults.items() if name not in url.query}
    return {**left_open, "client_encoding": "UTF8"}


def passing_engine(url: URL, application_name: str, *, any_encoding: bool = False) -> Engine:
    """Create an engine without a pool and without prepared statements, for migrations and single queries.

    Args:
        url: The database.
        application_name: The name of the connections in `pg_stat_activity`.
        any_encoding: Accept a database whose encoding is not UTF-8.
    """
    arguments = {**connect_args(url, application_name), "prepare_threshold": None}
    engine = create_engine(
        url, poolclass=NullPool, hide_parameters=True, connect_args=arguments, use_native_hstore=False
    )
    bind_text(engine.dialect)

    def prepare(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        if not any_encoding:
            _refuse_encoding(dbapi_connection, record)
        _ask(dbapi_connection, f"SELECT pg_catalog.count(pg_catalog.set_config(name, value, false)) {_ODD}")

    def look(context: ExceptionContext) -> None:
        name_upgrade(context.original_exception, context.engine or engine)

    drop_unopened(engine)
    event.listen(engine, "connect", prepare)
    event.listen(engine, "handle_error", look)
    return engine


def name_upgrade(error: BaseException, engine: Engine) -> None:
    """Name the engine's database and tenant in the upgrade command that the error advises."""
    note_upgrade(error, lambda: command("upgrade", engine.url, _tenant(engine)))


def _tenant(engine: Engine) -> str | None:
    tenants: Mapping[str | None, str | None] = (
        engine.get_execution_options().get("schema_translate_map") or {}
    )
    return tenants.get(None)


def drop_unopened(engine: Engine) -> None:
    """Close a connection that a cancellation, or the exception of a signal handler, interrupts while it opens.

    The driver's half-open connection is a local variable of frames that only the traceback refers to. SQLAlchemy's
    handlers create a cycle of exception, traceback and frame, so that socket and server process would stay until
    the garbage collector runs.
    """

    def connect(dialect: Dialect, _: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        try:
            return dialect.connect(*arguments, **options)
        except BaseException as error:
            error.__traceback__ = None
            raise

    event.listen(engine, "do_connect", connect)


def reset_after_use(engine: Engine) -> None:
    """Roll back a returned connection only if a transaction is open; the pool's own reset always rolls back."""

    def reset(dbapi_connection: Any, record: ConnectionPoolEntry | None, state: PoolResetState) -> None:
        # The connection may be detached from the pool, or may have been recorded as unused before.
        if record is not None and (known := connection_state(record.info)).unused_since is None:
            known.unused_since = time.monotonic()
        driver: Any = engine.dialect.get_driver_connection(dbapi_connection)
        if state.asyncio_safe and status_of(driver) != TransactionStatus.IDLE:
            dbapi_connection.rollback()

    event.listen(engine, "reset", reset)


def check_before_use(engine: Engine) -> None:
    """Replace pooled connections that the server or the network has closed, as SQLAlchemy's pre-ping does.

    A ping is one round trip for each transaction. A server that stops or ends a connection closes the socket,
    which is visible without a ping. Only a connection that vanished silently is not visible;
    `TRUSTED_SECONDS` is shorter than that takes.
    """

    def check(dbapi_connection: Any, record: ConnectionPoolEntry, fairy: Any) -> None:
        try:
            state = connection_state(record.info)
            if needs_ping(state, record.driver_connection):
                engine.dialect.do_ping(dbapi_connection)
            state.unused_since = None
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error

    event.listen(engine, "checkout", check)


def refuse_failed_commits(engine: Engine) -> None:
    """Refuse to commit a failed transaction, or to release a savepoint in it, with InvalidTransition.

    The server answers such a COMMIT by rolling back, and neither the driver nor SQLAlchemy reports it.
    """

    def refuse(connection: Connection, *_: Any) -> None:
        driver: Any = connection.connection.driver_connection
        if status_of(driver) == TransactionStatus.INERROR:
            raise failed_transaction()

    event.listen(engine, "commit", refuse)
    event.listen(engine, "release_savepoint", refuse)


def end_interrupted(engine: Engine) -> None:
    """Close a connection that an exception has left in the middle of a statement; mark errors that undo everything.

    The driver ends the statement itself for a cancelled task and for KeyboardInterrupt. After any other
    exception of a signal handler the statement would go on, and the next statement would be refused.
    """

    def look(context: ExceptionContext) -> None:
        name_upgrade(context.original_exception, context.engine or engine)
        driver: Any = None
        with suppress(AttributeError, InvalidRequestError):  # it never connected, or is closed
            driver = context.connection and context.connection.connection.driver_connection
        if driver is None:
            return
        if status_of(driver) == TransactionStatus.ACTIVE:
            with suppress(Exception):
                driver.cancel()
            driver.pgconn.finish()
            context.is_disconnect = True
        if driver.closed and context.statement is not None and not driver.autocommit:
            mark_lost(context.original_exception, context.parameters)

    event.listen(engine, "handle_error", look)


def prepare_connections(engine: Engine, *, settings: Mapping[str, str], default_tenant: bool) -> None:
    """Set up each new connection in one round trip, after it has opened: poolers drop most startup parameters.

    The connection sets `RELIED_ON` and `settings`, adds the schema of `vector` to its search_path, and records its
    isolation level. A connection through a transaction pooler is refused with ConfigurationError.

    Args:
        engine: The engine whose connections are set up.
        settings: Further settings with their values, which are the library's own text.
        default_tenant: Refuse a search_path that finds the tables of another tenant first.
    """
    known_own = False

    def prepare(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        nonlocal known_own
        _refuse_encoding(dbapi_connection, record)
        driver: Any = record.driver_connection
        driver.prepared_max = PREPARED
        with _closed_on_error(dbapi_connection):
            announced = driver.info.backend_pid
            found = _ask(dbapi_connection, _prepare(announced, settings))
            if found[0] != announced:  # a pooler is in between, and nothing was set
                if not known_own:
                    _refuse_shared_sessions(engine, dbapi_connection)
                    known_own = True
                found = _ask(dbapi_connection, _prepare(found[0], settings))
            _, isolation, search_path, tenant, _ = found
            if default_tenant:
                refuse_tenant_in_path(tenant)
            if search_path is not None:
                _ask(dbapi_connection, f"SET search_path = {search_path}")
        connection_state(record.info).sees_latest = isolation == "read committed"

    event.listen(engine, "connect", prepare)


_TENANT_IN_PATH = f"""(
    SELECT CASE WHEN tenant THEN schema END FROM ({VERSION_TABLES}) AS versions
    WHERE place IS NOT NULL ORDER BY place LIMIT 1
)"""


def _prepare(pid: int, settings: Mapping[str, str]) -> str:
    """Return the statement that sets up the session with this pid and reads what it is like."""
    set_too = "".join(
        f", pg_catalog.set_config('{name}', '{value}', false)" for name, value in settings.items()
    )
    # Both sides of each comparison have the same type, so that no operator of another schema is a better match.
    return f"""
        SELECT
            pg_catalog.pg_backend_pid(),
            pg_catalog.current_setting('default_transaction_isolation'),
            (
                SELECT pg_catalog.current_setting('search_path') || ', ' || pg_catalog.quote_ident(CAST(nspname AS text))
                FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace ON pg_namespace.oid = extnamespace
                WHERE extname = 'vector' AND nspname <> ALL (pg_catalog.current_schemas(true))
            ),
            {_TENANT_IN_PATH},
            CASE WHEN pg_catalog.pg_backend_pid() = {pid} THEN CAST(
                ROW ((SELECT pg_catalog.count(pg_catalog.set_config(name, value, false)) {_ODD}){set_too}) AS text
            ) END
    """


@contextmanager
def _closed_on_error(dbapi_connection: Any) -> Generator[None]:
    """Close a connection whose setup fails; SQLAlchemy would leave it to the garbage collector."""
    try:
        yield
    except BaseException:
        dbapi_connection.close()
        raise


def check_pooled(engine: Engine, *, default_tenant: bool) -> None:
    """Check new connections to a transaction pooler, which must not set anything in the shared sessions.

    A pooler keeps the parameters that a server reports at connect for each client, so these can be set. The
    remaining settings are read once, by the first connection, which is refused with ConfigurationError if
    they are wrong.
    """
    looked = False

    def check(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
        nonlocal looked
        _refuse_encoding(dbapi_connection, record)
        driver: Any = record.driver_connection
        for name in ("DateStyle", "IntervalStyle", "standard_conforming_strings"):
            found = driver.info.parameter_status(name)
            if found is not None and not found.startswith(RELIED_ON[name]):
                _ask(dbapi_connection, f"SET {name} = {RELIED_ON[name]}")
        if not looked:
            odd, tenant = _ask(
                dbapi_connection,
                f"SELECT (SELECT pg_catalog.string_agg(name, ', ') {_ODD}), {_TENANT_IN_PATH}",
            )
            if default_tenant:
                with _closed_on_error(dbapi_connection):
                    refuse_tenant_in_path(tenant)
            if odd:
                dbapi_connection.close()
                raise ConfigurationError(
                    f"{odd}: the server's sessions have another value than alfred-db relies on, and behind a transaction"
                    f" pooler it cannot be set; set it for the role: {command('doctor', engine.url, _tenant(engine))} shows how"
                )
            looked = True

    event.listen(engine, "connect", check)


def refuse_tenant_in_path(tenant: str | None) -> None:
    """Refuse a search_path that finds the tables of a named tenant first.

    Raises:
        ConfigurationError: `tenant` is not None.
    """
    if tenant is not None:
        raise ConfigurationError(
            f"search_path: it finds the tables of the tenant {tenant!r} where the default tenant's are meant; set it to the"
            f" default tenant's schema for this role, database or URL, or name the tenant (schema={tenant!r}, --schema)"
        )


def _refuse_shared_sessions(engine: Engine, dbapi_connection: Any) -> None:
    def ask() -> int:
        return int(_ask(dbapi_connection, "SELECT pg_catalog.pg_backend_pid()")[0])

    @contextmanager
    def hold() -> Generator[int | None]:
        arguments, options = engine.dialect.create_connect_args(engine.url)
        with closing(psycopg.connect(*arguments, **options)) as other:
            yield pid_within(other.pgconn, _PATIENCE)

    if shares_sessions(ask, hold):
        raise ConfigurationError(
            'this connection goes through a transaction pooler; use Database(..., pooler="transaction")'
        )


def shares_sessions(
    ask: Callable[[], int], hold: Callable[[], AbstractContextManager[int | None]], *, direct: bool = False
) -> bool:
    """Return whether a pooler passes the server's sessions on from one transaction to the next.

    A private session has the same pid each time, and no other connection has it. Behind a pooler other
    clients may make that look so by chance, so the test is repeated.

    Args:
        ask: Returns the pid that one connection has in a separate transaction.
        hold: Keeps a transaction open on another connection and returns its pid, or None if the pooler had no
            session for it.
        direct: Test once: nothing is known to be in between.
    """
    first = ask()
    for _ in range(1 if direct else _ROUNDS):
        if ask() != first:
            return True
        with hold() as other:
            if other is None:  # the pooler reserves a session for the first connection, although it is idle
                return False
            if other == first or ask() != first:
                return True
    return False


_ROUNDS = 8
_PATIENCE = 3.0


def pid_within(connection: pq.abc.PGconn, seconds: float) -> int | None:
    """Begin a transaction and return its pid; None after `seconds`, as a pooler may queue the client for minutes."""
    connection.send_query(b"BEGIN; SELECT pg_catalog.pg_backend_pid()")
    deadline = time.monotonic() + seconds
    while connection.is_busy():
        select.select([connection.socket], [], [], 0.1)
        connection.consume_input()
        if time.monotonic() > deadline:
            return None
    pid: bytes | None = None
    while (result := connection.get_result()) is not None:
        pid = result.get_value(0, 0) if result.ntuples else pid
    return None if pid is None else int(pid)


def _ask(dbapi_connection: Any, statement: str) -> Any:
    """Return the first row of a statement in autocommit: BEGIN and COMMIT would each be a round trip."""
    cursor = dbapi_connection.cursor()
    dbapi_connection.autocommit = True
    try:
        cursor.execute(statement)
        return None if cursor.description is None else cursor.fetchone()
    finally:
        cursor.close()
        if not dbapi_connection.closed:
            dbapi_connection.autocommit = False


def _refuse_encoding(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
    driver: Any = record.driver_connection
    encoding = driver.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        name = driver.info.dbname
        dbapi_connection.close()
        raise ConfigurationError(not_utf8(name, encoding))


def refuse_client_encoding(driver: Any) -> None:
    """Refuse a connection whose encoding is not UTF-8: the server decodes a binary COPY by it.

    Raises:
        ConfigurationError: The connection's client_encoding is another one.
    """
    encoding = driver.info.encoding
    if encoding != "utf-8":
        raise ConfigurationError(
            f"the connection's client_encoding is {encoding}, and bulk writes need UTF8; make the engine with"
            " connect_args={'client_encoding': 'utf8'}"
        )


def needs_ping(state: ConnectionState, driver: Any) -> bool:
    """Return whether the other side may have closed the connection while it was unused."""
    unused = state.unused_since
    if unused is None:  # it was opened just now
        return False
    seconds = time.monotonic() - unused
    return seconds > TRUSTED_SECONDS or (seconds > UNASKED_SECONDS and _has_input(state, driver))


def _has_input(state: ConnectionState, driver: Any) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([driver.fileno()], [], [], 0)[0])
    if state.poll is None:
        state.poll = select.poll()
        state.poll.register(driver.fileno(), select.POLLIN)
    return bool(state.poll.poll(0))
