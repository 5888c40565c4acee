"""Example calls of the statements about what the end of a task releases."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "settle": [call(), call(late=True)],
    "complete": [call()],
    "complete_followed": [call()],
    "wait_less": [call()],
    "open_turns": [call()],
}
