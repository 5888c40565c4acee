"""What costs while nothing is to be done: statements of idle workers and pools, and dead rows after many cycles."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import psycopg
from harness import Server, table

from alfred_db import Database, Worker

__all__ = ["bloat", "idle"]

PACE = 19
"""Tasks a second of an intent that no worker has."""
EACH = 100
"""Tasks of a batch."""


def idle(server: Server, seconds: float) -> str:
    """Return a table of the statements that the server gets in a second."""
    url = server.database("idle")
    with Database(url) as database:
        database.upgrade()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    alone = _ran(url, 0, seconds, enqueue=True)
    each = alone[0] / alone[1]
    rows: list[tuple[str, str, str]] = []
    with Database(url), Database(url, notify=True):
        rows.append(("two pools, one of them with `notify=True`", f"{_rate(url, 0, seconds):.2f}", ""))
    for number, pooler in ((1, None), (5, None), (5, "transaction")):
        found = _rate(url, number, seconds, pooler=pooler)
        what = f"{number} idle worker{'s' if number > 1 else ''}"
        rows.append(
            (what + (f", `pooler={pooler!r}`" if pooler else ""), f"{found:.2f}", f"{found / number:.2f}")
        )
    for number in (1, 5):
        ran, enqueued = _ran(url, number, seconds, enqueue=True)
        found = max(ran - each * enqueued, 0.0) / seconds
        what = f"{number} idle worker{'s' if number > 1 else ''}, {PACE} tasks a second of an intent that none has"
        rows.append((what, f"{found:.2f}", f"{found / number:.2f}"))
    return table(("", "statements a second", "of each worker"), rows)


def _rate(url: str, workers: int, seconds: float, *, pooler: Any = None) -> float:
    return _ran(url, workers, seconds, pooler=pooler)[0] / seconds


def _ran(
    url: str, workers: int, seconds: float, *, enqueue: bool = False, pooler: Any = None
) -> tuple[float, int]:
    """Return the number of statements beside idle workers, and of tasks that were enqueued."""
    with ExitStack() as stack:
        for _ in range(workers):
            stack.enter_context(_worker(url, pooler))
        database = stack.enter_context(Database(url, notify=True)) if enqueue else None
        time.sleep(6)  # the first looks are close to each other
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET search_path = extensions, public")  # wherever the extension is
            connection.execute("SELECT pg_stat_statements_reset()")
            start = time.perf_counter()
            number = 0
            while time.perf_counter() - start < seconds:
                if database is None:
                    time.sleep(0.1)
                    continue
                with database.begin() as uow:
                    uow.tasks.enqueue("NOBODY", {"n": number})
                number += 1
                time.sleep(max(0.0, start + number / PACE - time.perf_counter()))
            row = connection.execute(
                "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'"
                " AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchone()
            assert row is not None
            return float(row[0]), number


@contextmanager
def _worker(url: str, pooler: Any) -> Iterator[None]:
    with Database(url, pooler=pooler) as database:
        worker = Worker(database, {"JOB": lambda task, lease: None})
        thread = threading.Thread(target=lambda: worker.run(signals=False))
        thread.start()
        try:
            yield
        finally:
            worker.stop()
            thread.join()


def bloat(server: Server, cycles: int) -> str:
    """Return a table of what is left of tasks that were enqueued, claimed, completed and purged."""
    rows: list[tuple[str, ...]] = []
    for what, held in (("", False), (", beside an open snapshot", True)):
        url = server.database("bloat")
        with Database(url) as database, psycopg.connect(url) as other:
            database.upgrade()
            if held:
                other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                other.execute("SELECT 1")
            taken = [_cycle(database) for _ in range(cycles // EACH)]
            tenth = max(len(taken) // 10, 1)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SELECT pg_stat_force_next_flush()")
                time.sleep(1)
                row = connection.execute(
                    "SELECT pg_table_size('tasks'), pg_indexes_size('tasks'), n_dead_tup, autovacuum_count, n_live_tup"
                    " FROM pg_stat_user_tables WHERE relname = 'tasks'"
                ).fetchone()
            assert row is not None
            other.rollback()
        first, last = median(taken[:tenth]), median(taken[-tenth:])
        sizes = (f"{row[0] / 2**20:.1f}", f"{row[1] / 2**20:.1f}", f"{row[2]:,}", f"{row[3]:,}")
        rows.append(
            (f"{cycles:,} cycles{what}", *sizes, f"{first:.1f}", f"{last:.1f}", f"{last / first:.2f}")
        )
    header = ("", "table, MB", "its indexes, MB", "dead rows", "autovacuums")
    return table((*header, "a cycle of 100: first tenth, ms", "last tenth, ms", "ratio"), rows)


def _cycle(database: Database) -> float:
    """Return the milliseconds of a batch that is enqueued, claimed, completed and purged."""
    start = time.perf_counter()
    with database.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "JOB"}] * EACH)
    with database.begin() as uow:
        held = uow.tasks.claim("w", limit=EACH)
    with database.begin() as uow:
        uow.tasks.complete_many(held)
    with database.begin() as uow:
        uow.tasks.purge(older_than=0.0, limit=EACH)
    return 1000 * (time.perf_counter() - start)
