"""Example calls of the statements about the executions of scheduled tasks."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

TOKEN = uuid.UUID("47114711-4711-4711-4711-471147114711")
CURSOR = "WyIyMDQ3LTExLTA0IDA3OjExOjAwKzAwOjAwIl0="

EXAMPLES: dict[str, list[Call]] = {
    "claim": [call("worker-4711", TOKEN, limit=471, lease=471.5)],
    "start": [call(4711, TOKEN, lease=471.5)],
    "heartbeat": [call([4711, 4712], TOKEN, lease=471.5)],
    "holding": [call([4711, 4712], TOKEN)],
    "finish": [call(4711, TOKEN, output="output-4711", error_output=None)],
    "fail": [
        call(4711, TOKEN, code="code-4711", exit_code=471, output="output-4711", error_output="error-4711")
    ],
    "release": [call(4711, TOKEN)],
    "reap": [call(limit=471)],
    "cancel": [call(4711)],
    "get": [call(4711)],
    "history": [call(4711, after=None, limit=471), call(4711, after=CURSOR, limit=471)],
    "purge": [call(4711.5, limit=471)],
}
