"""A workflow of three steps, whose process may be killed at any moment."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from alfred_db import Database, UnitOfWork

NAME, VERSION = "order", 1


def note(uow: UnitOfWork, order: str, text: str) -> str:
    """The effect of a step: a message in the conversation of the order."""
    uow.conversations.append(order, "system", text)
    return text


STEPS: dict[str, Callable[[UnitOfWork, str], Any]] = {
    "charge": lambda uow, order: note(uow, order, "charged"),
    "pack": lambda uow, order: note(uow, order, "packed"),
    "ship": lambda uow, order: note(uow, order, "shipped"),
}


def start(database: Database, order: str) -> int:
    """Start the workflow of an order; the second call for one order starts nothing."""
    with database.begin() as uow:
        workflow, created = uow.workflows.define(NAME, {"steps": list(STEPS)}, version=VERSION)
        if created:
            uow.workflows.activate(workflow.id)
        uow.workflows.start(NAME, {"order": order}, idempotency_key=order)
    return workflow.id


def run(database: Database, workflow_id: int, *, lease: float = 60.0, kill_after: str | None = None) -> int:
    """Run what waits, also what a killed process has left; returns the number of completed executions."""
    with database.begin() as uow:
        uow.workflows.reap()
        claimed = uow.workflows.claim(f"worker-{os.getpid()}", [workflow_id], limit=10, lease=lease)
    for execution in claimed:
        order = str(execution.input["order"])
        for number, (key, step) in enumerate(STEPS.items()):
            with database.begin() as uow:
                if uow.workflows.replay(execution, key, seq=number) is None:
                    uow.workflows.checkpoint(execution, key, step(uow, order), seq=number)
            if key == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
        with database.begin() as uow:
            uow.workflows.complete(execution)
    return len(claimed)


if __name__ == "__main__":
    with Database() as database:
        database.upgrade()
        started = start(database, sys.argv[1])
        lease = float(os.environ.get("LEASE", "60"))
        while not run(database, started, lease=lease, kill_after=os.environ.get("KILL_AFTER")):
            time.sleep(0.2)
