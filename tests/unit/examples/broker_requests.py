"""Example calls of the statements about the broker's request log."""

from __future__ import annotations

from datetime import UTC, datetime

from unit.examples import Call, call

from alfred_db import BrokerRequestStatus

TIME = datetime(2047, 11, 4, 7, 1, 1, tzinfo=UTC)
LATER = datetime(2047, 12, 4, 7, 1, 1, tzinfo=UTC)
STARTED = {
    "request_id": "request-4711",
    "request": {"key-4711": "value-4711"},
    "agent_name": "agent-4711",
    "metadata_": {},
}
ENDED = {"status": BrokerRequestStatus.COMPLETED, "prompt_tokens": 4711, "response": {"key-4711": 4711}}
RECENT = {
    "since": TIME,
    "until": LATER,
    "model": "model-4711",
    "provider": "provider-4711",
    "agent_name": "agent-4711",
    "session_id": "session-4711",
    "status": BrokerRequestStatus.FAILED,
    "contents": False,
    "after": "WyIyMDQ3LTExLTA0IDA3OjAxOjAxKzAwOjAwIiwgNDcxMV0=",
    "limit": 471,
}
USAGE = {
    "since": TIME,
    "until": LATER,
    "by": ("model", "provider", "agent", "day"),
    "timezone": "Asia/Kathmandu",
    "model": "model-4711",
    "provider": "provider-4711",
    "agent_name": "agent-4711",
}

EXAMPLES: dict[str, list[Call]] = {
    "start": [call(STARTED | {"model": "model-4711"})],
    "start_hosted": [call(STARTED, 4711)],
    "finish": [
        call(4711, TIME, ENDED, (4711, 4712, 4713)),
        call(4711, TIME, ENDED | {"latency_ms": 4714}, None),
    ],
    "get": [call(4711, TIME)],
    "attempts": [call("request-4711", None), call("request-4711", TIME)],
    "purge": [call(4711.5, limit=471)],
    "purgeable": [call(4711.5)],
    "recent": [call(**RECENT), call(**dict.fromkeys(RECENT) | {"contents": True, "limit": 471})],
    "usage": [
        call(**USAGE),
        call(**USAGE | {"by": ("day",), "model": None, "provider": None, "agent_name": None}),
        call(**USAGE | {"by": ()}),
        call(**USAGE | {"days": [TIME, TIME, TIME]}),
    ],
    "now": [call()],
    "codes": [call([4711, 4712])],
    "prices": [call([4711, 4712])],
}
