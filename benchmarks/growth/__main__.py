"""Every public method of every repository at a thousand tasks and at many; results go to docs/benchmarks/growth.md.

PYTHONPATH=benchmarks:tests python -m growth [--rows N] [--quick] [--only PART ...]

`--quick` takes 50,000 rows and prints the page instead of keeping it. PART is one of calls, writes, chunks, idle and bloat; the
sections of the others stay on the page as they are.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import harness
from harness import Page, Server, at_least, at_most, machine, one_server, publish, table, targets
from injection.ground import build
from plot import bars
from sqlalchemy import make_url

from alfred_db import Database

from .calls import REFUSED, Place, calls, missing
from .chunks import chunks
from .exceptions import EVERYTHING, EXCEPTIONS
from .idle import bloat, idle
from .measure import Cost, measured
from .rows import fill
from .writes import INDEXES, TURNS, costs, timed

SMALL = 1_000
RATIO, FLAT_MS = 3.0, 10.0
PAGE = Page(
    "growth.md",
    "Growth",
    "Written by `make bench-growth`.\n\n![The calls that grow most](growth.svg)\n\n"
    "Every public method of every repository, on a database of a thousand tasks and on one of many, with the other tables"
    " in proportion: of a million tasks, two million messages, requests and events each, a million edges with a hub of a"
    " hundred thousand, 300,000 memories with a bank of a hundred thousand, and a million steps. One memory in ten and one"
    " point and record of working memory in twenty have a vector, as the growth of vector indexes is on the page of vectors. Each call is made five times"
    " in a transaction that is rolled back; p50 is the median. A call is flat if its p50 grows by at most"
    f" {RATIO:g} times, or stays within {FLAT_MS:g} ms. [Every call](growth_calls.md) is on another page.",
)
EVERY_CALL = Page(
    "growth_calls.md",
    "Growth of every call",
    "Written by `make bench-growth`.\n\nThe calls of the [growth page](growth.md), each with its p50 on the small and on the"
    " large database. Statements are those with a plan; rows are what their scans read.",
)


def filled(server: Server, name: str, size: int, folder: Path) -> tuple[Database, Place]:
    """A migrated database with a few rows of the tests and `size` tasks."""
    url = server.database(name)
    database = Database(url)
    database.upgrade()
    with database.begin() as uow:
        ground = build(uow, folder / name)
    began = time.perf_counter()
    fill(url, size)
    print(f"({size:,} tasks: {time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)
    with database.begin() as uow:
        return database, Place.find(uow, ground)


def flat(small: Cost, large: Cost) -> bool:
    assert small.ms is not None
    assert large.ms is not None
    return large.ms <= FLAT_MS or large.ms <= RATIO * small.ms


def main() -> int:
    parser = argparse.ArgumentParser(prog="growth", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--memory", help="shared_buffers of the server, such as 512MB; default: an eighth of the machine's"
    )
    parser.add_argument("--cycles", type=int, default=100_000, help="cycles of the part bloat")
    arguments = parser.parse_args()
    if without := missing():
        print(f"no arguments in benchmarks/growth/calls.py: {', '.join(without)}", file=sys.stderr)
        return 2
    size = 50_000 if arguments.quick else arguments.rows
    began = time.perf_counter()
    settings = {} if arguments.memory is None else {"shared_buffers": arguments.memory}
    with tempfile.TemporaryDirectory(prefix="alfred-db-growth-") as name, one_server(**settings) as server:
        folder = Path(name)
        if arguments.quick:
            harness.RESULTS = folder / "docs"
        failed = 0
        gains: dict[str, tuple[float, float]] = {}
        if {"calls", "writes"} & set(arguments.only):
            for one in ("small", "large"):
                (folder / one).mkdir()
            large_db, large_place = filled(server, "large", size, folder)
            if "calls" in arguments.only:
                small_db, small_place = filled(server, "small", SMALL, folder)
                small, large = measured(small_db, small_place), measured(large_db, large_place)
                small_db.close()
                failed = report(server, size, small, large, (time.perf_counter() - began) / 60)
            if "writes" in arguments.only:
                gains = gained(large_db, large_place)
            large_db.close()
            for one in ("small", "large"):
                server.drop(one)
        if "writes" in arguments.only:
            publish(
                PAGE, "What the indexes cost", WRITES_NOTES, written(server, size, gains, arguments.quick)
            )
        if "chunks" in arguments.only:
            (folder / "chunks").mkdir()
            filled(server, "chunks", min(size, 100_000), folder)[0].close()
            url = make_url(server.url).set(database="chunks").render_as_string(hide_password=False)
            found, goals = chunks(url, 2_000 if arguments.quick else 20_000)
            publish(PAGE, "Chunks of long work", CHUNKS_NOTES, found, targets(goals))
            server.drop("chunks")
        if "idle" in arguments.only:
            publish(PAGE, "Idle workers", IDLE_NOTES, idle(server, 5.0 if arguments.quick else 30.0))
        if "bloat" in arguments.only:
            publish(PAGE, "Bloat", BLOAT_NOTES, bloat(server, 2_000 if arguments.quick else arguments.cycles))
        return failed


PARTS = ("calls", "writes", "chunks", "idle", "bloat")
WRITES_NOTES = (
    "Each index of the revisions that serve lists, and what it has replaced. CPU time of the writes with it beside without it"
    " (or with what it has replaced), of the client and of its server process: medians of turns of two databases, for which"
    " it does not matter what else the machine does, though a few per cent are noise. Then the median of its call on the"
    " large database, without and with it."
)
CHUNKS_NOTES = (
    "Every method that writes at most `limit` rows, called by `Database.in_chunks` on a database of 100,000 tasks and 20,000"
    " rows to write. A chunk has its own transaction; the time is from before its first statement to after its COMMIT, and"
    " the rows are those that the method counts: with a task its results are deleted too, with an execution ten steps. The last"
    " columns are calls of the upkeep of a worker, whose number of rows does not follow the time."
)
IDLE_NOTES = (
    "Statements that the server counts, BEGIN and COMMIT among them. A worker has its sweeps in this time, every 5 s; those"
    " of the process that enqueues are not counted."
)
BLOAT_NOTES = (
    "A hundred tasks at a time are enqueued, claimed, completed and purged. Beside an open snapshot no version of a row"
    " can go until it ends."
)


def gained(database: Database, place: Place) -> dict[str, tuple[float, float]]:
    """The milliseconds of the call of each index, without and with it."""
    found: dict[str, tuple[float, float]] = {}
    known = dict(calls())
    for index in INDEXES:
        if index.call:
            beside = [timed(database, index, known[index.call], place, dropped=one) for one in (True, False)]
            found[index.name] = beside[0], beside[1]
    return found


def written(server: Server, size: int, gains: dict[str, tuple[float, float]], quick: bool) -> str:
    rows: list[tuple[str, ...]] = []
    for name, writes in costs(server, turns=2 if quick else TURNS).items():
        before, after = gains.get(name, (math.nan, math.nan))
        for write in writes:
            ratios = (f"{one:.2f}" for one in (write.client, write.server, write.both))
            rows.append((f"`{name}`", write.what, *ratios, f"{before:.2f}", f"{after:.2f}"))
    header = ("", "writes", "client", "server", "both", f"ms without, {size:,}", "ms with")
    return table(header, rows)


def reason(name: str, reasons: Mapping[str, str]) -> str | None:
    """The reason of a call, or of the method."""
    return reasons.get(name, reasons.get(name.partition(",")[0]))


def excused(grown: Mapping[str, tuple[Cost, Cost]], reasons: Mapping[str, str]) -> str:
    """A table of calls that are not flat, the slowest first."""
    return table(
        ("", "ms", "ratio", "reason, and what a caller can do"),
        [
            (
                f"`{name}`",
                f"{large.ms:.1f}",
                f"{(large.ms or 0) / (small.ms or 1):.1f}",
                reason(name, reasons) or "**not explained**",
            )
            for name, (small, large) in sorted(grown.items(), key=lambda one: -(one[1][1].ms or 0))
        ],
    )


def report(server: Server, size: int, small: dict[str, Cost], large: dict[str, Cost], minutes: float) -> int:
    set_up = (
        f"{machine(server)} {SMALL:,} and {size:,} tasks. The calls took {minutes:.0f} minutes, at a load average of"
        f" {os.getloadavg()[1]:.1f}: beside other work a call takes longer, and its ratio varies."
    )
    for one in (PAGE, EVERY_CALL):
        one.path.unlink(missing_ok=True)
        publish(one, "Set-up", set_up)
    failed = {name: cost.error for name in large for cost in (small[name], large[name]) if cost.error}
    good = {name: (small[name], large[name]) for name in large if name not in failed}
    grown = {name: pair for name, pair in good.items() if not flat(*pair)}
    page = {name: pair for name, pair in good.items() if not reason(name, EVERYTHING)}
    exceptions = {name: pair for name, pair in grown.items() if name in page}
    publish(
        PAGE,
        "Summary",
        f"{len(good)} calls were measured, of which {len(good) - len(page)} read everything by their meaning, as a sum does, and"
        f" {len(page)} return at most a page or a row. A call is flat that takes at most {RATIO:g} times as long, or {FLAT_MS:g}"
        " ms. The targets are of the latter.\n\n"
        + targets(
            [
                at_least("flat calls / all", (len(page) - len(exceptions)) / len(page), 0.969),
                at_least(
                    "calls of at most 10 ms / all",
                    sum((pair[1].ms or 0) <= 10 for pair in page.values()) / len(page),
                    0.9,
                ),
                at_most("calls that are not flat", len(exceptions), 10),
                at_most("calls above 500 ms", sum((pair[1].ms or 0) > 500 for pair in page.values()), 0),
            ]
        ),
    )
    publish(PAGE, "Exceptions", excused(exceptions, EXCEPTIONS))
    publish(
        PAGE,
        "Calls that read everything",
        excused({name: pair for name, pair in grown.items() if name not in page}, EVERYTHING),
        *(["Not measured: " + "; ".join(f"`{name}` ({why})" for name, why in REFUSED.items()) + "."]),
        *([f"Failed: {failed}"] if failed else []),
    )
    rows = [
        (
            f"`{name}`",
            f"{a.ms:.2f}",
            f"{b.ms:.2f}",
            f"{(b.ms or 0) / (a.ms or 1):.1f}",
            b.statements,
            f"{b.rows:,}",
        )
        for name, (a, b) in good.items()
    ]
    header = ("", f"ms at {SMALL:,}", f"ms at {size:,}", "x", "statements", "rows")
    publish(EVERY_CALL, "Calls", table(header, rows))
    slow = [
        f"`{name}`, {pair[1].ms:.0f} ms\n\n```text\n" + "\n\n".join(pair[1].plans[:4]) + "\n```"
        for name, pair in sorted(good.items(), key=lambda one: -(one[1][1].ms or 0))
        if pair[1].plans
    ]
    publish(PAGE, "Plans of what takes more than 20 ms", *slow)
    worst = sorted(good.items(), key=lambda one: (one[1][1].ms or 0) / (one[1][0].ms or 1), reverse=True)[:15]
    bars(
        PAGE.path.with_suffix(".svg"),
        "Growth",
        {
            f"p50 at {size:,} tasks beside {SMALL:,}, times": {
                name: (pair[1].ms or 0) / (pair[0].ms or 1) for name, pair in worst
            }
        },
        ours="",
    )
    unexplained = [name for name in exceptions if not reason(name, EXCEPTIONS)]
    print(f"{len(list(calls()))} calls; grown without a reason: {unexplained}; failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
