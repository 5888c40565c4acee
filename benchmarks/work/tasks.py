"""Tasks: filed, drained, claimed from a large table, kept by heartbeats."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median, quantiles

import psycopg
from harness import Target, at_least, at_most, interleaved, table

from .libraries import ABSURD, ALFRED, PGQUEUER, PROCRASTINATE, RAW
from .runs import Bench, Run, rate, rates, ratio

__all__ = ["drain", "enqueue", "heartbeat", "much_behind", "others_waiting"]

FILL = """
    INSERT INTO tasks (id, task_id, intent, status, priority, available_at, claim_seq, started_at, completed_at)
    SELECT gen_random_uuid(), 'old-' || n, 'noop', 'completed', 1 + n % 5, now() - interval '1 day', 1,
        now() - interval '1 day', now() - interval '1 day' + n * interval '1 millisecond'
    FROM generate_series(1, {completed}) AS n;
    INSERT INTO tasks (id, task_id, intent, priority, available_at)
    SELECT gen_random_uuid(), 'later-' || n, 'noop', 1 + n % 5, now() + interval '1 day' + n * interval '1 second'
    FROM generate_series(1, {future}) AS n
"""

OTHERS = """
    INSERT INTO tasks (id, task_id, intent, status, priority, available_at, claim_seq, started_at, completed_at)
    SELECT gen_random_uuid(), 'old-' || n, 'noop', 'completed', 1 + n % 5, now() - interval '1 day', 1,
        now() - interval '1 day', now() - interval '1 day' + n * interval '1 millisecond'
    FROM generate_series(1, {completed}) AS n;
    INSERT INTO tasks (id, task_id, intent, queue, priority, available_at)
    SELECT gen_random_uuid(), 'other-' || n, 'noop', 'other-' || n % 20, 1 + n % 5, now() - interval '1 day'
    FROM generate_series(1, {waiting}) AS n
"""
OWN = "mine"
"""The queue whose tasks are claimed."""


def enqueue(bench: Bench) -> dict[str, float]:
    """Many at once. Gives the rates."""
    jobs = bench.sizes.enqueued
    few = jobs // 10
    contenders: dict[str, Callable[[], Run]] = {
        "raw COPY, binary": partial(bench.enqueue, RAW, "enqueue", jobs, "binary, complete rows"),
        "raw COPY, text": partial(bench.enqueue, RAW, "enqueue", jobs, "text, complete rows"),
        "raw COPY, rows made": partial(bench.enqueue, RAW, "enqueue", jobs, "binary, same input"),
        "alfred-db": partial(bench.enqueue, ALFRED, "enqueue", jobs),
        "alfred-db, async": partial(bench.enqueue, ALFRED, "enqueue_async", jobs),
        "pgqueuer": partial(bench.enqueue, PGQUEUER, "enqueue", jobs),
        "procrastinate": partial(bench.enqueue, PROCRASTINATE, "enqueue", jobs),
        "absurd, one by one": partial(bench.enqueue, ABSURD, "enqueue", few),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.runs, contenders, failed)
    limit = max(("raw COPY, binary", "raw COPY, text"), key=partial(rate, runs))
    found = [
        target
        for ours in ("alfred-db", "alfred-db, async")
        for other, least in ((limit, 0.5), ("pgqueuer", 1.0))
        for target in ratio("enqueue many", runs, ours, other, least)
    ]
    notes = (
        f"{jobs:,} tasks in one call and one transaction. Raw COPY sends four columns of rows that were complete before"
        f" the clock started, with ids in order as the library makes them; the faster form, {limit.removeprefix('raw COPY, ')}, is the limit. «Rows made» starts from"
        " what `enqueue_many` takes, and makes ids and rows while the clock runs. `enqueue_many` also checks its"
        " input, and returns an id for each task. pgqueuer inserts from arrays, procrastinate by a function of the"
        f" database; both notify their workers. absurd has no call for many: {few:,} calls."
    )
    bench.publish("Enqueue many", notes, rates(runs, "job"), found, failed)
    return {name: rate(runs, name) for name in runs if runs[name]}


def drain(bench: Bench, batch: int) -> dict[str, float]:
    """Claim and complete, `batch` at a time. Gives the rates."""
    one = batch == 1
    jobs = bench.sizes.one_by_one if one else bench.sizes.in_batches
    few = jobs if one else jobs // 10
    contenders: dict[str, Callable[[], Run]] = {
        "raw SQL": partial(bench.drain, RAW, "drain", jobs, batch, True),
        "alfred-db": partial(bench.drain, ALFRED, "drain", jobs, batch, True),
        "raw SQL, BEGIN": partial(bench.drain, RAW, "drain", jobs, batch, False),
        "alfred-db, BEGIN": partial(bench.drain, ALFRED, "drain", jobs, batch, False),
        "raw SQL, async": partial(bench.drain, RAW, "drain_async", jobs, batch, True),
        "alfred-db, async": partial(bench.drain, ALFRED, "drain_async", jobs, batch, True),
        "raw SQL, async, BEGIN": partial(bench.drain, RAW, "drain_async", jobs, batch, False),
        "alfred-db, async, BEGIN": partial(bench.drain, ALFRED, "drain_async", jobs, batch, False),
        "pgqueuer": partial(bench.drain, PGQUEUER, "drain", jobs, batch),
        "pgqueuer, its worker": partial(bench.drain, PGQUEUER, "work", jobs, batch),
        "absurd": partial(bench.drain, ABSURD, "drain", few, batch),
    }
    if one:
        contenders["procrastinate"] = partial(bench.drain, PROCRASTINATE, "drain", jobs, 1)
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.runs, contenders, failed)
    least, peer, times = (0.85, "procrastinate", 3) if one else (0.6, "pgqueuer", 2)
    how = "one by one" if one else f"batches of {batch}"
    peers = [peer] if one else [peer, "pgqueuer, its worker"]
    found = [
        target
        for form in ("", ", BEGIN", ", async", ", async, BEGIN")
        for other, of_other in ((f"raw SQL{form}", least), *((peer, times) for peer in peers))
        for target in ratio(how, runs, f"alfred-db{form}", other, of_other)
    ]
    notes = (
        f"{jobs:,} jobs that do nothing, by one worker in one thread: claim {batch}, run, complete"
        f" {'it' if one else 'them in one statement'}. Raw SQL is the library's statements by hand, on rows whose ids are in order as its own are. Each is a"
        " transaction by itself, in AUTOCOMMIT and in one session; «BEGIN» is the same with BEGIN and COMMIT sent around"
        " each, for alfred-db by a `db.begin()` for each. The figures are for one job; dead rows are rows updated or deleted. pgqueuer deletes a"
        " finished job and logs it, in one statement; the others keep it; by its worker the time includes checking its"
        " tables, listening and stopping."
    )
    notes += (
        " procrastinate runs its own worker, which fetches one job at a time; the others' calls are made in a loop."
        if one
        else f" absurd claims a batch and completes each by itself; it has {few:,} jobs. procrastinate has no batches."
    )
    bench.publish(f"Claim and complete, {how}", notes, rates(runs, "job"), found, failed)
    return {name: rate(runs, name) for name in runs if runs[name]}


def much_behind(bench: Bench) -> None:
    """Claims from a table with a past and a future."""
    completed, future = bench.sizes.behind, bench.sizes.behind // 10
    notes = (
        f"Claims of one task of priority 1, the last to be looked for, {bench.sizes.claims} a run: in a table that holds"
        f" nothing else, and in one with {completed:,} completed and {future:,} future tasks of all priorities, in turns by"
        " one process. The call is `claim` alone; the transaction is all of `db.begin()`, with its COMMIT."
    )
    fill = FILL.format(completed=completed, future=future)
    _beside(bench, "Claim with much behind", "much behind", fill, notes)


def others_waiting(bench: Bench) -> None:
    """Claims of a queue, while much waits in other queues: without limits, and with one of the queue itself."""
    completed, waiting = bench.sizes.behind, bench.sizes.waiting
    fill = OTHERS.format(completed=completed, waiting=waiting)
    notes = (
        f"Claims of one task of priority 1 from one queue, {bench.sizes.claims} a run: in a table that holds nothing else,"
        f" and in one with {completed:,} completed tasks and {waiting:,} that wait in 20 other queues, in turns by one process."
    )
    name = f"{waiting:,} wait in other queues"
    _beside(bench, "Claim while other queues are full", name, fill, notes, OWN)
    limit = "INSERT INTO queues (name, max_running) VALUES ('mine', 1000)"
    notes += " The queue has a limit of 1,000 that run."
    _beside(bench, "Claim from a limited queue while others are full", name, fill, notes, OWN, limit)


def _beside(
    bench: Bench, section: str, name: str, fill: str, notes: str, queue: str | None = None, both: str = ""
) -> None:
    """Claims in an almost empty table beside claims in one that is filled; `both` is run in either."""
    urls = {
        "almost empty": bench.database(ALFRED, "almost_empty"),
        name: bench.database(ALFRED, "much_behind"),
    }
    for place, url in enumerate(urls.values()):
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in [*(fill.split(";") if place else ()), *([both] if both else ())]:
                connection.execute(statement.encode())
            connection.execute("VACUUM (ANALYZE) tasks")

    runs: list[list[dict[str, list[float]]]] = []
    for _ in range(bench.sizes.runs):
        with bench.start(ALFRED) as contender:
            runs.append(contender.ask("claims", list(urls.values()), bench.sizes.claims, queue))
    lines: list[list[str]] = []
    found: list[Target] = []
    for what in ("call", "transaction"):
        middles: list[list[float]] = []
        for place, label in enumerate(urls):
            times = [[seconds * 1000 for seconds in run[place][f"{what}s"]] for run in runs]
            each = [median(run) for run in times]
            high = median(quantiles(run, n=100)[98] for run in times)
            middles.append(each)
            lines.append(
                [
                    f"{label}, the {what}",
                    f"{median(each):.3f} ms",
                    f"{min(each):.3f} to {max(each):.3f}",
                    f"{high:.3f} ms",
                ]
            )
        share = median(behind / empty for empty, behind in zip(*middles, strict=True))
        found.append(at_most(f"p50 of the {what}: {name} / almost empty", share, 1.3))
    bench.publish(section, notes, table(("", "p50", "min to max", "p99"), lines), found)


def heartbeat(bench: Bench) -> None:
    """Leases that are extended."""
    lines: list[list[str]] = []
    found: list[Target] = []
    for label, jobs, beats, alone in (
        ("`heartbeat_many`, 8 times 500", 500, 8, False),
        ("`heartbeat`, 40 times 50", 50, 40, True),
    ):
        url = bench.database(ALFRED)
        with bench.start(ALFRED) as contender:
            run = contender.ask("heartbeats", url, jobs, beats, alone)
        bench.counters()
        # The claims are updates too, of an indexed column.
        share = float(
            bench.value(
                url,
                f"SELECT n_tup_hot_upd::float8 / (n_tup_upd - {jobs}) FROM pg_stat_user_tables WHERE relname = 'tasks'",
            )
        )
        lines.append([label, f"{jobs * beats / run['seconds']:,.0f}", f"{share:.1%}"])
        found.append(at_least(f"HOT share, {label}", share, 0.8))
    notes = "Held tasks whose leases are extended, each call in a transaction. HOT updates touch no index."
    bench.publish("Heartbeats", notes, table(("", "leases/s", "HOT"), lines), found)
