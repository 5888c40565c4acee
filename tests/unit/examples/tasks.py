"""Example calls of the statements about tasks."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from unit.examples import Call, call

from alfred_db import TaskStatus

TASK = uuid.uuid4()
AT = datetime(2031, 4, 7, 11, tzinfo=UTC)
FILTERS: dict[str, Any] = {
    "status": TaskStatus.FAILED,
    "intent": "intent-4711",
    "assigned_to": "agent-4711",
    "parent": TASK,
    "created_after": AT,
    "created_before": AT,
}

EXAMPLES: dict[str, list[Call]] = {
    "enqueue": [call(), call(child=True), call(ordered=True), call(child=True, ordered=True)],
    "enqueue_many": [call(), call(children=True), call(waits=True)],
    "standing": [call("task-4711", None), call("task-4711", "key-4711")],
    "known": [call(["task-4711", "task-4712"])],
    "deduplicated": [call(["key-4711"])],
    "now": [call()],
    "add_results": [call()],
    "get": [call(TASK)],
    "get_by_task_id": [call("task-4711")],
    "results": [call(TASK)],
    "list_": [
        call(after=None, limit=471),
        call(**FILTERS, after="WyI4NzQ4YTY3Zi0xYWU5LTRlOGMtOWE3NC0wZDE0YzZiMjQ4YWEiXQ==", limit=471),
    ],
    "count": [call(up_to=None), call(up_to=471, **FILTERS)],
    "lock_parents": [call([TASK])],
    "cancel": [call(TASK, children=True), call(TASK, children=False), call(TASK, children=True, limit=471)],
    "cancelled_parts": [call(TASK)],
    "requeue": [call(TASK)],
    "requeue_failed": [call(intent=None, limit=471), call(intent="intent-4711", limit=471)],
}
