"""Methods of several statements, where each statement commits by itself: they are one transaction all the same."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from injection.ground import Ground
from injection.specimens import SPECIMENS
from sqlalchemy import URL, text

from alfred_db import Database
from alfred_db.execution._sync import driver
from alfred_db.queries import workflow_steps, workflows
from alfred_db.repositories import UnitOfWork
from alfred_db.values.workflows import ClaimedWorkflow

Alone = Callable[[Callable[[UnitOfWork], None]], None]

HANGS = 60.0
"""After how many seconds a wait counts as failed."""


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def held(db: Database, name: str = "w", **options: Any) -> ClaimedWorkflow:
    """A claimed execution."""
    with db.begin() as uow:
        version = uow.workflows.define(name, {}, version=1)[0]
        uow.workflows.activate(version.id)
        uow.workflows.start(name, **options)
    with db.begin() as uow:
        return uow.workflows.claim("first", [version.id])[0]


def claimable(db: Database, execution: ClaimedWorkflow) -> bool:
    with db.begin() as uow:
        return bool(uow.workflows.claim("second", [execution.workflow_id]))


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, db: Database, name: str, work: Callable[[UnitOfWork], object]
) -> threading.Thread:
    """Have another connection do something just before the suspension that a statement of this name is.

    The suspension goes on once that has ended, or waits for the lock of the execution.
    """
    usual = getattr(workflow_steps, name)

    def other() -> None:
        with db.begin() as uow:
            work(uow)

    thread = threading.Thread(target=other)

    def before(*arguments: Any, **options: Any) -> Any:
        thread.start()
        end = time.monotonic() + HANGS
        while thread.is_alive() and not _waits_for_a_lock(db):
            assert time.monotonic() < end
            time.sleep(0.01)
        return usual(*arguments, **options)

    monkeypatch.setattr(workflow_steps, name, before)
    return thread


def _waits_for_a_lock(db: Database) -> bool:
    with db.session() as session:
        statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(session.scalar(text(statement)))


def test_an_event_that_comes_between_the_look_and_the_suspension_is_not_missed(
    db: Database, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = held(db)
    thread = meanwhile(monkeypatch, db, "wait", lambda uow: uow.workflows.deliver(execution.id, "paid", 7))

    def wait(uow: UnitOfWork) -> None:
        assert uow.workflows.wait_for(execution, "paid", step_key="paid", seq=0) is None

    alone(wait)
    thread.join(HANGS)
    assert claimable(db, execution)


def test_a_child_that_ends_between_the_look_and_the_suspension_is_not_missed(
    db: Database, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = held(db)
    child = held(db, "part", parent_id=parent.id)
    thread = meanwhile(monkeypatch, db, "waits_for_child", lambda uow: uow.workflows.complete(child, 7))

    def wait(uow: UnitOfWork) -> None:
        assert uow.workflows.wait_for_child(parent, child.id, step_key="part", seq=0) is None

    alone(wait)
    thread.join(HANGS)
    assert claimable(db, parent)


def test_an_event_is_stored_together_with_the_end_of_the_wait(
    db: Database, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a sender that is killed in between would leave a wait without end: the event is not stored twice."""
    execution = held(db)
    with db.begin() as uow:
        assert uow.workflows.wait_for(execution, "paid", step_key="paid", seq=0) is None

    def deliver(uow: UnitOfWork) -> None:
        assert uow.workflows.deliver(execution.id, "paid")

    killed_in(monkeypatch, workflow_steps, "wake", lambda: alone(deliver))
    assert not claimable(db, execution)
    alone(deliver)
    assert claimable(db, execution)


def test_a_fork_has_its_steps_from_the_beginning(
    db: Database, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker could claim it between the two, and run finished steps again."""
    execution = held(db)
    with db.begin() as uow:
        uow.workflows.checkpoint(execution, "one", 1, seq=0)
        uow.workflows.complete(execution)

    def fork(uow: UnitOfWork) -> None:
        uow.workflows.fork(execution.id, 1)

    killed_in(monkeypatch, workflows, "copy_steps", lambda: alone(fork))
    assert not claimable(db, execution)
    alone(fork)
    assert claimable(db, execution)


def test_steps_are_deleted_together_with_the_resumption(
    db: Database, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = held(db)
    with db.begin() as uow:
        uow.workflows.checkpoint(execution, "one", 1, seq=0)
        uow.workflows.fail(execution, "no", retry=False)

    def resume(uow: UnitOfWork) -> None:
        uow.workflows.resume(execution.id, from_seq=0)

    killed_in(monkeypatch, workflows, "resume", lambda: alone(resume))
    with db.begin() as uow:
        assert len(uow.workflows.steps(execution.id)) == 1
    alone(resume)
    with db.begin() as uow:
        assert len(uow.workflows.steps(execution.id)) == 0
    assert claimable(db, execution)


def killed_in(monkeypatch: pytest.MonkeyPatch, module: Any, statement: str, work: Callable[[], None]) -> None:
    """Do work that ends where this statement is built."""

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(module, statement, killed)
        with pytest.raises(Killed):
            work()


LEFT = {"documents.add, in a space", "documents.add_many, in a space"}
"""A space may be dropped between the lock and the insert of the vectors, which then fails and leaves a document without them."""

LOCKS = re.compile(r"\bFOR (NO KEY )?(UPDATE|SHARE)\b|\bFOR KEY SHARE\b|\bpg_advisory_xact_lock\b")
WRITES = re.compile(r"\b(INSERT INTO|UPDATE [\w.\"]+ SET|DELETE FROM)\b")


class Sent:
    """The statements that a method sends while it takes the connection to be in AUTOCOMMIT, but for those of `together`."""

    def __init__(self) -> None:
        self.locking: list[str] = []
        self.depth = 0
        self._refused = False

    def begin(self) -> None:
        """A method is called from now on."""
        self.locking.clear()
        self._refused = False

    def note(self, query: Any) -> None:
        statement = " ".join((query.decode() if isinstance(query, bytes) else str(query)).split())
        self._refused |= statement.startswith(
            "SAVEPOINT"
        )  # in AUTOCOMMIT the server would have ended the call
        if self.depth or self._refused:
            return
        if LOCKS.search(statement) and not WRITES.search(statement):
            self.locking.append(statement)

    def together(self, session: Any, work: Callable[[], Any], *, joins: bool = False) -> Any:
        self.depth += 1
        try:
            return work()
        finally:
            self.depth -= 1


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Has the library take transactions for AUTOCOMMIT."""
    found = Sent()
    usual: Any = psycopg.Cursor.execute

    def execute(cursor: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        found.note(query)
        return usual(cursor, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute)
    for name, module in list(sys.modules.items()):
        if name.startswith("alfred_db."):
            for attribute, instead in (("together", found.together), ("commits_alone", lambda _: True)):
                if getattr(module, attribute, None) is getattr(driver, attribute) and module is not driver:
                    monkeypatch.setattr(module, attribute, instead)
    monkeypatch.setattr(driver, "together", found.together)
    monkeypatch.setattr(driver, "commits_alone", lambda _: True)
    return found


def test_no_method_locks_a_row_by_a_transaction_that_ends_at_once(
    grounds: tuple[URL, dict[str | None, Ground]], sent: Sent
) -> None:
    """A lock that ends with its own statement holds nothing; a method that needs one begins a transaction."""
    url, ground = grounds
    wrong: dict[str, list[str]] = {}
    with Database(url) as db, db.session() as session:
        uow = UnitOfWork(session)
        for name, make in SPECIMENS.items():
            noun, _, method = name.partition(",")[0].partition(".")
            given = make(ground[None])
            savepoint = session.begin_nested()
            session.connection()
            sent.begin()
            with suppress(Exception):  # as of a method that needs a transaction of the caller's
                getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
            if sent.locking and name not in LEFT:
                wrong[name] = list(sent.locking)
            savepoint.rollback()
    assert not wrong, "\n".join(f"{name}: {found[0][:300]}" for name, found in wrong.items())
