"""A worker: tasks by intent, and reports by the clock."""

from __future__ import annotations

import time
from typing import Any

from alfred_db import ClaimedTask, Database, Worker


def send(task: ClaimedTask, lease: Any) -> None:
    """Send a mail; here it only prints it."""
    print(f"to {task.content['to']}: {task.content['text']}")


HANDLERS = {"MAIL": send}
SCHEDULES = {"morning": ("mail report", "0 6 * * *"), "hourly": ("mail figures", "0 * * * *")}


def define(database: Database) -> None:
    """Store the schedules; one that is known is brought up to date."""
    with database.begin() as uow:
        for key, (command, cron) in SCHEDULES.items():
            uow.scheduler.create(key, command, cron, schedule_key=key, timezone="Europe/Vienna")


def run_due(database: Database, worker: str = "reports") -> int:
    """Enqueue a mail for each slot that is due, exactly once; returns their number."""
    with database.begin() as uow:
        uow.scheduler.tick()
        claimed = uow.scheduler.claim(worker, limit=100)
    for execution in claimed:
        with database.begin() as uow:  # the mail and the end of the execution are one transaction
            text = f"{execution.command}, slot {execution.id}"
            uow.tasks.enqueue("MAIL", {"to": "ops", "text": text}, task_id=f"slot-{execution.id}")
            uow.scheduler.complete(uow.scheduler.start(execution))
    return len(claimed)


def main() -> None:
    with Database() as database:
        database.upgrade()
        define(database)
        while True:
            run_due(database)
            Worker(database, HANDLERS).run(drain=True)
            time.sleep(5)


if __name__ == "__main__":
    main()
