"""Example calls of the statements of slots that enqueue tasks."""

from __future__ import annotations

from uuid import UUID

from unit.examples import Call, call

ID = UUID("00000000-0000-7000-8000-000000004711")

EXAMPLES: dict[str, list[Call]] = {
    "enqueue": [call([4711, 4712], [ID, ID])],
    "enqueue_now": [call(4711, ID)],
    "ended": [call([4711], [ID])],
    "pending": [call(4711)],
    "record": [call(4711, ID)],
}
