"""Trees of tasks and of executions: what is cancelled takes no more children, and what is over goes as a whole."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import URL, func, select, text, update

from alfred_db import Database, NewTask, Task, TaskStatus, WorkflowExecution
from alfred_db.errors import InvalidTransition
from alfred_db.repositories import UnitOfWork


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=10) as database:
        yield database


def _one(uow: UnitOfWork, parent: uuid.UUID) -> None:
    uow.tasks.enqueue("child", parent_task_id=parent)


def _many(uow: UnitOfWork, parent: uuid.UUID) -> None:
    uow.tasks.enqueue_many([{"intent": "child"}, {"intent": "child", "parent_task_id": parent}])


def _by_copy(uow: UnitOfWork, parent: uuid.UUID) -> None:
    child: NewTask = {"intent": "child", "parent_task_id": parent}
    uow.tasks.enqueue_many([NewTask(intent="child")] * 1000 + [child])


Door = Callable[[UnitOfWork, uuid.UUID], None]
DOORS = pytest.mark.parametrize("door", [_one, _many, _by_copy], ids=["enqueue", "enqueue_many", "copy"])


def family(db: Database) -> tuple[uuid.UUID, uuid.UUID, uuid.UUID]:
    """A task that waits, one that runs, and one that is completed as a part of the one that runs."""
    with db.begin() as uow:
        running, _ = uow.tasks.enqueue("running", priority=5)
        uow.tasks.claim(worker="w", intents=["running"])
        done, _ = uow.tasks.enqueue("done", parent_task_id=running.id)
        uow.tasks.complete(uow.tasks.claim(worker="w", intents=["done"])[0])
        waiting, _ = uow.tasks.enqueue("waiting")
        return waiting.id, running.id, done.id


@DOORS
def test_what_is_cancelled_takes_no_children(db: Database, door: Door) -> None:
    waiting, running, done = family(db)
    for parent in (waiting, running, done):
        with db.begin() as uow:
            door(uow, parent)
    with db.begin() as uow:
        uow.tasks.cancel(waiting)
        uow.tasks.cancel(running)
        known = uow.tasks.count()
    for parent in (waiting, running, done):
        with pytest.raises(InvalidTransition, match=f"task {parent}: is cancelled"), db.begin() as uow:
            door(uow, parent)
    with db.begin() as uow:
        assert uow.tasks.count() == known
        uow.tasks.requeue(waiting)
        door(uow, waiting)


def test_a_repeated_enqueue_returns_the_existing_task(db: Database) -> None:
    waiting, _, _ = family(db)
    with db.begin() as uow:
        child, _ = uow.tasks.enqueue("x", task_id="child", parent_task_id=waiting)
        uow.tasks.cancel(waiting)
        assert uow.tasks.enqueue("x", task_id="child", parent_task_id=waiting) == (child, False)
        again: NewTask = {"intent": "x", "task_id": "child", "parent_task_id": waiting}
        assert uow.tasks.enqueue_many([again, {"intent": "y"}])[0] == (child.id, False)
        assert uow.tasks.enqueue_many([again]) == [(child.id, False)]


@DOORS
@pytest.mark.parametrize("which", [0, 1, 2], ids=["waiting", "running", "done"])
@pytest.mark.parametrize("first", ["cancel", "enqueue"])
def test_no_child_escapes_when_both_race(db: Database, door: Door, which: int, first: str) -> None:
    parents = family(db)
    parent, cancelled = parents[which], parents[min(which, 1)]

    def enqueue() -> bool:
        try:
            with db.begin() as uow:
                door(uow, parent)
        except InvalidTransition:
            return False
        return True

    def cancel() -> None:
        with db.begin() as uow:
            uow.tasks.cancel(cancelled)

    with ThreadPoolExecutor(1) as pool, db.session() as session:
        uow = UnitOfWork(session)
        if first == "cancel":
            uow.tasks.cancel(cancelled)
            other = pool.submit(enqueue)
        else:
            door(uow, parent)
            other = pool.submit(cancel)  # type: ignore[arg-type]
        time.sleep(0.2)
        assert not other.done(), "the later one waits for the earlier"
        session.commit()
        assert other.result(60) is (False if first == "cancel" else None)
    with db.begin() as uow:
        left = uow.session.scalar(
            select(func.count()).where(Task.parent_task_id.is_not(None), Task.status == TaskStatus.PENDING)
        )
        assert left == 0


def test_children_come_and_go_while_their_parent_is_cancelled(db: Database) -> None:
    for _ in range(5):
        with db.begin() as uow:
            parent, _ = uow.tasks.enqueue("parent")
            id = parent.id
        refused = threading.Event()

        def enqueue(id: uuid.UUID = id, refused: threading.Event = refused) -> None:
            while not refused.is_set():
                try:
                    with db.begin() as uow:
                        child, _ = uow.tasks.enqueue("child", parent_task_id=id)
                        uow.tasks.enqueue("grandchild", parent_task_id=child.id)
                except InvalidTransition:
                    refused.set()

        with ThreadPoolExecutor(3) as pool:
            working = [pool.submit(enqueue) for _ in range(3)]
            time.sleep(0.1)
            with db.begin() as uow:
                uow.tasks.cancel(id)
            for one in working:
                one.result(60)
        with db.begin() as uow:
            assert uow.tasks.count(status=TaskStatus.PENDING) == 0


def test_a_child_in_the_making_holds_up_neither_claim_nor_heartbeat_of_its_parent(db: Database) -> None:
    waiting, _, _ = family(db)
    with db.session() as session, db.begin() as uow:
        UnitOfWork(session).tasks.enqueue("child", parent_task_id=waiting)
        (held,) = uow.tasks.claim(worker="w", intents=["waiting"])
        assert uow.tasks.heartbeat(held, lease=300).lease_expires_at > held.lease_expires_at
        uow.tasks.complete(held)
        session.rollback()


def test_a_dying_task_does_not_swallow_another_of_its_dedupe_key(db: Database) -> None:
    with db.begin() as uow:
        dying, _ = uow.tasks.enqueue("x", {"n": 1}, dedupe_key="k")
        (held,) = uow.tasks.claim(worker="w")
        uow.tasks.cancel(dying.id)
        new, created = uow.tasks.enqueue("x", {"n": 2}, dedupe_key="k")
        assert created
        assert (new.content, new.status) == ({"n": 2}, TaskStatus.PENDING)
        assert uow.tasks.enqueue("x", {"n": 3}, dedupe_key="k") == (new, False)
        assert uow.tasks.enqueue_many([{"intent": "x", "dedupe_key": "k"}]) == [(new.id, False)]
        assert uow.tasks.fail(held, "stopped") is TaskStatus.CANCELLED
        many: list[NewTask] = [{"intent": "x", "dedupe_key": "m"}, *[NewTask(intent="y")] * 1000]
        uow.tasks.enqueue_many(many[:1])
        (again,) = [task for task in uow.tasks.claim(worker="w", limit=9) if task.id != new.id]
        uow.tasks.cancel(again.id)
        assert all(created for _, created in uow.tasks.enqueue_many(many))


def aged(db: Database) -> None:
    with db.session() as session:
        session.execute(
            text("UPDATE tasks SET status = 'completed', completed_at = now() - interval '1 day'")
        )
        session.commit()


def purged(db: Database, limit: int) -> list[int]:
    """As the documentation has it: until there are less than the limit."""
    numbers: list[int] = []
    while not numbers or numbers[-1] == limit:
        with db.begin() as uow:
            numbers.append(uow.tasks.purge(older_than=3600, limit=limit))
    return numbers


@pytest.mark.parametrize(("length", "limit"), [(3001, 1000), (7, 3), (6, 3), (5, 10)])
def test_a_chain_goes_as_a_whole(db: Database, length: int, limit: int) -> None:
    with db.begin() as uow:
        ids = [id for id, _ in uow.tasks.enqueue_many([NewTask(intent="x")] * length)]
        uow.session.execute(
            text(
                "UPDATE tasks SET parent_task_id = parent FROM unnest(:ids, :parents) AS given (child, parent)"
                " WHERE id = child"
            ),
            {"ids": ids[1:], "parents": ids[:-1]},
        )
    aged(db)
    full, rest = divmod(length, limit)
    assert purged(db, limit) == [limit] * full + [rest]
    with db.begin() as uow:
        assert uow.tasks.count() == 0


def test_of_a_tree_goes_what_nothing_that_stays_refers_to(db: Database) -> None:
    parents = [None, 0, 0, 1, 1, 2, 2, 3, None, 8, 8]
    with db.begin() as uow:
        ids: list[uuid.UUID] = []
        for parent in parents:
            task, _ = uow.tasks.enqueue("x", parent_task_id=None if parent is None else ids[parent])
            ids.append(task.id)
    aged(db)
    alive = update(Task).where(Task.id == ids[5]).values(status=TaskStatus.PENDING, completed_at=None)
    with db.begin() as uow:
        uow.session.execute(alive)
    with db.session() as session:
        session.execute(select(Task.id).where(Task.id == ids[9]).with_for_update())
        for limit in (3, 100):
            purged(db, limit)
        with db.begin() as uow:
            left = {task.id for task in uow.tasks.list().items}
        assert left == {ids[place] for place in (0, 2, 5, 8, 9)}, "beside what is live, and what is locked"
        session.rollback()
    with db.begin() as uow:
        assert uow.tasks.purge(older_than=3600) == 2
        uow.tasks.cancel(ids[5])
        assert uow.tasks.purge(older_than=0) == 3


def test_a_wide_tree_is_deleted_in_full_batches(db: Database) -> None:
    with db.begin() as uow:
        root, _ = uow.tasks.enqueue("root")
        uow.tasks.enqueue_many([{"intent": "x", "parent_task_id": root.id}] * 25)
        uow.tasks.enqueue("other", queue="other")
    aged(db)
    with db.begin() as uow:
        assert uow.tasks.purge(older_than=3600, queue="other") == 1
    assert purged(db, 10) == [10, 10, 6]


def test_executions_of_workflows_go_with_their_children_and_forks(db: Database) -> None:
    with db.begin() as uow:
        workflow, _ = uow.workflows.define("w", {})
        uow.workflows.activate(workflow.id)
        parent: int | None = None
        for number in range(30):
            execution, _ = uow.workflows.start("w", parent_id=parent)
            parent = execution.id
            if number % 10 == 0:
                uow.workflows.fork(execution.id, 0)
        uow.session.execute(
            update(WorkflowExecution).values(
                status="completed", completed_at=func.now() - text("interval '1 day'")
            )
        )
    numbers: list[int] = []
    while not numbers or numbers[-1] == 10:
        with db.begin() as uow:
            numbers.append(uow.workflows.purge(older_than=3600, limit=10))
    assert numbers == [10, 10, 10, 3]
