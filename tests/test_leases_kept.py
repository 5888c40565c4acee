"""A lease lasts as long as it was claimed for, whatever is called next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import URL, func, select, text

from alfred_db import Database, ScheduledExecution, WorkflowExecution
from alfred_db.repositories import UnitOfWork

LEASE = 5.0


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def seconds_left(uow: UnitOfWork, model: Any, id: Any) -> float:
    left: timedelta | None = uow.session.scalar(
        select(model.lease_expires_at - func.statement_timestamp()).where(model.id == id)
    )
    assert left is not None
    return left.total_seconds()


def test_tasks_of_different_leases_keep_their_own(db: Database) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "x"}] * 2)
        (short,), (long,) = (uow.tasks.claim(worker="w", lease=lease) for lease in (LEASE, 500.0))
        kept = uow.tasks.heartbeat_many([long, short])
        assert [task.lease for task in kept] == [500, LEASE]
        assert kept[0].lease_expires_at - kept[1].lease_expires_at > timedelta(seconds=400)


CALLS: dict[str, Callable[[UnitOfWork, Any], object]] = {
    "heartbeat": lambda uow, run: uow.workflows.heartbeat(run),
    "checkpoint": lambda uow, run: uow.workflows.checkpoint(run, "a", 1, seq=0),
    "replay": lambda uow, run: uow.workflows.replay(run, "a", seq=0),
    "wait_for": lambda uow, run: uow.workflows.wait_for(run, "came", step_key="a", seq=0),
}


@pytest.mark.parametrize("shortened", [False, True], ids=["fresh", "worn"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_workflows_keep_the_lease_of_the_claim(
    db: Database, call: Callable[[UnitOfWork, Any], object], shortened: bool
) -> None:
    with db.begin() as uow:
        workflow, _ = uow.workflows.define("w", {})
        uow.workflows.activate(workflow.id)
        execution, _ = uow.workflows.start("w")
        uow.workflows.deliver(execution.id, "came")
        (run,) = uow.workflows.claim("w", [workflow.id], lease=LEASE)
        if shortened:
            uow.session.execute(
                text("UPDATE workflow_executions SET lease_expires_at = now() + interval '1 second'")
            )
        call(uow, run)
        assert 0 < seconds_left(uow, WorkflowExecution, run.id) <= LEASE
        uow.workflows.heartbeat(run, lease=300)
        assert seconds_left(uow, WorkflowExecution, run.id) > 200
        uow.workflows.heartbeat(run)
        assert seconds_left(uow, WorkflowExecution, run.id) <= LEASE


def test_a_later_claim_has_its_own_lease(db: Database) -> None:
    with db.begin() as uow:
        workflow, _ = uow.workflows.define("w", {})
        uow.workflows.activate(workflow.id)
        uow.workflows.start("w")
        (run,) = uow.workflows.claim("w", [workflow.id], lease=LEASE)
        uow.workflows.release(run)
        (run,) = uow.workflows.claim("w", [workflow.id], lease=500)
        uow.workflows.heartbeat(run)
        assert seconds_left(uow, WorkflowExecution, run.id) > 400


@pytest.mark.parametrize("call", ["heartbeat", "start"])
def test_schedules_keep_the_lease_of_the_claim(db: Database, call: str) -> None:
    with db.begin() as uow:
        uow.scheduler.create("s", "x", "* * * * *")
        uow.session.execute(text("UPDATE scheduler_tasks SET next_run_at = now() - interval '1 minute'"))
        uow.scheduler.tick()
        (run,) = uow.scheduler.claim("w", lease=LEASE)
        if call == "start":
            uow.scheduler.start(run)
        else:
            uow.scheduler.heartbeat(run)
        assert 0 < seconds_left(uow, ScheduledExecution, run.id) <= LEASE
