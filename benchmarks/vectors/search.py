"""The nearest ten of all rows, with their texts and metadata; and vectors read back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from harness import ContenderError, Target, at_least, at_most, interleaved, table

from .data import Rows, nearest_distances, recall
from .peers import OURS, RAW, STOCK, Contenders, Started

__all__ = ["Searched", "read", "search", "search_targets"]

OPEN = "alfred-db, in one unit of work"
BEGUN = "raw psycopg, with BEGIN and COMMIT"
LIMIT = 10
BLOCK = 50
UNEQUAL = 0.02
"""By so much another recall is another search."""


@dataclass
class Searched:
    """The times and hits of one contender, over all blocks and rounds."""

    seconds: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    places: dict[int, list[int]] = field(default_factory=dict)


def search(
    all_: Contenders, rows: Rows, rounds: int, *, asynchronous: bool
) -> tuple[str, dict[str, Searched]]:
    """A table, and what was measured of each that found enough."""
    function = "search_async" if asynchronous else "search"
    last = nearest_distances(rows.vectors, rows.queries, LIMIT)
    found: dict[str, Searched] = {}
    names = {name: name for name in all_.started} | {OPEN: OURS, BEGUN: RAW}
    before = {name: one.scans() for name, one in all_.started.items()}
    chosen = {
        name: (one, function) for name, one in all_.started.items() if one.asynchronous or not asynchronous
    }
    chosen[OPEN] = all_.started[OURS], function.replace("search", "search_open")
    chosen[BEGUN] = all_.started[RAW], function.replace("search", "search_begun")

    def block(name: str, first: int) -> None:
        started, how = chosen[name]
        given: dict[str, Any] = started.contender.ask(function, how, first, BLOCK)
        one = found.setdefault(name, Searched())
        one.seconds += given["seconds"]
        one.medians.append(median(given["seconds"]))
        one.places |= dict(enumerate(given["places"], start=first))

    failed: dict[str, str] = {}
    for started, how in chosen.values():  # connections are made, statements prepared, pages read
        started.contender.ask(function, how, 0, len(rows.queries))
    for _ in range(rounds):
        for first in range(0, len(rows.queries), BLOCK):
            turns = {name: partial(block, name, first) for name in chosen if name not in failed}
            interleaved(1, dict(reversed(turns.items())) if first // BLOCK % 2 else turns, failed)
    # A session reports what it used at the end of a transaction, but not within a second of its last report; an idle
    # one not before ten seconds. One more search of each, a second later, reports all that were before it.
    time.sleep(1.5)
    for name, (started, how) in chosen.items():
        if name not in failed:
            started.contender.ask(function, how, 0, 1)
    lines, valid = [], dict[str, Searched]()
    recalls = {
        name: recall(rows.vectors, rows.queries, [one.places[n] for n in sorted(one.places)], last, LIMIT)
        for name, one in found.items()
        if name not in failed
    }
    for name, value in recalls.items():
        one = found[name]
        void = ""
        if abs(value - recalls[RAW]) > UNEQUAL:
            void = "void: unequal recall"
        elif any(len(places) < LIMIT for places in one.places.values()):
            void = "void: rows are missing"
        elif chosen[name][0].scans() - before[names[name]] < len(one.seconds):
            void = "void: the index was not used"
        p50, p95 = np.percentile(one.seconds, (50, 95)) * 1000
        if not void:
            valid[name] = one
        spread = f"{min(one.medians) * 1000:.2f} to {max(one.medians) * 1000:.2f}"
        ratio = f"{times(one, found[RAW]):.2f}"
        lines.append((name, f"{p50:.2f}", f"{p95:.2f}", ratio, spread, f"{value:.3f}", void))
    lines += [(name, "", "", "", "", "", why) for name, why in {**failed, **all_.failed}.items()]
    header = ("", "p50, ms", "p95, ms", "p50 of raw", "medians of blocks, ms", "recall@10", "")
    return table(header, lines), valid


def times(one: Searched, other: Searched) -> float:
    """How many times as long it takes, at the median of the turns; in each both have the same queries."""
    return median(mine / its for mine, its in zip(one.medians, other.medians, strict=True))


def search_targets(found: dict[str, Searched], what: str) -> list[Target]:
    """Raw psycopg has one connection, as ours in one unit of work; with peers each search has a unit of its own."""
    ours = times(found[OPEN], found[RAW]) if OPEN in found else float("nan")  # which meets no target
    return [at_most(f"{what}: p50, {OPEN} / {RAW}", ours, 1.3)] + [
        at_least(f"{what}: p50, {name} / {OURS}", times(one, found[OURS]), 2)
        for name, one in found.items()
        if name.startswith(("langchain", "vecs")) and OURS in found
    ]


def read(all_: Contenders, count: int, runs: int) -> tuple[str, Target]:
    """`count` vectors as one matrix."""

    def once(started: Started) -> dict[str, Any]:
        given: dict[str, Any] = started.contender.ask("read_vectors", count)
        if given["shape"][0] != count:
            raise ContenderError(f"void: {given['shape'][0]} of {count} vectors")
        return given

    turns = {name: partial(once, all_.started[name]) for name in (RAW, STOCK, OURS)}
    interleaved(1, turns)
    taken = interleaved(runs, turns)
    sums = {round(one["sum"], 1) for given in taken.values() for one in given}
    seconds = {name: [one["seconds"] for one in given] for name, given in taken.items()}
    of_raw = {
        name: median(mine / raw for mine, raw in zip(ours, seconds[RAW], strict=True))
        for name, ours in seconds.items()
    }
    lines = [
        (name, f"{1000 * median(values):.2f}", f"{of_raw[name]:.2f}") for name, values in seconds.items()
    ]
    if len(sums) > 1:
        lines.append(("void: not the same vectors", "", ""))
    target = at_most(f"read {count:,} vectors: alfred-db / raw binary", of_raw[OURS], 1.3)
    return table(("", "ms", "of raw"), lines), target
