"""The plans that a connection keeps for its prepared statements, while tables grow that nobody analyses."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Connection, text
from sqlalchemy.dialects.postgresql import psycopg as dialect
from sqlalchemy.orm import Session

from alfred_db import Database, TaskRepository
from alfred_db.engine import plans
from alfred_db.queries import (
    lease_endings,
    leases,
    scheduler_executions,
    task_claims,
    task_reports,
    workflow_executions,
)
from alfred_db.queries.leases import Leased
from alfred_db.queries.task_leases import TASKS

pytestmark = pytest.mark.not_on_citus("EXPLAIN shows the plan of the coordinator")

TOKEN = uuid.uuid4()
PARAMETERS: Mapping[str, Any] = {
    "worker": "w",
    "token": TOKEN,
    "tokens": [TOKEN] * 8,
    "lease": timedelta(seconds=60),
    "seconds": 60.0,
    "workflow_ids": [1],
    "queues": ["default"],
    "intents": ["x"],
    "assigned_to": "a",
    "code": "c",
    "message": "m",
    "retry": True,
    "base": 1.0,
    "cap": 9.0,
    "spread": 1.0,
    "jitter": 0.1,
    "delay": timedelta(0),
    "output": None,
    "exit_code": 1,
    "fractions": [0.5] * 8,
    "notes": ["n"] * 8,
}
LEASED: tuple[Leased[Any], ...] = (TASKS, scheduler_executions.EXECUTIONS, workflow_executions.EXECUTIONS)
ROWS = {
    "tasks": "INSERT INTO tasks (task_id, intent) SELECT 'grown-' || n, 'x' FROM generate_series(1, {rows}) AS n",
    "scheduler_executions": (
        "INSERT INTO scheduler_executions (scheduled_at)"
        " SELECT now() - n * interval '1 s' FROM generate_series(1, {rows}) AS n"
    ),
    "workflow_executions": (
        "INSERT INTO workflow_executions (workflow_id)"
        " SELECT (SELECT max(id) FROM workflows) FROM generate_series(1, {rows}) AS n"
    ),
}


ENDINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {"alone": alone}) for name in ("complete", "complete_many", "fail") for alone in (False, True)),
    *(("release", {"delayed": False, "alone": alone}) for alone in (False, True)),
    ("reap", {"limit": 5}),
)
"""The statements that end a lease, with their options."""


def of_leases() -> dict[str, Any]:
    """Every statement of `leases` that the driver keeps, for each table that is leased; and every claim."""
    made: dict[str, Any] = {}
    for leased in LEASED:
        for name in leases.__all__:
            build = getattr(leases, name)
            if not hasattr(build, "cache_info"):
                continue
            made[f"{name} {leased.table.name}"] = build(leased)
        for name, options in ENDINGS:
            made[f"{name} {options} {leased.table.name}"] = getattr(lease_endings, name)(leased, **options)
    shapes = [
        (True, False, False),
        (False, True, False),
        (True, True, False),
        (False, False, True),
        (False,) * 3,
    ]
    for shape in shapes:
        for limit in (1, 8, 500):
            made[f"claim {limit} {shape}"] = task_claims.claim(limit, *shape, True)
            made[f"claim {limit} {shape} of several"] = task_claims.claim(limit, *shape, False)
            made[f"look {limit} {shape}"] = task_claims.look(limit, *shape, True)
            made[f"look {limit} {shape} of several"] = task_claims.look(limit, *shape, False)
    made["report tasks"] = task_reports.report()
    made["claim scheduler_executions"] = scheduler_executions.claim(limit=8)
    made["claim workflow_executions"] = workflow_executions.claim(limit=8)
    made["reap workflow_executions"] = workflow_executions.reap(100)
    return made


@pytest.fixture
def url(database_url: URL) -> URL:
    with Database(database_url) as db, db.begin() as uow:
        uow.workflows.activate(uow.workflows.define("w", {})[0].id)
    return database_url


def connected(url: URL) -> psycopg.Connection:
    return psycopg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
    )


def kept(connection: Any) -> dict[str, str]:
    """The plan of each statement that the session has prepared."""
    prepared = connection.execute(
        "SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements", prepare=False
    ).fetchall()
    connection.execute("SET plan_cache_mode = force_generic_plan", prepare=False)
    found: dict[str, str] = {}
    for name, statement, number in prepared:
        nulls = f"({', '.join(['NULL'] * number)})" if number else ""
        plan = connection.execute(f'EXPLAIN EXECUTE "{name}"{nulls}', prepare=False).fetchall()
        found[statement] = "\n".join(row[0] for row in plan)
    return found


def reads_all(plan: str) -> list[str]:
    return re.findall(r"Seq Scan on (?:\w+\.)?(?:tasks|\w+_executions)\b", plan)


def test_no_statement_on_leased_rows_keeps_a_plan_for_an_empty_table(url: URL) -> None:
    with connected(url) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, statement in of_leases().items():
            compiled = statement.compile(dialect=dialect.dialect())
            key = uuid.uuid4() if name.endswith(" tasks") else 1
            given = {**compiled.params, **PARAMETERS, "id": key, "ids": [key] * 8}
            connection.execute(f"/* {name} */ {compiled}", given, prepare=True)
        for fill in ROWS.values():
            connection.execute(fill.format(rows=3000))
        found = {text: plan for text, plan in kept(connection).items() if text.startswith("/* ")}
    assert len(found) == len(of_leases())
    wrong = {text: plan for text, plan in found.items() if reads_all(plan)}
    assert not wrong, "\n".join(f"{text[:60]}\n{plan}" for text, plan in wrong.items())


def rounds(connection: Connection, number: int) -> None:
    """The calls of a loop in AUTOCOMMIT, one by one and in batches."""
    tasks = TaskRepository(Session(connection))
    for _ in range(number):
        tasks.enqueue("x")
        tasks.enqueue_many([{"intent": "x"}] * 9)
        held = tasks.claim("w", limit=8)
        tasks.heartbeat_many(held)
        assert len(tasks.complete_many(held)) == 8
        (one,) = tasks.claim("w", intents=["x"])
        tasks.fail(one, "e", retry=False)
        (one,) = tasks.claim("w", queues=["default"])
        assert tasks.complete(one)


def small(connection: Connection) -> None:
    connection.execute(text("INSERT INTO tasks (task_id, intent) VALUES ('first', 'x')"))
    connection.execute(text("VACUUM (ANALYZE) tasks"))


def purged(connection: Connection) -> None:
    rounds(connection, 30)
    connection.execute(text("DELETE FROM tasks"))
    connection.execute(text("VACUUM (ANALYZE) tasks"))


@pytest.mark.parametrize("before", [small, purged])
def test_a_connection_replaces_the_plans_that_it_made_for_few_rows(
    url: URL, before: Callable[[Connection], None]
) -> None:
    with Database(url) as db, db.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("ALTER TABLE tasks SET (autovacuum_enabled = off)"))
        before(connection)
        rounds(connection, 15)
        driver: Any = connection.connection.driver_connection
        connection.execute(text(ROWS["tasks"].format(rows=3000)))
        rounds(connection, 60)
        found = {text: plan for text, plan in kept(driver).items() if re.match(r"\s*(WITH|UPDATE)", text)}
        assert len(found) >= 5
        for text_, plan in found.items():
            assert not reads_all(plan), (text_, plan)


def test_plans_are_dropped_ever_less_often_and_at_the_latest_after_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(plans.time, "monotonic", lambda: now)
    counted = plans.KeptPlans()
    dropped = [number for number in range(1, 20_001) if counted.due()]
    assert dropped == [32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 12288, 16384]
    now = plans.SECONDS
    assert [number for number in range(1, 101) if counted.due()] == [16]


def test_plans_are_dropped_in_every_kind_of_session(url: URL) -> None:
    with Database(url) as db:
        with db.begin() as uow:
            pid = uow.session.scalar(text("SELECT pg_backend_pid()"))
            for _ in range(40):
                uow.session.execute(text("SELECT count(*) FROM tasks WHERE id IS NULL"))
        for _ in range(60):
            with db.begin() as uow:
                uow.tasks.get(uuid.uuid4())
                uow.tasks.claim("w")
        with db.session() as session:
            assert session.scalar(text("SELECT pg_backend_pid()")) == pid
            dropped = session.scalar(
                text(
                    "SELECT sum(generic_plans) FROM pg_prepared_statements WHERE statement LIKE '%count(*) FROM tasks%'"
                )
            )
            assert dropped
            names = set(session.scalars(text("SELECT statement FROM pg_prepared_statements")))
            assert any("claimed" in name for name in names)


def test_a_detached_connection_drops_its_plans(database_url: URL) -> None:
    """The pool does not know its connection any more."""
    with Database(database_url) as db, db.engine.connect() as connection:
        connection.detach()
        for _ in range(plans.FIRST + 2 * plans.LOOK):
            assert connection.scalar(text("SELECT 1")) == 1
