"""From 10,000 to 100,000 rows: how much slower a search gets, and how large table and index are."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import psycopg
from harness import Server, Target, at_most, interleaved, table

from alfred_db import Database

from .data import clusters, nearest_distances, recall
from .load import without_vector_index
from .peers import migrated

__all__ = ["growth"]

LIMIT, BLOCK = 10, 50
INDEX = "idx_documents_embedding"


def growth(server: Server, counts: tuple[int, int], queries: int, rounds: int) -> tuple[str, Target]:
    databases, seconds, built, found = {}, {}, {}, {}
    sets = {count: clusters(count, 384, queries) for count in counts}
    for count, rows in sets.items():
        url = migrated(server, f"growth_{count}")
        without_vector_index(url, INDEX)
        database = databases[count] = Database(url)
        with database.begin() as uow:
            given = [{"content": text} for text in rows.texts]
            uow.documents.add_many(given, embeddings=rows.vectors)
        with psycopg.connect(url, autocommit=True) as connection:
            start = time.perf_counter()
            connection.execute(
                f"CREATE INDEX {INDEX} ON documents USING hnsw (embedding vector_cosine_ops)"
                " WITH (m = 16, ef_construction = 64)"
            )
            built[count] = time.perf_counter() - start
            connection.execute("VACUUM (ANALYZE) documents")
        seconds[count], found[count] = [], {}

    def block(count: int, first: int) -> None:
        with databases[count].begin() as uow:
            uow.documents.get(1)
            for number in range(first, min(first + BLOCK, queries)):
                start = time.perf_counter()
                result = uow.documents.search(sets[count].queries[number], limit=LIMIT)
                seconds[count].append(time.perf_counter() - start)
                found[count][number] = [hit.row.id - 1 for hit in result]

    for turn in range(rounds + 1):
        if turn == 1:  # the first was to read the pages
            for times in seconds.values():
                times.clear()
        for first in range(0, queries, BLOCK):
            interleaved(1, {str(count): partial(block, count, first) for count in counts})
    lines, p50 = [], {}
    for count, rows in sets.items():
        p50[count], p95 = np.percentile(seconds[count], (50, 95)) * 1000
        last = nearest_distances(rows.vectors, rows.queries, LIMIT)
        places = [found[count][number] for number in range(queries)]
        right = recall(rows.vectors, rows.queries, places, last, LIMIT)
        with databases[count].begin() as uow:
            connection = uow.session.connection().connection.driver_connection
            statement = f"SELECT pg_table_size('documents'), pg_relation_size('{INDEX}')"
            sizes = connection.execute(statement).fetchone()
        heap, index = (f"{size / (1 << 20):,.0f}" for size in sizes)
        lines.append(
            (
                f"{count:,}",
                f"{p50[count]:.2f}",
                f"{p95:.2f}",
                f"{right:.3f}",
                heap,
                index,
                f"{built[count]:.1f}",
            )
        )
        databases[count].close()
    header = ("rows", "p50, ms", "p95, ms", "recall@10", "table, MB", "vector index, MB", "index built in, s")
    first, last = counts
    what = f"search p50: {last:,} rows / {first:,} rows"
    return table(header, lines), at_most(what, float(p50[last] / p50[first]), 2)
