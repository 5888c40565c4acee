"""A filled database of an old revision, upgraded to head while workers run: how long a claim waits, and whether a task is lost.

    python benchmarks/upgrade_filled.py [--rows 1000000] [--before TREE]

TREE is a checkout of the version that the workers have, from the time of the old revision; without it, one is made of the
commit before the next revision. Workers of this version refuse the old schema, with SchemaOutdatedError.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from harness import FOUNDATION, Contender, Server, at_most, machine, one_server, publish, table, targets

from alfred_db import migrate

REVISION = "alfred_0022_events"
WORKERS = 4
LEAD = 10.0
"""Seconds of claims before the upgrade, and after it."""
ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "upgrade_worker.py"

FILL = (
    # Four in ten wait, so that the workers never run out of them.
    """
    INSERT INTO tasks (task_id, intent, status, priority, content, created_at, available_at, completed_at)
    SELECT 'task-' || i, 'intent-' || i % 20, status, 1 + i % 5, '{{"url": "https://example.org"}}', at, at,
        CASE status WHEN 'completed' THEN at END
    FROM generate_series(1, {n}) AS i, LATERAL (SELECT now() - ({n} - i) * interval '1 s' AS at,
        CASE WHEN i % 10 < 4 THEN 'pending' ELSE 'completed' END AS status) AS s
    """,
    "INSERT INTO task_results (task_id, result_type, content) SELECT id, 'r', '{{}}' FROM tasks WHERE status = 'completed'"
    " AND priority = 3",
    """
    INSERT INTO conversations (session_id, role, content)
    SELECT 'session-' || i / 20, 'user', 'the message ' || i FROM generate_series(1, {n} / 2) AS i
    """,
    """
    INSERT INTO brk_tracking.broker_request (request_id, status, finished_at, model, provider, agent_name, session_id)
    SELECT 'request-' || i, 'completed', now(), 'model', 'provider', 'agent-' || i % 100, 'session-' || i / 20
    FROM generate_series(1, {n} / 2) AS i
    """,
    "INSERT INTO memory_banks (name) VALUES ('bank')",
    """
    INSERT INTO memories (memory_bank_id, content, metadata)
    SELECT (SELECT id FROM memory_banks), 'the memory ' || i, jsonb_build_object('k', i % 1000)
    FROM generate_series(1, {n} / 5) AS i
    """,
    "INSERT INTO documents (title, content) SELECT 't', 'the text of document ' || i FROM generate_series(1, {n} / 10) AS i",
    """
    INSERT INTO events (topic, type, payload) SELECT 'topic-' || i % 50, 't', '{{}}' FROM generate_series(1, {n} / 2) AS i
    """,
    "INSERT INTO workflows (name, definition, status) VALUES ('flow', '{{}}', 'active')",
    """
    INSERT INTO workflow_executions (workflow_id, status, completed_at, definition)
    SELECT (SELECT id FROM workflows), 'completed', now(), '{{}}' FROM generate_series(1, {n} / 50) AS i
    """,
    """
    INSERT INTO workflow_steps (execution_id, step_key, seq, name, output)
    SELECT e.id, 's-' || s, s, 's', '1' FROM workflow_executions AS e, generate_series(1, 25) AS s
    """,
    "VACUUM (ANALYZE)",
)


@contextmanager
def of_that_time(folder: Path) -> Iterator[Path]:
    """Make a checkout of the last commit whose newest revision is `REVISION`."""
    git = ["git", "-C", str(ROOT)]
    added = [*git, "log", "--diff-filter=A", "--format=%H", "-1", "--", "alembic/versions/0023_task_queue.py"]
    found = subprocess.run(added, check=True, capture_output=True, text=True).stdout.strip()
    if not found:
        raise SystemExit("the history of this checkout does not reach back so far; pass --before")
    tree = folder / "tree"
    subprocess.run(
        [*git, "worktree", "add", "--detach", str(tree), f"{found}~1"], check=True, capture_output=True
    )
    try:
        yield tree
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


def reading(url: str, stop: Path) -> None:
    """Read the tasks in transactions of five seconds, as a report does, with pauses of two."""
    with psycopg.connect(url) as connection:
        while not stop.exists():
            connection.execute("SELECT count(*) FROM tasks WHERE status = 'failed'")
            time.sleep(5)
            connection.rollback()
            time.sleep(2)


def measured(server: Server, rows: int, before: Path) -> int:
    url = server.database("filled")
    migrate.upgrade(url, REVISION)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in FILL:
            connection.execute(statement.format(n=rows).encode())
        connection.execute("CHECKPOINT")
    stop = server.folder / "stop"
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        crew = [
            stack.enter_context(Contender(f"worker {one}", SCRIPT, tree=before)) for one in range(WORKERS)
        ]
        threads = [
            threading.Thread(
                target=lambda one=one, n=n: found.append(one.ask("work", url, str(stop), f"w-{n}"))  # type: ignore[misc]
            )
            for n, one in enumerate(crew)
        ]
        for one in crew:
            one.ask("ready", url)
        threads.append(threading.Thread(target=reading, args=(url, stop)))
        for thread in threads:
            thread.start()
        time.sleep(LEAD)
        started = time.time()
        migrate.upgrade(url)
        ended = time.time()
        print(f"(upgraded in {ended - started:.0f} s)", file=sys.stderr, flush=True)
        time.sleep(LEAD)
        stop.touch()
        for thread in threads:
            thread.join()
    done = [key for one in found for key in one["done"]]
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'completed'), count(*)"
            " FROM tasks"
        ).fetchone()
    assert row is not None
    waited = [(at, wait) for one in found for at, wait in one["waits"]]
    lost = (rows - row[2]) + abs(row[1] - (rows - rows * 4 // 10) - len(set(done)))
    lines: list[tuple[str, ...]] = []
    longest = 0.0
    for name, first, last in (
        ("before", 0.0, started),
        ("during the upgrade", started, ended),
        ("after it", ended, ended + 3600),
    ):
        waits = sorted(wait for at, wait in waited if at < last and at + wait >= first) or [0.0]
        longest = max(longest, waits[-1])
        part = [waits[len(waits) // 2], waits[int(len(waits) * 0.99)], waits[-1]]
        lines.append((name, f"{len(waits):,}", *(f"{1e3 * one:.1f}" for one in part)))
    errors: dict[str, int] = {}
    for one in found:
        for error, times in one["errors"].items():
            errors[error] = errors.get(error, 0) + times
    said = "; ".join(f"{error} ({times})" for error, times in errors.items()) or "none"
    good = [
        at_most("ms of the longest claim", 1e3 * longest, 2000),
        at_most("tasks lost, or completed twice", lost + len(done) - len(set(done)), 0),
    ]
    publish(
        FOUNDATION,
        "Upgrade of a filled database beside workers",
        f"{machine(server)} {rows:,} tasks, and other tables in proportion, at revision 0022, upgraded to head in"
        f" {ended - started:.0f} s while {WORKERS} processes claim and complete tasks one by one,"
        " with the library of that revision, and another one reads them in transactions of five seconds."
        f" Failed calls, which were tried again: {said}.",
        table(("claims", "", "p50, ms", "p99, ms", "longest, ms"), lines),
        targets(good),
    )
    return 0 if all(one.met for one in good) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    with one_server() as server, ExitStack() as stack:
        before = given.before.resolve() if given.before else stack.enter_context(of_that_time(server.folder))
        return measured(server, given.rows, before)


if __name__ == "__main__":
    sys.exit(main())
