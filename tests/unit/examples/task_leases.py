"""Example calls of the statements about tasks that a worker holds."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "heartbeat": [call()],
    "heartbeat_many": [call()],
    "holding": [call()],
    "complete": [call()],
    "complete_many": [call()],
    "fail": [call()],
    "release": [call(delayed=False), call(delayed=True)],
    "reap": [call(471)],
}
