"""Example calls of the statements that end a lease, for each table."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import select
from unit.examples import Call, call

from alfred_db.queries import scheduler_executions, workflow_executions
from alfred_db.queries.task_leases import TASKS

TOKEN = uuid.UUID("47114711-4711-4711-4711-471147114711")
TABLES = (TASKS, workflow_executions.EXECUTIONS, scheduler_executions.EXECUTIONS)


def of_each(*args: Any, **kwargs: Any) -> list[Call]:
    return [call(table, *args, **kwargs) for table in TABLES]


EXAMPLES: dict[str, list[Call]] = {
    "complete": [*of_each(), *of_each(alone=True)],
    "complete_many": [*of_each(), *of_each(alone=True)],
    "fail": [*of_each(), *of_each(alone=True)],
    "release": [*of_each(delayed=False), *of_each(delayed=True), *of_each(delayed=True, alone=True)],
    "notify": [call()],
    "reap": of_each(471),
    "cancel": [call(table, select(table.table.c.id).where(table.table.c.id == 4711)) for table in TABLES],
    "set_aside": of_each(4711, TOKEN, code="code-4711", message="message-4711"),
}
