"""Example calls of the statements about the entity graph."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from unit.examples import Call, call

NODE, OTHER, EDGE = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
TIME, LATER = datetime(2011, 4, 7, tzinfo=UTC), datetime(2012, 4, 7, tzinfo=UTC)
PROPERTIES = {"property-4711": "value-4711"}
PAGE = {"after": None, "limit": 471}

EXAMPLES: dict[str, list[Call]] = {
    "upsert_node": [
        call("type-4711", "key-4711", name="name-4711", description="text-4711", properties=PROPERTIES),
        call("type-4711", "key-4711", name=None, description=None, properties={}),
    ],
    "get_node": [call(NODE)],
    "find_node": [call("type-4711", "key-4711")],
    "list_nodes": [
        call(node_type=None, properties={}, **PAGE),
        call(node_type="type-4711", properties=PROPERTIES, after="WyJhLTQ3MTEiLCJrLTQ3MTEiXQ==", limit=471),
    ],
    "hold_node": [call(NODE)],
    "delete_edges": [call(NODE, limit=None), call(NODE, limit=471)],
    "delete_node": [call(NODE)],
    "upsert_edge": [
        call(NODE, OTHER, "type-4711", weight=4711.5, properties=PROPERTIES, valid_from=None, valid_to=None),
        call(NODE, OTHER, "type-4711", weight=4711.5, properties={}, valid_from=TIME, valid_to=LATER),
    ],
    "get_edge": [call(EDGE)],
    "end_edge": [call(EDGE, None), call(EDGE, TIME)],
    "supersede_edge": [call(EDGE)],
    "delete_edge": [call(EDGE)],
    "facts": [
        call(NODE, direction="both", edge_types=None, as_of=None, known_at=None, **PAGE),
        call(NODE, direction="out", edge_types=["type-4711"], as_of=TIME, known_at=LATER, **PAGE),
        call(NODE, direction="in", edge_types=[], as_of=TIME, known_at=None, **PAGE),
    ],
    "history": [
        call(NODE, OTHER, "type-4711", **PAGE),
        call(
            NODE,
            OTHER,
            "type-4711",
            after="WyIyMDExLTA0LTA3IDAwOjAwOjAwKzAwOjAwIiwgIjBhMWIyYzNkLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMCJd",
            limit=471,
        ),
    ],
}
