"""The statements of the platforms' applications, run as raw SQL against the migrated schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

HERE = Path(__file__).parent


def statements(file: str) -> list[tuple[str, list[str]]]:
    """The statements of a file under their names."""
    found: list[tuple[str, list[str]]] = []
    for block in (HERE / file).read_text(encoding="utf-8").split("\n\n"):
        name, _, sql = block.strip().partition("\n")
        if sql and not sql.startswith("--"):
            found.append((name.removeprefix("-- "), [one for one in sql.split(";\n") if one]))
    return found


RUN = statements("statements.sql")
REFUSED = statements("refused.sql")


def vectors(sql: str) -> str:
    for length in (384, 768):
        sql = sql.replace(f"{{vector{length}}}", str([0.5] * length))
    return sql.rstrip(";\n").replace("%", "%%")


@pytest.fixture(scope="module")
def platform(migrated: Engine) -> Iterator[Connection]:
    """One transaction for all statements in their order, which is rolled back at the end."""
    with migrated.connect() as connection, connection.begin() as transaction:
        for name, several in RUN:
            for sql in several:
                try:
                    with connection.begin_nested():
                        connection.exec_driver_sql(vectors(sql))
                except DBAPIError as error:
                    pytest.fail(f"{name}: {error}")
        yield connection
        transaction.rollback()


def test_the_documents_have_many_statements() -> None:
    assert len(RUN) >= 35
    assert len({name for name, _ in RUN}) == len(RUN)
    assert {name.partition(":")[0] for name, _ in RUN} == {
        "alfred",
        "paddle",
        "firefoundry",
        "knowledge agent",
    }


def test_all_of_them_run(platform: Connection) -> None:
    assert platform.scalar(text("SELECT count(*) FROM conversations WHERE session_id = 'paddle-1'")) == 2


@pytest.mark.parametrize(
    ("row", "times"),
    [
        ("tasks WHERE task_id = 'doc-17'", {"started_at": True, "completed_at": True, "failed_at": False}),
        (
            "tasks WHERE task_id = 'doc-17-a'",
            {"failed_at": False, "completed_at": False, "cancelled_at": True},
        ),
        ("tasks WHERE task_id = 'doc-18'", {"completed_at": True}),
        ("scheduler_executions WHERE output = 'done'", {"start_time": True, "end_time": True}),
        ("workflow_executions WHERE error_message = 'no page'", {"completed_at": False, "failed_at": True}),
        ("brk_tracking.broker_request WHERE request_id = 'request-1'", {"finished_at": True}),
        ("brk_tracking.broker_request WHERE request_id = 'request-2'", {"finished_at": True}),
    ],
)
def test_the_times_of_a_status_are_those_of_its_statement(
    platform: Connection, row: str, times: dict[str, bool]
) -> None:
    got = platform.execute(text(f"SELECT {', '.join(times)} FROM {row}")).one()._asdict()
    assert {name: value is not None for name, value in got.items()} == times


def test_a_time_that_a_statement_sets_is_left_to_the_checks(migrated: Engine) -> None:
    with migrated.connect() as connection:
        connection.execute(text("INSERT INTO tasks (task_id, intent, status) VALUES ('t', 'X', 'completed')"))
        for wrong in (
            "UPDATE tasks SET status = 'pending', completed_at = now() + interval '1 hour' WHERE task_id = 't'",
            "INSERT INTO tasks (task_id, intent, status, failed_at) VALUES ('u', 'X', 'pending', now())",
        ):
            with pytest.raises(Exception, match="ck_tasks_"), connection.begin_nested():
                connection.execute(text(wrong))
        chosen = "UPDATE tasks SET status = 'failed', failed_at = '2020-01-01' WHERE task_id = 't' RETURNING failed_at"
        assert connection.scalar(text(chosen)).year == 2020  # type: ignore[union-attr]


def test_the_trigger_ends_the_lease_of_a_task_that_raw_sql_completes(migrated: Engine) -> None:
    with migrated.connect() as connection:
        connection.execute(
            text(
                "INSERT INTO tasks (task_id, intent, status, lease_token, lease_expires_at, attempt_deadline_at)"
                " VALUES ('leased', 'X', 'processing', gen_random_uuid(), now(), now())"
            )
        )
        done = connection.execute(
            text(
                "UPDATE tasks SET status = 'completed' WHERE task_id = 'leased' RETURNING lease_expires_at, attempt_deadline_at"
            )
        ).one()
        assert done == (None, None)


@pytest.mark.parametrize(("name", "sql"), [(name, sql) for name, (sql,) in REFUSED])
def test_those_that_cannot_run_are_in_the_docs_with_their_reason(
    platform: Connection, name: str, sql: str
) -> None:
    state, _, what = name.partition(" ")
    if "pg_stat_statements" in sql:
        columns = "'' AS query, 0 AS calls, 0 AS total_exec_time, 0 AS rows"
        platform.execute(text(f"CREATE TEMP VIEW pg_stat_statements AS SELECT {columns}"))
    with pytest.raises(DBAPIError) as caught, platform.begin_nested():
        platform.exec_driver_sql(vectors(sql))
    assert getattr(caught.value.orig, "sqlstate", None) == state
    page = (HERE.parent.parent / "docs/howto/adopt.md").read_text(encoding="utf-8")
    assert re.search(rf"\| {re.escape(what)} \|[^|]+\|[^|]+\|", page), (
        f"docs/howto/adopt.md: no row for {what}"
    )
