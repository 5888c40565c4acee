"""What the statement of a hybrid search computes."""

from __future__ import annotations

import pytest
from sqlalchemy.dialects.postgresql import psycopg
from unit.examples.shapes.hybrid_search import COLUMNS

from alfred_db import Document
from alfred_db.queries.shapes.hybrid_search import Fusion, Legs, hybrid_where


def scored(legs: Legs, whole: bool) -> int:
    """Return how often the statement scores texts."""
    statement = hybrid_where(legs, None, limit=5, candidates=50, whole=whole)
    return str(statement.compile(dialect=psycopg.dialect())).count("ts_rank")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("fusion", ["scores", "ranks"])
def test_words_alone_are_scored_once(fusion: Fusion, whole: bool) -> None:
    """A row that another leg has found needs the score of its words too."""
    assert scored(Legs(Document, COLUMNS.search, vector=False, fusion=fusion), whole) == 1
    assert (
        scored(Legs(Document, COLUMNS.search, trigram=COLUMNS.title, vector=False, fusion=fusion), whole) == 2
    )
    assert scored(Legs(Document, COLUMNS.search, fusion=fusion), whole) == 2
