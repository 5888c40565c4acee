"""Example calls of the statements about events."""

from __future__ import annotations

from datetime import UTC, datetime

from unit.examples import Call, call

TIME = datetime(2047, 11, 4, 7, 1, 1, tzinfo=UTC)
EVENT = {"topic": "topic-4711", "type": "type-4711", "key": "key-4711", "payload": {"name-4711": 4711}}

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
    "holder": [call()],
}
