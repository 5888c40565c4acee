"""Several workers on one queue, each a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from harness import interleaved, table

from .libraries import ALFRED, PGQUEUER, PROCRASTINATE, RAW, Library
from .runs import Bench, at_once, spread

__all__ = ["share"]

LEAD = 0.5
"""Seconds that the processes have to connect before all begin."""

Rates = Mapping[int, float]
"""Jobs a second of all workers together, by the size of their batches."""


def share(bench: Bench, workers: int) -> None:
    """Claim and complete by several workers."""
    shared = bench.sizes.shared
    alone = {1: shared[1]}
    contenders: dict[str, Callable[[], Rates]] = {
        "raw SQL": partial(_drain, bench, RAW, workers, shared, True),
        "alfred-db": partial(_drain, bench, ALFRED, workers, shared, True),
        "pgqueuer": partial(_drain, bench, PGQUEUER, workers, shared),
        "procrastinate": partial(_drain, bench, PROCRASTINATE, workers, alone),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.few_runs, contenders, failed)
    header = [""]
    for batch in shared:
        header += ["one by one, jobs/s" if batch == 1 else f"batches of {batch}, jobs/s", "min to max"]
    lines: list[list[str]] = []
    for name, found in runs.items():
        if found:
            cells = [
                spread([run[batch] for run in found]) if batch in found[0] else ["", ""] for batch in shared
            ]
            lines.append([name, *(cell for pair in cells for cell in pair)])
    counts = ", ".join(f"{jobs:,}" for jobs in shared.values())
    notes = (
        f"{workers} processes drain one queue: {counts} jobs that do nothing, on a new database for each size of batches."
        " They begin at one moment, connected and warm; the time ends with the last of them, after it has found nothing more."
        " The calls are those of the sections with one worker: raw SQL and alfred-db in AUTOCOMMIT, pgqueuer's `Queries`,"
        " procrastinate's own worker, which has no batches. They share the machine's cores with the server."
    )
    bench.publish(f"Claim and complete by {workers} workers", notes, table(header, lines), failed=failed)


def _drain(
    bench: Bench, library: Library, workers: int, shared: Mapping[int, int], *arguments: object
) -> Rates:
    rates: dict[int, float] = {}
    filing = ["binary, complete rows"] if library is RAW else []
    with ExitStack() as stack:
        crew = [stack.enter_context(bench.start(library)) for _ in range(workers)]
        for batch, jobs in shared.items():
            url = bench.database(library)
            warm = max(batch, 10)
            crew[0].ask("enqueue", url, warm * workers, *filing)
            at_once([partial(one.ask, "drain", url, warm, batch, *arguments) for one in crew])
            crew[0].ask("enqueue", url, jobs, *filing)
            at = time.time() + LEAD
            runs = at_once([partial(one.ask, "drain", url, jobs, batch, *arguments, at) for one in crew])
            bench.once(library, url, [number for run in runs for number in run["ran"]], jobs, warm * workers)
            rates[batch] = jobs / max(run["seconds"] for run in runs)
    return rates
