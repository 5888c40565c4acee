"""Tasks and workflows: alfred-db beside SQL by hand, procrastinate, pgqueuer, absurd and dbos, on one server.

Each run has a process and a database of its own. A run in which not every job ran exactly once is void: its
contender is left out from there on, and the page says so. `--quick` is a look with small numbers, and publishes nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import psycopg
from harness import (
    Contender,
    ContenderError,
    Page,
    Server,
    Target,
    at_least,
    at_most,
    interleaved,
    machine,
    one_server,
    peer_environment,
    publish,
    table,
    targets,
)
from plot import bars

from alfred_db import embedded

SCRIPTS = Path(__file__).parent / "work_contenders"
DRIVER = "psycopg[binary]==3.3.9"


@dataclass(frozen=True)
class Library:
    """What is compared: its script, its packages, and how its finished and unfinished jobs are counted."""

    script: str
    requirements: tuple[str, ...] = ()
    finished: str = ""
    unfinished: str = ""

    @property
    def version(self) -> str:
        return ", ".join(package.replace("==", " ") for package in self.requirements)


TASKS = (
    "SELECT count(*) FROM tasks WHERE status = 'completed' AND claim_seq = 1",
    "SELECT count(*) FROM tasks WHERE status <> 'completed'",
)
ALFRED = Library("alfred", (), *TASKS)
RAW = Library("psycopg", (), *TASKS)
PROCRASTINATE = Library(
    "procrastinate",
    ("procrastinate==3.10.0", "psycopg[binary,pool]==3.3.9"),
    "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded' AND attempts = 1",
    "SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'",
)
PGQUEUER = Library(
    "pgqueuer",
    ("pgqueuer==1.6.0", DRIVER),
    "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'",
    "SELECT count(*) FROM pgqueuer",
)
ABSURD = Library(
    "absurd",
    ("absurd-sdk==0.5.1", "absurdctl==0.5.1", DRIVER),
    "SELECT count(*) FROM absurd.t_bench WHERE state = 'completed' AND attempts = 1",
    "SELECT count(*) FROM absurd.t_bench WHERE state <> 'completed'",
)
DBOS = Library("dbos", ("dbos==3.4.0", DRIVER))
PEERS = (PROCRASTINATE, PGQUEUER, ABSURD, DBOS)


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


FULL = Sizes(
    runs=5, enqueued=20_000, one_by_one=1500, in_batches=20_000, behind=1_000_000, claims=400, workflows=25
)
QUICK = Sizes(
    runs=2, enqueued=2000, one_by_one=100, in_batches=1000, behind=20_000, claims=50, workflows=2
)
BATCH, STEPS, DIES_AFTER, WARM = 100, 20, 10, 100

Run = dict[str, Any]
Runs = dict[str, list[Run]]


class Bench:
    """The server, the peers' environments, and the page."""

    def __init__(self, server: Server, sizes: Sizes, page: Page) -> None:
        self.server, self.sizes, self.page = server, sizes, page
        self.missing: dict[str, str] = {}
        self.pythons: dict[str, Path | str] = {}
        for peer in PEERS:
            try:
                self.pythons[peer.script] = peer_environment(peer.script, peer.requirements)
            except ContenderError as error:
                self.missing[peer.script] = str(error)
        self.postmaster = psutil.Process(embedded.status(server.folder / "server").pid)

    def start(self, library: Library) -> Contender:
        """A process of that library."""
        if library.script in self.missing:
            raise ContenderError(self.missing[library.script])
        python = self.pythons.get(library.script, sys.executable)
        return Contender(library.script, SCRIPTS / f"with_{library.script}.py", python)

    def database(self, library: Library, name: str = "work") -> str:
        """A new database with the library's tables."""
        url = self.server.database(name)
        with self.start(ALFRED if library is RAW else library) as contender:
            contender.ask("prepare", url)
        return url

    def counters(self, database: str = "work") -> dict[str, float]:
        """What the server has done so far; once all connections to the database have told what they did."""
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            for _ in range(500):
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
        times = self.postmaster.cpu_times()
        return {
            "wal": float(row[0]),
            "commits": float(row[1]),
            "dead": float(row[2]),
            "server": times.children_user + times.children_system,
        }

    def value(self, url: str, statement: str) -> Any:
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(statement).fetchone()
        assert row is not None
        return row[0]

    def exactly_once(self, library: Library, url: str, ran: Sequence[int], jobs: int) -> None:
        """Raise ContenderError unless each job ran once, by the handler's count and by the database's."""
        if sorted(ran) != list(range(jobs)):
            raise ContenderError(f"void: {len(ran)} runs of {len(set(ran))} of {jobs} jobs")
        if library.finished:
            finished, unfinished = (
                self.value(url, statement) for statement in (library.finished, library.unfinished)
            )
            if (finished, unfinished) != (jobs + WARM, 0):
                raise ContenderError(f"void: {finished - WARM} of {jobs} jobs finished, {unfinished} not")

    def enqueue(self, library: Library, function: str, jobs: int, arguments: Sequence[Any]) -> Run:
        url = self.database(library)
        with self.start(library) as contender:
            contender.ask(function, url, WARM, *arguments)
            run = contender.ask(function, url, jobs, *arguments)
        filed = self.value(url, library.unfinished)
        if filed != jobs + WARM:
            raise ContenderError(f"void: {filed - WARM} of {jobs} jobs were filed")
        return {**run, "rate": jobs / run["seconds"]}

    def drain(
        self, library: Library, function: str, jobs: int, batch: int, arguments: Sequence[Any] = ()
    ) -> Run:
        url = self.database(library)
        filing = ["binary, complete rows"] if library is RAW else []
        with self.start(library) as contender:
            contender.ask("enqueue", url, WARM, *filing)
            contender.ask(function, url, WARM, batch, *arguments)
            contender.ask("enqueue", url, jobs, *filing)
            before = self.counters()
            run = contender.ask(function, url, jobs, batch, *arguments)
            after = self.counters()
        self.exactly_once(library, url, run.pop("ran"), jobs)
        used = {name: (after[name] - before[name]) / jobs for name in after}
        return {**run, **used, "cpu": run["cpu"] / jobs, "rate": jobs / run["seconds"]}

    def steps(self, library: Library, arguments: Sequence[Any] = ()) -> Run:
        url = self.database(library)
        count = self.sizes.workflows
        with self.start(library) as contender:
            before = self.counters()
            run = contender.ask("steps", url, count, STEPS, *arguments)
            after = self.counters()
        if sorted(run.pop("ran")) != list(range(count * STEPS)):
            raise ContenderError("void: not every step ran once")
        used = {name: (after[name] - before[name]) / (count * STEPS) for name in after}
        return {**run, **used, "cpu": run["cpu"] / (count * STEPS), "rate": count * STEPS / run["seconds"]}

    def resume(self, library: Library) -> Run:
        url = self.database(library)
        with self.start(library) as contender:
            try:
                contender.ask("begin", url, STEPS, DIES_AFTER)
            except ContenderError as error:
                if "ended" not in str(error):
                    raise
            else:
                raise ContenderError("void: it was to be killed")
        time.sleep(1.5)  # the lease is a second
        with self.start(library) as contender:
            run: Run = contender.ask("resume", url, STEPS)
        if run["ran"] != list(range(DIES_AFTER, STEPS)):
            raise ContenderError(f"void: the steps {run['ran']} ran again")
        return run

    def publish(self, section: str, notes: str, rows: str, found: Sequence[Target], failed: Mapping[str, str]) -> None:
        ends = [f"Not measured: {name}: {why}." for name, why in failed.items()]
        publish(self.page, section, notes, rows, *([targets(found)] if found else []), *ends)


def ratio(what: str, runs: Runs, ours: str, other: str, least: float) -> list[Target]:
    """How many times as fast we are, if both were measured."""
    if not runs.get(ours) or not runs.get(other):
        return []
    return [at_least(f"{ours} / {other}, {what}", rate(runs, ours) / rate(runs, other), least)]


def rate(runs: Runs, name: str) -> float:
    return median(run["rate"] for run in runs[name])


def rates(runs: Runs, unit: str) -> str:
    """Medians, and the range of what is a rate."""
    used = any("wal" in run for found in runs.values() for run in found)
    header = ["", f"{unit}/s", "min to max"]
    header += ["client CPU", "server CPU", "WAL", "commits", "dead rows"] if used else []
    lines: list[list[object]] = []
    for name, found in runs.items():
        if not found:
            continue
        speeds = [run["rate"] for run in found]
        line: list[object] = [name, f"{median(speeds):,.0f}", f"{min(speeds):,.0f} to {max(speeds):,.0f}"]
        if used:
            middle = {key: median(run[key] for run in found) for key in ("cpu", "server", "wal", "commits", "dead")}
            line += [f"{middle['cpu'] * 1e6:,.0f} µs", f"{middle['server'] * 1e6:,.0f} µs"]
            line += [f"{middle['wal']:,.0f} B", f"{middle['commits']:.2f}", f"{middle['dead']:.2f}"]
        lines.append(line)
    return table(header, lines)


def many(bench: Bench) -> dict[str, float]:
    jobs = bench.sizes.enqueued
    few = jobs // 10
    contenders: dict[str, Callable[[], Run]] = {
        "raw COPY, binary": partial(bench.enqueue, RAW, "enqueue", jobs, ["binary, complete rows"]),
        "raw COPY, text": partial(bench.enqueue, RAW, "enqueue", jobs, ["text, complete rows"]),
        "raw COPY, binary, rows made": partial(bench.enqueue, RAW, "enqueue", jobs, ["binary, same input"]),
        "alfred-db": partial(bench.enqueue, ALFRED, "enqueue", jobs, []),
        "alfred-db, async": partial(bench.enqueue, ALFRED, "enqueue_async", jobs, []),
        "pgqueuer": partial(bench.enqueue, PGQUEUER, "enqueue", jobs, []),
        "procrastinate": partial(bench.enqueue, PROCRASTINATE, "enqueue", jobs, []),
        f"absurd, {few:,} one by one": partial(bench.enqueue, ABSURD, "enqueue", few, []),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.runs, contenders, failed)
    limit = max(("raw COPY, binary", "raw COPY, text"), key=partial(rate, runs))
    found = [
        target
        for ours in ("alfred-db", "alfred-db, async")
        for other, least in ((limit, 0.5), ("pgqueuer", 1.0))
        for target in ratio("enqueue many", runs, ours, other, least)
    ]
    notes = (
        f"{jobs:,} tasks in one call and one transaction. Raw COPY has four columns of rows that were complete before"
        f" the clock started; the faster form, {limit.split(', ')[1]}, is the limit. «Rows made» starts, as"
        " `enqueue_many` does, from intent and content: it makes the ids and packs the rows while the clock runs."
        " `enqueue_many` also checks its input, and gives an id for each task. pgqueuer inserts by `unnest`,"
        " procrastinate by a function over an array; absurd has no call for many."
    )
    bench.publish("Enqueue many", notes, rates(runs, "jobs"), found, failed)
    return {name: rate(runs, name) for name in runs if runs[name]}


def drains(bench: Bench, batch: int) -> dict[str, float]:
    one = batch == 1
    jobs = bench.sizes.one_by_one if one else bench.sizes.in_batches
    few = jobs if one else jobs // 10
    contenders: dict[str, Callable[[], Run]] = {
        "raw SQL": partial(bench.drain, RAW, "drain", jobs, batch, [True]),
        "raw SQL, BEGIN and COMMIT": partial(bench.drain, RAW, "drain", jobs, batch, [False]),
        "alfred-db": partial(bench.drain, ALFRED, "drain", jobs, batch),
        "raw SQL, async": partial(bench.drain, RAW, "drain_async", jobs, batch, [True]),
        "raw SQL, async, BEGIN and COMMIT": partial(bench.drain, RAW, "drain_async", jobs, batch, [False]),
        "alfred-db, async": partial(bench.drain, ALFRED, "drain_async", jobs, batch),
        "pgqueuer": partial(bench.drain, PGQUEUER, "drain", jobs, batch),
        "absurd": partial(bench.drain, ABSURD, "drain", few, batch),
    }
    if one:
        contenders["procrastinate"] = partial(bench.drain, PROCRASTINATE, "drain", jobs, 1)
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.runs, contenders, failed)
    least, peer, times = (0.85, "procrastinate", 3) if one else (0.6, "pgqueuer", 2)
    how = "one by one" if one else f"batches of {batch}"
    found = [
        *ratio(how, runs, "alfred-db", "raw SQL", least),
        *ratio(how, runs, "alfred-db", peer, times),
        *ratio(how, runs, "alfred-db, async", "raw SQL, async", least),
        *ratio(how, runs, "alfred-db, async", peer, times),
    ]
    notes = (
        f"{jobs:,} jobs that do nothing, by one worker in one thread: claim {batch}, run, complete"
        f" {'it' if one else 'them'}. Raw SQL is the library's two statements, each its own transaction (autocommit), so"
        " two round trips; «BEGIN and COMMIT» is the same in transaction blocks, as `db.begin()` is. Dead rows are"
        " updated and deleted rows. pgqueuer deletes a finished job and writes a log row, in one statement; the others"
        " keep it."
    )
    notes += (
        " procrastinate runs its own worker, which fetches one job at a time; the others are called by a plain loop."
        if one
        else f" absurd claims many and completes each by itself; it has {few:,} jobs. procrastinate claims no batches."
    )
    bench.publish("Claim and complete " + ("one by one" if one else f"in batches of {batch}"), notes,
                  rates(runs, "jobs"), found, failed)
    return {name: rate(runs, name) for name in runs if runs[name] and "BEGIN" not in name}


FILL = """
    INSERT INTO tasks (id, task_id, intent, status, priority, content, available_at, claim_seq, started_at, completed_at)
    SELECT gen_random_uuid(), 'old-' || n, 'noop', 'completed', 1 + n %% 5, '{{}}', now() - interval '1 day', 1,
        now() - interval '1 day', now() - interval '1 day' + n * interval '1 millisecond'
    FROM generate_series(1, {completed}) AS n;
    INSERT INTO tasks (id, task_id, intent, priority, content, available_at)
    SELECT gen_random_uuid(), 'later-' || n, 'noop', 1 + n %% 5, '{{}}', now() + interval '1 day' + n * interval '1 second'
    FROM generate_series(1, {future}) AS n
""".replace("%%", "%")


def much_behind(bench: Bench) -> None:
    completed, future = bench.sizes.behind, bench.sizes.behind // 10
    urls = {name: bench.database(ALFRED, name) for name in ("almost_empty", "much_behind")}
    with psycopg.connect(urls["much_behind"], autocommit=True) as connection:
        for statement in FILL.format(completed=completed, future=future).split(";"):
            connection.execute(statement)
    for url in urls.values():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE) tasks")

    def claims(url: str) -> Run:
        with bench.start(ALFRED) as contender:
            return contender.ask("claims", url, bench.sizes.claims)

    runs = interleaved(bench.sizes.runs, {name: partial(claims, url) for name, url in urls.items()})
    lines: list[list[object]] = []
    middles: dict[tuple[str, str], float] = {}
    for name, found in runs.items():
        for what in ("calls", "transactions"):
            each = [median(run[what]) * 1000 for run in found]
            high = median(quantiles(run[what], n=100)[98] for run in found) * 1000
            middles[name, what] = median(each)
            label = f"{name.replace('_', ' ')}, {'the call' if what == 'calls' else 'the transaction'}"
            lines.append([label, f"{median(each):.3f} ms", f"{min(each):.3f} to {max(each):.3f}", f"{high:.3f} ms"])
    found = [
        at_most(
            f"p50 of {'the call' if what == 'calls' else 'the transaction'}, much behind / almost empty",
            middles["much_behind", what] / middles["almost_empty", what],
            1.3,
        )
        for what in ("calls", "transactions")
    ]
    notes = (
        f"Claims of one task of priority 1, {bench.sizes.claims} a run, in a table that holds nothing else, and in one"
        f" with {completed:,} completed and {future:,} future tasks of all priorities. The call is `claim` alone; the"
        " transaction has BEGIN, the connection's check and COMMIT too."
    )
    bench.publish("Claim with much behind it", notes, table(("", "p50", "min to max", "p99"), lines), found, {})


def hot(bench: Bench) -> None:
    lines: list[list[object]] = []
    found: list[Target] = []
    for label, jobs, beats, alone in (("`heartbeat_many` of 500", 500, 8, False), ("`heartbeat`", 50, 40, True)):
        url = bench.database(ALFRED)
        with bench.start(ALFRED) as contender:
            run = contender.ask("heartbeats", url, jobs, beats, alone)
        bench.counters()
        statement = "SELECT {} FROM pg_stat_user_tables WHERE relname = 'tasks'"
        share = bench.value(
            url, statement.format(f"1.0 * n_tup_hot_upd / (n_tup_upd - {jobs})")
        )  # the claims are no heartbeats, and never HOT
        lines.append([label, f"{jobs * beats / run['seconds']:,.0f}", f"{share:.1%}"])
        found.append(at_least(f"HOT share, {label}", float(share), 0.8))
    notes = "Leases that are extended: by one statement for 500 tasks, 8 times, and one by one for 50, 40 times."
    bench.publish("Heartbeats", notes, table(("", "leases/s", "HOT"), lines), found, {})


def workflow_steps(bench: Bench) -> dict[str, float]:
    contenders: dict[str, Callable[[], Run]] = {
        "raw fenced insert": partial(bench.steps, RAW, [False]),
        "raw, lease extended": partial(bench.steps, RAW, [True]),
        "alfred-db": partial(bench.steps, ALFRED),
        "absurd": partial(bench.steps, ABSURD),
        "dbos": partial(bench.steps, DBOS),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.runs, contenders, failed)
    found = [
        *ratio("steps", runs, "alfred-db", "raw fenced insert", 0.6),
        *ratio("steps", runs, "alfred-db", "dbos", 3),
    ]
    notes = (
        f"{bench.sizes.workflows} workflows of {STEPS} steps that do nothing, one after the other in one thread; the time"
        " is that of the steps alone. Each step is one transaction. Raw: an insert that checks the lease, by autocommit;"
        " «lease extended» also extends it and counts the step, as `checkpoint` does. alfred-db reads the finished steps"
        " once at the start; absurd and dbos look before each step whether it was done. CPU, WAL and commits include"
        " starting and ending the workflows."
    )
    bench.publish("Durable steps", notes, rates(runs, "steps"), found, failed)
    return {name: rate(runs, name) for name in runs if runs[name]}


def resuming(bench: Bench) -> None:
    contenders: dict[str, Callable[[], Run]] = {
        "raw SQL": partial(bench.resume, RAW),
        "alfred-db": partial(bench.resume, ALFRED),
        "absurd": partial(bench.resume, ABSURD),
        "dbos": partial(bench.resume, DBOS),
    }
    failed: dict[str, str] = {}
    runs = interleaved(bench.sizes.runs, contenders, failed)
    lines: list[list[object]] = []
    for name, found in runs.items():
        times = [run["seconds"] * 1000 for run in found]
        if times:
            lines.append([name, f"{median(times):,.0f} ms", f"{min(times):,.0f} to {max(times):,.0f}"])
    notes = (
        f"A workflow of {STEPS} steps whose process is killed (SIGKILL) after {DIES_AFTER}. A new process that has imported"
        " its library connects, takes the workflow over and ends it; a run in which a finished step ran again, or"
        " another one did not run, is void. The lease, 1 second here, has expired before the clock starts: alfred-db's is"
        " 60 seconds by default, absurd's 120; dbos has none, its executor resumes what has its own name. The time of"
        " dbos includes launching it, which checks its schema and starts threads, and its poll of the queue that what is"
        " resumed goes through."
    )
    bench.publish("Resume", notes, table(("", "median", "min to max"), lines), [], failed)


def introduction(server: Server) -> str:
    with psycopg.connect(server.url) as connection:
        names = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", "shared_buffers")
        settings = [f"{name} = {connection.execute(f'SHOW {name}').fetchone()[0]}" for name in names]  # type: ignore[index]
    return (
        "Written by `make bench-work`.\n\n"
        f"{machine(server)} {', '.join(settings)}. {DRIVER.replace('==', ' ')} everywhere;"
        f" {'; '.join(peer.version for peer in PEERS)}; each peer in an environment of its own. All tables are logged.\n\n"
        "Each run is a new process on a new database of the one server; the contenders take turns, A B C, C B A. Figures are"
        " medians, with the least and the greatest. After each run it is checked that every job ran exactly once, by the"
        " handler's count and by the database's; otherwise the run is void. WAL is that of the whole server, checkpoints"
        " and vacuum included; CPU of the server is that of the contender's connections and of vacuum.\n\n"
        "![Jobs and steps a second](work.svg)"
    )


def main(quick: bool) -> int:
    began = time.monotonic()
    with one_server() as server:
        file = str(server.folder / "work.md") if quick else "work.md"
        page = Page(file, "Benchmarks of tasks and workflows", introduction(server))
        page.path.unlink(missing_ok=True)
        bench = Bench(server, QUICK if quick else FULL, page)
        panels = {
            "claim and complete one by one, jobs/s": drains(bench, 1),
            f"claim and complete in batches of {BATCH}, jobs/s": drains(bench, BATCH),
            "enqueue many, jobs/s": many(bench),
            "durable steps/s": workflow_steps(bench),
        }
        resuming(bench)
        much_behind(bench)
        hot(bench)
        bars(page.path.with_suffix(".svg"), "Tasks and workflows", panels, ceiling="raw")
    print(f"took {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
