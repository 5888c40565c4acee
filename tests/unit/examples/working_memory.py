"""Example calls of the statements about working memory."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from unit.examples import Call, call

from alfred_db import WorkingMemoryStatus

MEMORY = uuid.uuid4()
VALUES: dict[str, Any] = {
    "name": "name-4711",
    "memory_type": "type-4711",
    "content": "content-4711",
    "embedding": [0.4711] * 1536,
    "metadata_": {"key-4711": "value-4711"},
}
OF: dict[str, Any] = {"session_id": "session-4711", "agent": "agent-4711", "memory_type": "type-4711"}
OF_ANY: dict[str, Any] = {"session_id": None, "agent": None, "memory_type": None}
NEXT = "WyIyMDI2LTAxLTAxIDAwOjAwOjAwKzAwOjAwIiwgIjBhMWIyYzNkLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMCJd"

EXAMPLES: dict[str, list[Call]] = {
    "there": [call()],
    "offered": [call(**OF), call(**OF_ANY)],
    "store": [call(VALUES, timedelta(seconds=4711)), call(VALUES, None)],
    "get": [call(MEMORY)],
    "change": [
        call(MEMORY, {"content": "content-4711"}),
        call(MEMORY, {"status": WorkingMemoryStatus.DELETED}),
    ],
    "set_blob": [call(MEMORY, "provider-4711", "blob-4711")],
    "list_": [
        call(**OF, status=None, with_blob=True, after=None, limit=471),
        call(**OF_ANY, status=WorkingMemoryStatus.DELETED, with_blob=False, after=NEXT, limit=471),
    ],
    "sweep": [call(4711), call(4711, blobs=False)],
    "purgeable": [call()],
}
