"""Filing: jobs one by one, and some in a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from harness import ContenderError, interleaved, table

from .libraries import ABSURD, ALFRED, PGQUEUER, PROCRASTINATE, RAW, Library
from .runs import WARM, Bench, spread

__all__ = ["enqueue_some"]

Rates = Mapping[int, float]
"""Jobs a second, by the number of jobs in a call."""


def enqueue_some(bench: Bench) -> None:
    """Calls of one, of some, of many."""
    filed = bench.sizes.filed
    alone = {1: filed[1]}
    contenders: dict[str, Callable[[], Rates]] = {
        "raw INSERT": partial(_file, bench, RAW, filed, "insert", True),
        "raw INSERT, BEGIN": partial(_file, bench, RAW, filed, "insert", False),
        "raw COPY": partial(_file, bench, RAW, filed, "copy", True),
        "alfred-db": partial(_file, bench, ALFRED, alone, True),
        "alfred-db, BEGIN": partial(_file, bench, ALFRED, filed, False),
        "pgqueuer": partial(_file, bench, PGQUEUER, filed),
        "procrastinate": partial(_file, bench, PROCRASTINATE, filed),
        "absurd": partial(_file, bench, ABSURD, alone),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.few_runs, contenders, failed)
    header = [""]
    for each in filed:
        header += [f"{each:,} a call, jobs/s", "min to max"]
    lines: list[list[str]] = []
    for name, found in runs.items():
        if found:
            cells = [spread([run[each] for run in found]) if each in found[0] else ["", ""] for each in filed]
            lines.append([name, *(cell for pair in cells for cell in pair)])
    counts = ", ".join(f"{jobs:,}" for jobs in filed.values())
    notes = (
        f"Each call is a transaction; {counts} jobs, on a new database for each number in a call. Raw SQL sends four columns,"
        " whose ids it makes while the clock runs: INSERT has arrays where there is more than one row, COPY is binary."
        " «BEGIN» is the same with BEGIN and COMMIT sent around it, for alfred-db a `db.begin()` for each call; alone it is"
        " `enqueue` in AUTOCOMMIT. `enqueue` returns the task with all its columns, `enqueue_many` the ids, and both return whether"
        " the task was new. pgqueuer's and procrastinate's tables notify their workers in the same transaction."
        " absurd has no call for many."
    )
    bench.publish("Enqueue 1, 100 and 1,000 in a call", notes, table(header, lines), failed=failed)


def _file(bench: Bench, library: Library, filed: Mapping[int, int], *arguments: object) -> Rates:
    rates: dict[int, float] = {}
    with bench.start(library) as contender:
        for each, jobs in filed.items():
            url = bench.database(library)
            warm = max(WARM, each)
            contender.ask("file", url, warm, each, *arguments)
            run = contender.ask("file", url, jobs, each, *arguments)
            found = bench.value(url, library.unfinished) - warm
            if found != jobs:
                raise ContenderError(f"void: {found} of {jobs} jobs were filed")
            rates[each] = jobs / run["seconds"]
    return rates
