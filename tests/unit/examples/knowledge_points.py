"""Example calls of the statements about the points of knowledge collections."""

from __future__ import annotations

from datetime import timedelta

from unit.examples import Call, call

from alfred_db import KnowledgeDistance, KnowledgePoint, qdrant_filter
from alfred_db.queries.shapes.knowledge import partition, with_ids
from alfred_db.search.filters import Filter, eq, size

COLLECTION = "collection-4711"
IDS = ["point-4711", 4712]
WHERE = Filter(must=[eq("payload.key-4711", "value-4711"), size("payload.key-4712", gte=4713)])
QDRANT = qdrant_filter(
    {
        "must": [
            {"key": "key-4711[].key-4712", "match": {"value": 4711}},
            {"key": "key-4713", "match": {"except": ["value-4711"]}},
            {"key": "key-4714", "match": {"text": "value-4712 value-4713"}},
            {"key": "key-4715", "range": {"gte": "2024-01-01T00:00:00Z"}},
            {"key": "key-4716", "geo_radius": {"center": {"lat": 47.11, "lon": 47.12}, "radius": 4711}},
            {"nested": {"key": "key-4717", "filter": {"must_not": [{"is_empty": {"key": "key-4718"}}]}}},
        ]
    }
)
WHICH = with_ids(IDS)  # type: ignore[arg-type]
PAYLOAD = {"key-4711": "value-4711"}

EXAMPLES: dict[str, list[Call]] = {
    "retrieve": [
        call(COLLECTION, IDS, with_vectors=False),
        call(COLLECTION, IDS, with_vectors=True),
    ],
    "vectors": [call(COLLECTION, IDS)],
    "scroll": [
        call(COLLECTION, where=None, after=None, limit=471, with_vectors=False),
        call(COLLECTION, where=WHERE, after="WyJhLTQ3MTEiXQ==", limit=471, with_vectors=True),
    ],
    "exported": [call(COLLECTION, after="point-4711", limit=471)],
    "count": [
        call(COLLECTION, None),
        call(COLLECTION, KnowledgePoint.id == "point-4711"),
        call(COLLECTION, QDRANT),
    ],
    "facet": [
        call(COLLECTION, "key-4711.key-4712", where=None, limit=471),
        call(COLLECTION, "key-4711", where=WHERE, limit=471),
    ],
    "remove": [call(COLLECTION, WHICH), call(COLLECTION, WHICH, limit=471)],
    "set_payload": [call(COLLECTION, WHICH, PAYLOAD), call(COLLECTION, WHICH, PAYLOAD, limit=471)],
    "overwrite_payload": [call(COLLECTION, WHICH, PAYLOAD)],
    "delete_payload": [call(COLLECTION, WHICH, ["key-4711"])],
    "remove_expired": [call(COLLECTION, ["point-4711"])],
    "earliest_expired": [call()],
    "sweep": [call(COLLECTION, 471)],
    "purgeable": [call()],
    "expiry": [call(timedelta(seconds=4711))],
    "best_of_groups": [
        call(
            "key-4711",
            partition(COLLECTION, KnowledgeDistance.COSINE),
            where=None,
            groups=4711,
            size=4712,
            among=None,
            max_distance=None,
        ),
        call(
            "key-4711",
            partition(COLLECTION, KnowledgeDistance.DOT),
            where=WHERE,
            groups=4711,
            size=4712,
            among=["value-4711", 4713],
            max_distance=4714.5,
        ),
    ],
}
