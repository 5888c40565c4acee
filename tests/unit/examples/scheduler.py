"""Example calls of the statements about scheduled tasks and their slots."""

from __future__ import annotations

from datetime import UTC, datetime

from unit.examples import Call, call

from alfred_db import ScheduledTask
from alfred_db.cron import Slot

SLOT = datetime(2047, 11, 4, 7, 11, tzinfo=UTC)
LAST = ScheduledTask(id=4711, next_run_at=SLOT)

EXAMPLES: dict[str, list[Call]] = {
    "create": [call({"name": "name-4711", "command": "command-4711", "schedule_key": "key-4711"})],
    "now": [call()],
    "get": [call(4711)],
    "get_by_key": [call("key-4711")],
    "timed": [call(4711)],
    "locked": [call(4711)],
    "change": [call(4711, {"name": "name-4711", "next_run_at": SLOT})],
    "list_": [call(after=None, limit=471), call(after="WzQ3MTFd", limit=471)],
    "locked_by_key": [call("key-4711")],
    "due": [call(limit=471, after=None), call(limit=471, after=LAST)],
    "unscheduled": [call(limit=471, after=None), call(limit=471, after=LAST)],
    "active": [call(after=4711, limit=471)],
    "create_executions": [
        call(
            [
                Slot(4711, SLOT, 471, exclusive=True),
                Slot(4712, SLOT, 0, exclusive=False, skipped_at=SLOT),
            ]
        )
    ],
    "advance": [call([4711, 4712], [SLOT, None], [SLOT, None])],
    "trigger": [call(4711)],
    "intent_of": [call(4711)],
    "declared": [call("owner-4711")],
    "withdraw": [call("owner-4711", ["key-4711"])],
    "hold": [call(4711)],
    "delete": [call(4711)],
    "unrun": [call(["command-4711"])],
}
