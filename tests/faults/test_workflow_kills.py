"""Runners of workflows that are killed in every step, as processes."""

from __future__ import annotations

import signal
from collections import Counter

from sqlalchemy import func, text, update

from alfred_db import Database, WorkflowExecution, WorkflowExecutionStatus

from .processes import Server, process

STEPS = ["fetch", "report"]


def test_no_finished_step_runs_again_whenever_its_runner_is_killed(
    own_server: Server, database: str, db: Database
) -> None:
    with db.begin() as uow:
        workflow_id = uow.workflows.activate(uow.workflows.define("w", {"steps": STEPS})[0].id).id
        execution, _ = uow.workflows.start("w", max_retries=3)
    url = own_server.url(database)
    settings = {"workflow_id": workflow_id, "steps": STEPS}
    points = ("begun", "before commit", "after commit")
    for seq in range(len(STEPS)):
        for at in points:
            with process("runner.py", url=url, **settings, seq=seq, at=at) as runner:
                assert runner.finish() == -signal.SIGKILL
            with db.begin() as uow:  # a minute later
                uow.session.execute(
                    update(WorkflowExecution).values(lease_expires_at=func.now() - text("interval '1 s'"))
                )
                assert uow.workflows.reap() == {execution.id: WorkflowExecutionStatus.PENDING}
                uow.session.execute(update(WorkflowExecution).values(available_at=func.now()))
    with process("runner.py", url=url, **settings) as runner:
        assert runner.finish() == 0
        runner.wait_for("completed 1")
    with db.begin() as uow:
        steps = uow.workflows.steps(execution.id)
        found = uow.workflows.get_execution(execution.id)
        assert found is not None
        assert found.status is WorkflowExecutionStatus.COMPLETED
        effects = uow.session.execute(text("SELECT worker FROM effects")).scalars().all()
        attempts = Counter(uow.session.execute(text("SELECT worker FROM attempts")).scalars())
    assert [step.output for step in steps] == [f"{step} done" for step in STEPS]
    assert sorted(effects) == sorted(STEPS), "each step had its effect once"
    # Killed twice before its checkpoint, and not begun again after it.
    assert attempts == dict.fromkeys(STEPS, 3)
