"""What the doctor finds in the tables: rows that cannot be worked on, and that others pass by in silence."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import URL, text
from worker.at_work import QUICK, eventually, nothing, sql, working

from alfred_db import Database, Worker
from alfred_db.cli.doctor import NAMED, examine


def warnings(url: URL, schema: str | None, about: str) -> list[str]:
    report = examine(url, schema)
    assert report.errors == []
    return [line for line in report.warnings if about in line]


@pytest.mark.parametrize("schema", [None, "acme"])
def test_schedules_that_cannot_be_read_are_named(database_url: URL, schema: str | None) -> None:
    with Database(database_url, schema=schema) as db:
        with db.begin() as uow:
            good, _ = uow.scheduler.create("good", "c", "0 * * * *")
            paused, _ = uow.scheduler.create("paused", "c", "0 * * * *", is_active=False)
            bad = [uow.scheduler.create(f"bad {n}", "c", "0 * * * *")[0].id for n in range(NAMED + 2)]
        assert warnings(database_url, schema, "schedule") == []
        with db.begin() as uow:
            table = "scheduler_tasks" if schema is None else f"{schema}.scheduler_tasks"
            uow.session.execute(
                text(f"UPDATE {table} SET timezone = 'Mars/Olympus' WHERE id <> :good"), {"good": good.id}
            )
        found = warnings(database_url, schema, "schedule")
        assert [line.split(":")[0] for line in found[:-1]] == [
            f"scheduled task {id} has no slots" for id in bad[:NAMED]
        ]
        assert "'Mars/Olympus'" in found[0]
        assert found[-1] == "2 more scheduled tasks have no slots"
        assert not any(str(paused.id) in line.split(":")[0].split() for line in found[:-1])
        assert warnings(database_url, "acme" if schema is None else None, "schedule") == []


@pytest.mark.parametrize("schema", [None, "acme"])
@pytest.mark.parametrize("what", ["events", "event_consumers"])
def test_a_log_from_another_server_is_named_until_it_is_in_order(
    database_url: URL, schema: str | None, what: str
) -> None:
    with Database(database_url, schema=schema) as db:
        with db.begin() as uow:
            uow.events.subscribe("c", ["t"])
            uow.events.publish("t", {})
        assert warnings(database_url, schema, "events") == []
        with db.begin() as uow:
            table = what if schema is None else f"{schema}.{what}"
            uow.session.execute(text(f"UPDATE {table} SET tx = (tx::text::bigint + 1000000)::text::xid8"))
        (line,) = warnings(database_url, schema, "events")
        assert "'c' cannot read on; call `uow.events.after_restore()`" in line
        with db.begin() as uow:
            uow.events.after_restore()
        assert warnings(database_url, schema, "events") == []


def test_a_worker_names_each_such_schedule_once(database_url: URL, caplog: pytest.LogCaptureFixture) -> None:
    def named() -> list[str]:
        return [one.getMessage() for one in caplog.records if "has no slots" in one.getMessage()]

    with Database(database_url) as db:
        with db.begin() as uow:
            for number in range(150):
                uow.scheduler.create(f"bad {number}", "c", "* * * * *")
        sql(
            db, "UPDATE scheduler_tasks SET timezone = 'Mars/Olympus', next_run_at = now() - interval '1 day'"
        )
        with db.begin() as uow:
            good, _ = uow.scheduler.create("good", "c", "0 0 29 2 *")
        with (
            caplog.at_level(logging.WARNING, "alfred_db.worker"),
            working(Worker(db, {"X": nothing}, **{**QUICK, "upkeep": 0.05})),
        ):
            for _ in range(3):
                sql(db, "UPDATE scheduler_tasks SET next_run_at = now() WHERE name = 'good'")
                eventually(
                    lambda: sql(db, "SELECT FROM scheduler_tasks WHERE name = 'good' AND next_run_at > now()")
                )
        assert sql(db, "SELECT DISTINCT task_id FROM scheduler_executions") == [(good.id,)]
    assert len(named()) == 150
    assert "'Mars/Olympus'" in named()[0]


@pytest.mark.parametrize("schema", [None, "acme"])
def test_work_that_cannot_be_read_is_named(database_url: URL, schema: str | None) -> None:
    with Database(database_url, schema=schema) as db:
        with db.begin() as uow:
            uow.tasks.enqueue("x")
            bad, _ = uow.tasks.enqueue("x")
            uow.scheduler.create("s", "c", "0 0 29 2 *")
            uow.events.subscribe("c", ["t"], start="beginning")
            event = uow.events.publish("t", {})
            keys = bad.id, event.id
        assert warnings(database_url, schema, "cannot be read") == []
        home = "" if schema is None else f"{schema}."
        digits = "('[' || repeat('9', 5000) || ']')::jsonb"
        sql(db, f"UPDATE {home}tasks SET content = {digits} WHERE id = '{keys[0]}'")
        sql(db, f"UPDATE {home}events SET payload = {digits}, began_at = '-infinity' WHERE id = {keys[1]}")
        sql(db, f"UPDATE {home}scheduler_tasks SET created_at = '0044-03-15 BC'")
        found = warnings(database_url, schema, "cannot be read")
    assert [line.split(",")[0] for line in found] == [
        f"tasks id = '{keys[0]}': column content cannot be read",
        "scheduler_tasks id = '1': column created_at cannot be read",
        f"events id = '{keys[1]}'",
    ]
    assert all(line.endswith("correct the value by SQL, or delete the row") for line in found)
