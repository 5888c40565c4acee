"""Example calls of the statement that claims tasks of restricted queues."""

from __future__ import annotations

from unit.examples import Call, call

from alfred_db.queries.queue_claims import Limits

ALL = Limits(running=True, rates=True, keys=True, further=True)
NONE = Limits(running=False, rates=False, keys=False)

EXAMPLES: dict[str, list[Call]] = {
    "claim": [
        call(1, by_queue=True, by_intent=True, by_agent=True, limits=ALL),
        call(471, by_queue=False, by_intent=True, by_agent=False, limits=ALL),
        call(471, by_queue=True, by_intent=False, by_agent=False, limits=NONE._replace(running=True)),
        call(1, by_queue=False, by_intent=False, by_agent=False, limits=NONE._replace(rates=True)),
        *[
            call(limit, True, by_intent, by_intent, limits, one_queue=True, one_intent=not by_intent)
            for limit in (1, 471)
            for by_intent in (True, False)
            for limits in (ALL, ALL._replace(further=False), NONE._replace(rates=True))
        ],
    ],
}
