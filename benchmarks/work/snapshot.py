"""A queue that is drained while another transaction keeps an old snapshot, so that no dead row goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import psycopg
from harness import ContenderError, interleaved, table

from .libraries import ALFRED, RAW, Library
from .runs import WARM, Bench, Run, spread

__all__ = ["under_snapshot"]

EACH = 100
"""Jobs of a batch."""

REPORT = "a long report"


def under_snapshot(bench: Bench) -> None:
    """Claims in the first and in the last fifth."""
    contenders: dict[str, Callable[[], Run]] = {
        "raw SQL": partial(_drain, bench, RAW, False),
        "raw SQL, snapshot held": partial(_drain, bench, RAW, True),
        "alfred-db": partial(_drain, bench, ALFRED, False),
        "alfred-db, snapshot held": partial(_drain, bench, ALFRED, True),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.few_runs, contenders, failed)
    lines: list[list[str]] = []
    for name, found in runs.items():
        if found:
            p50s = [median(run[f"claim, {part}"] for run in found) for part in ("first", "last")]
            lines.append(
                [
                    name,
                    *spread([run["first"] for run in found]),
                    *spread([run["last"] for run in found]),
                    *(f"{seconds * 1000:.2f} ms" for seconds in p50s),
                ]
            )
    header = ["", "first fifth, jobs/s", "min to max", "last fifth, jobs/s", "min to max"]
    header += ["p50 of claim, first", "last"]
    notes = (
        f"{bench.sizes.under_snapshot:,} jobs, claimed and completed by one worker in AUTOCOMMIT, one and {EACH} in turns; the claims"
        " are those of one. «Snapshot held» is beside a transaction of another connection, REPEATABLE READ, that began after the"
        " jobs were enqueued: until it ends, no version of a row that the worker has left behind can go, and claims step over them."
        " The fifths are the first and the last of the drain. pgqueuer is left out, as a drain under a snapshot takes it too long."
    )
    held = runs.get("alfred-db, snapshot held", [])
    if held:
        health = held[-1]["health"]
        notes += (
            f" `queue_health()` then names it: `oldest_snapshot_application` is «{health['oldest_snapshot_application']}»,"
            f" `oldest_snapshot_age` {health['oldest_snapshot_age']:.0f} s, `dead_tuples` {health['dead_tuples']:,}; were it"
            " not named, the run would be void."
        )
    bench.publish("Drained under an open snapshot", notes, table(header, lines), failed=failed)


def _drain(bench: Bench, library: Library, held: bool) -> Run:
    jobs = bench.sizes.under_snapshot
    url = bench.database(library)
    filing = ["binary, complete rows"] if library is RAW else []
    result: Run = {}
    with bench.start(library) as contender:
        contender.ask("enqueue", url, WARM, *filing)
        contender.ask("watch", url, WARM, EACH)
        contender.ask("enqueue", url, jobs, *filing)
        with _snapshot(url if held else None) as pid:
            run = contender.ask("watch", url, jobs, EACH)
            if held and library is ALFRED:
                health = result["health"] = contender.ask("health", url)
                if (health["oldest_snapshot_pid"], health["oldest_snapshot_application"]) != (pid, REPORT):
                    raise ContenderError("void: queue_health() does not name the snapshot")
    bench.once(library, url, run["ran"], jobs)
    fifth = len(run["rounds"]) // 5
    for part, places in (("first", slice(0, fifth)), ("last", slice(-fifth, None))):
        rounds = run["rounds"][places]
        result[part] = sum(done for done, _ in rounds) / sum(seconds for _, seconds in rounds)
        result[f"claim, {part}"] = median(run["claims"][places])
    return result


@contextmanager
def _snapshot(url: str | None) -> Iterator[int | None]:
    """A transaction that goes on seeing the database as it is now; gives its process. None without a URL."""
    if url is None:
        yield None
        return
    with psycopg.connect(url, application_name=REPORT) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT 1")
        yield connection.info.backend_pid
