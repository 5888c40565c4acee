"""Search under a filter: what `auto` chooses beside exact and iterative search, each forced."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from harness import Target, at_least, at_most, interleaved, table
from sqlalchemy import ColumnElement

from alfred_db import Database, Document, SearchParams, SearchResult

from .data import SHARES, Rows, nearest_distances, recall

__all__ = ["filtered"]

LIMIT, BLOCK = 10, 20
NEEDED = 0.98
WAYS = {
    "auto": SearchParams(),
    "exact": SearchParams(exact=True),
    "iterative": SearchParams(exact=False),
}
Wheres = Sequence[tuple[ColumnElement[bool], Any]]
"""For each query its filter, and which rows it leaves."""


def by_share(rows: Rows, name: str) -> Wheres:
    mask = np.array([name in one for one in rows.metadata])
    return [(Document.metadata_.contains({name: True}), mask)] * len(rows.queries)


def away_from_the_query(rows: Rows) -> Wheres:
    """Of the topics that have rows enough, the one whose rows are the farthest from the query on average."""
    topics = np.array([one["topic"] for one in rows.metadata])
    names = [name for name in sorted(set(topics)) if (topics == name).sum() >= 2 * LIMIT]
    centres = np.stack([rows.vectors[topics == name].mean(axis=0) for name in names])
    chosen = [names[number] for number in (rows.queries @ centres.T).argmin(axis=1)]
    return [(Document.metadata_.contains({"topic": name}), topics == name) for name in chosen]


def filtered(database: Database, rows: Rows, queries: int, rounds: int) -> tuple[str, list[Target]]:
    lines: list[tuple[str, ...]] = []
    targets: list[Target] = []
    cases = {f"{share:.1%} of the rows": by_share(rows, name) for name, share in SHARES.items()}
    cases["a topic far from the query"] = away_from_the_query(rows)
    for case, wheres in cases.items():
        found: dict[str, list[SearchResult]] = {}
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}

        def block(
            name: str,
            first: int,
            wheres: Wheres,
            found: dict[str, list[SearchResult]],
            seconds: dict[str, list[float]],
        ) -> None:
            with database.begin() as uow:
                uow.documents.get(1)  # begins the transaction
                for number in range(first, min(first + BLOCK, queries)):
                    where = wheres[number][0]
                    start = time.perf_counter()
                    result = uow.documents.search(
                        rows.queries[number], limit=LIMIT, where=where, params=WAYS[name]
                    )
                    seconds[name].append(time.perf_counter() - start)
                    found.setdefault(name, []).append(result)

        turns: list[dict[str, Callable[[], None]]] = [
            {name: partial(block, name, first, wheres, found, seconds) for name in WAYS}
            for first in range(0, queries, BLOCK)
        ]
        for turn in turns:  # as the estimates and the plans are made
            interleaved(1, turn)
        found.clear()
        for times in seconds.values():
            times.clear()
        for number in range(rounds):
            for turn in turns if number % 2 == 0 else [dict(reversed(turn.items())) for turn in turns]:
                interleaved(1, turn)
        recalls = {
            name: filtered_recall(rows, wheres[:queries], results[:queries])
            for name, results in found.items()
        }
        short = {
            name: sum(
                len(result) < min(LIMIT, int(mask.sum()))
                for result, (_, mask) in zip(results, list(wheres[:queries]) * rounds, strict=True)
            )
            for name, results in found.items()
        }
        p95 = {name: float(np.percentile(times, 95)) * 1000 for name, times in seconds.items()}
        for name, results in found.items():
            paths = sorted({str(result.path) for result in results})
            p50 = float(np.percentile(seconds[name], 50)) * 1000
            void = "" if recalls[name] >= NEEDED and not short[name] else "finds too little"
            lines.append(
                (
                    case,
                    name,
                    ", ".join(paths),
                    f"{p50:.2f}",
                    f"{p95[name]:.2f}",
                    f"{recalls[name]:.3f}",
                    str(short[name]),
                    void,
                )
            )
        good = [p95[name] for name in ("exact", "iterative") if recalls[name] >= NEEDED and not short[name]]
        targets += [
            at_most(f"filter, {case}: searches with too few rows", short["auto"], 0),
            at_least(f"filter, {case}: recall@10", recalls["auto"], NEEDED),
            at_most(f"filter, {case}: p95, auto / the better way", p95["auto"] / min(good), 1.3),
        ]
    header = ("filter", "way", "path", "p50, ms", "p95, ms", "recall@10", "too few rows", "")
    return table(header, lines), targets


def filtered_recall(rows: Rows, wheres: Wheres, results: Sequence[SearchResult]) -> float:
    """Of the same filter; where fewer than ten rows match, of those."""
    shares = []
    for number, ((_, mask), result) in enumerate(zip(wheres, results, strict=True)):
        query, limit = rows.queries[number : number + 1], min(LIMIT, int(mask.sum()))
        last = nearest_distances(rows.vectors[mask], query, limit)
        places = [hit.row.metadata_["place"] for hit in result if mask[hit.row.metadata_["place"]]]
        shares.append(recall(rows.vectors, query, [places], last, limit))
    return float(np.mean(shares))
