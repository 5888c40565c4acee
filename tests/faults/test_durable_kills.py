"""Workers of durable functions that are killed at any moment: no step whose result is stored runs again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

from sqlalchemy import text

from alfred_db import Database, WorkflowExecutionStatus

from .processes import SECONDS, Process, Server, program

STEPS = 12
KILLS = int(os.environ.get("ALFRED_DB_FAULTS_KILLS", 500 if "ALFRED_DB_FAULTS" in os.environ else 3))
LANES = 4 if KILLS > 20 else 1
"""How many executions are worked on at the same time, each by a worker of its own."""

LIVE = WorkflowExecutionStatus.PENDING, WorkflowExecutionStatus.RUNNING


class Lane:
    """Executions one after the other, by a worker that is started again whenever it has been killed."""

    def __init__(self, db: Database, url: str, number: int) -> None:
        self.db = db
        self.url = url
        self.name = f"killed {number}"
        self.kills = self.executions = 0
        self.worker: Process | None = None
        self._randomly = random.Random(number)
        self._usual = 1.0
        """The seconds that a worker takes which nobody kills."""
        self._began = 0.0
        with db.begin() as uow:
            uow.workflows.activate(uow.workflows.define(self.name, {}, version=1)[0].id)
        self._begin()

    def _begin(self) -> None:
        with self.db.begin() as uow:
            self._id = uow.workflows.start(self.name, max_retries=1000)[0].id
        self.executions += 1
        self._began_with = self.kills

    def go_on(self, last: bool) -> bool:
        """Look after the worker; return whether there is something left to do, with `last` no further execution."""
        if self.worker is None:
            self._start_worker(last)
        if self.worker is not None and self.worker.alive:
            assert time.monotonic() < self._began + SECONDS
            return True
        self._end_worker()
        if self._status() in LIVE:
            return True
        self._check()
        if not last:
            self._begin()
        return not last

    def _start_worker(self, last: bool) -> None:
        """One that is killed in a step, or at some moment between its start and its usual end; the last one is not."""
        settings: dict[str, object] = {"flow": self.name}
        left = [step for step in range(STEPS) if step not in self._stored()]
        if left and not last:
            if self.kills % 2:
                settings["seq"] = self._randomly.choice(left)
            else:
                settings["after"] = self._randomly.uniform(0.0, 1.2 * self._usual)
        self._began = time.monotonic()
        self.worker = program("durable_worker.py", url=self.url, **settings)

    def _end_worker(self) -> None:
        assert self.worker is not None
        code, self.worker = self.worker.finish(), None
        assert code in (0, -signal.SIGKILL)
        if code:
            self.kills += 1
        else:
            self._usual += 0.3 * (time.monotonic() - self._began - self._usual)
        with self.db.begin() as uow:  # a minute later
            crashes = uow.session.scalar(
                text(
                    "UPDATE workflow_executions SET lease_expires_at = now() - interval '1 s'"
                    " WHERE id = :id AND lease_expires_at IS NOT NULL RETURNING crash_count"
                ),
                {"id": self._id},
            )
            if (
                crashes
            ):  # the first crash of a step is left to the next worker; later ones would have a back-off
                uow.workflows.reap()
            uow.session.execute(
                text(
                    "UPDATE workflow_executions SET available_at = now() WHERE id = :id AND status = 'pending'"
                ),
                {"id": self._id},
            )

    def _check(self) -> None:
        with self.db.begin() as uow:
            late = uow.session.execute(
                text(
                    "SELECT c.step FROM calls c JOIN workflow_steps s ON s.execution_id = c.execution"
                    " AND s.output = to_jsonb(c.step) AND s.kind = 'step'"
                    " WHERE c.execution = :id AND c.at > s.completed_at"
                ),
                {"id": self._id},
            ).all()
            calls = Counter(
                uow.session.scalars(text("SELECT step FROM calls WHERE execution = :id"), {"id": self._id})
            )
            execution = uow.workflows.get_execution(self._id)
        assert late == [], "a step whose result was stored ran again"
        assert set(calls) == set(range(STEPS))
        assert calls.total() <= STEPS + 3 * (self.kills - self._began_with), (
            "again only what a kill interrupted"
        )
        assert execution is not None
        assert execution.status is WorkflowExecutionStatus.COMPLETED
        assert execution.output_data == list(range(STEPS))

    def _stored(self) -> set[object]:
        with self.db.begin() as uow:
            return {step.output for step in uow.workflows.steps(self._id, limit=100) if step.kind == "step"}

    def _status(self) -> WorkflowExecutionStatus:
        with self.db.begin() as uow:
            found = uow.workflows.get_execution(self._id)
        assert found is not None
        return found.status


def test_no_finished_step_runs_again_in_any_kill(own_server: Server, database: str, db: Database) -> None:
    """A step is called again only by the attempt after one that was killed in it, and never once its result is stored."""
    with db.begin() as uow:
        uow.session.execute(
            text("CREATE TABLE calls (execution bigint, step int, at timestamptz DEFAULT clock_timestamp())")
        )
    began = time.monotonic()
    lanes = [Lane(db, own_server.url(database), number) for number in range(LANES)]
    working = list(lanes)
    try:
        while working:
            last = sum(lane.kills for lane in lanes) >= KILLS
            working = [lane for lane in working if lane.go_on(last)]
            time.sleep(0.005)
    finally:
        for lane in lanes:
            if lane.worker is not None:
                lane.worker.kill()
    kills, executions = (sum(getattr(lane, what) for lane in lanes) for what in ("kills", "executions"))
    print(f"{kills} kills in {executions} executions, {time.monotonic() - began:.0f} s", flush=True)
    assert kills >= KILLS
