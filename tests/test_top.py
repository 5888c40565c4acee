"""`alfred-db top` and the overview that it draws."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import fields

import pytest
from click.testing import CliRunner
from rich.console import Console
from servers import free_port
from sqlalchemy import URL, text

from alfred_db import Database
from alfred_db.cli import main
from alfred_db.telemetry import Overview, overview
from alfred_db.telemetry.terminal import LISTS, show

ESCAPE = "\x1b[2J\x1b]0;owned\x07 [red]markup[/red] ключ"


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def seed(db: Database) -> None:
    with db.begin() as uow:
        for number in range(4):
            uow.tasks.enqueue("held", queue="busy", task_id=f"held {number}")
        uow.tasks.enqueue("bad", queue="busy", task_id="bad", max_retries=0)
        for task in uow.tasks.claim(worker=f"worker {ESCAPE}", limit=5):
            if task.intent == "bad":
                uow.tasks.fail(task, "no", code="mine")
        uow.tasks.enqueue("nobody", queue=ESCAPE, task_id="waits")
        uow.tasks.enqueue("later", queue="busy", delay=100)
        uow.scheduler.create("nightly", "c", schedule="0 3 * * *")
        uow.scheduler.create("late", "c", schedule="* * * * *")
        uow.workflows.activate(uow.workflows.define("w", {})[0].id)
        uow.workflows.start("w")
        uow.events.subscribe("c", ["t"], start="beginning")
        uow.events.publish("t")
        uow.agents.register("a", type="t", version="1")
        uow.session.execute(
            text("UPDATE tasks SET available_at = now() - interval '90 s' WHERE intent = 'nobody'")
        )
        uow.session.execute(
            text("UPDATE scheduler_tasks SET next_run_at = now() - interval '3 min' WHERE name = 'late'")
        )


def test_the_overview_has_the_rows_of_each_list(db: Database) -> None:
    seed(db)
    found = overview(db, listed=3)
    assert found.errors == []
    for one in fields(Overview):
        assert getattr(found, one.name) or one.name == "errors", one.name
        assert len(getattr(found, one.name)) <= 3
    busy = next(row for row in found.queues if row["queue"] == "busy")
    assert {name: busy[name] for name in ("ready", "delayed", "running", "expired", "failed")} == {
        "ready": 0,
        "delayed": 1,
        "running": 4,
        "expired": 0,
        "failed": 1,
    }
    assert [row["tasks"] for row in found.workers] == [4]
    assert [(row["task_id"], row["error_code"]) for row in found.failed] == [("bad", "mine")]
    assert [row["intent"] for row in found.unhandled] == ["nobody"]
    assert [row["name"] for row in found.schedules] == ["late", "nightly"]
    assert -200 < found.schedules[0]["due_in"] < -170
    assert [(row["name"], row["executions"]) for row in found.workflows] == [("w", 1)]


def test_of_a_tenant_and_of_a_database_that_is_away(database_url: URL, db: Database) -> None:
    seed(db)
    with Database(database_url, schema="acme") as tenant:
        assert overview(tenant).queues == []
    away = database_url.set(host="127.0.0.1", port=free_port(), query={})
    with Database(away) as unreachable:
        found = overview(unreachable)
        assert [row["list"] for row in found.errors] == ["server"]
    done = CliRunner().invoke(main, ["top", "--once", "--url", away.render_as_string(hide_password=False)])
    assert done.exit_code == 1
    assert "Lists that cannot be read" in done.stdout


def test_it_is_drawn_without_what_a_terminal_obeys(db: Database) -> None:
    seed(db)
    stream = io.StringIO()
    console = Console(file=stream, width=160, force_terminal=True, color_system=None)
    assert show(db, interval=1, rows=10, once=True, console=console)
    drawn = stream.getvalue()
    for title, _ in (LISTS[name] for name in LISTS if name != "errors"):
        assert title in drawn
    assert "\x1b[2J" not in drawn
    assert "\x07" not in drawn
    assert "[red]markup[/red] ключ" in drawn, "a name is no markup"
    assert "-3 min" in drawn


def test_it_is_drawn_again_and_again(db: Database) -> None:
    seed(db)
    looks = iter((False, False, True))
    stream = io.StringIO()
    console = Console(file=stream, width=160, force_terminal=True)
    assert show(db, interval=0.01, rows=10, console=console, stopping=lambda: next(looks))
    assert stream.getvalue().count("Longest-running tasks") == 3


def test_the_command_prints_it_once(database_url: URL, db: Database) -> None:
    seed(db)
    done = CliRunner().invoke(
        main, ["top", "--once", "--url", database_url.render_as_string(hide_password=False)]
    )
    assert done.exit_code == 0
    assert "Queues" in done.stdout
