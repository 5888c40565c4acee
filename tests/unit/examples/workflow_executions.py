"""Example calls of the statements of those who run workflows."""

from __future__ import annotations

import uuid
from typing import Any

from unit.examples import Call, call

TOKEN = uuid.UUID("47114711-4711-4711-4711-471147114711")
FAIL: dict[str, Any] = {"error": "error-4711", "code": "code-4711", "retry": True, "jitter": 1.0}

EXAMPLES: dict[str, list[Call]] = {
    "held": [call(4711, TOKEN)],
    "claim": [call("worker-4711", TOKEN, [4711, 4712], limit=471, lease=471.5)],
    "heartbeat": [call([4711, 4712], TOKEN, lease=471.5)],
    "holding": [call([4711, 4712], TOKEN)],
    "complete": [call(4711, TOKEN, '{"key-4711": 4711}'), call(4711, TOKEN, None)],
    "fail": [call(4711, TOKEN, delay=None, **FAIL), call(4711, TOKEN, delay=471.5, **FAIL)],
    "release": [call(4711, TOKEN)],
    "reap": [call(limit=471, jitter=1.0)],
    "get": [call(4711)],
}
