"""How long each chunk of long work holds a transaction id: readers of events and vacuum wait for the oldest one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

import psycopg
from chunked import CASES, prepare
from harness import Target, at_most, table

from alfred_db import Database
from alfred_db.engine.chunks import number_of
from alfred_db.repositories import UnitOfWork
from alfred_db.worker import _upkeep

__all__ = ["chunks"]

MOST_MS = 200.0
PATIENCE = 20.0
"""Seconds after which the rest of a case is left."""

UPKEEP = {
    "tasks.reap": _upkeep.REAPED,
    "workflows.reap": _upkeep.REAPED,
    "queues.age": _upkeep.AGED,
    "cache.purge": _upkeep.PURGED,
    "cache.evict": _upkeep.PURGED,
    "rate_limits.purge": _upkeep.PURGED,
    "web_sessions.purge": _upkeep.PURGED,
}
"""The rows of one call of the upkeep of a worker, whose size does not follow the time."""


class _Enough(Exception):
    pass


@dataclass
class _Held:
    """The chunks of a case, in milliseconds, from before their first statement to after their COMMIT."""

    ms: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def chunks(url: str, rows: int) -> tuple[str, list[Target]]:
    """Return a table of the chunks of every method with a limit that writes, on a filled database."""
    with Database(url) as database:
        lines: list[tuple[str, ...]] = []
        longest = 0.0
        for name, case in CASES.items():
            held = _in_chunks(database, url, name, rows)
            line = [f"`{name}`", f"{sum(held.rows):,}", f"{len(held.ms)}", f"{max(held.rows):,}"]
            line += [f"{median(held.ms):.0f}", f"{max(held.ms):.0f}"]
            longest = max(longest, *held.ms)
            if (most := UPKEEP.get(name)) is not None:
                fixed = _in_chunks(database, url, name, rows, fixed=most)
                longest = max(longest, *fixed.ms)
                line += [f"{max(fixed.rows):,}", f"{max(fixed.ms):.0f}"]
            else:
                line += ["", ""]
            print(*line, case.once, file=sys.stderr, flush=True)
            lines.append(tuple(line))
    header = ("", "rows", "chunks", "most rows", "p50, ms", "longest, ms", "upkeep, rows", "longest, ms")
    return table(header, lines), [at_most("ms of the longest transaction of a chunk", longest, MOST_MS)]


def _in_chunks(database: Database, url: str, name: str, rows: int, fixed: int | None = None) -> _Held:
    case, held = CASES[name], _Held()
    with psycopg.connect(url, autocommit=True) as connection:  # what other cases have left
        for line in ("DELETE FROM tasks WHERE intent IN ('CHUNK', 'ROOT')", *_LEFT):
            connection.execute(line.encode())
    with database.begin() as uow:
        key = prepare(uow, case, rows)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
    began = first = time.perf_counter()

    def call(uow: UnitOfWork, limit: int) -> int | Sized:
        nonlocal began
        began = time.perf_counter()
        done = case.call(uow, fixed or limit, key)
        held.rows.append(number_of(done))
        return limit if fixed and held.rows[-1] >= fixed else done

    def committed(_: int) -> None:
        held.ms.append(1e3 * (time.perf_counter() - began))
        if time.perf_counter() - first > PATIENCE or (case.once and len(held.ms) == 20):
            raise _Enough

    work: Callable[..., int] = database.in_chunks
    with suppress(_Enough):
        work(call, limit=case.most, progress=committed)
    return held


_LEFT = (
    "DELETE FROM scheduler_executions WHERE task_id IN (SELECT id FROM scheduler_tasks WHERE schedule_key LIKE 'chunk%')",
    "DELETE FROM scheduler_tasks WHERE schedule_key LIKE 'chunk%'",
    "DELETE FROM workflow_executions WHERE workflow_id = (SELECT id FROM workflows WHERE name = 'chunk')",
    "DELETE FROM workflows WHERE name = 'chunk'",
    "DELETE FROM memories WHERE memory_bank_id = (SELECT id FROM memory_banks WHERE name = 'chunk')",
    "DELETE FROM memory_banks WHERE name = 'chunk'",
    "DELETE FROM knowledge_points WHERE collection = 'legal-knowledge' AND id LIKE 'chunk-%'",
    "DELETE FROM entity.entity_node WHERE node_type = 'chunk'",
    "DELETE FROM event_consumers WHERE name = 'chunk'",
    "DELETE FROM queues WHERE name = 'chunk'",
    "TRUNCATE cache, rate_limits, web_sessions",
)
