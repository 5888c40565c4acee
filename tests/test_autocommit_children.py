"""Children of what is cancelled, where each statement is a transaction of its own: no lock outlasts a statement."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import URL, Engine, func, select, text
from sqlalchemy.orm import Session

from alfred_db import Database, NewTask, Task, TaskStatus, WorkflowExecution, WorkflowExecutionStatus
from alfred_db.errors import InvalidTransition
from alfred_db.repositories import UnitOfWork

Door = Callable[[UnitOfWork, uuid.UUID], object]


def one(uow: UnitOfWork, parent: uuid.UUID) -> object:
    return uow.tasks.enqueue("child", parent_task_id=parent)


def many(uow: UnitOfWork, parent: uuid.UUID) -> object:
    return uow.tasks.enqueue_many([{"intent": "child"}, {"intent": "child", "parent_task_id": parent}])


def copied(uow: UnitOfWork, parent: uuid.UUID) -> object:
    child: NewTask = {"intent": "child", "parent_task_id": parent}
    return uow.tasks.enqueue_many([NewTask(intent="child")] * 1000 + [child])


DOORS = pytest.mark.parametrize("door", [one, many, copied], ids=["enqueue", "enqueue_many", "over 1000"])


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=10) as database:
        yield database


@pytest.fixture
def engine(db: Database) -> Engine:
    return db.engine.execution_options(isolation_level="AUTOCOMMIT")


def waiting_for_a_lock(db: Database, number: int = 1) -> None:
    """Wait until so many sessions wait for others' locks."""
    until = time.monotonic() + 60
    statement = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    while time.monotonic() < until:
        with db.begin() as uow:
            if (uow.session.scalar(statement) or 0) >= number:
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


@DOORS
def test_a_parent_that_is_cancelled_between_check_and_insert_takes_no_child(
    db: Database, engine: Engine, door: Door
) -> None:
    """The insert is held up by a lock on the table, while the parent is cancelled."""
    with db.begin() as uow:
        parent, _ = uow.tasks.enqueue("parent")
        id = parent.id

    def enqueue() -> bool:
        try:
            with Session(engine) as session:
                door(UnitOfWork(session), id)
        except InvalidTransition:
            return False
        return True

    with ThreadPoolExecutor(1) as pool, db.session() as blocker:
        # SHARE ROW EXCLUSIVE lets rows be locked and read, and nothing be written by others.
        blocker.execute(text("LOCK TABLE tasks IN SHARE ROW EXCLUSIVE MODE"))
        other = pool.submit(enqueue)
        waiting_for_a_lock(db)
        UnitOfWork(blocker).tasks.cancel(id)
        blocker.commit()
        assert other.result(60) is False
    with db.begin() as uow:
        assert uow.tasks.count() == 1, "nothing of the call is left"


@DOORS
def test_no_child_escapes_a_cancel_that_comes_at_any_moment(db: Database, engine: Engine, door: Door) -> None:
    rounds = 12 if door is not copied else 4
    for number in range(rounds):
        with db.begin() as uow:
            parent, _ = uow.tasks.enqueue("parent")
            id = parent.id
        begin = threading.Barrier(4)

        def enqueue(id: uuid.UUID = id, begin: threading.Barrier = begin) -> None:
            begin.wait(60)
            try:
                while True:
                    with Session(engine) as session:
                        door(UnitOfWork(session), id)
            except InvalidTransition:
                return

        with ThreadPoolExecutor(3) as pool, Session(engine) as session:
            working = [pool.submit(enqueue) for _ in range(3)]
            begin.wait(60)
            time.sleep(0.003 * number)
            UnitOfWork(session).tasks.cancel(id)
            for thread in working:
                thread.result(60)
        with db.begin() as uow:
            left = select(func.count()).where(Task.parent_task_id == id, Task.status == TaskStatus.PENDING)
            assert uow.session.scalar(left) == 0


@DOORS
def test_a_known_child_is_returned_and_a_missing_parent_named(
    db: Database, engine: Engine, door: Door
) -> None:
    with db.begin() as uow:
        parent, _ = uow.tasks.enqueue("parent")
        child, _ = uow.tasks.enqueue("child", task_id="child", parent_task_id=parent.id)
        ids = parent.id, child.id
        uow.tasks.cancel(parent.id)
    with Session(engine) as session:
        uow = UnitOfWork(session)
        found, created = uow.tasks.enqueue("child", task_id="child", parent_task_id=ids[0])
        assert (found.id, created) == (ids[1], False)
        again: NewTask = {"intent": "child", "task_id": "child", "parent_task_id": ids[0]}
        (known, other) = uow.tasks.enqueue_many([again, {"intent": "other"}])
        assert (known, other[1]) == ((ids[1], False), True)
        with pytest.raises(Exception, match="fk_tasks_parent_task_id"):
            door(uow, uuid.uuid4())


def test_no_execution_escapes_a_cancel(db: Database, engine: Engine) -> None:
    """The cancel has looked for parts, and then waits for the lock of one; another is started meanwhile."""
    with db.begin() as uow:
        workflow, _ = uow.workflows.define("w", {})
        uow.workflows.activate(workflow.id)
        root = uow.workflows.start("w")[0].id
        part = uow.workflows.start("w", parent_id=root)[0].id

    def cancel() -> None:
        with Session(engine) as session:
            UnitOfWork(session).workflows.cancel(root)

    with ThreadPoolExecutor(1) as pool, db.session() as blocker:
        blocker.execute(select(WorkflowExecution.id).where(WorkflowExecution.id == part).with_for_update())
        other = pool.submit(cancel)  # it locks the root and waits for the part, in one transaction
        waiting_for_a_lock(db)
        UnitOfWork(blocker).workflows.start("w", parent_id=part)
        blocker.commit()
        other.result(60)
    with db.begin() as uow:
        statuses = uow.session.scalars(select(WorkflowExecution.status)).all()
        assert set(statuses) == {WorkflowExecutionStatus.CANCELLED}
        assert len(statuses) == 3
