"""The errors that alfred-db raises, one class for each decision of a caller.

AlfredDBError
├─ ConfigurationError            no URL, bad URL, missing libpq or extra
├─ SchemaError
│  ├─ ExtensionMissingError
│  ├─ ExtensionTooOldError
│  ├─ SchemaOutdatedError
│  ├─ SchemaTooNewError
│  ├─ SchemaDriftError
│  └─ MigrationLockTimeout
├─ NotFoundError
├─ ConflictError
├─ UnreadableRow                 a row that other means have written holds what Python cannot read
├─ LeaseLost
├─ InvalidTransition
├─ InvalidInputError
│  ├─ DimensionMismatch
│  ├─ InvalidVector
│  ├─ InvalidCron
│  └─ InvalidFilter
└─ DatabaseUnavailable           connection lost, server starting, pool timeout

try:
    with db.begin() as uow:
        uow.agents.heartbeat(agent_id, incarnation)
except DatabaseUnavailable as error:
    if error.retryable: ...
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import psycopg
from sqlalchemy import exc

__all__ = [
    "AlfredDBError",
    "ConfigurationError",
    "ConflictError",
    "DatabaseUnavailable",
    "DimensionMismatch",
    "ExtensionMissingError",
    "ExtensionTooOldError",
    "InvalidCron",
    "InvalidFilter",
    "InvalidInputError",
    "InvalidTransition",
    "InvalidVector",
    "LeaseLost",
    "MigrationLockTimeout",
    "NotFoundError",
    "SchemaDriftError",
    "SchemaError",
    "SchemaOutdatedError",
    "SchemaTooNewError",
    "UnreadableRow",
    "conceal",
    "shown",
    "translated",
    "why_unreadable",
]


def shown(text: object) -> str:
    """Return text of the caller for a message: shortened, and with control characters escaped."""
    return repr(str(text)[:60])


class AlfredDBError(Exception):
    """Base class of all errors of this library; the message states what to do.

    Args:
        message: The message.
        retryable: Whether running the whole unit of work again can succeed and cannot apply it twice.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        """Whether running the whole unit of work again can succeed and cannot apply it twice."""
        self.original: psycopg.Error | None = None
        """The error of the driver, or None.

        Its `diag` has the details of the server about the row and its values (`message_detail`, `context`), which no
        message contains.
        """

    def __reduce__(self) -> tuple[Any, ...]:
        # Details of the server, which contain values, stay in this process.
        return type(self), self.args, {**self.__dict__, "original": None}


class ConfigurationError(AlfredDBError):
    """The configuration of the database connection is missing or wrong."""


class SchemaError(AlfredDBError):
    """The schema of the database lacks an object or differs from what the library needs."""


class ExtensionMissingError(SchemaError):
    """A required extension is not installed and could not be created."""


class ExtensionTooOldError(SchemaError):
    """The installed version of a required extension is too old."""


class SchemaOutdatedError(SchemaError):
    """The schema is older than this version of the library; upgrade the database."""


class SchemaTooNewError(SchemaError):
    """The schema is newer than this version of the library; upgrade the library."""


class SchemaDriftError(SchemaError):
    """The database has the right revision but differs from the models."""


class MigrationLockTimeout(SchemaError):
    """Another process held the migration lock, or a table lock, for too long."""


class NotFoundError(AlfredDBError):
    """A row does not exist."""


class ConflictError(AlfredDBError):
    """Another row or another transaction conflicts with the operation."""


class UnreadableRow(AlfredDBError):
    """A row holds a value that Python or this version of the library cannot read; other means have written it.

    Such as JSON that is nested too deeply or has a number of too many digits, a time of before Christ or `infinity`, or a
    status that this version does not know.
    """

    def __init__(
        self,
        message: str,
        *,
        table: str | None = None,
        column: str | None = None,
        key: Mapping[str, str] | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.table = table
        """The table of the row, or None if it is not known."""
        self.column = column
        """The column of the value."""
        self.key: Mapping[str, str] = key or {}
        """The primary key of the row, as text."""


class LeaseLost(AlfredDBError):
    """The caller no longer holds this work: stop, and discard its results."""


def lease_lost(what: str) -> LeaseLost:
    """Return the error for work whose lease the caller does not hold."""
    return LeaseLost(f"{what}: lease lost: another worker may own it; stop, and discard what was done for it")


class InvalidTransition(AlfredDBError):
    """The status of the row or the transaction does not allow the operation."""


class InvalidInputError(AlfredDBError):
    """A value is invalid: the database would refuse or misinterpret it."""


class DimensionMismatch(InvalidInputError):
    """The length of a vector differs from that of its column."""


class InvalidVector(InvalidInputError):
    """A value is not a vector, has NaN or infinite elements, or is the zero vector."""


class InvalidCron(InvalidInputError):
    """A cron expression or a time zone is invalid."""


class InvalidFilter(InvalidInputError):
    """A filter is invalid, such as by an unknown field or operator."""


class DatabaseUnavailable(AlfredDBError):
    """The server could not be reached, or the connection was lost."""


_TRY_IN_A_SAVEPOINT = (
    "it can only be rolled back; let the error end it, or try the statement in a savepoint,"
    " `with uow.session.begin_nested()`"
)

_UPGRADE = "upgrade its schema, as `upgrade` of a Database with this URL and schema does"

_BY_SQLSTATE: dict[str, tuple[type[AlfredDBError], str]] = {
    "23503": (ConflictError, "check that the referenced row exists and nothing refers to a row you delete"),
    "23505": (ConflictError, "a row with this key exists; read it, or use another key"),
    "23P01": (ConflictError, "a row with an overlapping key exists; read it, or use another key"),
    "23502": (InvalidInputError, "pass the missing value"),
    "23514": (InvalidInputError, "use a value that the column allows"),
    "40001": (ConflictError, "run the transaction again"),
    "40P01": (ConflictError, "run the transaction again"),
    "54001": (InvalidInputError, "shorten the value: it is too complex for the server"),
    "54000": (InvalidInputError, "shorten the value: it is too long for an index or a limit of the server"),
    "AD001": (ConflictError, "save them, then run it again with -x allow_data_loss=1 or --allow-data-loss"),
    "2BP01": (ConflictError, "drop what depends on it first; tenants depend on the shared catalogs"),
    "55P03": (ConflictError, "another transaction holds the lock; run the transaction again"),
    "57014": (DatabaseUnavailable, "the statement was cancelled or ran into a timeout"),
    "25P02": (InvalidTransition, _TRY_IN_A_SAVEPOINT),
    "25P03": (
        DatabaseUnavailable,
        "a transaction idled for too long; do slow work outside of it, and run it again",
    ),
    "25P04": (DatabaseUnavailable, "a transaction took too long; do less in one, and run it again"),
    "25006": (
        DatabaseUnavailable,
        "this server is read-only; connect to the primary (target_session_attrs=read-write)",
    ),
    "28000": (ConfigurationError, "check the user of the database URL"),
    "28P01": (ConfigurationError, "check the password of the database URL"),
    "3D000": (ConfigurationError, "create the database, or name another in the URL"),
    "42602": (InvalidInputError, "use a name that the server knows"),
    "42501": (ConfigurationError, "grant the role the missing right, or use another role"),
    "42P01": (SchemaOutdatedError, _UPGRADE),
    "42703": (SchemaOutdatedError, _UPGRADE),
    "3F000": (SchemaOutdatedError, _UPGRADE),
}

_BY_SQLSTATE_CLASS: dict[str, tuple[type[AlfredDBError], str]] = {
    "08": (DatabaseUnavailable, "check that the server runs and can be reached"),
    "22": (InvalidInputError, "use a value that the column allows"),
    "53": (DatabaseUnavailable, "the server is out of a resource; free it, or use fewer connections"),
    "57": (DatabaseUnavailable, "the server is stopping or starting; try again"),
}

# libpq reports no SQLSTATE for a failed connection attempt: only these texts distinguish the causes. Other errors can be
# retried. If several hosts were tried, the message contains an error for each.
_BY_CONNECT_TEXT: tuple[tuple[str, type[AlfredDBError], str], ...] = (
    (
        r"password authentication failed|no password supplied|password file|SASL authentication failed"
        r"|authentication failed for user",
        ConfigurationError,
        "check user and password of the database URL",
    ),
    (
        r'role ".*" does not exist|no such user|not permitted to log in',
        ConfigurationError,
        "check the user of the database URL",
    ),
    (
        r'database ".*" does not exist|no such database|is not currently accepting connections'
        r'|database ".*" is disabled|database does not allow connections',
        ConfigurationError,
        "create the database, or name another in the URL",
    ),
    (
        r"bouncer config error|server login failed",
        ConfigurationError,
        "the pooler cannot log in to the server: its log has the reason, and its configuration user and password",
    ),
    (r"permission denied for", ConfigurationError, "grant the role the missing right, or use another role"),
    (
        r"pg_hba\.conf|does not support SSL|sslmode|certificate|SSL error|sslrootcert|channel binding|GSSAPI"
        r"|private key|server requires encryption|authentication method",
        ConfigurationError,
        "check sslmode in the URL, the certificates, and pg_hba.conf on the server",
    ),
    (
        r"unsupported startup parameter",
        ConfigurationError,
        "a pooler refuses what the connection asks for: take it out of the URL and of PGOPTIONS, or add it to the"
        " pooler's ignore_startup_parameters",
    ),
    (
        r"invalid connection option|invalid .* value|invalid value for parameter|invalid integer value"
        r"|unrecognized configuration parameter|invalid command-line argument|invalid port number"
        r"|could not match .* port numbers|definition of service|service file|is not supported",
        ConfigurationError,
        "check the parameters of the database URL",
    ),
)

_ONCE_MORE: tuple[tuple[str, str], ...] = (
    (
        r"session is (not )?read-only|server is (not )?in hot standby mode",
        "no server among the hosts is what target_session_attrs asks for; a failover may be on its way: try again",
    ),
    (
        r"the database system is|not yet accepting connections|bouncer is shutting down",
        "the server is stopping or starting; try again",
    ),
    (
        r"too many (clients|connections)|connection slots|no more connections allowed|client connections exceeded"
        r"|query_wait_timeout",
        "the server has no connection to spare; try again, or use fewer connections",
    ),
    (
        r"server login has been failing, try again|client_login_timeout|server DNS lookup failed",
        "the pooler cannot reach the server or log in to it, and its log has the reason: try again",
    ),
    (
        r"due to (idle-session|idle-in-transaction) timeout|client_idle_timeout|idle transaction timeout",
        "the server has ended a connection that idled for too long; run the transaction again",
    ),
)
"""Messages of transient errors, without SQLSTATE or of a pooler.

At such an error nothing has been executed or committed.
"""

_RETRYABLE = frozenset({"25P03", "40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03", "57P05"})


def constraint_name(error: psycopg.Error) -> str | None:
    """Return the name of the violated constraint.

    It is parsed from the message if a proxy such as Citus does not fill the diagnostics.
    """
    if error.diag.constraint_name:
        return error.diag.constraint_name
    found = re.search(r'constraint "([^"]+)"', error.diag.message_primary or "")
    return re.sub(r"_\d{6,}$", "", found.group(1)) if found else None


_MARK = "alfred_db_mark"
_MOST_BYTES = (1 << 30) - (1 << 16)


_COMMAND = "alfred_db_upgrade"


def note_upgrade(error: BaseException, command: Callable[[], str]) -> None:
    """Attach the command that upgrades the database to an error, for its message.

    Args:
        error: The error; only a missing table, column or schema is annotated.
        command: Returns the command; called only if needed.
    """
    if isinstance(error, psycopg.Error) and _BY_SQLSTATE.get(error.sqlstate or "", ("", ""))[1] is _UPGRADE:
        setattr(error, _COMMAND, command())


def failed_transaction() -> InvalidTransition:
    """Return the error for a COMMIT that the server would answer with a rollback but without an error."""
    return InvalidTransition(f"a statement of this transaction has failed, so that {_TRY_IN_A_SAVEPOINT}")


def mark_lost(error: BaseException, parameters: Any) -> None:
    """Mark an error of a lost connection as before any COMMIT, so that nothing of the transaction remains.

    A message of a gigabyte or more ends the connection too, at any time.
    """
    if isinstance(error, psycopg.Error):
        setattr(error, _MARK, "too large" if _bytes_of(parameters) > _MOST_BYTES else "lost")


def _bytes_of(value: Any) -> int:
    """Return the approximate size of a value in a message in bytes."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="replace"))
    if value.__class__ in (bytes, bytearray):
        return len(value)
    if value.__class__ is dict:
        return sum(_bytes_of(one) for one in value.values())
    if value.__class__ in (list, tuple):
        return sum(_bytes_of(one) for one in value)
    return int(getattr(value, "nbytes", 8))


def translate(error: exc.SQLAlchemyError | psycopg.Error) -> AlfredDBError | None:
    """Return the error of this library for one of SQLAlchemy or the driver.

    None if it is a programming error of the caller.
    """
    if isinstance(error, exc.TimeoutError):
        return DatabaseUnavailable(
            "no connection became free in time; use fewer at once, or raise pool_size", retryable=True
        )
    if isinstance(error, exc.NoReferencedTableError):
        return ConfigurationError(
            f"foreign key: it names the table {shown(error.table_name)} as a text, which is looked up among the tables of"
            " the Base of its model; pass the column of the model instead, such as ForeignKey(Task.id)"
        )
    if isinstance(error, exc.PendingRollbackError):
        if error.code == "8s2b":
            return DatabaseUnavailable(
                "the connection was lost in this transaction; run the transaction again", retryable=True
            )
        return failed_transaction()
    original = error.orig if isinstance(error, exc.StatementError) else error
    if isinstance(original, AlfredDBError):
        return original
    if not isinstance(original, psycopg.Error):
        return None
    mark = getattr(original, _MARK, None)
    if mark == "too large" or "invalid message length" in str(original):
        return InvalidInputError(
            "the values of the statement have a gigabyte or more; store them in several parts"
        )
    if original.sqlstate is None:
        return _translate_without_sqlstate(original)
    text = _without_values(original)[:300]
    if original.sqlstate == "08P01" and (pooled := _of_a_pooler(text)) is not None:
        return pooled
    if original.sqlstate == "23514" and "violates partition constraint" in text:
        return ConflictError(
            f"{text}: a partition was made meanwhile; run the transaction again", retryable=True
        )
    if original.sqlstate == "42704" and text.startswith("text search configuration"):
        return InvalidInputError(
            "language: the server has no such text search configuration; see \\dF of psql"
        )
    if original.sqlstate == "2BP01" and (detail := getattr(original.diag, "message_detail", None)):
        text = f"{text} ({detail.splitlines()[0][:200]})"  # names of objects, not values
    found = _BY_SQLSTATE.get(original.sqlstate) or _BY_SQLSTATE_CLASS.get(original.sqlstate[:2])
    if found is None:
        return None
    kind, advice = found
    if (command := getattr(original, _COMMAND, None)) is not None:
        advice = f"run {command}"
    return kind(f"{text}: {advice}", retryable=original.sqlstate in _RETRYABLE or mark == "lost")


def _of_a_pooler(text: str) -> DatabaseUnavailable | None:
    """Return the error for a message with which PgBouncer ends a connection; all have one SQLSTATE."""
    if text == "query timeout":
        return DatabaseUnavailable(
            f"{text}: the statement took longer than the pooler's query_timeout; do less in one, or raise it"
        )
    found = _once_more(text)
    return None if found is None else DatabaseUnavailable(f"{text}: {found}", retryable=True)


def _once_more(text: str) -> str | None:
    """Return the advice for a transient error, or None."""
    return next((advice for pattern, advice in _ONCE_MORE if re.search(pattern, text)), None)


def _without_values(error: psycopg.Error) -> str:
    """Return the message of the server on one line.

    Where it quotes the refused value (class 22), the value is left out.
    """
    text = error.diag.message_primary or type(error).__name__
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    quotes = (error.sqlstate or "")[:2] == "22" or re.search(r"\b(tsquery|jsonpath)\b", text)
    return _UNQUOTED.sub(r'\1"..."', text) if quotes else text


_UNQUOTED = re.compile(
    r"""()".*"|(?<!\w)()'.*'(?!\w)|(?<=byte sequence )(for encoding ".*": )0x.*|[„“”«»「].*[“”«»」]"""
)
"""Quoted values, in the languages of the server.

It matches from the first quote to the last, because the value may contain quotes.
"""


def _harmless(error: psycopg.Error) -> str:
    """Return the message of an error of the driver without values of the server."""
    if error.sqlstate is not None:
        return _without_values(error)
    text = " ".join(str(error).split())
    return _UNQUOTED.sub(r'\1"..."', text) if isinstance(error, psycopg.DataError) else text


def _driver_error(error: exc.SQLAlchemyError | psycopg.Error) -> psycopg.Error | None:
    found = error.orig if isinstance(error, exc.StatementError) else error
    return found if isinstance(found, psycopg.Error) else None


def _translate_without_sqlstate(original: psycopg.Error) -> AlfredDBError | None:
    whole = _harmless(original)
    text = whole[:500]
    if isinstance(original, psycopg.DataError):
        return InvalidInputError(f"{text}: use a value that the column allows")
    if "number of parameters must be" in text:
        return InvalidInputError(
            "the statement has more than 65,535 bound values; pass many values of one kind as one array, such as"
            " `column == any_(literal(values, ARRAY(Text)))`, or in several calls"
        )
    if several := re.search(r"received \d+ results from command '(\w+)", text):
        # The end of the connection, reported by the server and again by a pooler, before or after the response.
        return DatabaseUnavailable(
            f"the connection was lost during {several[1]}: check that the server runs and can be reached",
            retryable=several[1] != "COMMIT" or hasattr(original, _MARK),
        )
    # With several hosts the message has an error for each; one transient error is enough to retry.
    if (advice := _once_more(whole)) is not None:
        return DatabaseUnavailable(f"{text}: {advice}", retryable=True)
    for pattern, kind, advice in _BY_CONNECT_TEXT:
        if re.search(pattern, whole):
            return kind(f"{text}: {advice}")
    if isinstance(original, psycopg.OperationalError):
        advice = "check that the server runs and can be reached"
        return DatabaseUnavailable(f"{text}: {advice}", retryable=_never_connected(original, text))
    return None


def _never_connected(original: psycopg.Error, text: str) -> bool:
    """Whether nothing of the unit of work can have run, so that to run it again cannot apply it twice."""
    if isinstance(original, psycopg.errors.ConnectionTimeout) or hasattr(original, _MARK):
        return True
    return bool(re.search(r"connection failed|connection to server .* failed|failed to resolve host", text))


def translated() -> _Translation:
    """Raise errors of the database as errors of this library.

    A programming error is raised unchanged.
    """
    return _TRANSLATION


def conceal(error: BaseException | None, *, statements: bool = True) -> None:
    """Remove values, parameters and `statements` from the messages of an error and of its causes.

    A traceback prints the whole chain, and DETAIL and CONTEXT of the server quote rows. The types of the
    errors do not change, and the `diag` of an error of the driver keeps all details of the server.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, exc.StatementError):
            waiting.append(one.orig)
            kind = type(one.orig)
            text = _harmless(one.orig) if isinstance(one.orig, psycopg.Error) else "a value cannot be sent"
            one.args = (f"({kind.__module__}.{kind.__qualname__}) {text}",)
            one.params, one.hide_parameters = None, True
            if statements:
                one.statement = None
        elif isinstance(one, psycopg.Error):
            one.args = (_harmless(one),)
        elif isinstance(one, UnicodeEncodeError):
            one.args, one.object, one.start, one.end = (), "", 0, 0


class _Translation:
    """Stateless, because it surrounds every statement."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, UnicodeEncodeError) and error.encoding.lower().replace("-", "") != "utf8":
            raise ConfigurationError(
                f"the connection's client_encoding ({error.encoding}) cannot encode a text; create the engine with"
                " connect_args={'client_encoding': 'utf8'}"
            ) from None
        if isinstance(error, NotImplementedError) and (
            style := re.match(r"[^:]*(Date|Interval)Style [^:]*", str(error))
        ):
            raise ConfigurationError(
                f"the driver {style[0]}; run SET DateStyle = 'ISO', IntervalStyle = 'postgres' on each new connection of the engine"
            ) from None
        if isinstance(error, UnicodeEncodeError):
            conceal(error)
            raise InvalidInputError(
                "a text holds a lone surrogate, which no UTF-8 can hold; decode it with errors='replace'"
            ) from None
        if _in_reading(error):
            reason = why_unreadable(error)
            raise UnreadableRow(
                f"a row cannot be read, {reason}; find it by SQL, and correct the value or delete the row"
            ) from None
        if isinstance(error, TypeError | ValueError | RecursionError) and _of_json(error):
            raise InvalidInputError(
                f"a value is not JSON ({shown(error)}); pass a value that json.dumps accepts"
            ) from None
        if isinstance(error, exc.SQLAlchemyError | psycopg.Error):
            ours = translate(error)
            conceal(error, statements=ours is not None)
            if ours is not None:
                ours.original = ours.original or _driver_error(error)
                raise ours from (None if ours is getattr(error, "orig", None) else error)
        elif isinstance(error, AlfredDBError):
            conceal(error)


_TRANSLATION = _Translation()


_READING = {"fetchone", "fetchmany", "fetchall", "process_result_value"}


def _in_reading(error: BaseException | None) -> bool:
    """Whether the error comes from reading a value that the server has sent."""
    found = error.orig if isinstance(error, exc.DataError) else error
    if not isinstance(
        found, ValueError | ArithmeticError | RecursionError | psycopg.DataError | SchemaDriftError
    ):
        return False
    if isinstance(found, psycopg.Error) and found.sqlstate is not None:
        return False
    return any(frame.f_code.co_name in _READING for frame, _ in traceback.walk_tb(found.__traceback__))


def why_unreadable(error: BaseException | None) -> str:
    """The reason why a value cannot be read, without the value."""
    found = error.orig if isinstance(error, exc.DataError) else error
    if isinstance(found, RecursionError):
        return "its JSON is nested more deeply than Python can read"
    if isinstance(found, psycopg.DataError | ArithmeticError):
        return "it is outside of the years 1 to 9999, or of what Python can hold"
    if isinstance(found, SchemaDriftError):
        return str(found)
    return "its JSON has a number of more digits than Python reads (sys.set_int_max_str_digits)"


def _of_json(error: Exception) -> bool:
    """Return whether an error was raised while the driver serialised a value as JSON."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "json.encoder" for frame, _ in frames)
