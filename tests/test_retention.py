"""Retention: each kind of rows goes by a policy, as a dry run counts it, and nothing that is still needed goes with it."""

from __future__ import annotations

import inspect
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from injection.signatures import methods, repositories
from sqlalchemy import URL, event, text

from alfred_db import AsyncDatabase, ClaimedTask, Database, Worker
from alfred_db.cli import main
from alfred_db.engine import chunks
from alfred_db.errors import ConfigurationError, InvalidInputError, SchemaOutdatedError
from alfred_db.repositories import UnitOfWork
from alfred_db.retention import KINDS, RetentionPolicy, purge, purging
from alfred_db.retention.policy import seconds_of
from alfred_db.worker import Lease

OLD, NEW = "now() - interval '40 days'", "now() - interval '20 days'"
AGES: dict[str, Any] = dict.fromkeys(RetentionPolicy.ages(), "30d")
EVERYTHING = RetentionPolicy(**AGES)

SEEDS: dict[str, tuple[str, ...]] = {
    "tasks": (
        # Ten old ones that ended in each way, with results; a live one; a recent one.
        "INSERT INTO tasks (task_id, intent, status, completed_at) SELECT 'c' || n, 'i', 'completed', {OLD} FROM generate_series(1, 4) n",
        "INSERT INTO tasks (task_id, intent, status, failed_at) SELECT 'f' || n, 'i', 'failed', {OLD} FROM generate_series(1, 3) n",
        "INSERT INTO tasks (task_id, intent, status, cancelled_at) SELECT 'x' || n, 'i', 'cancelled', {OLD} FROM generate_series(1, 3) n",
        "INSERT INTO task_results (task_id, result_type, content) SELECT id, 'r', '{{}}' FROM tasks",
        "INSERT INTO tasks (task_id, intent, status, completed_at) VALUES ('recent', 'i', 'completed', {NEW})",
        "INSERT INTO tasks (task_id, intent, created_at) VALUES ('live', 'i', {OLD})",
        # A tree that goes as a whole, and one of which a child at the bottom keeps all above it.
        "INSERT INTO tasks (task_id, intent, status, completed_at) VALUES ('root', 'i', 'completed', {OLD}), ('kept', 'i', 'completed', {OLD})",
        "INSERT INTO tasks (task_id, intent, status, completed_at, parent_task_id) SELECT task_id || '1', 'i', 'completed', {OLD}, id FROM tasks WHERE task_id IN ('root', 'kept')",
        "INSERT INTO tasks (task_id, intent, status, failed_at, parent_task_id) SELECT 'root11', 'i', 'failed', {OLD}, id FROM tasks WHERE task_id = 'root1'",
        "INSERT INTO tasks (task_id, intent, parent_task_id) SELECT 'kept11', 'i', id FROM tasks WHERE task_id = 'kept1'",
        "INSERT INTO tasks (task_id, intent, status, completed_at, parent_task_id) SELECT 'kept12', 'i', 'completed', {OLD}, id FROM tasks WHERE task_id = 'kept1'",
    ),
    "executions": (
        "INSERT INTO scheduler_tasks (name, command) VALUES ('s', 'c')",
        "INSERT INTO scheduler_executions (task_id, status, scheduled_at, start_time, end_time) SELECT id, 'completed', {OLD} - n * interval '1 s', {OLD}, {OLD} FROM scheduler_tasks, generate_series(1, 14) n",
        "INSERT INTO scheduler_executions (task_id, status, scheduled_at) SELECT id, 'pending', {OLD} FROM scheduler_tasks",
    ),
    "workflows": (
        "INSERT INTO workflows (name, version, definition, status) VALUES ('w', 1, '{{}}', 'active')",
        "INSERT INTO workflow_executions (workflow_id, workflow_version, definition, status, completed_at, idempotency_key) SELECT id, 1, '{{}}', 'completed', {OLD}, 'k' || n FROM workflows, generate_series(1, 12) n",
        "INSERT INTO workflow_executions (workflow_id, workflow_version, definition, status, completed_at, parent_execution_id) SELECT workflow_id, 1, '{{}}', 'completed', {OLD}, id FROM workflow_executions WHERE idempotency_key IN ('k1', 'k2')",
        "INSERT INTO workflow_executions (workflow_id, workflow_version, definition, forked_from_id, forked_from_seq) SELECT workflow_id, 1, '{{}}', id, 0 FROM workflow_executions WHERE parent_execution_id IS NOT NULL ORDER BY id LIMIT 1",
    ),
    "conversations": (),
    "events": (
        "INSERT INTO events (topic, created_at) SELECT 'unheard', {OLD} FROM generate_series(1, 9)",
        "INSERT INTO events (topic, created_at) SELECT 'heard', {OLD} FROM generate_series(1, 8)",
        "INSERT INTO events (topic, created_at) VALUES ('heard', {NEW}), ('unheard', {NEW})",
        "INSERT INTO event_consumers (name, topics, tx, event_id) SELECT 'half', '{{heard}}', tx, id - 3 FROM events WHERE topic = 'heard' AND created_at < {NEW} ORDER BY id DESC LIMIT 1",
        "INSERT INTO event_consumers (name, topics, tx, event_id) SELECT 'done', '{{heard}}', tx, id FROM events WHERE topic = 'heard' ORDER BY id DESC LIMIT 1",
    ),
    "requests": (
        "INSERT INTO brk_tracking.broker_request (request_id, created_at) SELECT 'r', {OLD} FROM generate_series(1, 14)",
        "INSERT INTO brk_tracking.broker_request (request_id, created_at) SELECT 'r', {NEW} FROM generate_series(1, 3)",
    ),
    "messages": (
        "INSERT INTO processed_messages (message_id, expires_at) SELECT 'm' || n, {NEW} + (n / 15) * interval '60 days' FROM generate_series(1, 16) n",
    ),
    "memories": (
        "INSERT INTO memory_banks (name) VALUES ('b')",
        "INSERT INTO memories (memory_bank_id, content, expires_at) SELECT id, 'm' || n, {NEW} FROM memory_banks, generate_series(1, 14) n",
        "INSERT INTO memories (memory_bank_id, content) SELECT id, 'kept' FROM memory_banks",
    ),
    "memory_entries": (
        "INSERT INTO memory_entries (namespace, content, expires_at) SELECT 'n', 'm' || n, {NEW} FROM generate_series(1, 14) n",
        "INSERT INTO memory_entries (namespace, content) VALUES ('n', 'kept')",
    ),
    "knowledge": (
        "INSERT INTO knowledge_points (collection, id, expires_at) SELECT 'legal-knowledge', 'm' || n, {NEW} FROM generate_series(1, 7) n",
        "INSERT INTO knowledge_points (collection, id, expires_at) SELECT 'social-knowledge', 'm' || n, {NEW} FROM generate_series(1, 7) n",
        "INSERT INTO knowledge_points (collection, id) VALUES ('legal-knowledge', 'kept')",
    ),
    "working_memory": (
        "INSERT INTO wm.working_memory (name, memory_type, expires_at) SELECT 'm', 't', {NEW} FROM generate_series(1, 14)",
        "INSERT INTO wm.working_memory (name, memory_type, expires_at, provider, blob_key) VALUES ('blob', 't', {NEW}, 'p', 'k')",
        "INSERT INTO wm.working_memory (name, memory_type) VALUES ('kept', 't')",
    ),
    "cache": (),
    "rate_limits": (),
    "web_sessions": (),
}
"""SQL that makes rows of a kind, of which REMOVED are to go; the rest is made by `seed`."""

REMOVED = dict.fromkeys(KINDS, 14) | {"tasks": 14, "workflows": 12, "events": 14}
REMAINING = {
    "tasks": "SELECT string_agg(task_id, ' ' ORDER BY task_id) FROM tasks",
    "task_results": "SELECT count(*)::text FROM task_results",
    "events": "SELECT string_agg(topic, ' ' ORDER BY topic) FROM events",
    "working_memory": "SELECT string_agg(name, ' ' ORDER BY name) FROM wm.working_memory",
    "workflows": "SELECT count(*)::text FROM workflow_executions",
    "scheduler_executions": "SELECT string_agg(status, ' ') FROM scheduler_executions",
    "requests": "SELECT count(*)::text FROM brk_tracking.broker_request",
}
LEFT = {
    "tasks": "kept kept1 kept11 live recent",
    "task_results": "0",
    "events": "heard heard heard heard unheard",
    "working_memory": "blob kept",
    "workflows": "3",
    "scheduler_executions": "pending",
    "requests": "3",
}


def seed(db: Database) -> None:
    with db.begin() as uow:
        for statements in SEEDS.values():
            for statement in statements:
                uow.session.execute(text(statement.format(OLD=OLD, NEW=NEW)))
        for number in range(14):
            uow.conversations.append(f"s{number % 3}", "user", "old")
            uow.cache.set(f"gone{number}", b"v", 0.001)
            uow.rate_limits.hit(f"gone{number}", limit=1, period=0.001)
            uow.web_sessions.create("u", idle=0.001)
        uow.session.execute(text(f"UPDATE conversations SET created_at = {OLD}"))
        uow.conversations.append("s0", "user", "new")
        uow.cache.set("kept", b"v")
    time.sleep(0.02)


def counts(results: Any) -> dict[str, int]:
    assert [one.error for one in results if one.error is not None] == []
    return {one.kind: one.rows for one in results}


def remaining(db: Database) -> dict[str, str | None]:
    with db.begin() as uow:
        return {name: uow.session.scalar(text(question)) for name, question in REMAINING.items()}


def test_every_repository_that_deletes_by_time_is_a_kind() -> None:
    """The kinds are those of the repositories, so that a new one is purged from the day that it is written."""
    found = {
        (noun, name)
        for noun, repository in repositories().items()
        for name, _ in methods(repository)
        if name in ("purge", "sweep")
    }
    # `sweep` of working memory returns the blobs that its caller deletes.
    assert found - {("working_memory", "sweep")} == {(kind.noun, kind.method) for kind in KINDS.values()}
    assert set(RetentionPolicy.ages()) == {name for name, kind in KINDS.items() if kind.aged}
    for kind in KINDS.values():
        repository = repositories()[kind.noun]
        taken = dict(inspect.signature(getattr(repository, kind.method)).parameters)
        counted = inspect.signature(repository.purgeable).parameters  # type: ignore[attr-defined]
        assert {*taken} - {"limit"} == {*counted}
        assert ("older_than" in taken) is kind.aged
    assert set(SEEDS) == set(KINDS)


def test_a_dry_run_counts_what_is_then_deleted(database_url: URL) -> None:
    with Database(database_url) as db:
        seed(db)
        before = remaining(db)
        planned = counts(purge(db, EVERYTHING, dry_run=True))
        assert planned == REMOVED
        assert remaining(db) == before
        steps: list[int] = []
        done = counts(purge(db, EVERYTHING, batch=5, progress=lambda so_far: steps.append(so_far.rows)))
        assert done == planned
        assert remaining(db) == LEFT
        assert steps.count(5) >= len(KINDS)
        assert counts(purge(db, EVERYTHING)) == dict.fromkeys(KINDS, 0)
        with db.begin() as uow:
            assert [one.session_id for one in uow.conversations.sessions().items] == ["s0"]


@pytest.mark.parametrize("schema", ["acme"])
async def test_from_asyncio_and_of_one_tenant(database_url: URL, schema: str) -> None:
    with Database(database_url, schema=schema) as db, Database(database_url) as other:
        for each in (db, other):
            with each.begin() as uow:
                uow.tasks.enqueue("i")
                uow.tasks.complete(uow.tasks.claim(worker="w")[0])
        async with AsyncDatabase(database_url, schema=schema) as asynchronous:
            policy = RetentionPolicy(tasks=0, expired=False)
            assert counts(purge(asynchronous, policy, dry_run=True)) == {"tasks": 1}
            assert counts(purge(asynchronous, policy)) == {"tasks": 1}
        with other.begin() as uow:
            assert uow.tasks.count() == 1


@pytest.mark.parametrize(
    ("kind", "seconds_of_a_row", "sizes"),
    [
        ("tasks", 0.003, [100, 50, 25, 25, 25, 25]),
        ("events", 0.00001, [100, 200, 400, 800, 1000, 1000]),
        (
            "cache",
            0.003,
            [1000] * 6,
        ),  # no index finds its rows: a smaller batch would read the table more often
    ],
)
def test_a_batch_takes_a_tenth_of_a_second_and_a_pause_follows(
    database_url: URL,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    seconds_of_a_row: float,
    sizes: list[int],
) -> None:
    asked: list[int] = []
    pauses: list[float] = []
    clock = [0.0]

    def delete(_database: Database, _kind: Any, given: dict[str, Any]) -> int:
        asked.append(given["limit"])
        clock[0] += given["limit"] * seconds_of_a_row
        return given["limit"] if len(asked) < len(sizes) else 0

    fake = SimpleNamespace(monotonic=lambda: clock[0], sleep=pauses.append)
    monkeypatch.setattr(purging, "_delete", delete)
    monkeypatch.setattr(purging, "time", fake)
    monkeypatch.setattr(chunks, "time", fake)
    with Database(database_url) as db:
        assert counts(purge(db, EVERYTHING, only=[kind])) == {kind: sum(sizes[:-1])}
    assert asked == sizes
    assert pauses == pytest.approx([purging.PAUSE * size * seconds_of_a_row for size in sizes[:-1]])


def test_only_what_the_policy_names(database_url: URL) -> None:
    with Database(database_url) as db:
        seed(db)
        assert counts(purge(db, RetentionPolicy(expired=False))) == {}
        assert counts(purge(db, RetentionPolicy(), only=["cache"])) == {"cache": 14}
        assert counts(purge(db, RetentionPolicy(tasks=timedelta(days=50), expired=False))) == {"tasks": 0}
        assert counts(purge(db, EVERYTHING, only=["tasks"], stopping=lambda: True)) == {}
        with pytest.raises(InvalidInputError, match="only: 'nothing' is unknown; use some of tasks"):
            purge(db, EVERYTHING, only=["nothing"])
        with pytest.raises(InvalidInputError, match="batch: expected 1 to 10,000"):
            purge(db, EVERYTHING, batch=0)


def test_what_others_have_locked_is_skipped_and_one_error_stops_no_other(database_url: URL) -> None:
    with Database(database_url) as db:
        seed(db)
        with db.begin() as uow:
            uow.session.execute(text("DROP TABLE memories CASCADE"))
        with db.begin() as uow:
            uow.session.execute(text("SELECT FROM tasks WHERE task_id = 'root11' FOR UPDATE"))
            uow.session.execute(text("SELECT FROM events WHERE topic = 'unheard' LIMIT 2 FOR UPDATE"))
            done = {one.kind: one for one in purge(db, EVERYTHING)}
        assert isinstance(done["memories"].error, SchemaOutdatedError)
        assert done["tasks"].rows == REMOVED["tasks"] - 3, "a leaf keeps what it belongs to"
        assert done["web_sessions"].rows == 14
        again = {one.kind: one.rows for one in purge(db, EVERYTHING)}
        assert again["tasks"] == 3
        assert done["events"].rows + again["events"] == REMOVED["events"]


def test_events_of_another_server_are_kept(database_url: URL) -> None:
    """Until `after_restore`, the position of a consumer does not show what it has read."""
    with Database(database_url) as db, db.begin() as uow:
        uow.events.subscribe("c", ["t"], start="beginning")
        uow.events.publish("t")
        uow.session.execute(text("UPDATE event_consumers SET tx = '999999999'"))
        assert uow.events.purgeable(older_than=0) == uow.events.purge(older_than=0) == 0
        uow.events.unsubscribe("c")
        assert uow.events.purgeable(older_than=0) == uow.events.purge(older_than=0) == 1


def test_purges_share_the_work_while_tasks_are_claimed(database_url: URL) -> None:
    with Database(database_url) as db:
        with db.begin() as uow:
            uow.session.execute(
                text(
                    "INSERT INTO tasks (task_id, intent, status, completed_at) SELECT 'c' || n, 'i', 'completed', "
                    f"{OLD} FROM generate_series(1, 3000) n"
                )
            )
            uow.tasks.enqueue_many([{"intent": "live"} for _ in range(100)])
        rows: list[int] = []

        def work() -> None:
            rows.append(
                sum(counts(purge(db, RetentionPolicy(tasks="30d", expired=False), batch=100)).values())
            )

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        claimed = 0
        while claimed < 100:
            with db.autocommit() as uow:
                for task in uow.tasks.claim(worker="w"):
                    uow.tasks.complete(task)
                    claimed += 1
        for thread in threads:
            thread.join()
        rows.append(sum(counts(purge(db, RetentionPolicy(tasks="30d", expired=False))).values()))
        assert sum(rows) == 3000
        with db.begin() as uow:
            assert uow.tasks.count() == 100


def ignore(task: ClaimedTask, lease: Lease) -> None:
    """Complete a task."""


@pytest.mark.parametrize("drain", [True, False])
def test_a_worker_purges_by_its_policy(database_url: URL, drain: bool) -> None:
    with Database(database_url) as db:
        seed(db)
        worker = Worker(db, {"X": ignore}, retention=EVERYTHING, poll=0.05)
        thread = threading.Thread(target=worker.run, kwargs={"drain": drain, "signals": False})
        thread.start()
        try:
            until = time.monotonic() + 30
            while remaining(db) != LEFT and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            worker.stop()
            thread.join()
        assert remaining(db) == LEFT


def test_ages() -> None:
    given: dict[Any, float | None] = {
        None: None,
        0: 0,
        "12": 12,
        "1.5h": 5400,
        " 2 d ": 172_800,
        "1w": 604_800,
        "1y": 31_536_000,
        timedelta(minutes=2): 120,
    }
    assert {age: seconds_of("x", age) for age in given} == given
    wrong: list[Any] = ["", "d", "-1d", "1 month", "1e9", "٣d", "9999999y", -1, float("nan"), True, b"1d", []]
    for age in wrong:
        with pytest.raises(InvalidInputError, match="tasks: expected"):
            RetentionPolicy(tasks=age)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tasks = 1d", "is not TOML"),
        ("\udcff", "is not TOML"),
        ('task = "1d"', "'task' is unknown; use tasks, executions"),
        ("tasks = true", "tasks: expected an age"),
        ("expired = 1", "expired: expected true or false, got int"),
        ("tasks = []", "tasks: expected"),
        (None, "No such file"),
    ],
)
def test_a_policy_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises((ConfigurationError, InvalidInputError), match=message):
        RetentionPolicy.from_file(path)


@pytest.fixture
def run(database_url: URL) -> Callable[..., Any]:
    def invoke(*words: str) -> Any:
        url = database_url.render_as_string(hide_password=False)
        return CliRunner().invoke(main, ["purge", "--yes", "--url", url, *words])

    return invoke


def test_the_command(database_url: URL, run: Callable[..., Any], tmp_path: Path) -> None:
    with Database(database_url) as db:
        seed(db)
        policy = tmp_path / "policy.toml"
        policy.write_text('tasks = "50d"\nevents = "30d"\nexpired = false\n')
        done = run("--policy", str(policy), "--dry-run", "--json")
        assert json.loads(done.stdout) == {"dry_run": True, "rows": {"tasks": 0, "events": 14}, "errors": {}}
        done = run("--policy", str(policy), "--tasks", "30d", "--batch", "3")
        assert done.exit_code == 0
        assert [line.split() for line in done.stdout.splitlines()] == [
            ["tasks", "14", "deleted"],
            ["events", "14", "deleted"],
        ]
        done = run("--only", "cache", "--only", "memories", "--dry-run")
        assert "cache                       14 would be deleted" in done.stdout
        with db.begin() as uow:
            uow.session.execute(text("DROP TABLE memories CASCADE"))
        done = run()
        assert done.exit_code == 1
        assert "memories: " in done.stderr
        assert "web_sessions                14 deleted" in done.stdout
        assert run("--tasks", "soon").exit_code == 2


def test_a_repository_alone(database_url: URL) -> None:
    """`purge` works in the caller's transaction, and commits nothing."""
    with Database(database_url) as db:
        seed(db)
        before = remaining(db)
        with db.session() as session:
            uow = UnitOfWork(session)
            assert uow.broker_requests.purge(older_than=30 * 86_400.0, limit=10) == 10
            assert uow.broker_requests.purgeable(older_than=30 * 86_400.0) == 4
            assert uow.working_memory.purge(limit=4) == 4
        assert remaining(db) == before


def test_only_the_last_batch_of_a_kind_waits_for_the_disk(database_url: URL) -> None:
    """A claim that commits meanwhile would wait for the flush of each batch as well."""
    with Database(database_url) as db:
        seed(db)
        seen: list[tuple[str, int]] = []

        def look(session: Any) -> None:
            seen.append(
                (
                    session.scalar(text("SELECT current_setting('synchronous_commit')")),
                    session.scalar(text("SELECT count(*) FROM processed_messages")),
                )
            )

        event.listen(db._units, "before_commit", look)
        assert counts(purge(db, EVERYTHING, only=["messages"], batch=5)) == {"messages": 14}
        # A batch is smaller after one that took long, so that their number depends on the machine.
        batches = [setting for setting, left in seen if left < 16]
        assert seen[-1] == ("on", 2)
        assert set(batches[:-1]) == {"off"}
        with db.begin() as uow:
            assert uow.session.scalar(text("SELECT current_setting('synchronous_commit')")) == "on"
