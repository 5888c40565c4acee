"""Example calls of the statements about queues."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "get": [call("queue-4711")],
    "list_": [call()],
    "remove": [call("queue-4711")],
    "resume": [call("queue-4711")],
    "set_": [call("queue-4711", {"max_running": 471}), call("queue-4711", {})],
}
