"""Example calls of the statements about the definitions of workflows."""

from __future__ import annotations

from unit.examples import Call, call

JSON = '{"key-4711": 4711}'

EXAMPLES: dict[str, list[Call]] = {
    "define": [
        call("name-4711", JSON, version=None, created_by="author-4711"),
        call("name-4711", JSON, version=471, created_by=None),
    ],
    "version": [call("name-4711", 471, JSON)],
    "get": [call(4711)],
    "versions": [call("name-4711")],
    "stored": [call()],
    "siblings": [call(4711)],
    "activate": [call(4711, "name-4711")],
    "archive": [call(4711)],
}
