"""Known-item questions: how often the right document is among the first ten, by meaning and by meaning and word."""

from __future__ import annotations

import time
from statistics import median

from harness import Target, at_least, table

from alfred_db import Database

from .data import Rows

__all__ = ["hybrid"]


def hybrid(database: Database, rows: Rows) -> tuple[str, Target]:
    hits = {"`search`": 0, "`hybrid_search`": 0}
    seconds: dict[str, list[float]] = {name: [] for name in hits}
    with database.begin() as uow:
        for question, gold, query in zip(rows.questions, rows.gold, rows.queries, strict=True):
            searches = {
                "`search`": lambda query=query: uow.documents.search(query),
                "`hybrid_search`": lambda query=query, text=question: uow.documents.hybrid_search(
                    text, query
                ),
            }
            for name, run in searches.items():
                start = time.perf_counter()
                found = run()
                seconds[name].append(time.perf_counter() - start)
                hits[name] += any(hit.row.metadata_["place"] == gold for hit in found)
    count = len(rows.questions)
    lines = [
        (name, f"{number} of {count:,}", f"{number / count:.3f}", f"{1000 * median(seconds[name]):.2f}")
        for name, number in hits.items()
    ]
    more = (hits["`hybrid_search`"] - hits["`search`"]) / count
    target = at_least("hybrid: gold in the top 10, more than by vector alone", more, 1 / count)
    return table(("", "gold in the top 10", "share", "median, ms"), lines), target
