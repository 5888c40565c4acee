"""Workers with slots, each a process, beside as many connections of SQL by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from harness import interleaved, table

from .libraries import ALFRED, RAW, Library
from .runs import Bench, Run, at_once, ratio, spread

__all__ = ["share"]

PROCESSES, SLOTS = 2, 16
LEAD = 1.0
"""Seconds that the processes have to connect before all begin."""


def share(bench: Bench) -> None:
    """Jobs that workers with slots run, beside claims and completions by hand on as many connections."""
    contenders: dict[str, Callable[[], Run]] = {
        "raw SQL": partial(_drain, bench, RAW),
        "alfred-db": partial(_drain, bench, ALFRED),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.few_runs, contenders, failed)
    lines = [[name, *spread([run["rate"] for run in found])] for name, found in runs.items() if found]
    notes = (
        f"{PROCESSES} processes drain {bench.sizes.slots:,} jobs that do nothing. Each runs alfred-db's `Worker` with"
        f" `concurrency={SLOTS}`, or {SLOTS} threads with a connection each that claim and complete one job at a time by hand, in"
        " AUTOCOMMIT. They begin at one moment, connected; the time ends with the last of them, after it has found nothing more."
    )
    found = ratio(f"{PROCESSES} x {SLOTS} slots", runs, "alfred-db", "raw SQL", 0.8)
    section = f"Claim and complete by {PROCESSES} processes with {SLOTS} slots each"
    bench.publish(section, notes, table(("", "jobs/s", "min to max"), lines), found, failed)


def _drain(bench: Bench, library: Library) -> Run:
    url = bench.database(library)
    jobs, warm = bench.sizes.slots, PROCESSES * SLOTS
    filing = ["binary, complete rows"] if library is RAW else []
    processes = [bench.start(library) for _ in range(PROCESSES)]
    try:
        processes[0].ask("enqueue", url, warm, *filing)
        at_once([partial(one.ask, "slots", url, SLOTS) for one in processes])
        processes[0].ask("enqueue", url, jobs, *filing)
        at = time.time() + LEAD
        runs = at_once([partial(one.ask, "slots", url, SLOTS, at) for one in processes])
    finally:
        for one in processes:
            one.close()
    bench.once(library, url, [number for run in runs for number in run["ran"]], jobs, warm)
    return {"rate": jobs / max(run["seconds"] for run in runs)}
