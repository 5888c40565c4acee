"""Measure what an operator has beside the work: telemetry that is off, the page of tasks, and the purge.

python benchmarks/operations.py [--quick] [--rows 1000000] [--only telemetry web purge]
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

import httpx2
import psycopg
from harness import OPERATIONS, Server, Target, at_most, machine, one_server, publish, table, targets
from sqlalchemy import text

from alfred_db import Database
from alfred_db.retention import RetentionPolicy, purge
from alfred_db.telemetry.otel import instrument, uninstrument
from alfred_db.web.app import create_app

PASSES = 15
LISTS = (
    "",
    "status=pending",
    "status=processing",
    "status=completed",
    "status=failed",
    "queue=second",
    "queue=nothing",
    "intent=other",
    "intent=nothing",
    "assigned_to=worker-1",
    "queue=second&status=failed",
    "intent=other&status=pending",
)
"""What the page of tasks is asked for."""


def telemetry(server: Server, quick: bool) -> tuple[str, list[Target]]:
    """A claim by a database that was never instrumented, and by one that is not any more, by the client's CPU time."""
    url = server.database("telemetry")
    plain, off, on = (Database(url, pool_size=1) for _ in range(3))
    plain.upgrade()
    instrument(off)
    uninstrument(off)
    instrument(on)
    number = 300 if quick else 1000

    def run(db: Database) -> float:
        with db.begin() as uow:
            uow.session.execute(text("DELETE FROM tasks"))
            uow.tasks.enqueue_many([{"intent": "i"} for _ in range(number)])
        began = time.process_time()
        for _ in range(number):
            with db.autocommit() as uow:
                uow.tasks.claim(worker="w")
        return (time.process_time() - began) / number * 1e6

    ways = {"never instrumented": plain, "off again": off, "on, without an exporter": on}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(PASSES):
        order = list(ways.items()) if turn % 2 else list(ways.items())[::-1]
        for name, db in order:
            found[name].append(run(db))
    for db in ways.values():
        db.close()
    base = found["never instrumented"]
    ratios = {name: median(a / b for a, b in zip(times, base, strict=True)) for name, times in found.items()}
    rows = [(name, f"{median(times):.1f}", f"{ratios[name]:.3f}") for name, times in found.items()]
    goal = at_most("a claim with telemetry off / without it", ratios["off again"], 1.01)
    return table(("a claim", "client CPU, µs", "ratio"), rows), [goal]


def seed(db: Database, rows: int) -> None:
    """10,000 tasks that wait, and finished ones."""
    with db.begin() as uow:
        uow.session.execute(
            text("""
                INSERT INTO tasks (id, task_id, intent, queue, status, content, created_at, completed_at)
                SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid), 'f' || n, CASE n % 1000 WHEN 0 THEN 'other' ELSE 'intent' END,
                    CASE n % 1000 WHEN 1 THEN 'second' ELSE 'default' END, 'completed', '{"a": 1}',
                    now() - interval '90 days', now() - interval '90 days'
                FROM generate_series(1, :rows) AS n
            """),
            {"rows": rows},
        )
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "intent", "task_id": f"p{number}"} for number in range(10_000)])
    with db.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM ANALYZE tasks")


def web(server: Server, url: str, quick: bool) -> tuple[str, list[Target]]:
    """The page of tasks, for each filter."""
    worst = 0.0
    rows: list[tuple[str, str, str]] = []
    with Database(url, read_only=True) as db:
        app = create_app(db)

        async def ask(path: str) -> float:
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as client:
                began = time.perf_counter()
                answer = await client.get(path)
                assert answer.status_code == 200, (path, answer.text[:500])
                return (time.perf_counter() - began) * 1000

        for path in ("/", *(f"/tasks?{one}" for one in LISTS)):
            times = [asyncio.run(ask(path)) for _ in range(3 if quick else 7)]
            worst = max(worst, median(times))
            rows.append((f"`{path}`", f"{times[0]:.0f}", f"{median(times):.0f}"))
    return table(("page", "first, ms", "median, ms"), rows), [at_most("ms of the slowest page", worst, 300)]


def claims(url: str, wants: Connection) -> None:
    """Claim and complete one task after the other until asked for the times; send them, with the time of each claim.

    It is a process, as workers are: in one process with the purge, a claim also waits for Python's lock and its collector.
    """
    waits: list[tuple[float, float]] = []
    with Database(url, pool_size=1) as db:
        while not wants.poll():
            began = time.monotonic()
            with db.autocommit() as uow:
                claimed = uow.tasks.claim(worker="w")
            waits.append((began, (time.monotonic() - began) * 1000))
            if len(waits) == 10:  # it has connected, and compiled what it runs
                wants.send(None)
            with db.autocommit() as uow:
                for task in claimed:
                    uow.tasks.complete(task)
            if not claimed:
                with db.begin() as uow:
                    uow.tasks.enqueue_many([{"intent": "intent"} for _ in range(1000)])
            time.sleep(0.005)
    wants.send(waits)


@contextmanager
def claimers(url: str, number: int) -> Generator[Callable[[], list[tuple[float, float]]]]:
    """Processes that claim; the function ends them, and returns when each claim began and the ms that it took."""
    spawned = get_context("spawn")
    pipes = [spawned.Pipe() for _ in range(number)]
    processes = [spawned.Process(target=claims, args=(url, there), daemon=True) for _, there in pipes]
    for process in processes:
        process.start()
    for here, _ in pipes:
        here.recv()

    def end() -> list[tuple[float, float]]:
        for here, _ in pipes:
            here.send(None)
        return [wait for here, _ in pipes for wait in here.recv()]

    try:
        yield end
    finally:
        for process in processes:
            process.kill()
            process.join()


WAITS = """
    SELECT COALESCE(wait_event_type || ' ' || wait_event, 'nothing') FROM pg_stat_activity
    WHERE state = 'active' AND query LIKE 'WITH claimed%' AND datname = current_database()
"""
"""What the claims that run now wait for."""


def purging(server: Server, url: str, rows: int) -> tuple[str, list[Target]]:
    """A purge of the finished tasks while two workers claim, after as much time without a purge."""
    policy = RetentionPolicy(tasks="30d", expired=False)
    ended, events = threading.Event(), (Counter[str](), Counter[str]())
    purges = False

    def sample() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not ended.wait(0.05):
                events[purges].update(name for (name,) in connection.execute(WAITS))

    with Database(url) as db, claimers(url, 2) as end:
        counted = {one.kind: one.rows for one in purge(db, policy, dry_run=True)}
        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        calm = time.monotonic()
        time.sleep(rows / 2500)
        purges, began = True, time.monotonic()
        removed = {one.kind: one.rows for one in purge(db, policy)}
        done = time.monotonic()
        ended.set()
        sampler.join()
        every = end()
    phases = [
        sorted(wait for begun, wait in every if first <= begun < last)
        for first, last in ((calm, began), (began, done))
    ]
    figures: list[tuple[str, Callable[[list[float]], str]]] = [
        ("claims", lambda waits: f"{len(waits):,}"),
        ("p50, ms", lambda waits: f"{median(waits):.1f}"),
        ("p99, ms", lambda waits: f"{waits[int(len(waits) * 0.99)]:.1f}"),
        ("longest, ms", lambda waits: f"{waits[-1]:.1f}"),
        ("of more than 200 ms", lambda waits: f"{sum(wait > 200 for wait in waits):,}"),
    ]
    times = [(name, *(figure(waits) for waits in phases)) for name, figure in figures]
    names = sorted(events[1], key=events[1].__getitem__, reverse=True)[:6]
    shares = [(f"`{name}`", *(f"{one[name] / max(1, one.total()):.0%}" for one in events)) for name in names]
    speed = removed["tasks"] / (done - began)
    text_ = (
        f"{removed['tasks']:,} finished tasks were purged, {speed:,.0f} rows/s; the dry run counted {counted['tasks']:,}."
        " Two processes claim and complete, before the purge and during it."
    )
    goals = [
        at_most("ms of the longest claim during the purge", phases[1][-1], 200),
        at_most("difference to the dry run, rows", abs(counted["tasks"] - removed["tasks"]), 0),
    ]
    parts = (
        text_,
        table(("", "without a purge", "during it"), times),
        "What the server shows for the claims that run, in samples:",
        table(("", "without a purge", "during it"), shares),
    )
    return "\n\n".join(parts), goals


def main() -> None:
    """Run the parts, and write their sections of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--only", nargs="*", default=["telemetry", "web", "purge"])
    options = parser.parse_args()
    rows = options.rows or (50_000 if options.quick else 1_000_000)
    with one_server() as server:
        parts: dict[str, tuple[str, Callable[[], tuple[str, list[Target]]]]] = {
            "telemetry": ("Telemetry", lambda: telemetry(server, options.quick)),
        }
        if {"web", "purge"} & set(options.only):
            url = server.database("operations")
            with Database(url) as db:
                db.upgrade()
                seed(db, rows)
            parts["web"] = (
                f"The page of tasks, with 10,000 that wait and {rows:,} finished ones",
                lambda: web(server, url, options.quick),
            )
            parts["purge"] = (
                "A purge while workers claim",
                lambda: purging(server, url, rows),
            )
        for name, (title, run) in parts.items():
            if name not in options.only:
                continue
            found, goals = run()
            if options.quick:
                print(found, *goals, sep="\n")
            else:
                publish(OPERATIONS, title, machine(server), found, targets(goals))


if __name__ == "__main__":
    main()
