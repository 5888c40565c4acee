"""Filters of Qdrant beside Qdrant's own client, which evaluates them in memory: the same points, or InvalidFilter.

A few hundred in the suite; `make test-faults` runs six thousand, of several seeds, and prints how many it was.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from qdrant import Random
from qdrant_client import QdrantClient, models
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from alfred_db import Filter, qdrant_filter
from alfred_db.errors import InvalidFilter
from alfred_db.repositories._sync.knowledge import KnowledgeRepository

LONG = float(os.environ.get("ALFRED_DB_FAULTS", "0")) >= 60
SEEDS = range(6) if LONG else range(1)
FILTERS = 1000 if LONG else 150
POINTS = 80
LEGAL = "legal-knowledge"


@pytest.mark.parametrize("seed", SEEDS)
def test_every_filter_selects_what_qdrant_selects(migrated: Engine, seed: int) -> None:
    source = Random(seed)
    points = source.points(POINTS)
    client = in_memory(points)
    outcomes: Counter[str] = Counter()
    with Session(migrated) as session:
        knowledge = KnowledgeRepository(session)
        knowledge.upsert(LEGAL, points)  # type: ignore[arg-type]
        for _ in range(FILTERS):
            given = source.filter()
            wanted = models.Filter.model_validate(given)
            expected = {str(point.id) for point in client.scroll("points", wanted, limit=POINTS)[0]}
            try:
                where = qdrant_filter(given)
            except InvalidFilter:
                outcomes["refused"] += 1
                continue
            assert {point.id for point in knowledge.scroll(LEGAL, where=where, limit=POINTS)} == expected, (
                given
            )
            again = Filter.from_dict(qdrant_filter(wanted.model_dump()).as_dict())
            assert knowledge.count(LEGAL, where=again) == len(expected), given
            outcomes["none" if not expected else "all" if len(expected) == POINTS else "some"] += 1
        for path in {source.path() for _ in range(12)}:
            facets = client.facet("points", path, limit=1000).hits
            known = knowledge.facet(LEGAL, path, limit=1000)
            # The other numbers too have facets here, and none in Qdrant.
            assert [
                (type(one.value), one.value, one.count) for one in known if type(one.value) is not float
            ] == [(type(one.value), one.value, one.count) for one in sorted(facets, key=in_order)], path
    client.close()
    print(f"seed {seed}: {dict(outcomes)}")
    assert outcomes["refused"] == 0
    assert outcomes["some"] > FILTERS / 4


def in_order(hit: models.FacetValueHit) -> tuple[int, bool, bool, Any]:
    """Numbers and booleans of the same count come before texts here; Qdrant knows no facet with both."""
    return -hit.count, isinstance(hit.value, str), not isinstance(hit.value, bool), hit.value


def in_memory(points: list[dict[str, Any]]) -> QdrantClient:
    """Qdrant's client with the points."""
    client = QdrantClient(":memory:")
    client.create_collection("points", models.VectorParams(size=1, distance=models.Distance.DOT))
    client.upsert("points", [models.PointStruct(**point, vector=[1.0]) for point in points])
    return client
