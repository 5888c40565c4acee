"""Example calls of the statements about memory entries."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from unit.examples import Call, call

ENTRY = uuid.uuid4()
GIVEN: dict[str, Any] = {
    "embedding": [0.4711] * 768,
    "agent": "agent-4711",
    "source": "source-4711",
    "metadata": {"key-4711": "value-4711"},
    "embedding_model": "model-4711",
}

EXAMPLES: dict[str, list[Call]] = {
    "in_namespace": [call("namespace-4711")],
    "remember": [
        call("namespace-4711", "content-4711", ttl=timedelta(seconds=4711), **GIVEN),
        call("namespace-4711", "content-4711", ttl=None, **{**GIVEN, "metadata": None}),
    ],
    "get": [call(ENTRY)],
    "remove": [call(ENTRY)],
    "empty": [call("namespace-4711", limit=None), call("namespace-4711", limit=471)],
    "list_": [
        call("namespace-4711", after=None, limit=471),
        call(
            "namespace-4711",
            after="WyIyMDI2LTAxLTAxIDAwOjAwOjAwKzAwOjAwIiwgIjBhMWIyYzNkLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMCJd",
            limit=471,
        ),
    ],
    "sweep": [call(4711)],
    "purgeable": [call()],
}
