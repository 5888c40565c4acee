"""Tasks and workflows: alfred-db beside SQL by hand, procrastinate, pgqueuer, absurd and dbos, on one server.

`python -m work` in this folder's parent; with `--quick` a look at small numbers, which publishes nothing. `--only steps used`
takes some parts, whose sections replace those on the page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence

import psycopg
from harness import Page, Server, machine, one_server
from plot import bars

from . import filing, latency, slots, snapshot, tasks, used, ways, workers, workflows
from .libraries import DRIVER, PEERS
from .runs import BATCH, Bench, Sizes

FULL = Sizes(
    runs=5,
    enqueued=20_000,
    one_by_one=1500,
    in_batches=20_000,
    behind=1_000_000,
    claims=400,
    workflows=25,
    few_runs=3,
    filed={1: 300, 100: 3000, 1000: 10_000},
    shared={1: 400, 10: 1500, 100: 5000},
    pace=300,
    seconds=10.0,
    under_snapshot=20_000,
    waiting=200_000,
    used={1: 1000, 100: 10_000},
    slots=6000,
)
QUICK = Sizes(
    runs=2,
    enqueued=2000,
    one_by_one=100,
    in_batches=1000,
    behind=20_000,
    claims=50,
    workflows=2,
    few_runs=1,
    filed={1: 50, 100: 500, 1000: 2000},
    shared={1: 100, 10: 400, 100: 1000},
    pace=300,
    seconds=2.0,
    under_snapshot=2000,
    waiting=20_000,
    used={1: 100, 100: 1000},
    slots=800,
)
SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers")


def introduction(server: Server) -> str:
    with psycopg.connect(server.url) as connection:
        rows = connection.execute(
            "SELECT name || ' = ' || current_setting(name) FROM unnest(%s::text[]) AS name", (list(SETTINGS),)
        ).fetchall()
    return "\n\n".join(
        [
            "Written by `make bench-work`.",
            f"{machine(server)} {', '.join(row[0] for row in rows)}. {DRIVER.replace('==', ' ')} everywhere;"
            f" {'; '.join(peer.versions for peer in PEERS)}, each in its own environment. All tables are logged.",
            "Each run is a new process on a new database of the one server; contenders take turns, A B C, C B A. Figures"
            " are medians, with the least and the greatest; ratios are medians over the turns, of what ran in the same"
            " turn. After each run it is checked that every job ran exactly once,"
            " by the handler's count and by the database's; else the run is void and its contender is out. WAL is the"
            " whole server's; server CPU is that of the contender's connections and of vacuum.",
            "![Jobs and steps a second](work.svg)",
        ]
    )


def parts(bench: Bench, panels: dict[str, Mapping[str, float]]) -> Mapping[str, Callable[[], object]]:
    """What is measured, by name and in order; `panels` collects what is drawn."""

    def drain(batch: int) -> None:
        how = "one by one" if batch == 1 else f"in batches of {batch}"
        panels[f"claim and complete {how}, jobs/s"] = tasks.drain(bench, batch)

    return {
        "one": lambda: drain(1),
        "batches": lambda: drain(BATCH),
        "enqueue": lambda: panels.update({"enqueue many, jobs/s": tasks.enqueue(bench)}),
        "steps": lambda: panels.update({"durable steps/s": workflows.steps(bench)}),
        "resume": lambda: workflows.resume(bench),
        "behind": lambda: tasks.much_behind(bench),
        "others": lambda: tasks.others_waiting(bench),
        "used": lambda: used.used(bench),
        "heartbeat": lambda: tasks.heartbeat(bench),
        "ways": lambda: ways.ablation(bench),
        "some": lambda: filing.enqueue_some(bench),
        "workers": lambda: [workers.share(bench, count) for count in (2, 4)],
        "slots": lambda: slots.share(bench),
        "paced": lambda: latency.paced(bench),
        "snapshot": lambda: snapshot.under_snapshot(bench),
        "killed": lambda: latency.killed(bench),
    }


def main(quick: bool, only: Sequence[str]) -> None:
    began = time.monotonic()
    with one_server() as server:
        file = str(server.folder / "work.md") if quick else "work.md"
        page = Page(file, "Benchmarks of tasks and workflows", introduction(server))
        panels: dict[str, Mapping[str, float]] = {}
        every = parts(Bench(server, QUICK if quick else FULL, page), panels)
        if unknown := set(only) - set(every):
            raise SystemExit(
                f"--only: {', '.join(sorted(unknown))}: not a part; the parts are {', '.join(every)}"
            )
        if not only:
            page.path.unlink(missing_ok=True)
        for name, measure in every.items():
            if not only or name in only:
                measure()
        if not only:
            bars(page.path.with_suffix(".svg"), "Tasks and workflows", panels, ceiling="raw")
    print(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")


if __name__ == "__main__":
    given = argparse.ArgumentParser(prog="python -m work")
    given.add_argument("--quick", action="store_true")
    given.add_argument("--only", nargs="+", default=[])
    arguments = given.parse_args()
    main(arguments.quick, arguments.only)
