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
│  └─ WorkflowChanged            the code of a workflow is not the one that began the execution
├─ WorkflowStepFailed            a step of a workflow has failed and is not retried
├─ WorkflowChildFailed           a child of a workflow has failed or was cancelled
├─ UnreadableRow                 a row that other means have written holds what Python cannot read
├─ LeaseLost
├─ LimitReached                  a search has read as much as the caller allows, without an answer
├─ InvalidTransition
├─ WaitTimeout                   what was waited for has not ended in time; a TimeoutError too
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
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import psycopg
from sqlalchemy import exc

from .failures.causes import misconfigured, never_connected, of_a_link, passed_on, refused_by_citus, transient
from .failures.marks import COMMAND, MARK
from .failures.messages import conceal, driver_error, harmless, without_values
from .failures.values import in_reading, of_json, why_unreadable

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
    "LimitReached",
    "MigrationLockTimeout",
    "NotFoundError",
    "SchemaDriftError",
    "SchemaError",
    "SchemaOutdatedError",
    "SchemaTooNewError",
    "UnreadableRow",
    "WaitTimeout",
    "WorkflowChanged",
    "WorkflowChildFailed",
    "WorkflowStepFailed",
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


class WorkflowChanged(ConflictError):
    """The code of a workflow asks for another step than the one that is stored under this number."""

    def __init__(
        self,
        message: str,
        *,
        workflow: str = "",
        seq: int = 0,
        expected: str = "",
        found: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.workflow = workflow
        """The name of the workflow."""
        self.seq = seq
        """The number of the step, from 0."""
        self.expected = expected
        """The kind and the name of the stored step."""
        self.found = found
        """The kind and the name of what the code asks for."""


class WorkflowStepFailed(AlfredDBError):
    """A step of a workflow has failed, and is not retried any more; a later run raises the same."""

    def __init__(
        self, message: str, *, seq: int = 0, name: str = "", error: str = "", retryable: bool = False
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.seq = seq
        """The number of the step, from 0."""
        self.name = name
        """The name of the step."""
        self.error = error
        """The type and the text of the last exception of its function."""


class WorkflowChildFailed(AlfredDBError):
    """A child of a workflow execution has failed or was cancelled; a later run raises the same."""

    def __init__(
        self, message: str, *, execution_id: int = 0, status: str = "", retryable: bool = False
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.execution_id = execution_id
        """The child."""
        self.status = status
        """`failed` or `cancelled`."""


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


class LimitReached(AlfredDBError):
    """A search has read as much as the caller allows, without an answer."""


class InvalidTransition(AlfredDBError):
    """The status of the row or the transaction does not allow the operation."""


class WaitTimeout(AlfredDBError, TimeoutError):
    """What was waited for has not ended in time."""


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
    "25P01": (
        ConfigurationError,
        "the call needs a transaction, and the connection is in AUTOCOMMIT; make it within `db.begin()`",
    ),
    "25P02": (InvalidTransition, _TRY_IN_A_SAVEPOINT),
    "25P03": (
        DatabaseUnavailable,
        "a transaction idled for too long; do slow work outside of it, and run it again",
    ),
    "25P04": (DatabaseUnavailable, "a transaction took too long; do less in one, and run it again"),
    "25006": (
        DatabaseUnavailable,
        "this server or connection is read-only; connect to the primary (target_session_attrs=read-write), and without"
        " read_only=True",
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

UNLOGGED = "0A000"
"""The SQLSTATE of a read of an UNLOGGED table on a standby."""

_RETRYABLE = frozenset({"25P03", "40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03", "57P05"})


def failed_transaction() -> InvalidTransition:
    """Return the error for a COMMIT that the server would answer with a rollback but without an error."""
    return InvalidTransition(f"a statement of this transaction has failed, so that {_TRY_IN_A_SAVEPOINT}")


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
    mark = getattr(original, MARK, None)
    if mark == "too large" or "invalid message length" in str(original):
        return InvalidInputError(
            "the values of the statement have a gigabyte or more; store them in several parts"
        )
    if original.sqlstate is None:
        return _translate_without_sqlstate(original)
    text = without_values(original)[:300]
    if (advice := refused_by_citus(original.sqlstate, text)) is not None:
        return ConfigurationError(f"{text}: {advice}")
    sqlstate = passed_on(original.sqlstate, text)
    if original.sqlstate == "08P01" and (pooled := _of_a_pooler(text)) is not None:
        return pooled
    if original.sqlstate == "23514" and "violates partition constraint" in text:
        return ConflictError(
            f"{text}: a partition was made meanwhile; run the transaction again", retryable=True
        )
    if original.sqlstate == UNLOGGED and "during recovery" in text:
        return DatabaseUnavailable(
            f"{text}: a standby has no rows of an UNLOGGED table, such as the cache; connect to the primary"
        )
    if original.sqlstate == "42704" and text.startswith("text search configuration"):
        return InvalidInputError(
            "language: the server has no such text search configuration; see \\dF of psql"
        )
    if original.sqlstate == "2BP01" and (detail := getattr(original.diag, "message_detail", None)):
        text = f"{text} ({detail.splitlines()[0][:200]})"  # names of objects, not values
    if sqlstate in ("55000", "42P10") and (advice := of_a_link(text)) is not None:
        return ConfigurationError(f"{text}: {advice}")
    found = _BY_SQLSTATE.get(sqlstate) or _BY_SQLSTATE_CLASS.get(sqlstate[:2])
    if found is None:
        return None
    kind, advice = found
    if (command := getattr(original, COMMAND, None)) is not None:
        advice = f"run {command}"
    return kind(f"{text}: {advice}", retryable=sqlstate in _RETRYABLE or mark == "lost")


def _of_a_pooler(text: str) -> DatabaseUnavailable | None:
    """Return the error for a message with which PgBouncer ends a connection; all have one SQLSTATE."""
    if text == "query timeout":
        return DatabaseUnavailable(
            f"{text}: the statement took longer than the pooler's query_timeout; do less in one, or raise it"
        )
    found = transient(text)
    return None if found is None else DatabaseUnavailable(f"{text}: {found}", retryable=True)


def _translate_without_sqlstate(original: psycopg.Error) -> AlfredDBError | None:
    whole = harmless(original)
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
            retryable=several[1] != "COMMIT" or hasattr(original, MARK),
        )
    # With several hosts the message has an error for each; one transient error is enough to retry.
    if (advice := transient(whole)) is not None:
        return DatabaseUnavailable(f"{text}: {advice}", retryable=True)
    if (advice := misconfigured(whole)) is not None:
        return ConfigurationError(f"{text}: {advice}")
    if isinstance(original, psycopg.OperationalError):
        advice = "check that the server runs and can be reached"
        return DatabaseUnavailable(f"{text}: {advice}", retryable=_never_connected(original, text))
    return None


def _never_connected(original: psycopg.Error, text: str) -> bool:
    """Whether nothing of the unit of work can have run, so that to run it again cannot apply it twice."""
    if isinstance(original, psycopg.errors.ConnectionTimeout) or hasattr(original, MARK):
        return True
    return never_connected(text)


def translated() -> _Translation:
    """Raise errors of the database as errors of this library.

    A programming error is raised unchanged.
    """
    return _TRANSLATION


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
        if in_reading(error, SchemaDriftError):
            reason = why_unreadable(error)
            raise UnreadableRow(
                f"a row cannot be read, {reason}; find it by SQL, and correct the value or delete the row"
            ) from None
        if isinstance(error, TypeError | ValueError | RecursionError) and of_json(error):
            raise InvalidInputError(
                f"a value is not JSON ({shown(error)}); pass a value that json.dumps accepts"
            ) from None
        if isinstance(error, exc.SQLAlchemyError | psycopg.Error):
            ours = translate(error)
            conceal(error, statements=ours is not None)
            if ours is not None:
                ours.original = ours.original or driver_error(error)
                raise ours from (None if ours is getattr(error, "orig", None) else error)
        elif isinstance(error, AlfredDBError):
            conceal(error)


_TRANSLATION = _Translation()
