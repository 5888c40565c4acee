"""Example calls of the statements about the progress of tasks."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "report": [call()],
    "progress": [call([uuid.UUID(int=4711)])],
}
