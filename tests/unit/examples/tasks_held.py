"""Example calls of the statements about tasks that a worker holds."""

from __future__ import annotations

from unit.examples import Call, call

from alfred_db import Task

EXAMPLES: dict[str, list[Call]] = {
    "isolation": [call()],
    "ready": [
        call(471, lock=False),
        call(471, Task.intent == "intent-4711", lock=True, also=[Task.priority]),
    ],
    "claim": [
        call(471, by_intent=False, by_agent=False),
        call(471, by_intent=True, by_agent=True),
    ],
    "heartbeat": [call()],
    "heartbeat_many": [call()],
    "complete": [call()],
    "complete_many": [call()],
    "fail": [call()],
    "release": [call(delayed=False), call(delayed=True)],
    "reap": [call(471)],
}
