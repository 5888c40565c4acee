"""Example calls of the statements about conversations."""

from __future__ import annotations

from unit.examples import Call, call

from alfred_db import MessageRole

EXAMPLES: dict[str, list[Call]] = {
    "append": [
        call("session-4711", MessageRole.TOOL, "content-4711", {"key-4711": "value-4711"}),
        call("session-4711", MessageRole.USER, "content-4711", None),
    ],
    "append_many": [call()],
    "history": [
        call("session-4711", after=None, limit=471),
        call("session-4711", after="WzQ3MTFd", limit=471),
    ],
    "last": [call("session-4711", 471)],
    "sessions": [call(after=None, limit=471), call(after="WzQ3MTFd", limit=471)],
    "search": [
        call("words-4711", session_id=None, limit=471),
        call("words-4711", session_id="session-4711", limit=471),
    ],
    "delete_session": [call("session-4711")],
    "purge": [call(4711.5, limit=471)],
}
