"""Rows that Python cannot read, written by other means: they stand before no other, and each error names them."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from injection.ground import Ground
from injection.signatures import repositories
from injection.specimens import SPECIMENS
from sqlalchemy import JSON, URL, Column, DateTime, Table, text

from alfred_db import AsyncDatabase, Base, UnreadableRow
from alfred_db.errors import AlfredDBError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.sql import schema_translate_map
from alfred_db.types import EnumText

DIGITS = "('[' || repeat('9', 5000) || ']')::jsonb"
DEEP = "(repeat('[', 5000) || repeat(']', 5000))::jsonb"

VALUES: Mapping[str, tuple[type[Any], tuple[str, ...]]] = {
    "digits": (JSON, (DIGITS, "jsonb_build_object('x', 1e5000)")),
    "depth": (JSON, (DEEP, f"jsonb_build_object('x', {DEEP})")),
    "infinity": (DateTime, ("'infinity'", "'-infinity'")),
    "before Christ": (DateTime, ("'0044-03-15 12:00 BC'",)),
    "far future": (DateTime, ("'12026-01-01'",)),
    "unknown word": (EnumText, ("'of a later version'",)),
}
"""What cannot be read: the type of column, and expressions of which the table may refuse the first."""


def columns(kind: type[Any]) -> list[tuple[Table, Column[Any]]]:
    return [
        (table, column)
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, kind)
    ]


def test_each_type_of_column_is_looked_at() -> None:
    """Of another type everything can be read; a new one is to be looked at."""
    kinds = {type(column.type).__name__ for table in Base.metadata.sorted_tables for column in table.columns}
    readable = {
        "ARRAY",
        "BigInteger",
        "Boolean",
        "Double",
        "HalfVector",
        "Integer",
        "LargeBinary",
        "Numeric",
        "SmallInteger",
        "TSVECTOR",
        "Text",
        "TransactionId",
        "Uuid",
        "Vector",
    }
    assert kinds - readable == {"JSONB", "DateTime", "EnumText"}


@pytest.fixture
def ground(grounds: tuple[URL, dict[str | None, Ground]], schema: str | None) -> Ground:
    """What the calls refer to."""
    return grounds[1][schema]


@pytest.fixture
async def grown(
    grounds: tuple[URL, dict[str | None, Ground]], schema: str | None
) -> AsyncIterator[AsyncUnitOfWork]:
    """A unit of work on the ground, rolled back at the end."""
    async with AsyncDatabase(grounds[0], schema=schema) as database, database.session() as session:
        yield AsyncUnitOfWork(session)


async def plant(uow: AsyncUnitOfWork, schema: str | None, kind: str) -> int:
    """Put such a value into every row and column that takes it."""
    planted = 0
    mapped = schema_translate_map(schema) or {}
    type_, expressions = VALUES[kind]
    await uow.session.execute(text("SET LOCAL session_replication_role = replica"))
    for table, column in columns(type_):
        home = mapped.get(table.schema, table.schema)
        name = table.name if home is None else f"{home}.{table.name}"
        if type_ is EnumText:
            constraint = f"ck_{table.name}_{column.name}"
            await uow.session.execute(text(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {constraint}"))
        for expression in expressions:
            statement = f"UPDATE {name} SET {column.name} = {expression} WHERE {column.name} IS NOT NULL"
            savepoint = await uow.session.begin_nested()
            try:
                planted += (await uow.session.execute(text(statement))).rowcount  # type: ignore[attr-defined]
                await savepoint.commit()
                break
            except Exception:
                await savepoint.rollback()
    return planted


async def outcome(uow: AsyncUnitOfWork, name: str, ground: Ground) -> str | None:
    """What is wrong with how the call ended; the reason if it is an error that names no row."""
    noun, _, method = name.partition(",")[0].partition(".")
    savepoint = await uow.session.begin_nested()
    given = SPECIMENS[name](ground)
    try:
        await getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
    except UnreadableRow as error:
        message = str(error)
        if not message.isprintable() or len(message) > 1500 or "9999999" in message:
            return f"says {message[:300]!r}"
        return None if error.table and error.column and error.key else f"names no row: {message}"
    except AlfredDBError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    finally:
        await savepoint.rollback()
    return None


UNNAMED = {
    "documents.search_many": "runs its statement beside others",
    "memories.consolidate": "locks what it reads in one statement, for the whole bank",
    "model_registry.update": "changes the name of the row",
    "workflows.fork": "inserts the row",
    "workflows.start": "inserts the row",
}
"""Methods whose errors say what is wrong, but not where."""

HALVES = {"_async": ["digits", "infinity"], "_sync": ["depth", "unknown word"]}
"""The two halves are one code."""


@pytest.mark.parametrize("kind", VALUES if os.environ.get("ALFRED_DB_TEST_ALL") else HALVES["_async"])
async def test_every_method_names_the_row_or_does_without_it(
    grown: AsyncUnitOfWork, ground: Ground, schema: str | None, kind: str
) -> None:
    assert await plant(grown, schema, kind) > 10
    wrong = {name: said for name in SPECIMENS if (said := await outcome(grown, name, ground)) is not None}
    assert {name.partition(".")[0] for name in SPECIMENS} == repositories().keys()
    raw = {name: said for name, said in wrong.items() if not said.startswith("names no row")}
    assert not raw, "\n".join(f"{name}: {said}" for name, said in raw.items())
    assert wrong.keys() <= UNNAMED.keys(), "\n".join(f"{name}: {said}" for name, said in wrong.items())


# Work


async def _tasks(uow: AsyncUnitOfWork) -> tuple[str, Callable[[], Any]]:
    await uow.tasks.enqueue_many([{"intent": "x", "metadata": {}, "content": {}}] * 30)
    return "tasks", lambda: uow.tasks.claim("w", limit=5)


async def _executions(uow: AsyncUnitOfWork) -> tuple[str, Callable[[], Any]]:
    task, _ = await uow.scheduler.create("s", "x", "0 0 29 2 *")
    await uow.session.execute(
        text(
            "INSERT INTO scheduler_executions (task_id, scheduled_at) SELECT :task, now() - n * interval '1 hour'"
            " FROM generate_series(1, 30) AS n"
        ),
        {"task": task.id},
    )
    return "scheduler_executions", lambda: uow.scheduler.claim("w", limit=5)


async def _workflows(uow: AsyncUnitOfWork) -> tuple[str, Callable[[], Any]]:
    workflow, _ = await uow.workflows.define("w", {})
    await uow.workflows.activate(workflow.id)
    for _ in range(30):
        await uow.workflows.start("w", {})
    return "workflow_executions", lambda: uow.workflows.claim("w", [workflow.id], limit=5)


CLAIMED = {
    "tasks": (_tasks, ["content", "metadata", "available_at"]),
    "executions": (_executions, ["scheduled_at"]),
    "workflows": (_workflows, ["definition", "input_data"]),
}


@pytest.fixture
async def plain(migrated_url: URL) -> AsyncIterator[AsyncUnitOfWork]:
    """A unit of work of the default tenant, rolled back at the end."""
    async with AsyncDatabase(migrated_url) as database, database.session() as session:
        yield AsyncUnitOfWork(session)


@pytest.mark.parametrize("noun", CLAIMED)
@pytest.mark.parametrize("kind", ["digits", "depth", "before Christ"])
async def test_what_cannot_be_read_fails_and_the_others_are_claimed(
    plain: AsyncUnitOfWork, noun: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, names = CLAIMED[noun]
    table, claim = await make(plain)
    type_, expressions = VALUES[kind]
    model = Base.metadata.tables[table]
    names = [name for name in names if isinstance(model.c[name].type, type_)]
    bad: set[Any] = set()
    for place, name in enumerate(names):
        order = "available_at, id"
        rows = await plain.session.scalars(
            text(f"SELECT id FROM {table} ORDER BY {order} LIMIT 7 OFFSET {7 * place}")
        )
        ids = list(rows.all())
        for number, id in enumerate(ids):
            moved = f"interval '{number} hours'" if isinstance(model.c[name].type, DateTime) else None
            value = expressions[-1] if moved is None else f"timestamptz {expressions[-1]} + {moved}"
            await plain.session.execute(
                text(f"UPDATE {table} SET {name} = {value} WHERE id = :id"), {"id": id}
            )
        bad |= set(ids)
    good: list[Any] = []
    with caplog.at_level(logging.WARNING, "alfred_db"):
        while claimed := await claim():
            assert len(claimed) == min(5, 30 - len(bad) - len(good)), "others take the place of those"
            good += [one.id for one in claimed]
    assert len(good) == len(set(good)) == 30 - len(bad)
    assert not bad & set(good)
    status, message = ("status", "error_output" if noun == "executions" else "error_message")
    found = await plain.session.execute(text(f"SELECT id, {status}, error_code, {message} FROM {table}"))
    ended = {row[0]: row[1:] for row in found if row[1] == "failed"}
    assert ended.keys() == bad
    for _, code, said in ended.values():
        assert code == "unreadable"
        assert any(f"it cannot be read: column {name}, " in said for name in names)
    assert len([one for one in caplog.records if "failed, as it cannot be read" in one.getMessage()]) == len(
        bad
    )


@pytest.mark.parametrize("kind", ["digits", "depth", "infinity", "before Christ"])
async def test_a_consumer_gets_an_event_that_cannot_be_read_and_goes_on(
    plain: AsyncUnitOfWork, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with plain.session.begin_nested():
        await plain.events.subscribe("c", ["t"], start="beginning")
        ids = await plain.events.publish_many([{"topic": "t", "payload": {"n": n}} for n in range(20)])
    type_, expressions = VALUES[kind]
    bad = [ids[0], ids[5], ids[7], ids[19]]
    column = "payload" if type_ is JSON else "began_at"
    await plain.session.execute(
        text(f"UPDATE events SET {column} = {expressions[-1]}, tx = '5' WHERE id = any(:ids)"), {"ids": bad}
    )
    await plain.session.execute(text("UPDATE events SET tx = '5' WHERE topic = 't'"))
    with pytest.raises(UnreadableRow, match=rf"events id = '{bad[0]}', .*column {column} cannot be read"):
        await plain.events.get(bad[0])
    with pytest.raises(UnreadableRow, match=rf"events id = '{bad[0]}'.*; and 1 more; correct"):
        await plain.events.list("t")
    peeked = await plain.events.peek("c", limit=8)
    read: list[Any] = []
    with caplog.at_level(logging.WARNING, "alfred_db"):
        while batch := await plain.events.read("c", limit=8):
            assert read or [event.id for event in batch] == [event.id for event in peeked]
            read += batch
    assert [event.id for event in read] == ids, "in order, and none is lost"
    assert [event.id for event in read if event.unreadable] == bad
    for number, event in enumerate(read):
        if event.unreadable is None:
            assert event.payload == {"n": number}
            assert event in plain.session
        else:
            assert event.unreadable.startswith(f"column {column}: ")
            assert (event.topic, event.payload) == ("t", {})
            assert event not in plain.session
    named = [one.getMessage() for one in caplog.records if "unreadable" in one.getMessage()]
    assert len(named) == len(bad)


async def test_schedules_of_a_later_version_are_passed_by(plain: AsyncUnitOfWork) -> None:
    good, _ = await plain.scheduler.create("good", "c", "0 0 29 2 *")
    bad = [(await plain.scheduler.create(f"bad {n}", "c", "0 0 29 2 *"))[0].id for n in range(7)]
    await plain.session.execute(
        text("ALTER TABLE scheduler_tasks DROP CONSTRAINT ck_scheduler_tasks_misfire_policy")
    )
    await plain.session.execute(text("UPDATE scheduler_tasks SET next_run_at = now() - interval '1 minute'"))
    await plain.session.execute(
        text(
            "UPDATE scheduler_tasks SET misfire_policy = 'later', next_run_at = now() - interval '1 hour'"
            " WHERE id = any(:ids)"
        ),
        {"ids": bad},
    )
    tick = await plain.scheduler.tick(limit=3)
    assert len(tick.created) == 1
    assert [one.task_id for one in tick.invalid] == bad
    assert "misfire_policy" in tick.invalid[0].reason
    history = await plain.scheduler.history(good.id)
    assert len(history.items) == 1


@pytest.mark.parametrize("noun", ["scheduler", "workflows"])
async def test_one_unreadable_row_costs_the_holder_of_others_no_lease(
    plain: AsyncUnitOfWork, noun: str
) -> None:
    table, claim = await (_executions if noun == "scheduler" else _workflows)(plain)
    held = await claim()
    ids = [one.id for one in held]
    await plain.session.execute(
        text(f"UPDATE {table} SET cancel_requested_at = '-infinity' WHERE id = :id"), {"id": ids[2]}
    )
    kept = await getattr(plain, noun).heartbeat_many(held)
    assert [one.id for one in kept] == [one.id for one in held]
    assert [one.id for one in kept if one.cancel_requested] == [ids[2]]


async def test_the_error_names_the_row_of_a_page(plain: AsyncUnitOfWork) -> None:
    ids = [id for id, _ in await plain.tasks.enqueue_many([{"intent": "x", "queue": "pages"}] * 5)]
    await plain.session.execute(text(f"UPDATE tasks SET content = {DEEP} WHERE id = :id"), {"id": ids[1]})
    with pytest.raises(UnreadableRow) as caught:
        await plain.tasks.list(queue="pages")
    error = caught.value
    assert (error.table, error.column, error.key) == ("tasks", "content", {"id": str(ids[1])})
    assert not error.retryable
    assert str(error) == (
        f"tasks id = '{ids[1]}': column content cannot be read, its JSON is nested more deeply than Python can read;"
        " correct the value by SQL, or delete the row"
    )
    assert (await plain.tasks.list(queue="pages", limit=1)).items[0].id == ids[4], "the transaction goes on"
    assert await plain.tasks.get(uuid.uuid4()) is None
