"""Example calls of the statements about the executions of scheduled tasks."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

CURSOR = "WyIyMDQ3LTExLTA0IDA3OjExOjAwKzAwOjAwIl0="

EXAMPLES: dict[str, list[Call]] = {
    "again": [call(uuid.UUID(int=4712), [4711])],
    "claim": [call(limit=471), call(limit=471, commands=["command-4711"])],
    "waiting": [call()],
    "running": [call(4711)],
    "clear": [call(4711, limit=471), call(4711, limit=None)],
    "start": [call()],
    "cancel": [call(4711)],
    "get": [call(4711)],
    "history": [call(4711, after=None, limit=471), call(4711, after=CURSOR, limit=471)],
    "purge": [call(4711.5, limit=471)],
    "purgeable": [call(4711.5)],
}
