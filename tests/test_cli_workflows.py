"""`alfred-db workflows`, and the durable functions of `alfred-db worker`."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL

from alfred_db import Database, WorkflowExecution
from alfred_db.cli import main

APP = """
from alfred_db import workflow

def work(n):
    if n < 0:
        raise ValueError("negative")
    return n

@workflow("order", max_retries=0)
def order(ctx, n):
    ctx.set_state("n", n)
    first = ctx.step(work, 1)
    return [first, ctx.step(work, n), ctx.wait_for("approved").payload]

@workflow("order", version=2)
async def later(ctx, n): ...

workflows = [order]
mixed = [order, later]
coroutines = [later]
wrong = [work]
empty = []
number = 5
"""

Run = Callable[..., Result]


@pytest.fixture(params=[None, "acme"], ids=["public", "acme"])
def db(request: pytest.FixtureRequest, database_url: URL) -> Iterator[Database]:
    with Database(database_url, schema=request.param) as database:
        yield database


@pytest.fixture
def run(db: Database) -> Run:
    schema = [] if db.schema is None else ["--schema", db.schema]
    where = ["--url", db.url.render_as_string(hide_password=False), *schema]

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, *where])

    return run


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"app_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield name
    sys.path[:] = before


def start(db: Database, n: int, key: str) -> WorkflowExecution:
    with db.begin() as uow:
        uow.workflows.activate(uow.workflows.define("order", {}, version=1)[0].id)
        return uow.workflows.start("order", {"n": n}, idempotency_key=key, max_retries=0)[0]


def test_executions_are_run_shown_and_answered(run: Run, db: Database, app: str) -> None:
    id = start(db, 7, "order-7").id
    assert run("worker", "--workflows", f"{app}:workflows", "--drain").exit_code == 0
    shown = run("workflows", "show", "order-7")
    assert shown.exit_code == 0, shown.output
    assert "waiting_for           approved" in shown.output
    assert 'state                 {"n": 7}' in shown.output
    assert [line.split()[:3] for line in shown.output.splitlines()[-3:]] == [
        ["0", "state", "n"],
        ["1", "step", "work"],
        ["2", "step", "work"],
    ]
    found = json.loads(run("workflows", "show", str(id), "--json").output)
    assert (found["workflow"], found["version"], found["state"], len(found["steps"])) == (
        "order",
        1,
        {"n": 7},
        3,
    )
    assert "lease_token" not in found
    assert run("workflows", "events", "order-7").output == "no events\n"
    sent = run("workflows", "events", "order-7", "--send", "approved", "--payload", '{"by": "Ada"}')
    assert sent.output == "sent\n"
    again = run("workflows", "events", "order-7", "--send", "approved")
    assert again.output == "not sent: it has received an event of this name\n"
    (event,) = json.loads(run("workflows", "events", "order-7", "--json").output)["events"]
    assert (event["name"], event["payload"]) == ("approved", {"by": "Ada"})
    assert run("worker", "--workflows", f"{app}:workflows", "--drain").exit_code == 0
    with db.begin() as uow:
        done = uow.workflows.get_execution(id)
        assert done is not None
        assert done.output_data == [1, 7, {"by": "Ada"}]


def test_executions_are_listed_cancelled_and_resumed(run: Run, db: Database, app: str) -> None:
    assert run("workflows", "list").output == "no executions\n"
    failing, waiting = start(db, -1, "failing"), start(db, 2, "waiting")
    run("worker", "--workflows", f"{app}:workflows", "--drain")
    rows = json.loads(run("workflows", "list", "--json").output)["executions"]
    assert [(row["id"], row["status"]) for row in rows] == [(waiting.id, "pending"), (failing.id, "failed")]
    table = run("workflows", "list", "order", "--limit", "1").output
    assert table.splitlines()[0].split()[:4] == ["id", "workflow", "version", "status"]
    cursor = table.splitlines()[-1].removeprefix("more: --after ")
    assert str(failing.id) in run("workflows", "list", "order", "--after", cursor).output
    failed = json.loads(run("workflows", "list", "--status", "failed", "--json").output)["executions"]
    assert [(row["id"], row["error_code"]) for row in failed] == [(failing.id, "step")]
    assert run("workflows", "cancel", "waiting").output == "cancelled: 1, workers asked to stop: 0\n"
    assert (
        run("workflows", "resume", "waiting", "--from-step", "1").output
        == f"resumed {waiting.id}, next step: 1\n"
    )
    assert run("workflows", "resume", "failing").output == f"resumed {failing.id}, next step: 2\n"


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["show", "nobody"], "workflow execution 'nobody': not found; pass the id of an execution"),
        (["show", "9" * 30], "not found"),
        (["cancel", "4711"], "not found"),
        (["resume", "4711"], "not found"),
        (["events", "4711", "--send", "x"], "not found"),
        (["resume", "one"], "is pending; it needs no resuming"),
        (["events", "one", "--send", "x", "--payload", "{"], "--payload: is no JSON"),
    ],
)
def test_what_does_not_fit_is_one_line(run: Run, db: Database, words: list[str], reported: str) -> None:
    start(db, 1, "one")
    done = run("workflows", *words)
    assert done.exit_code == 2
    assert reported in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["list", "order", "--status", "failed"], ["events", "one", "--payload", "1"]]
)
def test_options_that_do_not_go_together(run: Run, words: list[str]) -> None:
    done = run("workflows", *words)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr


@pytest.mark.parametrize(
    ("named", "reported"),
    [
        ("{app}:number", "is int; expected a list of functions decorated with `@workflow`"),
        ("{app}:empty", "expected a list of functions"),
        ("{app}:wrong", "workflows: work is no workflow; decorate it"),
        ("{app}:nobody", "has no 'nobody'; define it as a list"),
        ("{app}:mixed", "workflow 'order' is not asynchronous; pass it to Worker"),
    ],
)
def test_wrong_functions_are_one_line(run: Run, app: str, named: str, reported: str) -> None:
    done = run("worker", "--workflows", named.format(app=app), "--drain")
    assert done.exit_code == 2
    assert reported in done.stderr


def test_a_worker_needs_something_to_run(run: Run, app: str) -> None:
    done = run("worker", "--drain")
    assert done.exit_code == 2
    assert "pass --app, --workflows, or both" in done.stderr
    assert run("worker", "--workflows", f"{app}:coroutines", "--drain").exit_code == 0
