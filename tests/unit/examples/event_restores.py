"""Example calls of the statements of a restored log of events."""

from __future__ import annotations

from datetime import UTC, datetime

from unit.examples import Call, call

from alfred_db import EventConsumer

TIME = datetime(2047, 11, 4, 7, 1, 1, tzinfo=UTC)
READER = EventConsumer(name="consumer-4711", topics=["topic-4711"], tx=4711, event_id=4712)
SUBSCRIBED = EventConsumer(name="consumer-4711", topics=["topic-4711"], tx=4711, event_id=0, created_at=TIME)

EXAMPLES: dict[str, list[Call]] = {
    "locked_consumers": [call()],
    "last_foreign": [call(newest=4712)],
    "first_own": [call(after=4711, newest=4712)],
    "last_id": [call()],
    "first_unread": [
        call(READER, ahead=True, restored=4711, low=4710, newest=4712),
        call(READER, ahead=False, restored=None, low=4710, newest=4712),
        call(SUBSCRIBED, ahead=True, restored=4711, low=4710, newest=4712),
        call(SUBSCRIBED, ahead=False, restored=4711, low=4710, newest=4712),
        call(SUBSCRIBED, ahead=False, restored=None, low=4710, newest=4712),
    ],
    "renumber": [
        call(restored=4711, low=4710, newest=4712),
        call(restored=None, low=4710, newest=4712),
    ],
    "forget_times": [call()],
}
