"""Memories beside raw psycopg: what recall, remember and touch cost, on one database, in turns.

    python benchmarks/memories.py [FOLDER]

FOLDER holds `wordnet_documents.jsonl` and `wordnet_minilm_384.npz`; by default the sample in examples/data. Ages and
importances are made up, of every kind, and seeded. On the sample an exact blend takes little longer than a round
trip, so the ratio of recall says something only of a larger set.
"""

from __future__ import annotations

import itertools
import json
import platform
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import make_url, text

from alfred_db import Database, Memory, embedded
from alfred_db.repositories._sync.bulk import add_many
from alfred_db.repositories._sync.memories import MemoryRepository
from alfred_db.repositories._sync.memory_banks import MemoryBankRepository

SAMPLE = Path(__file__).parent.parent / "examples" / "data"
HALF_LIFE = timedelta(days=30)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
QUERIES, WRITES, BLOCK = 300, 300, 30

# The same score as the library's, as an application would write it by hand.
EXACT_BLEND = """
    SELECT id, content, importance, access_count, last_accessed, created_at,
           greatest(1 - (embedding <=> $1::vector), 0::float8)
           * (0.8::float8 + 0.02::float8 * least(importance, 10))
           * (0.8::float8 + 0.2::float8 * power(2::float8, - greatest(
                 extract(epoch FROM $3 - coalesce(last_accessed, created_at))::float8 / $4, 0::float8))) AS score
    FROM memories
    WHERE memory_bank_id = $2 AND (expires_at IS NULL OR expires_at > now())
    ORDER BY score DESC, id LIMIT 10
"""
INSERT = """
    INSERT INTO memories (memory_bank_id, content, embedding, importance, content_hash)
    VALUES ($1, $2, $3::vector, $4, $5) RETURNING id
"""


class Packed(bytes):
    """A vector in pgvector's binary format: the fastest way that the driver has."""


class PackedDumper(psycopg.adapt.Dumper):
    format = psycopg.pq.Format.BINARY

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


def pack(vector: Any) -> Packed:
    return Packed(struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fill(db: Database, folder: Path) -> tuple[int, Any, Any]:
    """One bank with all documents; gives its id, and the unit vectors of documents and queries."""
    lines = (folder / "wordnet_documents.jsonl").read_text().splitlines()
    with np.load(folder / "wordnet_minilm_384.npz") as data:
        documents, queries = (data[name].astype(np.float32) for name in ("documents", "queries"))
    rng = np.random.default_rng(1)
    importances, ages = rng.integers(1, 11, len(lines)), rng.exponential(1.0, len(lines))
    with db.begin() as uow:
        bank = MemoryBankRepository(uow.session).get_or_create("all").id
        rows = [
            {
                "memory_bank_id": bank,
                "content": json.loads(line)["text"],
                "importance": int(importance),
                "last_accessed": NOW - HALF_LIFE * float(age),
            }
            for line, importance, age in zip(lines, importances, ages, strict=True)
        ]
        add_many(uow.session, Memory, rows, vectors={"embedding": documents})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("REINDEX INDEX idx_memories_embedding"))
        connection.execute(text("VACUUM (ANALYZE) memories"))
    return bank, documents, queries


def recall(db: Database, raw: psycopg.Connection[Any], bank: int, queries: Any) -> tuple[float, float]:
    """The ratio of times, and the share of queries with the same ten.

    They take turns by blocks of queries: after each single scan of all rows the processor's caches would hold
    nothing of the index, which is not how a database is used.
    """
    ours: list[float] = []
    exact: list[float] = []
    equal = certified = 0
    for block in np.array_split(queries, max(1, len(queries) // BLOCK)):
        found, expected = [], []
        for query in block:
            with db.session() as session:
                session.execute(text("SELECT 1"))  # begins the transaction
                start = time.perf_counter()
                found.append(MemoryRepository(session).recall(bank, query, half_life=HALF_LIFE, now=NOW))
                ours.append(time.perf_counter() - start)
        for query in block:
            start = time.perf_counter()
            parameters = (pack(query), bank, NOW, HALF_LIFE.total_seconds())
            expected.append(raw.execute(EXACT_BLEND, parameters).fetchall())
            exact.append(time.perf_counter() - start)
        raw.rollback()
        for given, wanted in zip(found, expected, strict=True):
            equal += {hit.row.id for hit in given} == {row[0] for row in wanted}
            certified += given.certified
    ratio = median(ours) / median(exact)
    show("recall", ours, "exact blend", exact)
    print(f"  the same ten: {equal} of {len(queries)}; certified: {certified}; path: {given.path}")
    return ratio, equal / len(queries)


def remember(db: Database, raw: psycopg.Connection[Any], bank: int, documents: Any) -> float:
    """The ratio to an INSERT of the same row; each in a transaction of its own, whose end is not counted."""
    rng, number = np.random.default_rng(2), itertools.count()
    ours: list[float] = []
    inserts: list[float] = []
    for _ in range(WRITES):
        base = documents[rng.integers(len(documents))]
        vector, other = (base + rng.normal(scale=0.02, size=384).astype(np.float32) for _ in range(2))
        with db.begin() as uow:
            uow.session.execute(text("SELECT 1"))
            memories = MemoryRepository(uow.session)
            content = f"something new that was said, number {next(number)}"
            start = time.perf_counter()
            memories.remember(bank, content, embedding=vector, importance=3)
            ours.append(time.perf_counter() - start)
        raw.execute("SELECT 1")
        content = f"something new that was said, number {next(number)}"
        start = time.perf_counter()
        raw.execute(INSERT, (bank, content, pack(other), 3, rng.bytes(32))).fetchone()
        inserts.append(time.perf_counter() - start)
        raw.commit()
    show("remember", ours, "raw INSERT", inserts)
    return median(ours) / median(inserts)


def touch(db: Database, bank: int, rows: int) -> tuple[float, float]:
    """Milliseconds more than an empty round trip, and the share of HOT updates."""
    rng = np.random.default_rng(3)
    ours: list[float] = []
    empty: list[float] = []
    before = updates(db)
    with db.begin() as uow:
        first = MemoryRepository(uow.session).list(bank, limit=1).items[0].id
    for _ in range(WRITES):
        ids = (first + rng.choice(rows, size=10, replace=False)).tolist()
        with db.begin() as uow:
            statement, memories = text("SELECT 1"), MemoryRepository(uow.session)
            uow.session.execute(statement)
            empty.append(seconds(lambda: uow.session.execute(statement).all()))  # noqa: B023
            ours.append(seconds(lambda: memories.touch(ids)))  # noqa: B023
    db.close()  # a session reports its statistics at its end at the latest
    time.sleep(1.5)
    total, hot = (after - old for after, old in zip(updates(db), before, strict=True))
    show("touch of 10", ours, "SELECT 1", empty)
    print(f"  HOT: {hot} of {total}")
    return (median(ours) - median(empty)) * 1000, hot / total


def updates(db: Database) -> tuple[int, int]:
    statement = text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'memories'::regclass"
    )
    with db.session() as session:
        total, hot = session.execute(statement).one()
    return total, hot


def show(name: str, ours: list[float], other: str, theirs: list[float]) -> None:
    for label, times in ((name, ours), (other, theirs)):
        low, middle, high = (1000 * value for value in quantiles(times, n=4))
        print(f"  {label:<12} {middle:8.3f} ms  (quartiles {low:.3f} to {high:.3f}, {len(times)} times)")


def main(folder: Path) -> int:
    psycopg.adapters.register_dumper(Packed, PackedDumper)
    with tempfile.TemporaryDirectory(prefix="alfred-db-bench-", dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        url = make_url(embedded.start(place).url or "")
        try:
            address = url.set(drivername="postgresql").render_as_string(hide_password=False)
            with Database(url) as db:
                db.upgrade()
                bank, documents, queries = fill(db, folder)
                print(f"{len(documents)} memories, {platform.machine()}, Python {platform.python_version()}")
                with psycopg.connect(address, cursor_factory=psycopg.RawCursor) as raw:
                    ratio, equal = recall(db, raw, bank, queries[:QUERIES])
                    remembered = remember(db, raw, bank, documents)
                more, hot = touch(db, bank, len(documents))
        finally:
            embedded.stop(place)
    large = len(documents) >= 10_000
    print(f"recall / exact blend: {ratio:.2f} (limit 0.25, from 10,000 memories on)")
    print(f"recall is the exact blend: {equal:.1%} (at least 99%)")
    print(f"remember / raw INSERT: {remembered:.2f} (limit 1.6)")
    print(f"touch: {more:.3f} ms more than a round trip (limit 0.3), HOT {hot:.1%} (at least 90%)")
    good = equal >= 0.99 and remembered <= 1.6 and more <= 0.3 and hot >= 0.9 and (ratio <= 0.25 or not large)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE))
