"""What waits for work goes on in the transaction that ends it, also where each statement commits by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import URL, text

from alfred_db import Database, NewTask, TaskStatus
from alfred_db.errors import LeaseLost
from alfred_db.execution._sync import leases, settling
from alfred_db.execution._sync.driver import fetch
from alfred_db.queries import task_releases
from alfred_db.queries.shapes.driver_statement import DriverStatement
from alfred_db.repositories import UnitOfWork
from alfred_db.repositories._sync import tasks as task_repository
from alfred_db.repositories._sync import workflow_executions
from alfred_db.values.tasks import ClaimedTask, TaskBackoff

AT_ONCE = TaskBackoff(0, 0, 0)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def complete(uow: UnitOfWork, held: Sequence[ClaimedTask]) -> None:
    uow.tasks.complete(held[0])


def complete_many(uow: UnitOfWork, held: Sequence[ClaimedTask]) -> None:
    uow.tasks.complete_many(held)


def fail(uow: UnitOfWork, held: Sequence[ClaimedTask]) -> None:
    uow.tasks.fail(held[0], "no", retry=False)


def release(uow: UnitOfWork, held: Sequence[ClaimedTask]) -> None:
    uow.tasks.cancel(held[0].id)
    uow.tasks.release(held[0])


def reap(uow: UnitOfWork, held: Sequence[ClaimedTask]) -> None:
    uow.session.execute(
        text("UPDATE tasks SET lease_expires_at = now(), max_retries = 0 WHERE status = 'processing'")
    )
    uow.tasks.reap()


def cancel(uow: UnitOfWork, held: Sequence[ClaimedTask]) -> None:
    uow.tasks.release(held[0])
    uow.tasks.cancel(held[0].id)


End = Callable[[UnitOfWork, Sequence[ClaimedTask]], None]
ENDS: Sequence[End] = (complete, complete_many, fail, release, reap, cancel)


def batch(db: Database, intent: str = "part") -> list[ClaimedTask]:
    """One task of a batch, held; a dependent of it; and one behind it with the same key."""
    with db.begin() as uow:
        made = uow.tasks.batch([NewTask(intent=intent, ordering_key="k")], then=NewTask(intent="then"))
        uow.tasks.enqueue("after", after=[made.tasks[0]], after_failure="run")
        uow.tasks.enqueue("next", ordering_key="k")
    with db.begin() as uow:
        return uow.tasks.claim("w", limit=10, intents=[intent])


def released(db: Database) -> set[str]:
    """The intents of what can be claimed; it is claimed, to show that it comes once."""
    with db.begin() as uow:
        found = [one.intent for one in uow.tasks.claim("v", limit=100, intents=["then", "after", "next"])]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("end", ENDS)
def test_a_task_does_not_end_without_what_waits_for_it(
    db: Database,
    alone: Callable[[Callable[[UnitOfWork], None]], None],
    end: End,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = batch(db)

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        for module in (leases, task_repository):
            patched.setattr(module, "settle", killed)
        with pytest.raises(Killed):
            alone(lambda uow: end(uow, held))
    with db.begin() as uow:
        found = uow.tasks.get(held[0].id)
        assert found is not None
        assert found.status in (TaskStatus.PROCESSING, TaskStatus.PENDING)
    assert released(db) == set()

    def once_more(uow: UnitOfWork) -> None:
        (again,) = held
        if end is cancel:  # the first one has released it
            (again,) = uow.tasks.claim("w", limit=10, intents=["part"])
        end(uow, [again])

    alone(once_more)
    assert released(db) == {"then", "after", "next"}


@pytest.mark.parametrize("end", [complete, complete_many, fail])
def test_a_task_that_nothing_waits_for_ends_by_one_statement(
    db: Database, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that something waits for by few, once it is known that there are such."""
    sent: list[str] = []

    def counted(session: Any, statement: DriverStatement[Any], *arguments: Any, **options: Any) -> Any:
        sent.append(str(statement.built)[:20])
        return fetch(session, statement, *arguments, **options)

    def statements(count: int) -> list[int]:
        found: list[int] = []
        for _ in range(count):
            with db.begin() as uow:
                held = uow.tasks.claim("w", intents=["part", "lone"])
            sent.clear()
            with db.autocommit() as uow:
                end(uow, held)
            found.append(len(sent))
        return found

    for module in (leases, settling):
        monkeypatch.setattr(module, "fetch", counted)
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "lone"}] * 3)
    assert statements(3) == [1, 1, 1]
    with db.begin() as uow:
        uow.tasks.batch([NewTask(intent="part")] * 3, then=NewTask(intent="then"))
    assert max(statements(3)[1:]) <= 2  # the end, and what it releases
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "lone"}] * 3)
    assert statements(3) == [1, 1, 1]
    assert released(db) == {"then"}


@pytest.mark.parametrize("kept", ["edge", "turn"])
def test_a_part_releases_also_what_is_not_its_batch(db: Database, kept: str) -> None:
    """Once the ends of parts are known to release nothing but their batch."""
    key = "k" if kept == "turn" else None
    with db.begin() as uow:
        made = uow.tasks.batch(
            [*[NewTask(intent="part")] * 4, NewTask(intent="odd", ordering_key=key)],
            then=NewTask(intent="then"),
        )
        if kept == "edge":
            uow.tasks.enqueue("after", after=[made.tasks[4]])
        else:
            uow.tasks.enqueue("next", ordering_key="k")
    for intent in ["part"] * 3 + ["odd"]:
        with db.autocommit() as uow:
            (held,) = uow.tasks.claim("w", intents=[intent])
            assert uow.tasks.complete(held)
            assert not uow.tasks.complete(held)
    assert released(db) == {"after" if kept == "edge" else "next"}
    with db.autocommit() as uow:
        (held,) = uow.tasks.claim("w", intents=["part"])
        assert uow.tasks.complete(held)
    assert released(db) == {"then"}


@pytest.mark.parametrize("kind", ["key", "batch"])
def test_what_releases_one_task_is_ended_by_the_short_statement(
    db: Database, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third on: the first shows that something waits, the second that it is one task."""
    sent: list[Any] = []

    def noted(session: Any, statement: DriverStatement[Any], *arguments: Any, **options: Any) -> Any:
        sent.append(statement)
        return fetch(session, statement, *arguments, **options)

    for module in (leases, settling):
        monkeypatch.setattr(module, "fetch", noted)
    with db.begin() as uow:
        if kind == "key":
            uow.tasks.enqueue_many([NewTask(intent="part", ordering_key="k")] * 6)
        else:
            uow.tasks.batch([NewTask(intent="part")] * 5, then=NewTask(intent="then"))
    for number in range(5):
        with db.autocommit() as uow:
            (held,) = uow.tasks.claim("w", intents=["part"])
            sent.clear()
            assert uow.tasks.complete(held)
        if number >= 2:
            assert sent == [task_releases.complete_followed()]
    with db.begin() as uow:
        (last,) = uow.tasks.claim("w")
        assert last.intent == ("part" if kind == "key" else "then")


def test_the_next_of_a_key_keeps_what_else_it_waits_for(db: Database) -> None:
    """Once the ends of tasks are known to release one: those behind wait for a task, for a time, or not any more."""
    with db.begin() as uow:
        uow.tasks.enqueue("other", task_id="other")
        for name in "abc":
            uow.tasks.enqueue("part", task_id=name, ordering_key="k")
        uow.tasks.enqueue("part", task_id="after", ordering_key="k", after=["other"])
        uow.tasks.enqueue("part", task_id="late", ordering_key="k", delay=3600)
        gone, _ = uow.tasks.enqueue("part", task_id="gone", ordering_key="k")
        uow.tasks.enqueue("part", task_id="last", ordering_key="k")
        uow.tasks.cancel(gone.id)

    def ends(*names: str) -> None:
        for name in names:
            with db.autocommit() as uow:
                (held,) = uow.tasks.claim("w", limit=10, intents=["part"])
                assert held.task_id == name
                assert uow.tasks.complete(held)
                assert not uow.tasks.complete(held)

    def opened(name: str) -> tuple[bool, int]:
        with db.begin() as uow:
            assert uow.tasks.claim("w", intents=["part"]) == []
            found = uow.tasks.get_by_task_id(name)
            assert found is not None
            return found.awaits_turn, found.waits_for

    ends("a", "b", "c")
    assert opened("after") == (False, 1)
    with db.autocommit() as uow:
        uow.tasks.complete(uow.tasks.claim("w", intents=["other"])[0])
    ends("after")
    assert opened("late") == (False, 0)
    with db.autocommit() as uow:
        uow.session.execute(text("UPDATE tasks SET available_at = created_at WHERE task_id = 'late'"))
    ends("late", "last")
    with db.begin() as uow:
        last = uow.tasks.get_by_task_id("last")
        assert last is not None
        assert last.awaited_by == 0, "nothing waited behind it"


def test_a_turn_is_passed_on_over_a_task_that_is_cancelled_meanwhile(db: Database) -> None:
    """The statement that completes a task sees the next one, and waits for the transaction that cancels it."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with db.begin() as uow:
        uow.tasks.enqueue_many([NewTask(intent="x", task_id=name, ordering_key="k") for name in "abcde"])
    for name in "ab":
        with db.autocommit() as uow:
            (held,) = uow.tasks.claim("w")
            assert held.task_id == name
            uow.tasks.complete(held)
    with db.autocommit() as uow:
        (third,) = uow.tasks.claim("w")
        fourth = uow.tasks.get_by_task_id("d")
        assert fourth is not None
    with ThreadPoolExecutor(1) as pool:
        with db.begin() as uow:
            uow.tasks.cancel(fourth.id)
            done = pool.submit(complete_alone, db, third)
            until = time.monotonic() + 30
            while not done.done():
                with db.autocommit() as other:
                    if other.session.scalar(waiting):
                        break
                assert time.monotonic() < until
            assert not done.done()
        assert done.result(30)
    with db.begin() as uow:
        assert [one.task_id for one in uow.tasks.claim("w", limit=10)] == ["e"]


def complete_alone(db: Database, held: ClaimedTask) -> bool:
    with db.autocommit() as uow:
        return uow.tasks.complete(held)


def test_a_lost_lease_and_a_repeated_end_differ_in_autocommit(db: Database) -> None:
    (held,) = batch(db)
    with db.autocommit() as uow:
        assert uow.tasks.complete(held)
        assert not uow.tasks.complete(held)
        assert uow.tasks.complete_many([held]) == []
        stale = held._replace(lease_token=held.id)
        for end in (uow.tasks.complete, lambda one: uow.tasks.complete_many([one])):
            with pytest.raises(LeaseLost):
                end(stale)
        assert uow.tasks.get(held.id) is not None  # the session goes on
    assert released(db) == {"then", "after", "next"}


SCRIPT = """
import os, signal, sys
from alfred_db import Database
from alfred_db.execution._sync import leases

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

with Database(sys.argv[1]) as db:
    with db.begin() as uow:
        held = uow.tasks.claim("killed", limit=10, intents=["part"])
    assert len(held) == 2
    leases.settle = killed
    with db.autocommit() as uow:
        uow.tasks.complete_many(held)
"""


def test_a_process_that_is_killed_while_it_ends_tasks_leaves_nothing_waiting(db: Database) -> None:
    """SIGKILL comes between the statement that ends the tasks and the one that releases what waits for them."""
    with db.begin() as uow:
        made = uow.tasks.batch([NewTask(intent="part")] * 2, then=NewTask(intent="then"))
    url = db.url.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-c", SCRIPT, url], timeout=120, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    with db.autocommit() as uow:
        uow.session.execute(text("UPDATE tasks SET lease_expires_at = now() WHERE status = 'processing'"))
        uow.tasks.reap(backoff=AT_ONCE)
        left = uow.tasks.claim("w", limit=10, intents=["part"])
        assert {one.id for one in left} == set(made.tasks)
        assert released(db) == set()
        uow.tasks.complete_many(left)
    assert released(db) == {"then"}
    assert released(db) == set()


@pytest.mark.parametrize("end", ["complete", "fail", "release", "reap", "cancel"])
def test_a_child_does_not_end_without_the_execution_that_waits_for_it(
    db: Database, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.begin() as uow:
        whole, part = (uow.workflows.define(name, {})[0] for name in ("whole", "part"))
        for one in (whole, part):
            uow.workflows.activate(one.id)
        parent, _ = uow.workflows.start("whole")
        child, _ = uow.workflows.start("part", parent_id=parent.id, max_retries=0)
    with db.autocommit() as uow:
        (outer,) = uow.workflows.claim("w", [whole.id])
        assert uow.workflows.wait_for_child(outer, child.id, step_key="part", seq=0) is None
        (held,) = uow.workflows.claim("w", [part.id])

    def work() -> None:
        with db.autocommit() as uow:
            if end == "complete":
                uow.workflows.complete(held)
            elif end == "fail":
                uow.workflows.fail(held, "no", retry=False)
            elif end == "release":
                uow.workflows.cancel(child.id)
                assert uow.workflows.release(held) == "cancelled"
            elif end == "reap":
                uow.session.execute(
                    text("UPDATE workflow_executions SET lease_expires_at = now() WHERE status = 'running'")
                )
                uow.workflows.reap()
            else:
                uow.workflows.release(held)
                uow.workflows.cancel(child.id)

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(workflow_executions.WorkflowExecutions, "_resume_parent", killed)
        # A reap is one statement: the process is killed before it, or after it.
        patched.setattr(workflow_executions.queries, "reap", killed)
        patched.setattr(workflow_executions.steps, "wake_parents", killed)
        with pytest.raises(Killed):
            work()
    with db.begin() as uow:
        found = uow.workflows.get_execution(child.id)
        assert found is not None
        assert found.status in ("running", "pending")
        assert uow.workflows.claim("v", [whole.id]) == []
    if end == "cancel":
        with db.begin() as uow:
            (held,) = uow.workflows.claim("w", [part.id])
    work()
    with db.begin() as uow:
        assert [one.id for one in uow.workflows.claim("v", [whole.id])] == [parent.id]
