"""Search in embedding spaces beside the built-in one, on the same rows, filtered and not."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from harness import Target, at_least, at_most, interleaved, table
from sqlalchemy import text

from alfred_db import Database

from .data import SHARES, Rows
from .filters import LIMIT, Wheres, away_from_the_query, by_share, filtered_recall

__all__ = ["spaces"]

LENGTHS = (384, 1536, 3072)
BLOCK = 10


def longer(vectors: Any, dimensions: int) -> Any:
    """The vectors repeated up to a length, which keeps their cosine distances: the neighbours are the same."""
    return np.tile(vectors, (1, dimensions // vectors.shape[1]))


def fill(database: Database, rows: Rows) -> None:
    """A space of each length with a vector of each document, as the built-in one has."""
    with database.begin() as uow:
        keys = {
            content: key for key, content in uow.session.execute(text("SELECT id, content FROM documents"))
        }
    for length in LENGTHS:
        with database.begin() as uow:
            uow.spaces.create(
                f"space-{length}", kind="documents", model="m", dimensions=length, building=True
            )
        ids = [keys[one] for one in rows.texts]
        for first in range(0, len(ids), 1_000):
            some = slice(first, first + 1_000)
            with database.begin() as uow:
                uow.spaces.store(f"space-{length}", ids[some], longer(rows.vectors[some], length))
        with database.begin() as uow:
            uow.session.execute(
                text("SET LOCAL maintenance_work_mem = '1GB'")
            )  # else an index is built on disk
            uow.spaces.activate(f"space-{length}")
    with database.begin() as uow:
        uow.session.execute(text("ANALYZE documents_embeddings"))


def spaces(database: Database, rows: Rows, queries: int, rounds: int) -> tuple[str, list[Target]]:
    """The time of a search in each space, as a ratio to the built-in one in the same turn."""
    fill(database, rows)
    lines: list[tuple[str, ...]] = []
    targets: list[Target] = []
    cases: dict[str, Wheres] = {"no filter": [(None, np.ones(len(rows), bool))] * len(rows.queries)}  # type: ignore[list-item]
    cases |= {f"{share:.1%} of the rows": by_share(rows, name) for name, share in SHARES.items()}
    cases["a topic far from the query"] = away_from_the_query(rows)
    names = {"builtin": 384, **{f"space-{length}": length for length in LENGTHS}}
    asked = {name: longer(rows.queries, length) for name, length in names.items()}
    for case, wheres in cases.items():
        found: dict[str, list[Any]] = {name: [] for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}

        def block(name: str, first: int, wheres: Wheres, found: Any, seconds: Any) -> None:
            with database.begin() as uow:
                uow.documents.get(1)  # begins the transaction
                for number in range(first, min(first + BLOCK, queries)):
                    start = time.perf_counter()
                    result = uow.documents.search(
                        asked[name][number], limit=LIMIT, where=wheres[number][0], space=name
                    )
                    seconds[name].append(time.perf_counter() - start)
                    found[name].append(result)

        for number in range(rounds + 1):
            for first in range(0, queries, BLOCK):
                interleaved(1, {name: partial(block, name, first, wheres, found, seconds) for name in names})
            if number == 0:  # as the estimates and the plans are made
                for name in names:
                    found[name].clear()
                    seconds[name].clear()
        for name in names:
            times, own = np.array(seconds[name]) * 1000, np.array(seconds["builtin"]) * 1000
            right = filtered_recall(rows, wheres[:queries], found[name][:queries])
            short = sum(
                len(result) < min(LIMIT, int(mask.sum()))
                for result, (_, mask) in zip(found[name], list(wheres[:queries]) * rounds, strict=True)
            )
            p50, p95 = float(np.median(times / own)), float(np.percentile(times, 95) / np.percentile(own, 95))
            paths = ", ".join(sorted({str(one.path) for one in found[name]}))
            lines.append(
                (
                    case, name, paths, f"{np.median(times):.2f}", f"{p50:.2f}", f"{np.percentile(times, 95):.2f}",
                    f"{p95:.2f}", f"{right:.3f}", str(short),
                )
            )  # fmt: skip
            if name == "space-384":
                what = f"search in a space of 384 dimensions / built-in, {case}"
                most = (
                    at_most(f"{what}, p50", p50, 1.15)
                    if case == "no filter"
                    else at_most(f"{what}, p95", p95, 1.5)
                )
                targets += [
                    most,
                    *([] if case == "no filter" else [at_least(f"{what}, recall", right, 0.98)]),
                ]
    header = ("filter", "space", "path", "p50 ms", "p50 ratio", "p95 ms", "p95 ratio", "recall@10", "too few")
    return table(header, lines), targets
