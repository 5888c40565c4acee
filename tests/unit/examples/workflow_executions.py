"""Example calls of the statements of those who run workflows."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "again": [call(uuid.UUID(int=4712), [4711])],
    "claim": [call(limit=471)],
    "get": [call(4711)],
    "reap": [call(471)],
}
