"""Example calls of the statements about processed messages."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "first_time": [call()],
    "get": [call("message-4711")],
    "purge": [call(limit=4711)],
    "purgeable": [call()],
}
