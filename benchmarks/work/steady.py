"""A steady flow of short jobs, a deep queue worked off, and a table that grows from nothing: docs/benchmarks/steady.md.

`python -m work.steady [--quick] [--before TREE]` in this folder's parent. TREE is a checkout of another version, such as
one of `git worktree add`, which takes turns with this one. `--quick` prints the page instead of keeping it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import harness
import psycopg
from harness import (
    Contender,
    Page,
    Server,
    Target,
    at_least,
    at_most,
    interleaved,
    machine,
    one_server,
    publish,
    table,
    targets,
)

PACE, SLOTS, DEPTH = 100, 16, 1000
SCRIPT = Path(__file__).parent / "contenders" / "flow.py"
OURS, BEFORE = "this version", "before"
PAGE = Page(
    "steady.md",
    "A steady flow of jobs",
    "Written by `make bench-steady`.\n\nHow long a task waits for its handler at 100 jobs a second, how fast a worker works a"
    " deep queue off, and whether a loop keeps its speed while the table grows from nothing. Each handler takes a"
    " millisecond, and a worker has 16 slots.",
)


@dataclass(frozen=True)
class Flow:
    """What one run at the pace has shown."""

    p50: float
    """Milliseconds from just before the call of `enqueue` to the start of the handler."""
    p95: float
    statements: float
    """Statements of a job that the server counts, of client and worker together, BEGIN and COMMIT among them."""


def steady(server: Server, tree: Path | None, url: str, seconds: float) -> Flow:
    """Enqueue 100 jobs a second for a worker. Client and worker are processes."""
    number = int(PACE * seconds)
    with Contender("worker", SCRIPT, tree=tree) as worker, Contender("client", SCRIPT, tree=tree) as client:
        worker.ask("start", url, SLOTS)
        client.ask("enqueue", url, PACE, PACE, "warm")
        before = counted(url)
        called: Mapping[str, float] = client.ask("enqueue", url, PACE, number, "steady")
        began: Mapping[str, float] = worker.ask("stop", PACE + number)
        ran = counted(url) - before
    if missing := called.keys() - began.keys():
        raise SystemExit(f"{len(missing)} of {len(called)} tasks have not been run")
    waited = quantiles((1e3 * (began[key] - called[key]) for key in called), n=100)
    return Flow(waited[49], waited[94], ran / number)


def counted(url: str) -> float:
    """Return the number of statements that the server has counted in this database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = extensions, public")  # wherever the extension is
        row = connection.execute(
            "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'"
            " AND query NOT LIKE 'SET search_path = extensions%'"
            " AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        assert row is not None
        return float(row[0])


def prepared(server: Server, trees: Mapping[str, Path | None], what: str) -> dict[str, str]:
    """A database for each version, migrated by that version."""
    urls: dict[str, str] = {}
    for name, tree in trees.items():
        urls[name] = server.database(f"{what}-{name.partition(' ')[0]}")
        with Contender(name, SCRIPT, tree=tree) as one:
            one.ask("upgrade", urls[name])
        with psycopg.connect(urls[name], autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    return urls


def paced(server: Server, trees: Mapping[str, Path | None], seconds: float, runs: int) -> list[Target]:
    urls = prepared(server, trees, "steady")

    def run(name: str) -> Flow:
        with psycopg.connect(urls[name], autocommit=True) as connection:
            connection.execute("TRUNCATE tasks CASCADE")
        return steady(server, trees[name], urls[name], seconds)

    found = interleaved(runs, {name: partial(run, name) for name in trees})
    rows = [
        (
            name,
            f"{median(one.p50 for one in flows):.1f} ms",
            f"{median(one.p95 for one in flows):.1f} ms",
            f"{median(one.statements for one in flows):.1f}",
        )
        for name, flows in found.items()
    ]
    publish(
        PAGE,
        "A hundred jobs a second",
        f"A client enqueues for {seconds:.0f} s, each task in its own transaction, and notifies; a worker runs them, in"
        f" another process. From just before the call of `enqueue` to the start of the handler; medians of {runs} runs in"
        " turn. Statements are those of client and worker that the server counts, with BEGIN, COMMIT and NOTIFY.",
        table(("", "p50", "p95", "statements a job"), rows),
    )
    ours = found[OURS]
    return [
        at_most("from enqueue to handler, p95, ms", median(one.p95 for one in ours), 6.0),
        at_most("statements a job", median(one.statements for one in ours), 7.0),
    ]


def worked_off(server: Server, trees: Mapping[str, Path | None], runs: int) -> list[Target]:
    urls = prepared(server, trees, "deep")
    rows: dict[str, list[str]] = {name: [name] for name in trees}
    faster: dict[str, float] = {}
    with ExitStack() as stack:
        crew = {name: stack.enter_context(Contender(name, SCRIPT, tree=trees[name])) for name in trees}
        for part, arguments in (("deep", (DEPTH, SLOTS)), ("one_by_one", (DEPTH,))):
            asked = {name: partial(one.ask, part, urls[name], *arguments) for name, one in crew.items()}
            for one in asked.values():
                one()  # connected, compiled
            found: dict[str, list[float]] = interleaved(runs, asked)
            for name, rates in found.items():
                rows[name] += [f"{median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}"]
            if BEFORE in found:
                pairs = zip(found[OURS], found[BEFORE], strict=True)
                faster[part] = median(ours / before for ours, before in pairs)
    publish(
        PAGE,
        "A deep queue",
        f"A thousand waiting tasks, worked off by a worker that then returns, and by a loop that claims and completes one at a"
        f" time in AUTOCOMMIT; medians of {runs} runs in turn.",
        table(
            ("", "a worker, jobs/s", "min to max", "one by one, jobs/s", "min to max"), list(rows.values())
        ),
    )
    return [at_least("a worker, jobs/s / before", faster["deep"], 1.22)] if faster else []


def grown(server: Server, trees: Mapping[str, Path | None], seconds: float) -> list[Target]:
    urls = prepared(server, trees, "flat")
    rows: list[Sequence[str]] = []
    ratios: dict[str, float] = {}
    for name, tree in trees.items():
        with psycopg.connect(urls[name]) as connection:
            connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = off)")
        with Contender(name, SCRIPT, tree=tree) as one:
            marks: list[float] = one.ask("flat", urls[name], seconds)
        ratios[name] = marks[-1] / marks[0]
        rows.append((name, f"{marks[0]:,.0f}", f"{marks[-1]:,.0f}", f"{ratios[name]:.2f}"))
    publish(
        PAGE,
        "A table that grows from nothing",
        f"Eight tasks at a time are enqueued, claimed and completed in AUTOCOMMIT for {seconds:.0f} s, on one connection that"
        " has first seen an empty table, without ANALYZE or autovacuum.",
        table(("", "first 10 s, jobs/s", "last 10 s, jobs/s", "last / first"), rows),
    )
    return [at_least("jobs/s of the last 10 s / the first 10 s", ratios[OURS], 0.95)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m work.steady", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--before", type=Path, help="a checkout of another version")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    trees: dict[str, Path | None] = {OURS: None}
    if given.before is not None:
        trees[BEFORE] = given.before.resolve()
    quick: bool = given.quick
    with tempfile.TemporaryDirectory() as folder, one_server() as server:
        if quick or list(given.only) != list(PARTS):
            harness.RESULTS = Path(folder)
        PAGE.path.unlink(missing_ok=True)
        publish(PAGE, "Set-up", machine(server))
        met: list[Target] = []
        if "paced" in given.only:
            met += paced(server, trees, 5.0 if quick else 30.0, 1 if quick else 3)
        if "deep" in given.only:
            met += worked_off(server, trees, 2 if quick else 9)
        if "flat" in given.only:
            met += grown(server, trees, 20.0 if quick else 60.0)
        publish(PAGE, "Summary", targets(met))


PARTS = ("paced", "deep", "flat")

if __name__ == "__main__":
    main()
