"""Example calls of the statements about rate limits."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "clear": [call(limit=4711)],
    "count": [call()],
    "counted": [call()],
    "fixed_window": [call()],
    "moving_state": [call()],
    "moving_window": [call()],
    "purge": [call(limit=4711)],
    "purgeable": [call()],
    "reset": [call()],
    "sliding_window": [call()],
    "state": [call()],
    "token_bucket": [call()],
}
