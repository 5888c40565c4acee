"""Example calls of the statement that claims tasks of restricted queues."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "claim": [
        call(1, by_queue=True, by_intent=True, by_agent=True, keyed=True),
        call(471, by_queue=False, by_intent=True, by_agent=False, keyed=True),
        call(471, by_queue=True, by_intent=False, by_agent=False, keyed=False),
    ],
}
