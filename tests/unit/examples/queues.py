"""Example calls of the statements about queues."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "age": [call(limit=4711)],
    "change": [
        call("queue-4711", {"max_running": 471}, 4711),
        call("queue-4711", {"paused": True}, None),
    ],
    "create": [call("queue-4711", {"max_running": 471})],
    "figures": [call()],
    "get": [call("queue-4711")],
    "list_": [call()],
    "remove": [call("queue-4711")],
    "resume": [call("queue-4711")],
}
