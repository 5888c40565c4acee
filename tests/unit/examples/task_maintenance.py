"""Example calls of the statements that keep the queue in order."""

from __future__ import annotations

from unit.examples import Call, call

from alfred_db import TaskStatus

EXAMPLES: dict[str, list[Call]] = {
    "age": [call(4711.5, limit=471)],
    "purge": [call(4711.5, status=None, limit=471), call(4711.5, status=TaskStatus.FAILED, limit=471)],
    "purgeable": [
        call(4711.5, status=None),
        call(4711.5, status=TaskStatus.FAILED, queue="some queue"),
    ],
    "health": [call("table_4711")],
    "oldest_snapshot": [call()],
    "overdue_handlers": [call()],
    "schedules": [call()],
}
