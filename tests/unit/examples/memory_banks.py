"""Example calls of the statements about memory banks."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "lock": [call(4711)],
    "add": [call("name-4711", "description-4711"), call("name-4711", None)],
    "get": [call(4711)],
    "get_by_name": [call("name-4711")],
    "change": [call(4711, {"name": "name-4711"})],
    "hold": [call(4711, for_removal=True), call(4711, for_removal=False)],
    "known": [call(4711)],
    "empty": [call(4711, limit=None), call(4711, limit=471)],
    "remove": [call(4711)],
    "list_": [call(up_to=None, after=None, limit=471), call(up_to=471, after="WzQ3MTFd", limit=471)],
}
