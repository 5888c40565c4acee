"""One run: a process and a database of its own, what it took, and whether every job ran exactly once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil
import psycopg
from harness import (
    Contender,
    ContenderError,
    Page,
    Server,
    Target,
    at_least,
    peer_environment,
    publish,
    table,
    targets,
)
from sqlalchemy import make_url

from alfred_db import embedded

from .libraries import ALFRED, PEERS, RAW, Library

__all__ = [
    "BATCH",
    "DIES_AFTER",
    "POLL",
    "SCRIPTS",
    "STEPS",
    "WARM",
    "Bench",
    "Run",
    "Runs",
    "Sizes",
    "at_once",
    "each",
    "rate",
    "rates",
    "ratio",
    "spread",
]

SCRIPTS = Path(__file__).parent / "contenders"
BATCH, STEPS, DIES_AFTER = 100, 20, 10
POLL = 0.01
"""Seconds between two looks for an execution whose lease has expired."""
WARM = 100
"""Jobs that each process does before those that count."""

T = TypeVar("T")
Run = dict[str, Any]
Runs = Mapping[str, Sequence[Run]]


@dataclass(frozen=True)
class Sizes:
    """How much of each is done."""

    runs: int
    enqueued: int
    one_by_one: int
    in_batches: int
    behind: int
    claims: int
    workflows: int
    few_runs: int
    """Of what takes long."""
    filed: Mapping[int, int]
    """Jobs for each number of them in a call."""
    shared: Mapping[int, int]
    """Jobs that several workers drain, for each size of their batches."""
    pace: int
    """Jobs a second."""
    seconds: float
    """Of that pace."""
    under_snapshot: int
    waiting: int
    """Tasks that wait in other queues."""
    used: Mapping[int, int]
    """Jobs that are drained with limits and waits, for each size of their batches."""
    slots: int
    """Jobs that workers with slots drain."""


class Bench:
    """The server, the peers' environments and schemas, and the page."""

    def __init__(self, server: Server, sizes: Sizes, page: Page) -> None:
        self.server, self.sizes, self.page = server, sizes, page
        self.missing: dict[Library, str] = {}
        self._pythons: dict[Library, Path] = {}
        self._templates: set[str] = set()
        for peer in PEERS:
            try:
                self._pythons[peer] = peer_environment(peer.name, peer.requirements)
            except ContenderError as error:
                self.missing[peer] = str(error)
        self._postmaster = psutil.Process(embedded.status(server.folder / "server").pid)

    def start(self, library: Library) -> Contender:
        """A process of that library."""
        if library in self.missing:
            raise ContenderError(self.missing[library])
        if library in self._pythons:
            return Contender(library.name, SCRIPTS / library.script, self._pythons[library])
        return Contender(library.name, SCRIPTS / library.script)

    def database(self, library: Library, name: str = "work") -> str:
        """A new database with the library's tables and nothing in them."""
        owner = ALFRED if library is RAW else library
        template = f"empty_{owner.name}"
        if template not in self._templates:
            url = self.server.database(template)
            with self.start(owner) as contender:
                contender.ask("prepare", url)
            self.counters(template)  # nobody may be connected to a template
            self._templates.add(template)
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return make_url(self.server.url).set(database=name).render_as_string(hide_password=False)

    def counters(self, database: str = "work") -> dict[str, float]:
        """What the server has done so far, once all connections to the database are closed and have told it."""
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            for _ in range(1000):
                busy = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'",
                    (database,),
                ).fetchone()
                if busy == (0,):
                    break
                time.sleep(0.01)
            row = connection.execute(
                "SELECT pg_current_wal_insert_lsn() - '0/0', xact_commit, tup_updated + tup_deleted"
                " FROM pg_stat_database WHERE datname = %s",
                (database,),
            ).fetchone()
        assert row is not None
        times = self._postmaster.cpu_times()
        return {
            "wal": float(row[0]),
            "commits": float(row[1]),
            "dead": float(row[2]),
            "server": times.children_user + times.children_system,
        }

    def value(self, url: str, statement: str) -> Any:
        """The one value of a statement."""
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(statement).fetchone()
        assert row is not None
        return row[0]

    def enqueue(self, library: Library, function: str, jobs: int, *arguments: Any) -> Run:
        """File jobs in one call."""
        url = self.database(library)
        with self.start(library) as contender:
            contender.ask(function, url, WARM, *arguments)
            run: Run = contender.ask(function, url, jobs, *arguments)
        filed = self.value(url, library.unfinished)
        if filed != jobs + WARM:
            raise ContenderError(f"void: {filed - WARM} of {jobs} jobs were filed")
        return {**run, "rate": jobs / run["seconds"]}

    def drain(self, library: Library, function: str, jobs: int, batch: int, *arguments: Any) -> Run:
        """Claim and complete jobs."""
        url = self.database(library)
        filing = ["binary, complete rows"] if library is RAW else []
        with self.start(library) as contender:
            contender.ask("enqueue", url, WARM, *filing)
            contender.ask(function, url, WARM, batch, *arguments)
            contender.ask("enqueue", url, jobs, *filing)
            before = self.counters()
            run: Run = contender.ask(function, url, jobs, batch, *arguments)
            after = self.counters()
        self.once(library, url, run.pop("ran"), jobs)
        return each(run, before, after, jobs)

    def once(self, library: Library, url: str, ran: Sequence[int], jobs: int, warm: int = WARM) -> None:
        """Raise ContenderError unless every job ran exactly once, by the handlers' count and by the database's."""
        if sorted(ran) != list(range(jobs)):
            raise ContenderError(f"void: {len(ran)} runs of {len(set(ran))} of {jobs} jobs")
        finished, unfinished = self.value(url, library.finished), self.value(url, library.unfinished)
        if (finished, unfinished) != (jobs + warm, 0):
            raise ContenderError(f"void: {finished - warm} of {jobs} jobs finished, {unfinished} did not")

    def steps(self, library: Library, *arguments: Any, form: str = "") -> Run:
        """Workflows, one after the other; `form` is the beginning of the names of the contender's functions."""
        url = self.database(library)
        count = self.sizes.workflows * STEPS
        with self.start(library) as contender:
            contender.ask(f"{form}steps", url, 1, STEPS, *arguments)
            before = self.counters()
            run: Run = contender.ask(f"{form}steps", url, self.sizes.workflows, STEPS, *arguments)
            after = self.counters()
        if sorted(run.pop("ran")) != list(range(count)):
            raise ContenderError("void: not every step ran once")
        return each(run, before, after, count)

    def resume(self, library: Library, form: str = "", *, warm: bool = False, leased: bool = False) -> Run:
        """A workflow that another process ends after this one was killed: a new one, or one that is `warm`.

        If it is still `leased`, the other process polls until it is not, and `seconds` is the time from the kill.
        """
        url = self.database(library)
        with self.start(library) as second:
            if warm:
                second.ask(f"{form}warm", url, STEPS)
            with self.start(library) as first:
                try:
                    first.ask(f"{form}begin", url, STEPS, DIES_AFTER)
                except ContenderError as error:
                    if " ended: " not in str(error):
                        raise
                else:
                    raise ContenderError("void: the process was to be killed")
            killed = time.perf_counter()
            if not leased:
                time.sleep(1.5)  # the lease is a second
            poll = [POLL if leased else 0.0] if library in (RAW, ALFRED) else []
            run: Run = second.ask(f"{form}resume", url, STEPS, *poll)
            if leased:
                run["seconds"] = run["ended"] - killed  # processes have one monotonic clock
        if run["ran"] != list(range(DIES_AFTER, STEPS)):
            raise ContenderError(f"void: the steps {run['ran']} ran")
        return run

    def publish(
        self,
        section: str,
        notes: str,
        figures: str,
        found: Sequence[Target] = (),
        failed: Mapping[str, str] | None = None,
    ) -> None:
        ends = [f"Not measured: {name}: {why}." for name, why in (failed or {}).items()]
        publish(self.page, section, notes, figures, *([targets(found)] if found else []), *ends)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What each call gives; they run at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def each(run: Run, before: Mapping[str, float], after: Mapping[str, float], count: int) -> Run:
    """What one job took."""
    used = {name: (after[name] - before[name]) / count for name in after}
    return {**run, **used, "cpu": run["cpu"] / count, "rate": count / run["seconds"]}


def rate(runs: Runs, name: str) -> float:
    """The median."""
    return median(run["rate"] for run in runs[name])


def spread(values: Sequence[float], form: str = ",.0f") -> list[str]:
    """The median, and the least and the greatest, as two cells of a table."""
    return [f"{median(values):{form}}", f"{min(values):{form}} to {max(values):{form}}"]


def ratio(what: str, runs: Runs, ours: str, other: str, least: float) -> list[Target]:
    """How many times as fast we are, at the median of the turns, if both were measured."""
    if not runs.get(ours) or not runs.get(other):
        return []
    times = [mine["rate"] / its["rate"] for mine, its in zip(runs[ours], runs[other], strict=True)]
    return [at_least(f"{what}: {ours} / {other}", median(times), least)]


def rates(runs: Runs, unit: str) -> str:
    """Medians, and the least and the greatest of the rates."""
    used = any("wal" in run for found in runs.values() for run in found)
    header = ["", f"{unit}s/s", "min to max"]
    header += ["client CPU", "server CPU", "WAL", "commits", "dead rows"] if used else []
    lines: list[list[str]] = []
    for name, found in runs.items():
        if not found:
            continue
        speeds = [run["rate"] for run in found]
        line = [name, f"{median(speeds):,.0f}", f"{min(speeds):,.0f} to {max(speeds):,.0f}"]
        if used:
            cpu, server, wal, commits, dead = (
                median(run[key] for run in found) for key in ("cpu", "server", "wal", "commits", "dead")
            )
            line += [f"{cpu * 1e6:,.0f} µs", f"{server * 1e6:,.0f} µs", f"{wal:,.0f} B"]
            line += [f"{commits:.2f}", f"{dead:.2f}"]
        lines.append(line)
    return table(header, lines)
