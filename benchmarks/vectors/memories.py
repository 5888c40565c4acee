"""Memories beside raw psycopg: what recall, remember and touch cost, on one database, in turns.

Ages and importances are made up, of every kind, and seeded. On the sample an exact blend takes little longer than
a round trip, so the ratio of recall says something only of a larger set.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median, quantiles
from typing import Any

import numpy as np
import psycopg
from harness import Target, at_least, at_most, table
from sqlalchemy import text

from alfred_db import Database, Memory
from alfred_db.execution._sync.bulk import add_many
from alfred_db.repositories import MemoryBankRepository, MemoryRepository

from .data import Rows

__all__ = ["memories"]

HALF_LIFE = timedelta(days=30)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
BLOCK = 30
ENOUGH = 10_000
"""From so many memories on an exact blend is slow enough to be compared with."""

Line = tuple[str, str, str, str]

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
UPDATE = """
    UPDATE memories SET access_count = access_count + 1, last_accessed = statement_timestamp(), updated_at = now()
    WHERE id = ANY ($1::bigint[]) RETURNING id
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


def ask(execute: Callable[..., Any], *arguments: Any) -> list[Any]:
    return list(execute(*arguments))


def memories(database: Database, address: str, rows: Rows, times: int) -> tuple[str, list[Target]]:
    """`times` queries, and so many writes of each kind."""
    psycopg.adapters.register_dumper(Packed, PackedDumper)
    bank = fill(database, rows)
    with psycopg.connect(address, cursor_factory=psycopg.RawCursor) as raw:
        lines, targets = recall(database, raw, bank, rows.queries[:times])
        for found in (
            remember(database, raw, bank, rows.vectors, times),
            touch(database, raw, bank, len(rows), times),
        ):
            lines += found[0]
            targets += found[1]
    return table(("", "median, ms", "quartiles, ms", "times"), lines), targets


def fill(db: Database, rows: Rows) -> int:
    rng = np.random.default_rng(1)
    importances, ages = rng.integers(1, 11, len(rows)), rng.exponential(1.0, len(rows))
    with db.begin() as uow:
        bank = MemoryBankRepository(uow.session).get_or_create("all").id
        values = [
            {
                "memory_bank_id": bank,
                "content": content,
                "importance": int(importance),
                "last_accessed": NOW - HALF_LIFE * float(age),
            }
            for content, importance, age in zip(rows.texts, importances, ages, strict=True)
        ]
        add_many(uow.session, Memory, values, vectors={"embedding": rows.vectors})
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("REINDEX INDEX idx_memories_embedding"))
        connection.execute(text("VACUUM (ANALYZE) memories"))
    return bank


def recall(
    db: Database, raw: psycopg.Connection[Any], bank: int, queries: Any
) -> tuple[list[Line], list[Target]]:
    """Times, and the share of queries with the same ten.

    They take turns by blocks of queries: after each single scan of all rows the processor's caches would hold
    nothing of the index, which is not how a database is used.
    """
    ours: list[float] = []
    exact: list[float] = []
    times: list[float] = []
    whole: list[float] = []
    equal = exactly = certified = shared = 0
    for block in np.array_split(queries, max(1, len(queries) // BLOCK)):
        found, complete, expected = [], [], []
        for query in block:
            with db.session() as session:
                session.execute(text("SELECT 1"))  # begins the transaction
                start = time.perf_counter()
                found.append(MemoryRepository(session).recall(bank, query, half_life=HALF_LIFE, now=NOW))
                ours.append(time.perf_counter() - start)
        for query in block:
            with db.session() as session:
                session.execute(text("SELECT 1"))
                start = time.perf_counter()
                asked = MemoryRepository(session)
                complete.append(asked.recall(bank, query, half_life=HALF_LIFE, now=NOW, exact=True))
                whole.append(time.perf_counter() - start)
        for query in block:
            start = time.perf_counter()
            parameters = (pack(query), bank, NOW, HALF_LIFE.total_seconds())
            expected.append(raw.execute(EXACT_BLEND, parameters).fetchall())
            exact.append(time.perf_counter() - start)
        raw.rollback()
        times.append(median(ours[-len(block) :]) / median(exact[-len(block) :]))
        for given, wanted in zip(found, expected, strict=True):
            same = {hit.row.id for hit in given} & {row[0] for row in wanted}
            shared += len(same)
            equal += len(same) == len(wanted)
        for compared, wanted in zip(complete, expected, strict=True):
            exactly += {hit.row.id for hit in compared} == {row[0] for row in wanted}
            certified += compared.certified
    count = len(queries)
    targets = [
        at_least("recall: share of queries with the exact ten", equal / count, 0.99),
        at_least("recall: overlap with the exact ten", shared / (10 * count), 0.99),
        at_least("recall, exact=True: share of queries with the exact ten", exactly / count, 1.0),
        at_least("recall, exact=True: share of queries that are certified", certified / count, 1.0),
    ]
    lines = [
        line("`recall`", ours),
        line(f"`recall`, exact=True, certified for {certified} of {count}", whole),
        line("the exact blend, raw psycopg", exact),
    ]
    if raw.execute("SELECT count(*) FROM memories").fetchone() >= (ENOUGH,):
        targets.append(at_most("recall / the exact blend", median(times), 0.25))
    return lines, targets


def remember(
    db: Database, raw: psycopg.Connection[Any], bank: int, documents: Any, times: int
) -> tuple[list[Line], list[Target]]:
    """Beside an INSERT of the same row; each in a transaction of its own, whose end is not counted."""
    rng, number = np.random.default_rng(2), itertools.count()
    ours: list[float] = []
    inserts: list[float] = []
    for _ in range(times):
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
    target = at_most("remember / raw INSERT", median(ours) / median(inserts), 1.6)
    return [line("`remember`", ours), line("INSERT, raw psycopg", inserts)], [target]


def touch(
    db: Database, raw: psycopg.Connection[Any], bank: int, rows: int, times: int
) -> tuple[list[Line], list[Target]]:
    """Beside an empty round trip, and a bare UPDATE of other rows; and the share of HOT updates."""
    rng = np.random.default_rng(3)
    ours: list[float] = []
    bare: list[float] = []
    empty: list[float] = []
    before = updates(db)
    with db.begin() as uow:
        first = MemoryRepository(uow.session).list(bank, limit=1).items[0].id
    for _ in range(times):
        ids = (first + rng.choice(rows, size=10, replace=False)).tolist()
        with db.begin() as uow:
            statement, memories = text("SELECT 1"), MemoryRepository(uow.session)
            uow.session.execute(statement)
            empty.append(seconds(partial(ask, uow.session.execute, statement)))
            ours.append(seconds(partial(memories.touch, ids)))
        others = (first + rng.choice(rows, size=10, replace=False)).tolist()
        raw.execute("SELECT 1")
        bare.append(seconds(partial(ask, raw.execute, UPDATE, (others,))))
        raw.commit()
    db.close()  # a session reports its statistics at its end at the latest
    time.sleep(1.5)
    total, hot = (after - old for after, old in zip(updates(db), before, strict=True))
    targets = [
        at_most("touch of 10 rows: ms more than a round trip", (median(ours) - median(empty)) * 1000, 0.3),
        at_least("touch of 10 rows: share of HOT updates", hot / total, 0.9),
    ]
    lines = [line("`touch` of 10 rows", ours), line("UPDATE of 10 rows, raw psycopg", bare)]
    return [*lines, line("`SELECT 1`", empty)], targets


def updates(db: Database) -> tuple[int, int]:
    statement = text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'memories'::regclass"
    )
    with db.session() as session:
        total, hot = session.execute(statement).one()
    return total, hot


def line(name: str, times: list[float]) -> Line:
    low, middle, high = (1000 * value for value in quantiles(times, n=4))
    return name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", str(len(times))
