"""`alfred-db worker`, `alfred-db tasks` and `alfred-db schedule`."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from forked import Program
from sqlalchemy import URL, Select, func, select, update

from alfred_db import Database, Task, TaskStatus
from alfred_db.cli import main

Run = Callable[..., Result]

APP = """
import asyncio
import pathlib
import time

from alfred_db import Database, TaskFailed, Tasks


def echo(task, lease):
    lease.progress(0.5, "half")
    return [{"result_type": "echo", "content": task.content}]


def slow(task, lease):
    pathlib.Path(f"begun-{task.task_id}").touch()
    end = time.monotonic() + task.content.get("seconds", 60)
    while time.monotonic() < end and not pathlib.Path(f"end-{task.task_id}").exists():
        time.sleep(0.02)
    lease.check()


def refuse(task, lease):
    raise TaskFailed("no", retry=False)


async def unlike(task, lease):
    await asyncio.sleep(0.01)
    return [{"result_type": "echo", "content": task.content}]


handlers = {"ECHO": echo, "SLOW": slow, "REFUSE": refuse}
coroutines = {"ECHO": unlike}
empty = {}
number = 7
unnamed, numbered = {"": echo}, {1: echo}
uncallable, short = {"X": "echo"}, {"X": lambda task: None}
scheduled = Tasks(Database("postgresql://nobody@localhost/none"), "scheduled")
scheduled.schedule("sweeping", "0 3 * * *", command="sweep")
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder with an application in it; return the name of its module, which no other test has."""
    name = f"app_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(APP)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_module\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield name
    sys.path[:] = before


@pytest.fixture(params=[None, "acme"], ids=["public", "acme"])
def db(request: pytest.FixtureRequest, database_url: URL) -> Iterator[Database]:
    with Database(database_url, schema=request.param) as database:
        yield database


@pytest.fixture
def run(db: Database) -> Run:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, *where(db)])

    return run


def where(db: Database) -> list[str]:
    schema = [] if db.schema is None else ["--schema", db.schema]
    return ["--url", db.url.render_as_string(hide_password=False), *schema]


def enqueue(db: Database, intent: str, content: dict[str, Any] | None = None, **options: Any) -> Task:
    with db.begin() as uow:
        return uow.tasks.enqueue(intent, content, **options)[0]


def status(db: Database, enqueued: Task) -> TaskStatus:
    with db.begin() as uow:
        found = uow.tasks.get(enqueued.id)
        assert found is not None
        return found.status


def eventually(holds: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)


# worker


@pytest.mark.parametrize("name", ["handlers", "coroutines"])
def test_the_worker_drains_the_queue(run: Run, db: Database, app: str, name: str) -> None:
    enqueued = [enqueue(db, "ECHO", {"n": number}) for number in range(5)]
    done = run("worker", "--app", f"{app}:{name}", "--drain")
    assert done.exit_code == 0, done.output
    assert {status(db, one) for one in enqueued} == {TaskStatus.COMPLETED}
    with db.begin() as uow:
        assert [result.content for result in uow.tasks.results(enqueued[3].id)] == [{"n": 3}]


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ("{app}", "expected MODULE:NAME, such as myapp.tasks:handlers"),
        (":handlers", "expected MODULE:NAME"),
        ("no_such_application:handlers", "there is no module 'no_such_application'"),
        ("{app}.deeper:handlers", "there is no module '{app}.deeper'"),
        ("{app}:nobody", "{app} has no 'nobody'"),
        ("{app}:number", "is int; expected a mapping from intents to functions"),
        ("{app}:number", "or an application (Tasks, AsyncTasks)"),
        ("{app}:handler", "perhaps 'handlers' is meant"),
        ("{app}:unnamed", "worker: intent: expected 1 to"),
        ("{app}:numbered", "worker: intent: expected text"),
        ("{app}:uncallable", "the handler of intent 'X' is str; pass a function of (task, lease)"),
        ("{app}:short", "the handler of intent 'X' does not take two arguments"),
        ("{app}:scheduled", "no function is registered for its command 'sweep'"),
        ("{app}:empty", "there are no handlers"),
    ],
)
def test_an_application_that_is_none_is_one_line(run: Run, app: str, given: str, reported: str) -> None:
    done = run("worker", "--app", given.format(app=app))
    assert done.exit_code == 2
    assert done.stderr.startswith("alfred-db: ")
    assert done.stderr.count("\n") == 1
    assert reported.format(app=app) in done.stderr


def test_an_application_is_an_argument_too(run: Run, db: Database, app: str) -> None:
    enqueued = enqueue(db, "ECHO")
    assert run("worker", f"{app}:handlers", "--drain").exit_code == 0
    assert status(db, enqueued) == TaskStatus.COMPLETED
    done = run("worker", f"{app}:handlers", "--app", f"{app}:handlers", "--drain")
    assert done.exit_code == 2
    assert "pass the application once" in done.stderr


def test_a_module_that_cannot_import_another_shows_where(run: Run, app: str) -> None:
    done = run("worker", "--app", f"{app}_broken:handlers")
    assert isinstance(done.exception, ModuleNotFoundError)
    assert done.exception.name == "no_such_module"


@contextmanager
def process(db: Database, app: str, *options: str) -> Iterator[Program]:
    command = ("-m", "alfred_db.cli", "worker", "--app", app, "--poll", "0.3", *options, *where(db))
    with Program(*command, merged=True) as running:
        yield running


def says(worker: Program, words: str) -> None:
    """Read what it prints until it has said that."""
    read = []
    for line in worker.stdout:
        read.append(line)
        if words in line:
            return
    raise AssertionError("".join(read))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_task_end(db: Database, app: str, number: signal.Signals) -> None:
    running, waiting = enqueue(db, "SLOW", task_id="a"), enqueue(db, "SLOW", task_id="b")
    with process(db, f"{app}:handlers", "--concurrency", "1") as worker:
        eventually(lambda: Path("begun-a").exists())
        worker.send_signal(number)
        says(worker, "stopping: 1 tasks are left")
        Path("end-a").touch()
        output, _ = worker.communicate(timeout=180)
        assert worker.returncode == 0, output
    assert [status(db, running), status(db, waiting)] == ["completed", "pending"]


def test_a_second_signal_releases_the_running_task(db: Database, app: str) -> None:
    enqueued = enqueue(db, "SLOW", {"seconds": 600}, task_id="a")
    with process(db, f"{app}:handlers", "--grace", "600") as worker:
        eventually(lambda: Path("begun-a").exists())
        worker.terminate()
        says(worker, "stopping: 1 tasks are left")
        assert worker.poll() is None
        worker.terminate()
        output, _ = worker.communicate(timeout=180)
        assert worker.returncode == 0, output
    assert "released, now pending" in output
    with db.begin() as uow:
        found = uow.tasks.get(enqueued.id)
        assert found is not None
        assert (found.status, found.retry_count, found.crash_count) == ("pending", 0, 0)


def test_the_tasks_of_a_worker_that_is_killed_are_anothers(db: Database, app: str) -> None:
    """The second extends its own lease for longer than it lasts."""
    enqueued = enqueue(db, "SLOW", task_id="a")
    options = ("--lease", "6", "--upkeep", "0.2")
    with process(db, f"{app}:handlers", *options) as first:
        eventually(lambda: Path("begun-a").exists())
        first.kill()
        first.wait()
        Path("begun-a").unlink()
        with db.begin() as uow:
            uow.session.execute(update(Task).values(lease_expires_at=func.now()))
        with process(db, f"{app}:handlers", *options) as second:
            eventually(lambda: Path("begun-a").exists())
            lasts = select(Task.id).where(
                Task.attempt_started_at + timedelta(seconds=6.1) < func.statement_timestamp()
            )
            eventually(lambda: any_row(db, lasts))
            Path("end-a").touch()
            eventually(lambda: status(db, enqueued) == "completed")
            second.terminate()
            assert second.wait(180) == 0
    with db.begin() as uow:
        ended = uow.tasks.get(enqueued.id)
        assert ended is not None
        assert (ended.claim_seq, ended.crash_count, ended.retry_count) == (2, 1, 0)


def any_row(db: Database, statement: Select[Any]) -> bool:
    with db.session() as session:
        return bool(session.execute(statement).all())


# tasks


def test_tasks_are_listed_by_page_and_filter(run: Run, db: Database) -> None:
    assert run("tasks", "list").output == "no tasks\n"
    for number in range(3):
        enqueue(db, "ECHO", task_id=f"t-{number}")
    enqueue(db, "OTHER", task_id="other", assigned_to="writer")
    first = run("tasks", "list", "--intent", "ECHO", "--limit", "2")
    assert first.exit_code == 0, first.output
    assert [line.split()[:3] for line in first.output.splitlines()[:3]] == [
        ["task_id", "intent", "status"],
        ["t-2", "ECHO", "pending"],
        ["t-1", "ECHO", "pending"],
    ]
    cursor = first.output.splitlines()[3].removeprefix("more: --after ")
    second = run("tasks", "list", "--intent", "ECHO", "--limit", "2", "--after", cursor, "--json")
    found = json.loads(second.output)
    assert [one["task_id"] for one in found["tasks"]] == ["t-0"]
    assert found["next"] is None
    assert "other" in run("tasks", "list", "--assigned-to", "writer").output
    assert run("tasks", "list", "--status", "failed").output == "no tasks\n"


def test_a_task_is_shown_by_either_id_with_its_results_but_not_its_token(
    run: Run, db: Database, app: str
) -> None:
    enqueued = enqueue(db, "ECHO", {"n": 1}, task_id="t")
    assert run("worker", "--app", f"{app}:handlers", "--drain").exit_code == 0
    for name in ("t", str(enqueued.id)):
        shown = run("tasks", "show", name)
        assert shown.exit_code == 0, shown.output
        assert 'echo {"n": 1}' in shown.output
        assert re.search(r"^progress +50%, half \(", shown.output, re.MULTILINE)
        assert "lease_token" not in shown.output
    found = json.loads(run("tasks", "show", "t", "--json").output)
    assert (found["status"], found["content"]) == ("completed", {"n": 1})
    assert (found["progress"]["fraction"], found["progress"]["note"]) == (0.5, "half")
    assert [result["content"] for result in found["results"]] == [{"n": 1}]
    assert "lease_token" not in found
    for name in ("nobody", str(uuid.uuid4())):
        missing = run("tasks", "show", name)
        assert missing.exit_code == 2
        assert (
            missing.stderr == f"alfred-db: task {name!r}: not found; pass the task_id or the id of a task\n"
        )


def test_failed_tasks_are_requeued_one_or_all(run: Run, db: Database, app: str) -> None:
    enqueued = [enqueue(db, "REFUSE", task_id=f"t-{number}") for number in range(3)]
    assert run("worker", "--app", f"{app}:handlers", "--drain").exit_code == 0
    assert {status(db, one) for one in enqueued} == {TaskStatus.FAILED}
    assert run("tasks", "requeue", "t-1").output == "requeued: 1\n"
    assert status(db, enqueued[1]) == "pending"
    again = run("tasks", "requeue", "t-1")
    assert again.exit_code == 2
    assert "only failed and cancelled tasks can be requeued" in again.stderr
    assert run("tasks", "requeue", "--failed", "--intent", "NONE").output == "requeued: 0\n"
    assert run("tasks", "requeue", "--failed", "--limit", "1").output == "requeued: 1\n"
    assert run("tasks", "requeue", "--failed", "--intent", "REFUSE").output == "requeued: 1\n"
    for wrong in ([], ["t-1", "--failed"], ["t-1", "--intent", "REFUSE"]):
        assert "pass either a TASK, or --failed" in run("tasks", "requeue", *wrong).stderr


def test_tasks_are_cancelled_with_their_parts(run: Run, db: Database) -> None:
    parent = enqueue(db, "ECHO", task_id="parent")
    part = enqueue(db, "ECHO", parent_task_id=parent.id, priority=5)
    with db.begin() as uow:
        assert [one.id for one in uow.tasks.claim(worker="w")] == [part.id]
    assert run("tasks", "cancel", "parent").output == "cancelled: 1, workers asked to stop: 1\n"
    assert [status(db, parent), status(db, part)] == ["cancelled", "processing"]


def test_the_health_of_the_queue_is_an_exit_status_too(run: Run, db: Database) -> None:
    enqueue(db, "ECHO")
    well = run("tasks", "health", "--json")
    assert well.exit_code == 0
    assert json.loads(well.output)["ready"] == 1
    with db.begin() as uow:
        uow.tasks.claim(worker="gone", lease=0.001)
    time.sleep(0.05)
    ill = run("tasks", "health")
    assert ill.exit_code == 1
    assert "expired                       1" in ill.output


# schedule


def test_a_schedule_is_added_once_listed_paused_and_resumed(run: Run, db: Database) -> None:
    assert run("schedule", "list").output == "no scheduled tasks\n"
    arguments = (
        "schedule",
        "add",
        "nightly",
        "0 3 * * *",
        "--command",
        "SWEEP",
        "--timezone",
        "Europe/Prague",
        "--key",
        "k",
    )
    policies = ("--overlap", "skip", "--misfire", "all")
    added, again = run(*arguments, *policies), run(*arguments, *policies)
    assert added.exit_code == 0, added.output
    assert added.output.startswith("added ")
    assert again.output.startswith("unchanged ")
    assert run(*arguments, *policies, "--timeout", "9").output.startswith("updated ")
    listed = run("schedule", "list")
    assert "nightly" in listed.output
    (found,) = json.loads(run("schedule", "list", "--json").output)["tasks"]
    assert (found["command"], found["overlap_policy"], found["misfire_policy"]) == ("SWEEP", "skip", "all")
    assert run("schedule", "pause", "k").output == f"paused {found['id']}\n"
    assert json.loads(run("schedule", "list", "--json").output)["tasks"][0]["next_run_at"] is None
    assert run("schedule", "resume", str(found["id"])).output.startswith(
        f"resumed {found['id']}, next run: 2"
    )


def test_a_schedule_that_enqueues_is_added_triggered_and_deleted(run: Run, db: Database) -> None:
    add = ("schedule", "add", "nightly", "0 3 * * *", "--key", "k")
    for wrong in ((), ("--task", "A", "--command", "b"), ("--command", "b", "--content", "{}")):
        assert run(*add, *wrong).exit_code == 2
    assert "expected a JSON object" in run(*add, "--task", "A", "--content", "[1]").stderr
    assert run(*add, "--task", "SWEEP", "--content", '{"days": 7}', "--queue", "q").exit_code == 0
    done = run("schedule", "trigger", "k")
    assert done.output.startswith("triggered "), done.output
    with db.begin() as uow:
        (task,) = uow.tasks.list(queue="q").items
    assert (task.intent, task.content, str(task.id) in done.output) == ("SWEEP", {"days": 7}, True)
    (execution,) = json.loads(run("schedule", "history", "k", "--json").output)["executions"]
    assert (execution["status"], execution["enqueued_task_id"]) == ("completed", str(task.id))
    assert "completed" in run("schedule", "history", "k").output
    assert run("schedule", "delete", "k", "--yes").output.endswith(", executions: 1\n")
    assert run("schedule", "list").output == "no scheduled tasks\n"


def test_the_next_slots_are_those_of_a_task_or_of_an_expression(run: Run) -> None:
    run("schedule", "add", "nightly", "0 3 * * *", "--command", "SWEEP", "--key", "k")
    of_task = json.loads(run("schedule", "preview", "k", "--json").output)
    of_text = json.loads(run("schedule", "preview", "--cron", "0 3 * * *", "--json").output)
    assert of_task == of_text
    assert len(of_task) == 5
    assert all(slot.endswith("T03:00:00+00:00") for slot in of_task)
    local = run(
        "schedule", "preview", "--cron", "0 3 1 1 *", "--timezone", "Asia/Tokyo", "--count", "1"
    ).output
    assert local.endswith("-31 18:00:00+00:00\n")
    assert "pass either a TASK or --cron" in run("schedule", "preview").stderr


def test_a_schedule_that_cannot_be_is_one_line(run: Run) -> None:
    for arguments, reported in (
        (("add", "n", "61 * * * *", "--command", "C"), "61"),
        (("add", "n", "* * * * *", "--task", "C", "--timezone", "Nowhere/Land"), "Nowhere/Land"),
        (("pause", "nobody"), "scheduled task 'nobody': not found"),
    ):
        done = run("schedule", *arguments)
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("alfred-db: ")
        assert reported in done.stderr
