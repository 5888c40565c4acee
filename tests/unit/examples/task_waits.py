"""Example calls of the statements about tasks that wait for others."""

from __future__ import annotations

import uuid

from sqlalchemy import literal
from unit.examples import Call, call

from alfred_db import Task
from alfred_db.models.base import table_of
from alfred_db.types import Text

TASK = uuid.UUID(int=4711)
OTHERS = table_of(Task).alias("others")

EXAMPLES: dict[str, list[Call]] = {
    "forever": [call()],
    "first_of_key": [call(literal("key-4711", Text))],
    "turn_of_key": [call(OTHERS, literal("key-4711", Text))],
    "next_of_key": [call(OTHERS, literal("key-4711", Text))],
    "is_live": [call(OTHERS.c)],
    "mark": [call(Task.id == TASK)],
    "known": [call()],
    "mark_tasks": [call()],
    "mark_keys": [call()],
    "wait_after": [call()],
    "wait_again": [call()],
    "mark_waited": [call()],
    "outcome": [call()],
    "outcome_results": [call()],
    "dependencies": [call(TASK)],
    "dependents": [call(TASK)],
    "batch_progress": [call(TASK)],
}
