"""Example calls of the statements about workflows."""

from __future__ import annotations

from typing import Any

from unit.examples import Call, call

from alfred_db import WorkflowExecutionStatus

START: dict[str, Any] = {
    "version": None,
    "idempotency_key": "key-4711",
    "parent_id": None,
    "delay": 471.5,
    "max_retries": 471,
    "timeout_seconds": 472,
}
JSON = '{"key-4711": 4711}'

EXAMPLES: dict[str, list[Call]] = {
    "start": [
        call("name-4711", JSON, **START),
        call("name-4711", None, **{**START, "version": 471, "parent_id": 4711}),
    ],
    "by_key": [call("key-4711")],
    "waiting": [call([4711, 4712])],
    "tree": [call(4711)],
    "cancel": [call([4711, 4712])],
    "cancel_some": [call(4711, limit=471)],
    "status": [call(4711)],
    "children": [call(4711, after=None, limit=471), call(4711, after="WzQ3MTFd", limit=471)],
    "history": [call("name-4711", after=None, limit=471), call("name-4711", after="WzQ3MTFd", limit=471)],
    "list_": [
        call(status=None, after=None, limit=471),
        call(status=WorkflowExecutionStatus.FAILED, after="WzQ3MTFd", limit=471),
    ],
    "resume": [call(4711)],
    "purge": [call(4711.5, limit=471)],
    "purgeable": [call(4711.5)],
    "finished_before": [call(4711, 471)],
    "fork": [
        call(4711, 471, workflow_id=None, idempotency_key="key-4711"),
        call(4711, 471, workflow_id=4712, idempotency_key=None),
    ],
    "copy_steps": [call(4711, 4712, 471)],
}
