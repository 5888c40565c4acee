"""A million rows of 384 dimensions in half precision: loaded from an iterator, indexed, and searched.

It takes a quarter of an hour and 5 GB of disk, and is not a part of a whole run: `make bench-vectors ONLY=million`, with
`ROWS=50000` for fewer rows. The load is a process of its own, whose memory is measured.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import psycopg
from harness import Server, Target, at_most, interleaved, table

from alfred_db import Database, SearchParams

from .peers import migrated

__all__ = ["million"]

DIMENSIONS, LIMIT, BLOCK, BATCH = 384, 10, 50, 5_000
SPACE = "half"
FEW = 10_000
COMPARED = 20
"""The number of queries that are compared with an exact search."""


def batches(count: int, seed: int) -> Iterator[Any]:
    """Matrices of rows in clusters of clusters, as those of `data.clusters`, one after the other."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(200, DIMENSIONS)).astype(np.float32)
    spread = rng.normal(size=(2000, DIMENSIONS)).astype(np.float32)
    inner = centres[rng.integers(200, size=2000)] + 0.7 * spread
    rng = np.random.default_rng(seed)
    for start in range(0, count, BATCH):
        rows = inner[rng.integers(2000, size=min(BATCH, count - start))]
        rows += 0.6 * rng.standard_normal(rows.shape, np.float32)
        yield rows


def load(url: str, count: int) -> dict[str, float]:
    """Load the rows in batches, each in a transaction; returns the time, and the memory of this process at most."""
    began, number = time.perf_counter(), 0
    with Database(url) as database:
        for matrix in batches(count, seed=11):
            values: list[Any] = [{"content": f"row {number + place}"} for place in range(len(matrix))]
            with database.begin() as uow:
                uow.documents.add_many(values, embeddings=matrix, space=SPACE)
            number += len(matrix)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": time.perf_counter() - began, "megabytes": megabytes}


def made(server: Server, count: int) -> tuple[Database, dict[str, float]]:
    """A database with so many rows, and what it cost."""
    url = migrated(server, f"million_{count}")
    database = Database(url)
    with database.begin() as uow:
        uow.spaces.create(
            SPACE, kind="documents", model="m", dimensions=DIMENSIONS, storage="halfvec", building=True
        )
    command = [sys.executable, "-m", __spec__.name, url, str(count)]
    cost: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    with database.begin() as uow:
        uow.session.connection().exec_driver_sql("SET LOCAL maintenance_work_mem = '2GB'")
        began = time.perf_counter()
        uow.spaces.activate(SPACE)
        cost["built"] = time.perf_counter() - began
        statement = f"SELECT pg_relation_size('idx_{uow.spaces.describe(SPACE).table}')"
        cost["index"] = uow.session.connection().exec_driver_sql(statement).scalar_one() / (1 << 20)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) documents")
        connection.execute("VACUUM (ANALYZE) documents_embeddings")
    return database, cost


def million(server: Server, count: int, queries: int, rounds: int) -> tuple[str, list[Target]]:
    """Load, build and search `FEW` and `count` rows; the searches take turns."""
    asked = np.concatenate(list(batches(queries, seed=13)))
    databases: dict[int, Database] = {}
    cost: dict[int, dict[str, float]] = {}
    for rows in (FEW, count):
        databases[rows], cost[rows] = made(server, rows)
    seconds: dict[int, list[float]] = {rows: [] for rows in databases}

    def block(rows: int, first: int) -> None:
        with databases[rows].begin() as uow:
            uow.documents.get(1)  # begins the transaction
            for number in range(first, min(first + BLOCK, queries)):
                began = time.perf_counter()
                uow.documents.search(asked[number], limit=LIMIT, space=SPACE)
                seconds[rows].append(time.perf_counter() - began)

    for turn in range(rounds + 1):
        if turn == 1:  # the first was to read the pages
            for times in seconds.values():
                times.clear()
        for first in range(0, queries, BLOCK):
            interleaved(1, {str(rows): partial(block, rows, first) for rows in databases})
    lines: list[tuple[str, ...]] = []
    p50: dict[int, float] = {}
    for rows, database in databases.items():
        p50[rows], p95 = (float(one) for one in np.percentile(seconds[rows], (50, 95)) * 1000)
        one = cost[rows]
        rate, megabytes = rows / one["seconds"], one["megabytes"]
        right = f"{recall(database, asked[:COMPARED]):.3f}"
        lines.append(
            (
                f"{rows:,}", f"{rate:,.0f}", f"{megabytes:.0f}", f"{one['built']:.1f}", f"{one['index']:,.0f}",
                f"{p50[rows]:.2f}", f"{p95:.2f}", right,
            )
        )  # fmt: skip
        database.close()
    header = (
        "rows", "loaded, rows a second", "memory of the load, MB", "index built in, s", "index, MB", "p50, ms", "p95, ms",
        "recall@10",
    )  # fmt: skip
    targets = [
        at_most(f"load of {count:,} rows: MB of resident memory", cost[count]["megabytes"], 600),
        at_most(f"search p50 in half precision: {count:,} rows / {FEW:,} rows", p50[count] / p50[FEW], 2.5),
    ]
    return table(header, lines), targets


def recall(database: Database, queries: Any) -> float:
    """The share of the nearest rows of an exact search that a search by the index finds."""
    shares: list[float] = []
    with database.begin() as uow:
        for query in queries:
            found, wanted = (
                {hit.row.id for hit in uow.documents.search(query, limit=LIMIT, space=SPACE, params=params)}
                for params in (SearchParams(), SearchParams(exact=True))
            )
            shares.append(len(found & wanted) / LIMIT)
    return float(np.mean(shares))


if __name__ == "__main__":
    print(json.dumps(load(sys.argv[1], int(sys.argv[2]))))
