from __future__ import annotations

import inspect
import pickle
import re
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg
from sqlalchemy import exc

from alfred_db import errors
from alfred_db.errors import (
    AlfredDBError,
    ConfigurationError,
    ConflictError,
    DatabaseUnavailable,
    DimensionMismatch,
    InvalidInputError,
    LeaseLost,
    SchemaOutdatedError,
    translate,
    translated,
)
from alfred_db.failures.messages import constraint_name

SECRET = "s3cr3t-Wort"


class FromServer(psycopg.DatabaseError):
    """An error as the driver makes it from the server's answer."""

    def __init__(self, sqlstate: str, message: str | None, constraint: str | None = None) -> None:
        super().__init__(f"{message}\nDETAIL:  Key (name)=({SECRET}) exists.")
        self.sqlstate = sqlstate
        self._diag = SimpleNamespace(message_primary=message, constraint_name=constraint)

    @property
    def diag(self) -> Any:
        return self._diag


def wrapped(original: Exception) -> exc.StatementError:
    statement, parameters = "INSERT INTO t VALUES (%(v)s)", {"v": SECRET}
    if isinstance(original, psycopg.Error):
        return exc.DBAPIError(statement, parameters, original, hide_parameters=True)
    return exc.StatementError("(not ours)", statement, parameters, original, hide_parameters=True)


def ours(original: Exception) -> AlfredDBError:
    found = translate(wrapped(original))
    assert found is not None
    assert SECRET not in str(found)
    return found


def public() -> list[type[AlfredDBError]]:
    return [getattr(errors, name) for name in errors.__all__ if inspect.isclass(getattr(errors, name))]


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"((?:│  |   )*)(?:├─ |└─ )?([A-Z]\w+)\b", line)
        if found is None or not (line.startswith(("├", "│", "└")) or found.group(2) == "AlfredDBError"):
            continue
        depth = 0 if found.group(2) == "AlfredDBError" else len(found.group(1)) // 3 + 1
        path[depth:] = [found.group(2)]
        drawn[found.group(2)] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in public()}


def test_every_error_is_exported_by_the_package() -> None:
    import alfred_db

    assert {kind.__name__ for kind in public()} <= set(alfred_db.__all__)


@pytest.mark.parametrize("kind", public())
def test_an_error_survives_the_way_between_processes(kind: type[AlfredDBError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what to do next", retryable=True)))
    assert (type(copy), str(copy), copy.retryable) == (kind, "what to do next", True)


@pytest.mark.parametrize(
    ("sqlstate", "kind", "retryable"),
    [
        ("23505", ConflictError, False),
        ("23503", ConflictError, False),
        ("23502", InvalidInputError, False),
        ("23514", InvalidInputError, False),
        ("22001", InvalidInputError, False),
        ("22P02", InvalidInputError, False),
        ("22003", InvalidInputError, False),
        ("40001", ConflictError, True),
        ("40P01", ConflictError, True),
        ("55P03", ConflictError, True),
        ("25P03", DatabaseUnavailable, True),
        ("25P04", DatabaseUnavailable, False),
        ("57014", DatabaseUnavailable, False),
        ("57P01", DatabaseUnavailable, True),
        ("57P03", DatabaseUnavailable, True),
        ("53300", DatabaseUnavailable, True),
        ("53200", DatabaseUnavailable, False),
        ("08006", DatabaseUnavailable, False),
        ("25006", DatabaseUnavailable, False),
        ("28P01", ConfigurationError, False),
        ("3D000", ConfigurationError, False),
        ("42501", ConfigurationError, False),
        ("42P01", SchemaOutdatedError, False),
        ("42703", SchemaOutdatedError, False),
    ],
)
def test_the_sqlstate_decides(sqlstate: str, kind: type[AlfredDBError], retryable: bool) -> None:
    found = ours(FromServer(sqlstate, "what the server says"))
    assert (type(found), found.retryable) == (kind, retryable)
    assert str(found).startswith("what the server says: ")
    assert len(str(found)) > len("what the server says: ")


@pytest.mark.parametrize(
    ("sqlstate", "message", "kind", "retryable"),
    [
        ("XX000", 'duplicate key value violates unique constraint "uq_102"', ConflictError, False),
        ("XX000", 'insert on table "t_102" violates foreign key constraint "fk_102"', ConflictError, False),
        ("XX000", 'new row for relation "t_102" violates check constraint "ck"', InvalidInputError, False),
        ("XX000", "canceling statement due to lock timeout", ConflictError, True),
        ("XX000", "server closed the connection unexpectedly", DatabaseUnavailable, False),
        (
            "0A000",
            "could not run distributed query with FOR UPDATE/SHARE commands",
            ConfigurationError,
            False,
        ),
        ("0A000", "Cartesian products are currently unsupported", ConfigurationError, False),
        (
            "0A000",
            "functions used in UPDATE queries on distributed tables must not be VOLATILE",
            ConfigurationError,
            False,
        ),
        ("55000", "operation is not allowed on this node", ConfigurationError, False),
    ],
)
def test_an_error_of_citus_is_mapped(
    sqlstate: str, message: str, kind: type[AlfredDBError], retryable: bool
) -> None:
    found = ours(FromServer(sqlstate, message))
    assert (type(found), found.retryable) == (kind, retryable)
    assert str(found).startswith(f"{message}: ")


def test_another_internal_error_or_missing_feature_passes_unchanged() -> None:
    assert translate(wrapped(FromServer("XX000", "cache lookup failed for relation 1"))) is None
    assert translate(wrapped(FromServer("0A000", "cannot alter type of a column used by a view"))) is None


def test_a_mistake_of_the_caller_passes_unchanged() -> None:
    assert translate(wrapped(FromServer("42601", "syntax error"))) is None
    assert translate(wrapped(TypeError("not ours"))) is None
    assert translate(wrapped(psycopg.ProgrammingError("cannot adapt type 'object'"))) is None
    assert translate(exc.InvalidRequestError("not ours")) is None
    with pytest.raises(exc.ArgumentError), translated():
        raise exc.ArgumentError("not ours")


@pytest.mark.parametrize(
    ("message", "diagnostics", "name"),
    [
        ('violates unique constraint "uq_a_name"', "uq_a_name", "uq_a_name"),
        ('violates unique constraint "uq_tasks_task_id_102048"', None, "uq_tasks_task_id"),
        ('violates foreign key constraint "fk_a_b_102048"', None, "fk_a_b"),
        ('relation "t_102008" violates check constraint "ck_t_status"', None, "ck_t_status"),
        ('violates unique constraint "uq_t_column_1"', None, "uq_t_column_1"),
        ("something else", None, None),
        (None, None, None),
    ],
)
def test_the_constraint_is_named_with_and_without_diagnostics(
    message: str | None, diagnostics: str | None, name: str | None
) -> None:
    assert constraint_name(FromServer("23505", message, diagnostics)) == name


@pytest.mark.parametrize(
    "message",
    [
        f'invalid input syntax for type uuid: "{SECRET}"',
        f'value "{SECRET}" is out of range for type integer',
        f'invalid input syntax for type json: "a "{SECRET}" b"',
        f'invalid input syntax for type vector: "[{SECRET},\n1]"',
    ],
)
def test_the_refused_value_is_left_out(message: str) -> None:
    assert '"..."' in str(ours(FromServer("22P02", message)))


def test_a_long_message_of_the_server_is_cut() -> None:
    assert len(str(ours(FromServer("23514", "x" * 5000)))) < 400


def test_an_error_of_ours_inside_a_statement_comes_out_unchanged() -> None:
    inner = DimensionMismatch("t.embedding: expected 3 dimensions, got 2")
    with pytest.raises(DimensionMismatch) as caught, translated():
        raise wrapped(inner) from inner
    assert caught.value is inner
    assert caught.value.__suppress_context__


def test_an_error_of_ours_passes_through() -> None:
    with pytest.raises(LeaseLost), translated():
        raise LeaseLost("stop")


def test_the_cause_is_kept() -> None:
    original = wrapped(FromServer("40001", "could not serialize"))
    with pytest.raises(ConflictError) as caught, translated():
        raise original
    assert caught.value.__cause__ is original


def test_a_pool_that_is_empty_for_too_long_can_be_tried_again() -> None:
    found = translate(exc.TimeoutError("QueuePool limit"))
    assert isinstance(found, DatabaseUnavailable)
    assert found.retryable
    assert "pool_size" in str(found)


@pytest.mark.parametrize(
    ("text", "kind", "retryable"),
    [
        ('connection failed: FATAL:  password authentication failed for user "u"', ConfigurationError, False),
        ("connection failed: fe_sendauth: no password supplied", ConfigurationError, False),
        ('connection failed: FATAL:  role "u" does not exist', ConfigurationError, False),
        ('connection failed: FATAL:  database "d" does not exist', ConfigurationError, False),
        ('connection failed: FATAL:  no pg_hba.conf entry for host "1.2.3.4"', ConfigurationError, False),
        ("connection failed: server does not support SSL, but SSL was required", ConfigurationError, False),
        ('connection is bad: invalid sslmode value: "x"', ConfigurationError, False),
        ('connection failed: root certificate file "/x" does not exist', ConfigurationError, False),
        ("connection failed: session is read-only", DatabaseUnavailable, True),
        ('connection failed: connection to server at "h", port 1 failed: refused', DatabaseUnavailable, True),
        (
            'connection is bad: connection to server on socket "/x" failed: No such file',
            DatabaseUnavailable,
            True,
        ),
        ("failed to resolve host 'h': Name or service not known", DatabaseUnavailable, True),
        ("connection failed: FATAL:  the database system is starting up", DatabaseUnavailable, True),
        ("connection failed: FATAL:  sorry, too many clients already", DatabaseUnavailable, True),
        # What other versions of PgBouncer say; tests/test_pooler_errors.py asks a real one.
        (
            'connection failed: FATAL:  server login has been failing, cached error: password authentication failed for user "u"'
            " (server_login_retry)",
            ConfigurationError,
            False,
        ),
        (
            "connection failed: FATAL:  server login has been failing, cached error: the database system is starting up"
            " (server_login_retry)",
            DatabaseUnavailable,
            True,
        ),
        (
            "connection failed: FATAL:  server login has been failing, try again later (server_login_retry)",
            DatabaseUnavailable,
            True,
        ),
        (
            "connection failed: FATAL:  client connections exceeded (max_db_client_connections)",
            DatabaseUnavailable,
            True,
        ),
        ("connection failed: FATAL:  no such database: d", ConfigurationError, False),
        ("connection failed: FATAL:  no such user", ConfigurationError, False),
        ("connection failed: FATAL:  database does not allow connections: d", ConfigurationError, False),
        ("connection failed: FATAL:  bouncer config error", ConfigurationError, False),
        (
            "connection failed: FATAL:  server login failed: wrong password type",
            ConfigurationError,
            False,
        ),
        ("received 2 results from command 'COMMIT'", DatabaseUnavailable, False),
        ("received 2 results from command 'BEGIN'", DatabaseUnavailable, True),
        ("consuming input failed: server closed the connection unexpectedly", DatabaseUnavailable, False),
        ("SSL connection has been closed unexpectedly", DatabaseUnavailable, False),
        ("consuming input failed: SSL SYSCALL error: EOF detected", DatabaseUnavailable, False),
        ("the connection is lost", DatabaseUnavailable, False),
    ],
)
def test_without_sqlstate_the_text_decides(text: str, kind: type[AlfredDBError], retryable: bool) -> None:
    found = ours(psycopg.OperationalError(text))
    assert (type(found), found.retryable) == (kind, retryable)


def test_a_connection_that_took_too_long_can_be_tried_again() -> None:
    assert ours(pg.ConnectionTimeout("connection timeout expired")).retryable


def test_an_unknown_parameter_is_a_matter_of_configuration() -> None:
    assert isinstance(ours(psycopg.ProgrammingError('invalid connection option "x"\n')), ConfigurationError)


def test_a_value_that_the_driver_refuses_is_invalid_input() -> None:
    found = ours(psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"))
    assert isinstance(found, InvalidInputError)


@pytest.mark.parametrize(
    "text",
    [
        "ungültige Eingabesyntax für Typ integer: »geheim«",
        "syntaxe en entrée invalide pour le type integer : « geheim »",
        "Zeichenkette „geheim“ ist zu lang",
        "整数型の入力構文が不正です: 「geheim」",
        'invalid input syntax for type integer: "geheim"',
    ],
)
def test_a_value_is_left_out_in_whatever_language_the_server_quotes_it(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = pg.InvalidTextRepresentation(text)
    monkeypatch.setattr(type(error), "diag", SimpleNamespace(message_primary=text, constraint_name=None))
    found = ours(error)
    assert isinstance(found, InvalidInputError)
    assert "geheim" not in str(found)
    assert '"..."' in str(found)
