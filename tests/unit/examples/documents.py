"""Example calls of the statements about documents."""

from __future__ import annotations

from unit.examples import Call, call

VALUES = {
    "external_id": "external-4711",
    "title": "title-4711",
    "content": "content-4711",
    "embedding": [0.4711] * 384,
    "metadata_": {"key-4711": "value-4711"},
}

EXAMPLES: dict[str, list[Call]] = {
    "add": [call(VALUES), call({"content": "content-4711"})],
    "get": [call(4711)],
    "get_by_external_id": [call("external-4711")],
    "change": [call(4711, {"title": "title-4711", "metadata_": {"key-4711": "value-4711"}})],
    "remove": [call(4711)],
    "list_": [call(after=None, limit=471), call(after="WzQ3MTFd", limit=471)],
}
