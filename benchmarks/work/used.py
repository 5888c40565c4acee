"""What limits and waits cost where they are used: jobs of limited queues, in turns, of batches and in chains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

from harness import ContenderError, Target, at_most, interleaved, table

from .libraries import ALFRED
from .runs import WARM, Bench, Run, each, rate

__all__ = ["used"]

PLAIN = "plain"
WAYS = {
    PLAIN: "nothing is used",
    "max_running": "limit of what runs",
    "max_running, any": "the same, by a claim that names no queue",
    "rate": "rate",
    "keys": "limit per key, 50 keys",
    "all limits": "all three limits",
    "turns": "ordering keys, chains of 10",
    "after": "chains of 2 by `after`",
    "batch": "batches of 50 with a last task",
}
MOST = 1.3


def used(bench: Bench) -> None:
    """Claim and complete jobs that use limits or waits, beside jobs that use none."""
    for batch, jobs in bench.sizes.used.items():
        contenders: dict[str, Callable[[], Run]] = {
            way: partial(_drain, bench, jobs, batch, way) for way in WAYS
        }
        failed: dict[str, str] = {}
        runs = interleaved(bench.sizes.few_runs, contenders, failed)
        lines: list[list[str]] = []
        found: list[Target] = []
        for way, of_way in runs.items():
            if not of_way or not runs[PLAIN]:
                continue
            pairs = list(zip(of_way, runs[PLAIN], strict=True))
            times, server = (
                median(run[key] / plain[key] for run, plain in pairs) for key in ("seconds", "server")
            )
            line = [WAYS[way], f"{rate(runs, way):,.0f}"]
            line += [f"{median(run[key] for run in of_way) * 1e6:,.0f} µs" for key in ("cpu", "server")]
            lines.append(
                [*line, f"{median(run['wal'] for run in of_way):,.0f} B", f"{times:.2f}", f"{server:.2f}"]
            )
            if way != PLAIN:
                found.append(
                    at_most(f"time of a job, {_how(batch)}: {WAYS[way]} / {WAYS[PLAIN]}", times, MOST)
                )
        notes = (
            f"{jobs:,} jobs that do nothing, claimed and completed {_how(batch)} by one worker in AUTOCOMMIT, which names its"
            " queue except where it says so. The limits are never reached: what is measured is that they are kept. The last two"
            " columns are the time and the CPU of the server beside those of jobs that use nothing, at the median of the turns."
            " What waits is counted down, and the tasks that wait for batches are claimed and completed too."
        )
        header = ("", "jobs/s", "client CPU", "server CPU", "WAL", "time", "server")
        bench.publish(f"Limits and waits in use, {_how(batch)}", notes, table(header, lines), found, failed)


def _how(batch: int) -> str:
    return "one by one" if batch == 1 else f"in batches of {batch}"


def _drain(bench: Bench, jobs: int, batch: int, way: str) -> Run:
    url = bench.database(ALFRED)
    with bench.start(ALFRED) as contender:
        contender.ask("use", url, WARM, way)
        contender.ask("drain_used", url, batch, way)
        contender.ask("use", url, jobs, way)
        before = bench.counters()
        run: Run = contender.ask("drain_used", url, batch, way)
        after = bench.counters()
    if sorted(run.pop("ran")) != list(range(jobs)) or bench.value(url, ALFRED.unfinished):
        raise ContenderError("void: not every job ran exactly once")
    return each(run, before, after, jobs)
