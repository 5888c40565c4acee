"""Example calls of the statements about tasks that wait for others."""

from __future__ import annotations

import uuid

from sqlalchemy import literal
from unit.examples import Call, call

from alfred_db import Task
from alfred_db.types import Text

TASK = uuid.UUID(int=4711)

EXAMPLES: dict[str, list[Call]] = {
    "forever": [call()],
    "first_of_key": [call(literal("key-4711", Text))],
    "mark": [call(Task.id == TASK)],
    "known": [call()],
    "mark_tasks": [call()],
    "mark_keys": [call()],
    "wait_after": [call()],
    "wait_again": [call()],
    "settle": [call(), call(late=True)],
    "complete": [call()],
    "wait_less": [call()],
    "open_turns": [call()],
    "mark_waited": [call()],
    "outcome": [call()],
    "outcome_results": [call()],
    "dependencies": [call(TASK)],
    "dependents": [call(TASK)],
    "batch_progress": [call(TASK)],
}
