"""No value of a row, no parameter and no statement is in the text of an error: not in its traceback, nor in a log."""

from __future__ import annotations

import asyncio
import logging
import traceback
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Connection,
    Engine,
    ForeignKeyConstraint,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    create_engine,
    exc,
    insert,
    null,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql import sqltypes
from sqlalchemy.types import TypeEngine

from alfred_db import AsyncDatabase, Database, Document, Worker
from alfred_db.errors import AlfredDBError, ConflictError, InvalidInputError, translated
from alfred_db.execution._sync.copy import copy_rows
from alfred_db.models import Base
from alfred_db.types import EnumText, TransactionId, VectorType

SECRET = "s3cr3t-Wort"
TABLES = Base.metadata.sorted_tables


def shown_of(error: BaseException) -> str:
    """All that is printed of an error, and the texts of the whole chain that it comes from."""
    parts = ["".join(traceback.format_exception(error))]
    record = logging.LogRecord("x", logging.ERROR, "", 0, "", None, (type(error), error, error.__traceback__))
    parts.append(logging.Formatter().format(record))
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            parts += [str(one), repr(one), repr(one.args)]
            more = (one.__cause__, one.__context__, getattr(one, "orig", None))
            waiting += [found for found in more if isinstance(found, BaseException)]
    return "\n".join(parts)


@pytest.fixture(scope="module")
def engine(migrated_url: Any) -> Iterator[Engine]:
    """An engine as a stranger has it, which shows parameters."""
    engine = create_engine(migrated_url)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        # The one constraint that a test puts back is the first to refuse a row.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for number, table in enumerate(TABLES):
            if str(table.dialect_options["postgresql"]["partition_by"]).startswith("LIST"):
                connection.execute(text(f"CREATE TABLE rest_{number} PARTITION OF {table.fullname} DEFAULT"))
            for constraint in table.constraints:
                if isinstance(constraint, CheckConstraint):
                    connection.execute(
                        text(f"ALTER TABLE {table.fullname} DROP CONSTRAINT {named(constraint)}")
                    )
        yield connection
        connection.rollback()


def named(constraint: Any) -> str:
    dialect: Any = create_engine("postgresql+psycopg://").dialect
    return str(dialect.identifier_preparer.format_constraint(constraint))


def refused(connection: Connection, table: Table, row: dict[str, Any]) -> AlfredDBError:
    """Our error for a row; what the transaction did before stays."""
    savepoint = connection.begin_nested()
    with pytest.raises(AlfredDBError) as caught, translated():
        connection.execute(insert(table).values(row))
    savepoint.rollback()
    return caught.value


VALUES: tuple[tuple[Any, Callable[[], Any]], ...] = (
    (EnumText, lambda: None),
    (JSONB, lambda: {SECRET: SECRET}),
    (sqltypes.Uuid, uuid.uuid4),
    (sqltypes.DateTime, lambda: datetime.now(UTC)),
    (sqltypes.Date, lambda: datetime.now(UTC).date()),
    (Boolean, lambda: True),
    (sqltypes.LargeBinary, SECRET.encode),
    (sqltypes.Integer, lambda: 4711),  # of no row that a revision puts there
    (sqltypes.Numeric, lambda: Decimal(1)),
    (sqltypes.Float, lambda: 1.0),
    (TransactionId, lambda: 1),
    (VectorType, lambda: None),
    (sqltypes.String, lambda: SECRET),
    (sqltypes.TypeEngine, lambda: None),
)


def value(type_: Any) -> Any:
    if isinstance(type_, EnumText):
        return next(iter(type_.enum.__members__.values()))
    if isinstance(type_, sqltypes.ARRAY):
        return [value(type_.item_type)]
    return next(make for kind, make in VALUES if isinstance(type_, kind))()


def a_row(table: Table) -> dict[str, Any]:
    return {column.name: value(column.type) for column in table.c if column.computed is None}


def test_no_constraint_of_any_table_reveals_the_row_that_it_refuses(connection: Connection) -> None:
    kinds: set[str] = set()
    for table in TABLES:
        row = a_row(table)
        for column in table.c:
            if not column.nullable and column.computed is None and column.identity is None:
                shows_nothing(refused(connection, table, {**row, column.name: null()}), "23502", kinds)
        for constraint in table.constraints:
            if isinstance(constraint, CheckConstraint):
                name, savepoint = named(constraint), connection.begin_nested()
                connection.execute(
                    text(f"ALTER TABLE {table.fullname} ADD CONSTRAINT {name} CHECK (false) NOT VALID")
                )
                shows_nothing(refused(connection, table, row), "23514", kinds)
                savepoint.rollback()
        if any(isinstance(one, UniqueConstraint | PrimaryKeyConstraint) for one in table.constraints):
            savepoint = connection.begin_nested()
            connection.execute(insert(table).values(row))
            shows_nothing(refused(connection, table, row), "23505", kinds)
            savepoint.rollback()
        for constraint in table.constraints:
            if isinstance(constraint, ForeignKeyConstraint):
                savepoint = connection.begin_nested()
                connection.execute(text("SET LOCAL session_replication_role = origin"))
                shows_nothing(refused(connection, table, row), "23503", kinds)
                savepoint.rollback()
    assert kinds == {"23502", "23503", "23505", "23514"}


def shows_nothing(error: AlfredDBError, sqlstate: str, kinds: set[str]) -> None:
    assert error.original is not None
    assert error.original.sqlstate == sqlstate, error
    assert SECRET not in shown_of(error)
    assert "INSERT" not in shown_of(error).replace("connection.execute(insert", "")
    if sqlstate != "23503":
        assert error.original.diag.message_detail is not None
    kinds.add(sqlstate)


def test_no_type_reveals_the_value_that_it_refuses(connection: Connection) -> None:
    types: dict[str, TypeEngine[Any]] = {
        str(column.type.compile(dialect=connection.dialect)): column.type
        for table in TABLES
        for column in table.c
    }
    quoted = 0
    for name in [
        *types,
        "inet",
        "interval",
        "time",
        "xml",
        "tsquery",
        "jsonpath",
        "int4range",
        "regclass",
        "money",
    ]:
        savepoint, error = connection.begin_nested(), None
        try:
            with translated():
                connection.execute(
                    text(f"SELECT CAST(CAST(:value AS text) AS {name})"), {"value": SECRET + '"'}
                )
        except (AlfredDBError, exc.DBAPIError) as raised:
            error = raised
        if isinstance(error, AlfredDBError) or (error and "does not exist" not in str(error)):
            quoted += 1
            assert SECRET not in shown_of(error), (name, shown_of(error))
        savepoint.rollback()
    assert quoted > 10


OTHERS = {
    "exclusion": (
        "CREATE TEMP TABLE o (a text, EXCLUDE USING btree (a WITH =)); INSERT INTO o VALUES ('{}')",
        "INSERT INTO o VALUES (:value)",
    ),
    "no partition": (
        "CREATE TEMP TABLE o (a text) PARTITION BY LIST (a)",
        "INSERT INTO o VALUES (:value)",
    ),
    "still referenced": (
        "CREATE TEMP TABLE o (a text PRIMARY KEY); CREATE TEMP TABLE p (a text REFERENCES o);"
        " INSERT INTO o VALUES ('{}'); INSERT INTO p VALUES ('{}')",
        "DELETE FROM o WHERE a = :value",
    ),
    "a unique index over values": (
        "CREATE TEMP TABLE o (a text); INSERT INTO o VALUES ('{}'), ('{}')",
        "CREATE UNIQUE INDEX o_a ON o (a)",
    ),
    "a function's context": (
        "SELECT 1",
        "SELECT json_object_keys(CAST(CAST(:value AS text) AS json))",
    ),
    "a bad date": ("SELECT 1", "SELECT to_date(:value, 'YYYY-MM-DD')"),
    "no such zone": ("SELECT 1", "SELECT now() AT TIME ZONE CAST(:value AS text)"),
    "an encoding": ("SELECT 1", "SELECT convert_from(decode('ff', 'hex') || CAST(:value AS bytea), 'UTF8')"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_other_refusal_reveals_a_value(engine: Engine, name: str) -> None:
    before, statement = OTHERS[name]
    with engine.connect() as connection:
        for one in before.format(SECRET, SECRET).split(";"):
            connection.execute(text(one))
        with pytest.raises(AlfredDBError) as caught, translated():
            connection.execute(text(statement), {"value": SECRET})
        assert SECRET not in shown_of(caught.value)
        assert caught.value.original is not None


def test_the_message_of_the_server_is_kept(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE o (a text PRIMARY KEY)"))
        with pytest.raises(ConflictError) as caught, translated():
            connection.execute(text("INSERT INTO o VALUES (:value), (:value)"), {"value": SECRET})
    original = caught.value.original
    assert isinstance(original, psycopg.errors.UniqueViolation)
    assert SECRET in str(original.diag.message_detail)
    assert isinstance(caught.value.__cause__, exc.IntegrityError)
    assert caught.value.__cause__.orig is original


def copied(db: Database) -> None:
    with db.begin() as uow:
        columns = [Document.__table__.c.external_id, Document.__table__.c.content]
        copy_rows(uow.session, Document.__table__, columns, [(SECRET, SECRET), (SECRET, SECRET)])  # type: ignore[arg-type]


def flushed(db: Database) -> None:
    with db.begin() as uow:
        uow.session.add_all([Document(external_id=SECRET, content=SECRET) for _ in range(2)])


def added(db: Database) -> None:
    with db.begin() as uow:
        uow.documents.add_many([{"content": SECRET, "external_id": SECRET}] * 2)


def unsendable(db: Database) -> None:
    with db.begin() as uow:
        uow.documents.add(SECRET + "\ud800")


DOORS = (copied, flushed, added, unsendable)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_every_door_keeps_it(migrated_url: Any, door: Callable[[Database], None]) -> None:
    with Database(migrated_url) as db, pytest.raises((ConflictError, InvalidInputError)) as caught:
        door(db)
    assert SECRET not in shown_of(caught.value)


def test_the_asynchronous_half_keeps_it(migrated_url: Any) -> None:
    async def run() -> None:
        async with AsyncDatabase(migrated_url) as db, db.begin() as uow:
            await uow.documents.add_many([{"content": SECRET, "external_id": SECRET}] * 2)

    with pytest.raises(ConflictError) as caught:
        asyncio.run(run())
    assert SECRET not in shown_of(caught.value)


def test_an_error_that_the_library_raises_from_one_keeps_it(engine: Engine) -> None:
    """As the runner of migrations does."""

    def fail(connection: Connection) -> None:
        try:
            connection.execute(text("INSERT INTO o VALUES (:value), (:value)"), {"value": SECRET})
        except exc.DBAPIError as error:
            raise ConflictError("it went wrong") from error

    with engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE o (a text PRIMARY KEY)"))
        with pytest.raises(ConflictError) as caught, translated():
            fail(connection)
    assert SECRET not in shown_of(caught.value)


def test_a_worker_logs_no_row(database_url: Any, caplog: pytest.LogCaptureFixture) -> None:
    with Database(database_url) as db:

        def handler(task: Any, lease: Any) -> None:
            with db.begin() as uow:
                for _ in range(2):
                    uow.session.execute(
                        text("INSERT INTO documents (external_id, content) VALUES (:value, :value)"),
                        {"value": SECRET},
                    )

        with db.begin() as uow:
            known = uow.tasks.enqueue("T", max_retries=0)[0].id
        with caplog.at_level(logging.DEBUG):
            Worker(db, {"T": handler}, poll=0.1, grace=5.0).run(drain=True)
        with db.begin() as uow:
            task = uow.tasks.get(known)
    assert task is not None
    assert "UniqueViolation" in str(task.error_message)
    assert SECRET not in str(task.error_message)
    assert "Traceback" in caplog.text
    assert SECRET not in caplog.text
