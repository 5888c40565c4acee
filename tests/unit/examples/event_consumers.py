"""Example calls of the statements about the consumers of events."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import literal
from unit.examples import Call, call

TIME = datetime(2047, 11, 4, 7, 1, 1, tzinfo=UTC)
BATCH = {"tx": 4711, "event_id": 4712, "since": TIME, "horizon": 4713, "limit": 471}

EXAMPLES: dict[str, list[Call]] = {
    "consumer": [call("consumer-4711")],
    "lock": [call("consumer-4711", skip_locked=True), call("consumer-4711", skip_locked=False)],
    "subscribe": [call({"name": "consumer-4711", "topics": ["topic-4711"], "tx": 4711, "event_id": 4712})],
    "change": [call("consumer-4711", {"topics": ["topic-4711"]})],
    "advance": [call("consumer-4711", tx=4711, event_id=4712, since=TIME)],
    "unsubscribe": [call("consumer-4711")],
    "batch": [
        call(["topic-4711"], **BATCH),
        call(["topic-4711"], **BATCH | {"since": None, "without": [4714]}),
    ],
    "first_written": [call(["topic-4711", "topic-4712"], TIME)],
    "lags": [call()],
    "foreign": [call(horizon=4711, newest=4712)],
    "age": [call(literal(TIME))],
}
