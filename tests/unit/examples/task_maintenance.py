"""Example calls of the statements that keep the queue in order."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

from alfred_db import TaskStatus

EXAMPLES: dict[str, list[Call]] = {
    "age": [call(4711.5, limit=471)],
    "purge": [call(4711.5, status=None, limit=471), call(4711.5, status=TaskStatus.FAILED, limit=471)],
    "health": [call("table_4711")],
    "oldest_snapshot": [call()],
    "waiting": [
        call(None, ["INTENT-4711"], None, limit=471),
        call(["queue-4711"], ["INTENT-4711"], "agent-4711", limit=471),
    ],
    "set_aside": [call(uuid.UUID(int=4711), code="code-4711", message="message-4711")],
    "overdue_handlers": [call()],
}
