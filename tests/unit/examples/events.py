"""Example calls of the statements about events."""

from __future__ import annotations

from datetime import UTC, datetime

from unit.examples import Call, call

from alfred_db import EventConsumer

TIME = datetime(2047, 11, 4, 7, 1, 1, tzinfo=UTC)
EVENT = {"topic": "topic-4711", "type": "type-4711", "key": "key-4711", "payload": {"name-4711": 4711}}
READER = EventConsumer(name="consumer-4711", topics=["topic-4711"], tx=4711, event_id=4712)
SUBSCRIBED = EventConsumer(name="consumer-4711", topics=["topic-4711"], tx=4711, event_id=0, created_at=TIME)
BATCH = {"tx": 4711, "event_id": 4712, "since": TIME, "horizon": 4713, "limit": 471}

EXAMPLES: dict[str, list[Call]] = {
    "remains": [call([4711])],
    "publish": [call(EVENT)],
    "publish_many": [call()],
    "purge": [call(4711.5, horizon=4712, limit=471)],
    "purgeable": [call(4711.5, horizon=4712)],
    "get": [call(4711)],
    "snapshot": [call()],
    "list_": [
        call("topic-4711", horizon=4713, since=TIME, after="WzQ3MTEsIDQ3MTJd", limit=471),
        call("topic-4711", horizon=4713, since=None, after=None, limit=471),
    ],
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
    "holder": [call()],
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
    "foreign": [call(horizon=4711, newest=4712)],
}
