"""Callers of workflows that really act at the same time: what one does, the other sees, or the first sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import pytest
from sqlalchemy import URL

from alfred_db import Database, WorkflowExecutionStatus, WorkflowStatus
from alfred_db.errors import InvalidTransition, LeaseLost
from alfred_db.repositories._sync.workflows import WorkflowRepository
from alfred_db.values.workflows import ClaimedWorkflow

T = TypeVar("T")
ROUNDS = 25
CANCELLED = WorkflowExecutionStatus.CANCELLED


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=20) as database:
        yield database


@pytest.fixture
def workflow_id(db: Database) -> int:
    return call(db, lambda workflows: workflows.activate(workflows.define("w", {})[0].id)).id


def call(db: Database, work: Callable[[WorkflowRepository], T]) -> T:
    """Work in a transaction of its own."""
    with db.begin() as uow:
        return work(WorkflowRepository(uow.session))


def together(db: Database, *works: Callable[[WorkflowRepository], T]) -> list[Future[T]]:
    """Each in a transaction and a thread of its own, from the same moment."""
    barrier = Barrier(len(works))

    def begin(work: Callable[[WorkflowRepository], T]) -> T:
        with db.begin() as uow:
            uow.session.connection()
            barrier.wait()
            return work(WorkflowRepository(uow.session))

    with ThreadPoolExecutor(len(works)) as pool:
        return [pool.submit(begin, work) for work in works]


def start(db: Database, parent_id: int | None = None) -> int:
    return call(db, lambda workflows: workflows.start("w", parent_id=parent_id)[0].id)


def claim(db: Database, workflow_id: int) -> ClaimedWorkflow | None:
    found = call(db, lambda workflows: workflows.claim("w", [workflow_id]))
    return found[0] if found else None


def test_an_event_and_its_wait_do_not_miss_each_other(db: Database, workflow_id: int) -> None:
    outcomes: set[str] = set()
    for _ in range(ROUNDS):
        start(db)
        held = claim(db, workflow_id)
        assert held is not None
        waited, delivered = together(
            db,
            lambda workflows, held=held: workflows.wait_for(held, "paid", step_key="wait", seq=0),
            lambda workflows, held=held: workflows.deliver(held.id, "paid", 1),
        )
        assert delivered.result() is True
        outcome = "came" if waited.result() is not None else "woken"
        outcomes.add(outcome)
        if outcome == "woken":
            held = claim(db, workflow_id)
            assert held is not None
            result = call(
                db, lambda workflows, held=held: workflows.wait_for(held, "paid", step_key="wait", seq=0)
            )
            assert result is not None
            assert result.payload == 1
        call(db, lambda workflows, held=held: workflows.complete(held))
    assert outcomes <= {"came", "woken"}


def test_a_cancellation_and_a_new_child_do_not_miss_each_other(db: Database, workflow_id: int) -> None:
    for _ in range(ROUNDS):
        parent = start(db)
        started, _ = together(
            db,
            lambda workflows, parent=parent: workflows.start("w", parent_id=parent)[0].id,
            lambda workflows, parent=parent: len(workflows.cancel(parent)),
        )
        children = call(db, lambda workflows, parent=parent: workflows.children(parent))
        if started.exception() is None:
            assert [(child.id, child.status) for child in children] == [(started.result(), CANCELLED)]
        else:
            assert isinstance(started.exception(), InvalidTransition)
            assert len(children) == 0


def test_cancellations_of_one_family_do_not_block_each_other(db: Database, workflow_id: int) -> None:
    for _ in range(ROUNDS):
        root = start(db)
        middle = [start(db, root) for _ in range(3)]
        leaves = [start(db, parent) for parent in middle]
        done = together(
            db,
            *(
                lambda workflows, of=of: workflows.cancel(of)
                for of in (leaves[2], middle[1], root, middle[2])
            ),
        )
        assert [future.exception() for future in done] == [None] * 4
        with db.begin() as uow:
            workflows = WorkflowRepository(uow.session)
            found = [workflows.get_execution(of) for of in (root, *middle, *leaves)]
            assert {execution.status for execution in found if execution} == {CANCELLED}


def test_a_step_is_not_stored_when_its_execution_was_just_released(db: Database, workflow_id: int) -> None:
    start(db)
    held = claim(db, workflow_id)
    assert held is not None
    with db.session() as session, ThreadPoolExecutor(1) as pool:
        WorkflowRepository(session).release(held)
        step = pool.submit(call, db, lambda workflows: workflows.checkpoint(held, "a", 1, seq=0))
        time.sleep(0.3)
        assert not step.done()
        session.commit()
        assert isinstance(step.exception(timeout=60), LeaseLost)
    assert len(call(db, lambda workflows: workflows.steps(held.id))) == 0


def test_one_key_starts_one_execution(db: Database, workflow_id: int) -> None:
    done = together(db, *[lambda workflows: workflows.start("w", idempotency_key="k")] * 12)
    found = [future.result() for future in done]
    assert len({execution.id for execution, _ in found}) == 1
    assert sum(created for _, created in found) == 1


def test_a_start_that_is_rolled_back_leaves_the_key_to_the_next(db: Database, workflow_id: int) -> None:
    with db.session() as session, ThreadPoolExecutor(1) as pool:
        first = WorkflowRepository(session).start("w", idempotency_key="k")[0].id
        second = pool.submit(call, db, lambda workflows: workflows.start("w", idempotency_key="k"))
        time.sleep(0.3)
        assert not second.done()
        session.rollback()
        execution, created = second.result(timeout=60)
        assert created
        assert execution.id != first


def test_versions_that_are_defined_at_once_are_numbered_apart(db: Database) -> None:
    done = together(db, *[lambda workflows: workflows.define("v", {})[0].version] * 8)
    assert sorted(future.result() or 0 for future in done) == list(range(1, 9))


def test_of_versions_that_are_activated_at_once_one_is_active(db: Database) -> None:
    ids = [call(db, lambda workflows: workflows.define("v", {}))[0].id for _ in range(4)]
    for _ in range(ROUNDS):
        together(db, *(lambda workflows, of=of: workflows.activate(of) for of in ids))
        statuses = [found.status for found in call(db, lambda workflows: workflows.versions("v"))]
        assert statuses.count(WorkflowStatus.ACTIVE) == 1


def test_workers_run_each_execution_once(db: Database, workflow_id: int) -> None:
    started = [start(db) for _ in range(60)]

    def run(_: int) -> list[int]:
        ran: list[int] = []
        while (held := claim(db, workflow_id)) is not None:
            call(db, lambda workflows, held=held: workflows.checkpoint(held, "a", 1, seq=0))
            call(db, lambda workflows, held=held: workflows.complete(held))
            ran.append(held.id)
        return ran

    with ThreadPoolExecutor(4) as pool:
        ran = [number for found in pool.map(run, range(4)) for number in found]
    assert sorted(ran) == started
