"""What each part of the driver's path saves, beside SQLAlchemy alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

from harness import Contender, interleaved, table

from .libraries import ALFRED
from .runs import SCRIPTS, Bench, Run

__all__ = ["WAYS", "ablation"]

WAYS = {
    "plain SQLAlchemy": "plain SQLAlchemy",
    "driver statements": "+ statements that the driver runs",
    "begun by the driver": "+ units that begin with the driver",
    "kept connection": "+ the kept connection",
}
WORTH = 0.1
"""A part that saves less of the client's CPU in both is not worth its code. The time has the disk's part in it."""


def ablation(bench: Bench) -> None:
    """Units of work that claim, and that search, with more of the path each time. Says which part is not worth it."""
    counts = {"claim": bench.sizes.one_by_one, "find": bench.sizes.one_by_one // 2}
    url = bench.database(ALFRED, "ways")
    with _contender() as contender:
        contender.ask("prepare", url)
    failed: dict[str, str] = {}
    lines: list[list[str]] = []
    saved: dict[str, list[float]] = {way: [] for way in WAYS}
    for what, named in (("claim", "claim of one"), ("find", "search")):
        contenders: dict[str, Callable[[], Run]] = {
            way: partial(_ask, url, what, way, counts[what]) for way in WAYS
        }
        runs = interleaved(bench.sizes.runs, contenders, failed)
        before: list[Run] | None = None
        for way, label in WAYS.items():
            found = list(runs[way])
            if not found:
                continue
            line = [f"{named}: {label}"]
            for key in ("seconds", "cpu"):
                line.append(f"{median(run[key] for run in found) / counts[what] * 1e6:,.0f} µs")
            for key in ("seconds", "cpu"):
                shares = [1 - now[key] / then[key] for now, then in zip(found, before or found, strict=True)]
                line.append(f"{median(shares):.1%}" if before else "")
                if before and key == "cpu":
                    saved[way].append(median(shares))
            lines.append(line)
            before = found
    idle = [WAYS[way].removeprefix("+ ") for way, shares in saved.items() if shares and max(shares) < WORTH]
    notes = (
        "The time of a unit of work with its BEGIN and COMMIT, by one thread: `claim` of one task, and a search for ten of"
        " 2,000 documents by the index. Each line adds a part of the path that alfred_db/engine/session.py describes, and"
        " says how much of the line before it saves. A part that saves less than a tenth of the client's CPU in both is not"
        " worth its code:"
        f" {', '.join(idle) or 'none of them'}."
    )
    header = ("", "a unit", "client CPU", "saved of the time", "saved of the CPU")
    bench.publish("The driver's path", notes, table(header, lines), failed=failed)


def _contender() -> Contender:
    return Contender("alfred-db", SCRIPTS / "ways.py")


def _ask(url: str, what: str, way: str, count: int) -> Run:
    with _contender() as contender:
        run: Run = contender.ask(what, url, way, count)
    return run
