"""Waiting workers: how soon a handler starts after its task was filed, and after another worker was killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from statistics import median, quantiles

from harness import ContenderError, interleaved, table

from .libraries import ABSURD, ALFRED, PGQUEUER, PROCRASTINATE, Library
from .runs import WARM, Bench, Run, spread

__all__ = ["killed", "paced"]

PATIENCE = 60.0
"""Seconds within which a worker has to come to the end of what was filed."""

SETTLED = 1.5
"""Seconds after which both workers are taken to be at their routine."""


def paced(bench: Bench) -> None:
    """From filing to the start of the handler, at a pace."""
    contenders: dict[str, Callable[[], Run]] = {
        "alfred-db, `notify=True`": partial(_paced, bench, ALFRED, True),
        "alfred-db": partial(_paced, bench, ALFRED, False),
        "pgqueuer": partial(_paced, bench, PGQUEUER),
        "procrastinate": partial(_paced, bench, PROCRASTINATE),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.few_runs, contenders, failed)
    lines = [
        [
            name,
            f"{median(run['filed'] for run in found):,.0f}",
            *spread([run["p50"] for run in found], ",.1f"),
            *spread([run["p99"] for run in found], ",.1f"),
        ]
        for name, found in runs.items()
        if found
    ]
    notes = (
        f"One process files {bench.sizes.pace} tasks a second for {bench.sizes.seconds:g} s, each by a call and in its"
        " own transaction; another is a worker that waits for them. Milliseconds from just before the call to the start of the handler,"
        " by the one clock of the machine, so that the call and its commit are in them. The workers are the libraries' own, with"
        " their defaults: alfred-db's `Worker` (4 at once) whose filer is a `Database` with and without `notify=True`; pgqueuer's"
        " (batches of 10), and procrastinate's with 4 at once, which is 1 by default; the tables of both notify. Where less was"
        " filed a second than asked for, the filing could not keep the pace; where a worker could not, the times are those of a"
        " growing queue."
    )
    header = ["", "enqueued/s", "p50, ms", "min to max", "p99, ms", "min to max"]
    bench.publish("From filing to the handler, paced", notes, table(header, lines), failed=failed)


def killed(bench: Bench) -> None:
    """From a worker's SIGKILL to the start of its task in another worker."""
    contenders: dict[str, Callable[[], Run]] = {
        "alfred-db, no back-off": partial(_killed, bench, ALFRED, 0.0),
        "alfred-db, its back-off": partial(_killed, bench, ALFRED, 5.0),
        "absurd": partial(_killed, bench, ABSURD),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.few_runs, contenders, failed)
    lines = [
        [name, *spread([run["seconds"] for run in found], ".2f")] for name, found in runs.items() if found
    ]
    notes = (
        "A worker holds a task and keeps its lease; another one waits. The first is killed (SIGKILL): seconds until the task"
        " runs in the second. The lease is 1 s everywhere. alfred-db's `Worker` has `lease=1`, `upkeep=1` and `poll=1`: the lease"
        " runs out, upkeep takes the task back, and the next look finds it, after the back-off of a task whose worker crashed, 5 s"
        " the first time by default; by default these are 60, 5 and 5 s. absurd has `claim_timeout=1` (120 by"
        " default), looks every 0.25 s, and has a handler that extends the claim itself. pgqueuer is left out: under"
        " `heartbeat_timeout=1` its worker took such a job twice, for its statements wait up to a second for its listener, on the"
        " one connection that psycopg's driver has. procrastinate is too: it leaves the jobs of vanished workers to a task that the"
        " application writes."
    )
    bench.publish(
        "Until a killed worker's task runs again", notes, table(["", "s", "min to max"], lines), failed=failed
    )


def _paced(bench: Bench, library: Library, *arguments: object) -> Run:
    pace = bench.sizes.pace
    jobs = round(pace * bench.sizes.seconds)
    url = bench.database(library)
    with bench.start(library) as worker, bench.start(library) as filer, ThreadPoolExecutor(1) as pool:
        filer.ask("enqueue", url, WARM)
        working = pool.submit(worker.ask, "wait", url, WARM + jobs)
        try:
            until = time.monotonic() + PATIENCE
            while bench.value(url, library.finished) < WARM:
                if working.done() or time.monotonic() > until:
                    raise ContenderError(f"{library.name}: its worker does not work")
                time.sleep(0.1)
            filing = filer.ask("pace", url, pace, jobs, *arguments)
            run = working.result(PATIENCE)
        except FutureTimeoutError:
            raise ContenderError(f"void: not all jobs ran within {PATIENCE:g} s of the last filing") from None
        finally:
            if not working.done():
                worker.kill()
    starts = run["starts"]
    bench.once(library, url, [number for number, _ in starts], jobs)
    waits = [nanoseconds / 1e6 for _, nanoseconds in starts]
    return {"filed": jobs / filing["seconds"], "p50": median(waits), "p99": quantiles(waits, n=100)[98]}


def _killed(bench: Bench, library: Library, *arguments: object) -> Run:
    url = bench.database(library)
    sign = bench.server.folder / "held"
    sign.unlink(missing_ok=True)
    with bench.start(library) as first, bench.start(library) as second, ThreadPoolExecutor(2) as pool:
        second.ask("enqueue", url, 1)
        holding = pool.submit(first.ask, "hold", url, str(sign))
        try:
            until = time.monotonic() + PATIENCE
            while not sign.exists():
                if holding.done() or time.monotonic() > until:
                    raise ContenderError(f"{library.name}: its worker does not work")
                time.sleep(0.01)
            waiting = pool.submit(second.ask, "take_over", url, *arguments)
            time.sleep(SETTLED + random.random())
            at = time.time_ns()
            first.kill()
            run = waiting.result(PATIENCE)
        except FutureTimeoutError:
            second.kill()
            raise ContenderError(f"void: the task did not run again within {PATIENCE:g} s") from None
        finally:
            first.kill()
    seconds = (run["started"] - at) / 1e9
    if seconds < 0 or run["ran"] != [0] or bench.value(url, library.unfinished):
        raise ContenderError(f"void: {len(run['ran'])} runs, the first {seconds:.2f} s after the kill")
    return {"seconds": seconds}
