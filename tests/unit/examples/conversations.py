"""Example calls of the statements about conversations."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "append": [call()],
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
    "delete_session": [call("session-4711", limit=None), call("session-4711", limit=471)],
    "count_in": [call("session-4711", 4711, 471147)],
    "free_rows": [call(["session-4711", "session-4712"])],
    "count_out": [call({4711: 47, 4712: 471})],
    "owe": [call({"session-4711": 47, "session-4712": 471})],
    "remove_ended": [call([4711, 4712])],
    "purge": [call(4711.5, limit=471)],
    "purgeable": [call(4711.5)],
}
