"""Example calls of the statements of those who hold a lease, for each table."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import null
from unit.examples import Call, call

from alfred_db.queries import scheduler_executions, workflow_executions
from alfred_db.queries.task_leases import TASKS

TOKEN = uuid.UUID("47114711-4711-4711-4711-471147114711")
TABLES = (TASKS, workflow_executions.EXECUTIONS, scheduler_executions.EXECUTIONS)


def of_each(*args: Any, **kwargs: Any) -> list[Call]:
    return [call(table, *args, **kwargs) for table in TABLES]


EXAMPLES: dict[str, list[Call]] = {
    "held": of_each(4711, TOKEN),
    "taken": of_each(null()),
    "given_up": [call()],
    "heartbeat": of_each(),
    "standing": of_each(),
    "expired": of_each(),
    "again": [call(table, [table.table.c.error_code], TOKEN, [4711]) for table in TABLES],
    "owned": of_each(),
    "locked": of_each(),
}
