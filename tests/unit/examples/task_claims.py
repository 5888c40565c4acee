"""Example calls of the statement that claims tasks."""

from __future__ import annotations

import uuid

from unit.examples import Call, call

from alfred_db import Task

TASK, TOKEN = uuid.UUID(int=4711), uuid.UUID(int=4712)

EXAMPLES: dict[str, list[Call]] = {
    "standing": [call(by_queue=False), call(by_queue=True)],
    "again": [call(TOKEN, [TASK])],
    "ready": [
        call(471, lock=False),
        call(471, Task.intent == "intent-4711", lock=True, also=[Task.priority]),
    ],
    "claim": [
        call(471, by_queue=by_queue, by_intent=by_intent, by_agent=by_agent, single=single)
        for by_queue in (False, True)
        for by_intent in (False, True)
        for by_agent in (False, True)
        for single in (False, True)
    ],
    "look": [
        call(471, by_queue=by_queue, by_intent=by_intent, by_agent=by_agent, single=single)
        for by_queue in (False, True)
        for by_intent in (False, True)
        for by_agent in (False, True)
        for single in (False, True)
    ],
}
