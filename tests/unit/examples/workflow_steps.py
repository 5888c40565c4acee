"""Example calls of the statements about steps and events."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from unit.examples import Call, call

TOKEN = uuid.UUID("47114711-4711-4711-4711-471147114711")
TIME = datetime(2047, 11, 4, 7, 11, tzinfo=UTC)

EXAMPLES: dict[str, list[Call]] = {
    "checkpoint": [call(extending=False), call(extending=True)],
    "sleep": [
        call(4711, TOKEN, "step-4711", seq=471, name="name-4711", until=TIME),
        call(4711, TOKEN, "step-4711", seq=471, name="name-4711", until=471.5),
    ],
    "finished": [call()],
    "state": [call(4711)],
    "forget": [call(4711, 471)],
    "last_failed": [call(4711)],
    "child": [call(4711, 4712)],
    "waits_for_child": [call(4711, TOKEN, 4712, seconds=471.5)],
    "wake_parents": [call([4711, 4712])],
    "stored": [call(4711, TOKEN, "step-4711", seq=471)],
    "steps": [call(4711, after=None, limit=471), call(4711, after="WzQ3MTFd", limit=471)],
    "own": [call(4711, TOKEN)],
    "wait": [call(4711, TOKEN, "event-4711", available_at=TIME, deadline=TIME)],
    "target": [call(4711)],
    "deliver": [call(4711, "event-4711", '{"key-4711": 4711}')],
    "wake": [call(4711, "event-4711")],
    "event": [call(4711, "event-4711")],
    "events": [call(4711)],
}
