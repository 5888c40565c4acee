"""Workers of durable functions that are killed at any moment: no step whose result is stored runs again."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter

from sqlalchemy import text

from alfred_db import Database, WorkflowExecutionStatus

from .processes import Server, process

STEPS = 12
KILLS = int(os.environ.get("ALFRED_DB_FAULTS_KILLS", 500 if "ALFRED_DB_FAULTS" in os.environ else 3))


def test_no_finished_step_runs_again_in_any_kill(own_server: Server, database: str, db: Database) -> None:
    """The calls of a step before its result is stored are as many as the attempts that were killed in it; afterwards it is not called."""
    with db.begin() as uow:
        uow.session.execute(text("CREATE TABLE calls (step int, at timestamptz DEFAULT clock_timestamp())"))
        uow.workflows.activate(uow.workflows.define("killed", {}, version=1)[0].id)
    url = own_server.url(database)
    randomly = random.Random(7)
    kills = executions = 0
    while kills < KILLS:
        with db.begin() as uow:
            uow.session.execute(text("TRUNCATE calls"))
            id = uow.workflows.start("killed", max_retries=1000)[0].id
        executions += 1
        status = WorkflowExecutionStatus.PENDING
        while status in (WorkflowExecutionStatus.PENDING, WorkflowExecutionStatus.RUNNING):
            chosen = (
                {"seq": randomly.randrange(STEPS)} if kills % 2 else {"after": randomly.uniform(0.05, 1.2)}
            )
            stored = _stored(db, id)
            settings = {} if chosen.get("seq") in stored or kills >= KILLS else chosen
            with process("durable_worker.py", url=url, **settings) as worker:
                if worker.finish() == -signal.SIGKILL:
                    kills += 1
            with db.begin() as uow:  # a minute later
                uow.session.execute(
                    text(
                        "UPDATE workflow_executions SET lease_expires_at = now() - interval '1 s'"
                        " WHERE lease_expires_at IS NOT NULL"
                    )
                )
            status = _status(db, id)
        assert status == WorkflowExecutionStatus.COMPLETED
        with db.begin() as uow:
            late = uow.session.execute(
                text(
                    "SELECT c.step FROM calls c JOIN workflow_steps s ON s.output = to_jsonb(c.step) AND s.kind = 'step'"
                    " WHERE s.execution_id = :id AND c.at > s.completed_at"
                ),
                {"id": id},
            ).all()
            calls = Counter(uow.session.execute(text("SELECT step FROM calls")).scalars())
            output = uow.workflows.get_execution(id)
        assert late == [], "a step whose result was stored ran again"
        assert set(calls) == set(range(STEPS))
        assert output is not None
        assert output.output_data == list(range(STEPS))
        print(f"{kills} kills in {executions} executions", flush=True)
    assert executions


def _stored(db: Database, id: int) -> set[object]:
    with db.begin() as uow:
        return {step.output for step in uow.workflows.steps(id, limit=100) if step.kind == "step"}


def _status(db: Database, id: int) -> WorkflowExecutionStatus:
    with db.begin() as uow:
        found = uow.workflows.get_execution(id)
    assert found is not None
    return found.status
