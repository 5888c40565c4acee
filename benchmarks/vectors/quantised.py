"""Smaller indexes beside that of float32: size, time to build, and recall against time, through spaces of the library."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plot
import psycopg
from harness import Server, Target, at_least, at_most, interleaved, table

from alfred_db import Database, SearchParams
from alfred_db.indexes import advise

from .data import Rows, nearest_distances, recall, spectrum
from .peers import migrated

__all__ = ["advice", "quantised"]

LIMIT, BLOCK = 10, 20
INDEXES = ("hnsw", "hnsw-halfvec", "hnsw-bit")
EFFORTS = (40, 60, 80, 120, 160, 240, 320)
ENOUGH = 0.98
DIMENSIONS = 1536


def fill(database: Database, rows: Rows) -> dict[str, tuple[float, int]]:
    """A space for each index, with the same vectors; returns the seconds of each build, and the bytes."""
    with database.begin() as uow:
        contents: list[Any] = [{"content": one} for one in rows.texts]
        ids = uow.documents.add_many(contents)
        for index in INDEXES:
            uow.spaces.create(
                index,
                kind="documents",
                model="m",
                dimensions=rows.dimensions,
                index=index,
                building=True,
            )
    built: dict[str, tuple[float, int]] = {}
    for index in INDEXES:
        for first in range(0, len(ids), 1_000):
            some = slice(first, first + 1_000)
            with database.begin() as uow:
                uow.spaces.store(index, ids[some], rows.vectors[some])
        with database.begin() as uow:
            # An index that does not fit into the memory is built on disk.
            uow.session.connection().exec_driver_sql("SET LOCAL maintenance_work_mem = '2GB'")
            started = time.perf_counter()
            uow.spaces.activate(index)
            seconds = time.perf_counter() - started
            name = f"idx_{uow.spaces.describe(index).table}"
            size = uow.session.connection().exec_driver_sql(f"SELECT pg_relation_size('{name}')").scalar_one()
        built[index] = seconds, size
    return built


def quantised(
    server: Server, count: int, queries: int, rounds: int, picture: Path
) -> tuple[str, list[Target]]:
    """Search in each space at several candidate lists, in turns."""
    rows = spectrum(count, DIMENSIONS, queries)
    url = migrated(server, "quantised")
    last = nearest_distances(rows.vectors, rows.queries, LIMIT)
    with Database(url) as database:
        built = fill(database, rows)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE) documents")
            connection.execute("VACUUM (ANALYZE) documents_embeddings")
            first = connection.execute("SELECT min(id) FROM documents").fetchone()[0]  # type: ignore[index]
        cases = [(index, ef) for index in INDEXES for ef in EFFORTS]
        seconds: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
        found: dict[tuple[str, int], dict[int, list[int]]] = {case: {} for case in cases}

        def block(case: tuple[str, int], start: int) -> None:
            index, ef = case
            params = SearchParams(exact=False, ef_search=ef)
            with database.begin() as uow:
                uow.documents.search(rows.queries[start], limit=LIMIT, space=index, params=params)
                for number in range(start, min(start + BLOCK, queries)):
                    began = time.perf_counter()
                    result = uow.documents.search(
                        rows.queries[number], limit=LIMIT, space=index, params=params
                    )
                    seconds[case].append(time.perf_counter() - began)
                    found[case][number] = [hit.row.id - first for hit in result]

        for turn in range(rounds + 1):
            if turn == 1:  # the first was to read the pages
                for times in seconds.values():
                    times.clear()
            for start in range(0, queries, BLOCK):
                interleaved(1, {f"{case}": partial(block, case, start) for case in cases})
    lines: list[tuple[str, ...]] = []
    points: dict[str, dict[float, float]] = {index: {} for index in INDEXES}
    best: dict[str, float] = {}
    for case in cases:
        index, ef = case
        right = recall(rows.vectors, rows.queries, [found[case][n] for n in range(queries)], last, LIMIT)
        p50, p95 = np.percentile(seconds[case], (50, 95)) * 1000
        points[index][round(right, 3)] = 1000 / p50
        if right >= ENOUGH:
            best[index] = min(best.get(index, np.inf), float(p50))
        took, size = built[index]
        lines.append(
            (
                index,
                f"{took:.1f}",
                f"{size / 2**20:,.0f}",
                str(ef),
                f"{right:.3f}",
                f"{p50:.2f}",
                f"{p95:.2f}",
            )
        )
    plot.lines(picture, "Searches a second by recall@10", {rows.name: points})
    nothing = float("nan")
    what = f"bits / float32, {rows.name} of {DIMENSIONS} dimensions"
    targets = [
        at_least(
            f"{what}: searches a second at recall {ENOUGH}",
            best.get("hnsw", nothing) / best.get("hnsw-bit", nothing),
            1.8,
        ),
        at_most(f"{what}: size", built["hnsw-bit"][1] / built["hnsw"][1], 0.1),
        at_most(f"{what}: time to build", built["hnsw-bit"][0] / built["hnsw"][0], 0.35),
    ]
    header = ("index", "built in, s", "MB", "ef_search", "recall@10", "p50, ms", "p95, ms")
    return table(header, lines), targets


def advice(database: Database, rows: int) -> tuple[str, Target]:
    """What `alfred-db vectors advise` says of the real rows of 384 dimensions: bits do not pay."""
    found = advise(database.engine, "documents", target=ENOUGH, rows=rows)
    best = "none" if found.best is None else found.best.index
    what = "`vectors advise` of the real rows of 384 dimensions: does not choose bits"
    return f"```\n{found.as_text()}\n```", at_least(what, float(best != "hnsw-bit"), 1.0)
