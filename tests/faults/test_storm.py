"""Everything at once: workers at work while they, the server and the connections are killed, frozen, cut and restarted.

For some seconds in the suite. `make test-faults` runs it for ALFRED_DB_FAULTS seconds, prints its figures, and writes
them to ALFRED_DB_FAULTS_REPORT.
"""

from __future__ import annotations

import os
import platform
import random
import re
import shlex
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from alfred_db import Database, TaskStatus
from alfred_db.errors import ConflictError, DatabaseUnavailable, InvalidTransition

from .ledger import Figures, figures
from .processes import SECONDS, Process, Proxy, Server, program, proxy_to, until_the_end, wait_until

DURATION = float(os.environ.get("ALFRED_DB_FAULTS", "8"))
KILLS = 200 if DURATION >= 600 else 0
"""At least so many kills and restarts; a slow machine takes longer over them."""
PAUSE = 0.3
"""Seconds between two faults."""
WORKERS = 4
"""Two that call the repository themselves, two of `alfred-db worker`."""
LEASE = 2.0
COMMAND = shlex.split(
    f"-m alfred_db.cli worker --app handlers:handlers --lease {LEASE} --upkeep 0.5 --poll 0.3 --concurrency 3"
)
WAITING = 60
"""Tasks that are kept waiting."""


class Storm:
    """Workers and a source of tasks, and what befalls them."""

    def __init__(self, server: Server, database: str, proxy: Proxy, stack: ExitStack, seed: int) -> None:
        self._server, self._database, self._proxy, self._stack = server, database, proxy, stack
        self._random = random.Random(seed)
        self._numbers = iter(range(1, 1 << 30))
        self._workers = [self._worker(place) for place in range(WORKERS)]
        self.known: list[str] = []
        """Tasks that were enqueued for certain."""
        self.unsure = 0
        """Commits of the source whose outcome it was unknown to it, and which it repeated."""
        self._commits = 0
        self.faults: Counter[str] = Counter()
        self._over = threading.Event()

    def run(self, seconds: float) -> None:
        source = threading.Thread(target=self._file_tasks)
        source.start()
        try:
            faults: list[tuple[Callable[[], str], int]] = [
                (self._kill_worker, 6),
                (self._freeze_worker, 1),
                (self._restart_server, 4),
                (self._kill_backend, 2),
                (self._terminate_backends, 2),
                (self._cut_a_commit, 4),
                (self._cut_all, 1),
            ]
            kinds, weights = [kind for kind, _ in faults], [weight for _, weight in faults]
            # Each kind once, whatever the time, and then as they come.
            first = self._random.sample(kinds, len(kinds))
            end = time.monotonic() + seconds
            while first or self.kills < KILLS or time.monotonic() < end:
                fault = first.pop() if first else self._random.choices(kinds, weights)[0]
                self.faults[fault()] += 1
                time.sleep(self._random.uniform(0, 2 * PAUSE))
                self._revive()
                self._let_some_work_be_done()
        finally:
            self._over.set()
            source.join()

    def _let_some_work_be_done(self) -> None:
        """A slow machine would do nothing but start again."""
        seen, deadline = self._commits, time.monotonic() + 5
        while self._commits == seen and time.monotonic() < deadline:
            time.sleep(0.02)

    def drain(self, db: Database) -> None:
        """Let the workers do what is left, unharmed."""

        def ended() -> bool:
            self._revive()
            with db.begin() as uow:
                count = uow.tasks.count
                return count(status=TaskStatus.PENDING) + count(status=TaskStatus.PROCESSING) == 0

        wait_until(ended, 120)
        for worker in self._workers:
            worker.wait_for("ready")
            assert worker.terminate() == 0

    def _revive(self) -> None:
        """Replace the workers that a task has killed; there is nothing else that they may end by."""
        for place, worker in enumerate(self._workers):
            if not worker.alive:
                assert worker.finish() == -signal.SIGKILL, "a worker goes on through every failure"
                self.faults["worker killed by its task"] += 1
                self._workers[place] = self._worker(place)

    @property
    def kills(self) -> int:
        """Faults that ended a process, a server or its connections."""
        return sum(count for kind, count in self.faults.items() if re.search("kill|restart|terminat", kind))

    def _worker(self, place: int) -> Process:
        # Of either kind, one reaches the server through the proxy.
        url = self._server.url(self._database, self._proxy.port if place % 2 == 0 else None)
        if place < 2:
            name = f"worker-{next(self._numbers)}"
            started = program("worker.py", url=url, worker=name, lease=LEASE, limit=1 + 2 * place)
        else:
            started = Process(*COMMAND, environment={"ALFRED_DB_URL": url})
        return self._stack.enter_context(until_the_end(started))

    def _file_tasks(self) -> None:
        """File tasks as long as the storm lasts: of each it is known in the end that it is there."""
        with Database(self._server.url(self._database, self._proxy.port), application_name="source") as db:
            while not self._over.is_set():
                number = next(self._numbers)
                size = self._random.choice((1, 5, 20))
                names = [f"t-{number}-{place}" for place in range(size)]
                deadline = time.monotonic() + SECONDS
                while time.monotonic() < deadline:
                    try:
                        with db.begin() as uow:
                            waiting = uow.tasks.count(status=TaskStatus.PENDING)
                            enqueued = waiting < WAITING
                            if enqueued:
                                self._file(db, uow.tasks.enqueue_many, names)
                        self._commits += 1
                        break
                    except (DatabaseUnavailable, ConflictError) as error:
                        self.unsure += not error.retryable
                        time.sleep(0.02)
                if enqueued:
                    self.known += names
                    if number % 10 == 0:
                        self._cancel(db, names[0])
                else:
                    time.sleep(0.05)

    def _file(self, db: Database, enqueue_many: Callable[..., object], names: list[str]) -> None:
        poison = not self.known or self._random.random() < 0.03
        enqueue_many(
            [
                {
                    "intent": "poison" if poison and place == 0 else "work",
                    "task_id": name,
                    "priority": 1 + place % 5,
                    "max_retries": 1 if poison and place == 0 else 10_000,
                    "content": {"seconds": 0.002 * (place % 7), "failures": int(place % 9 == 8)},
                }
                for place, name in enumerate(names)
            ]
        )

    def _cancel(self, db: Database, name: str) -> None:
        try:
            with db.begin() as uow:
                task = uow.tasks.get_by_task_id(name)
                assert task is not None
                uow.tasks.cancel(task.id)
        except (DatabaseUnavailable, InvalidTransition):
            pass  # not, or perhaps; or it is done already

    # The faults. Each returns its name.

    def _kill_worker(self) -> str:
        self._revive()
        place = self._random.randrange(WORKERS)
        self._workers[place].kill()
        self._workers[place] = self._worker(place)
        return "worker killed"

    def _freeze_worker(self) -> str:
        worker = self._random.choice(self._workers)
        if worker.alive:
            worker.send(signal.SIGSTOP)
            time.sleep(LEASE * 1.3)
            worker.send(signal.SIGCONT)
        return "worker frozen past its lease"

    def _restart_server(self) -> str:
        how = self._random.choice(("fast", "immediate", "killed"))
        # PostgreSQL 18 may never end when it is stopped fast while it recovers.
        wait_until(self._server.answers)
        self._server.restart(how)  # type: ignore[arg-type]
        return {
            "fast": "server restarted, fast",
            "immediate": "server restarted, immediate",
            "killed": "server killed and started",
        }[how]

    def _kill_backend(self) -> str:
        """The server restarts all of its processes when one of them dies."""
        backends: list[int] = []
        for child in psutil.Process(self._server.pid).children():
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                words = " ".join(child.cmdline()).split()
                if any(word.startswith("faults_") for word in words):
                    backends.append(child.pid)
        if backends:
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(backends), signal.SIGKILL)
        return "server process killed"

    def _terminate_backends(self) -> str:
        statement = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5"
        )
        # The server may still be recovering from the fault before this one.
        url = self._server.url(self._database)
        with suppress(OperationalError), Database(url) as db, db.session() as session:
            session.execute(statement)
        return "connections terminated by the server"

    def _cut_a_commit(self) -> str:
        when = self._random.choice(("before", "after"))
        before = sum(self._proxy.cuts.values())
        self._proxy.cut_next_commit(when)  # type: ignore[arg-type]
        wait_until(lambda: sum(self._proxy.cuts.values()) > before)
        return "connection cut before its COMMIT" if when == "before" else "connection cut after its COMMIT"

    def _cut_all(self) -> str:
        self._proxy.cut_all()
        return "all connections cut"


def test_a_storm(own_server: Server, database: str) -> None:
    seed = int(os.environ.get("ALFRED_DB_FAULTS_SEED") or random.randrange(1 << 32))
    print(f"\nALFRED_DB_FAULTS_SEED={seed}")
    began = time.monotonic()
    with ExitStack() as stack:
        proxy = stack.enter_context(proxy_to(own_server))
        storm = Storm(own_server, database, proxy, stack, seed)
        storm.run(DURATION)
        lasted = time.monotonic() - began
        with Database(own_server.url(database)) as db:
            storm.drain(db)
            with db.session() as session:
                found = figures(session, storm.known)
    report = as_text(lasted, storm, found)
    print(report)
    found.assert_sound()
    assert found.completed > 0
    assert storm.kills >= KILLS
    if path := os.environ.get("ALFRED_DB_FAULTS_REPORT"):
        Path(path).write_text(report)


def as_text(seconds: float, storm: Storm, found: Figures) -> str:
    """The figures, as a page of the documentation."""
    rows = [
        ("duration, seconds", f"{seconds:,.0f}"),
        ("faults", f"{storm.faults.total():,}"),
        ("of them kills and restarts", f"{storm.kills:,}"),
        *((f"- {kind}", f"{count:,}") for kind, count in sorted(storm.faults.items())),
        ("commits of the source without an answer, repeated", f"{storm.unsure:,}"),
        ("tasks enqueued", f"{found.tasks:,}"),
        ("tasks completed", f"{found.completed:,}"),
        ("effects of completed tasks", f"{found.effects:,}"),
        ("tasks cancelled", f"{found.cancelled:,}"),
        ("tasks failed, that kill their worker each time", f"{found.failed:,}"),
        ("attempts", f"{found.attempts:,}"),
        ("tasks that took more than one attempt", f"{found.retried:,}"),
        ("attempts ended by a reaper", f"{found.crashes:,}"),
        ("attempts ended by the handler's failure, and repeated", f"{found.failures:,}"),
        ("**tasks lost**", f"{found.lost:,}"),
        ("**tasks left unfinished**", f"{found.unfinished:,}"),
        ("**tasks completed twice**", f"{found.doubled:,}"),
        ("**completed tasks without their effect**", f"{found.without_effect:,}"),
        ("**effects of tasks that were not completed**", f"{found.stray:,}"),
        ("**tasks whose counters do not add up**", f"{found.wrong_budgets:,}"),
        ("**leases of tasks that nobody holds**", f"{found.stray_leases:,}"),
    ]
    lines = [
        "# Faults",
        "",
        "What `make test-faults` found: workers, half of them `alfred-db worker`, and a source of tasks, at work while they,",
        "the server and their connections are killed, frozen, cut and restarted. [What can go wrong](../concepts/faults.md) states what is promised.",
        "",
        f"PostgreSQL with `fsync` and `synchronous_commit` on; Python {platform.python_version()}; {os.cpu_count()} cores.",
        "",
        "| what | count |",
        "|---|---:|",
        *(f"| {what} | {count} |" for what, count in rows),
        "",
    ]
    return "\n".join(lines)
