"""Every method that writes at most `limit` rows: `{n}` rows for it to write, and its call.

The methods are found by their signatures; tests/test_chunk_rows.py fails for one without a case. `benchmarks/growth/chunks.py`
measures how long each holds a transaction id.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from injection.signatures import methods, repositories
from sqlalchemy import text

from alfred_db.repositories import UnitOfWork
from alfred_db.search.filters import Filter, eq

__all__ = ["CASES", "Case", "limited", "prepare"]

Call = Callable[[UnitOfWork, int, Any], int | Sized]

VECTOR = "(SELECT ARRAY(SELECT random() + i * 0 FROM generate_series(1, {0}))::vector)"


@dataclass(frozen=True)
class Case:
    """A method, and rows for it."""

    rows: Sequence[str]
    """Statements that make the rows; `{n}` is their number."""
    call: Call
    """Called with a unit of work, the limit, and what `key` has found."""
    key: str = "SELECT NULL"
    """What the call is about."""
    each: int = 1
    """The most rows that are written for each row that a call counts."""
    also: int = 0
    """The rows that a call writes besides, whatever its limit."""
    most: int = 1000
    """The greatest limit that the method takes, if it is less than that of chunks."""
    once: bool = False
    """Whether one call is all: it does not continue where the last one has stopped."""


def limited() -> list[str]:
    """The methods of all repositories that take a `limit`."""
    return [
        f"{noun}.{name}"
        for noun, repository in repositories().items()
        for name, method in methods(repository)
        if "limit" in inspect.signature(method).parameters
    ]


def prepare(uow: UnitOfWork, case: Case, rows: int) -> Any:
    """Make the rows of a case, and return what its call is about."""
    for statement in case.rows:
        uow.session.connection().exec_driver_sql(statement.replace("{n}", str(rows)))
    return uow.session.execute(text(case.key)).scalar_one()


def _tasks(status: str, more: str = "", values: str = "") -> str:
    names = ", ".join(one.partition(" AS ")[2] for one in values.split("; ") if one)
    made = "".join(f", {one.partition(' AS ')[0]}" for one in values.split("; ") if one)
    return (
        f"INSERT INTO tasks (task_id, intent, status{', ' + names if names else ''})"
        f" SELECT 'chunk-' || i, 'CHUNK', '{status}'{made} FROM generate_series(1, {{n}}) AS i {more}"
    )


_LONG_AGO = "now() - interval '90 days' AS "
_HELD = (
    "gen_random_uuid() AS lease_token; now() - interval '1 min' AS lease_expires_at; 'w' AS assigned_to;"
    " now() AS started_at"
)
_BANK = "INSERT INTO memory_banks (name) VALUES ('chunk')"
_FIND_BANK = "SELECT id FROM memory_banks WHERE name = 'chunk'"
_MEMORIES = (
    "INSERT INTO memories (memory_bank_id, content, embedding, expires_at)"
    f" SELECT ({_FIND_BANK}), 'memory ' || i, {VECTOR.format(384)}, EXPIRES FROM generate_series(1, {{n}}) AS i"
)
_POINTS = (
    "INSERT INTO knowledge_points (collection, id, payload) SELECT 'legal-knowledge', 'chunk-' || i,"
    """ '{"k": 1, "x": 2}' FROM generate_series(1, {n}) AS i""",
)
_FLOW = (
    "INSERT INTO workflows (name, definition, status) VALUES ('chunk', '{}', 'active')",
    "INSERT INTO workflow_executions (workflow_id, status, definition) SELECT id, 'pending', '{}' FROM workflows"
    " WHERE name = 'chunk'",
)
_ROOT = "(SELECT min(id) FROM workflow_executions WHERE workflow_id = (SELECT id FROM workflows WHERE name = 'chunk'))"


def _flow(status: str, columns: str = "", values: str = "") -> str:
    return (
        f"INSERT INTO workflow_executions (workflow_id, status, definition{columns}) SELECT workflow_id, '{status}',"
        f" '{{}}'{values} FROM generate_series(1, {{n}}) AS i, workflow_executions AS e WHERE e.id = {_ROOT}"
    )


_SCHEDULE = "INSERT INTO scheduler_tasks (name, command, schedule, schedule_key) VALUES ('s', 'c', '0 0 1 1 *', 'chunk')"
_SLOTS = (
    "INSERT INTO scheduler_executions (task_id, status, scheduled_at, end_time, start_time, lease_token, lease_expires_at)"
    " SELECT (SELECT id FROM scheduler_tasks WHERE schedule_key = 'chunk'), 'STATUS',"
    " now() - interval '90 days' + i * interval '1 s', now() - interval '89 days', now() - interval '89 days', TOKEN"
    " FROM generate_series(1, {n}) AS i"
)
_WHERE = Filter(must=[eq("payload.k", 1)])


def _cache(expires: str) -> str:
    return (
        "INSERT INTO cache (key, value, set_us, expires_us) SELECT 'chunk-' || i, 'v', 1 + i,"
        f" {expires} FROM generate_series(1, {{n}}) AS i"
    )


def _limits(expires: str) -> str:
    return (
        "INSERT INTO rate_limits (key, at_us, start_us, hits, previous, expires_us) SELECT 'token-bucket:chunk-' || i, 1, 1, 1, 0,"
        f" {expires} FROM generate_series(1, {{n}}) AS i"
    )


_NEVER = "9000000000000000"
_SESSIONS = (
    "INSERT INTO web_sessions (id, user_id, data, created_us, seen_us, idle_us, expires_us) SELECT"
    " sha256(i::text::bytea), 'chunk', '{}', 1, 1, 1, EXPIRES FROM generate_series(1, {n}) AS i"
)

CASES: dict[str, Case] = {
    "tasks.age": Case(
        (
            _tasks(
                "pending",
                values="now() - interval '1 day' AS available_at; now() - interval '1 day' AS updated_at",
            ),
        ),
        lambda uow, limit, _: uow.tasks.age(after=60, limit=limit),
        once=True,
    ),
    "tasks.cancel": Case(
        (
            "INSERT INTO tasks (task_id, intent) VALUES ('chunks', 'ROOT')",
            _tasks("pending", values="(SELECT id FROM tasks WHERE task_id = 'chunks') AS parent_task_id"),
        ),
        lambda uow, limit, key: uow.tasks.cancel(key, limit=limit),
        key="SELECT id FROM tasks WHERE task_id = 'chunks'",
    ),
    "tasks.claim": Case(
        (_tasks("pending"),),
        lambda uow, limit, _: uow.tasks.claim("w", limit=limit, intents=["CHUNK"]),
        most=500,
    ),
    "tasks.purge": Case(
        (
            _tasks("completed", values=_LONG_AGO + "completed_at"),
            "INSERT INTO task_results (task_id, result_type, content) SELECT id, 'r', '{}' FROM tasks"
            " WHERE intent = 'CHUNK'",
        ),
        lambda uow, limit, _: uow.tasks.purge(older_than=60, limit=limit),
        each=2,
    ),
    "tasks.reap": Case(
        (_tasks("processing", values=_HELD),), lambda uow, limit, _: uow.tasks.reap(limit=limit), most=500
    ),
    "tasks.requeue_failed": Case(
        (_tasks("failed", values=_LONG_AGO + "failed_at"),),
        lambda uow, limit, _: uow.tasks.requeue_failed(intent="CHUNK", limit=limit),
    ),
    "queues.age": Case(
        (
            "INSERT INTO queues (name, ageing) VALUES ('chunk', 60)",
            _tasks(
                "pending",
                values="'chunk' AS queue; now() - interval '1 day' AS available_at; now() - interval '1 day' AS updated_at",
            ),
        ),
        lambda uow, limit, _: uow.queues.age(limit=limit),
        once=True,
    ),
    "messages.purge": Case(
        (
            "INSERT INTO processed_messages (message_id, expires_at) SELECT 'chunk-' || i, now() - interval '1 day'"
            " FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.messages.purge(limit=limit),
    ),
    "events.purge": Case(
        (
            "INSERT INTO events (topic, type, payload, created_at) SELECT 'chunk', 't', '{}', now() - interval '90 days'"
            " FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.events.purge(older_than=60 * 86_400.0, limit=limit),
    ),
    "events.read": Case(
        (
            "INSERT INTO event_consumers (name, topics, since) VALUES ('chunk', '{chunk}', NULL)",
            "INSERT INTO events (topic, type, payload) SELECT 'chunk', 't', '{}' FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.events.read("chunk", limit=limit),
        once=True,
    ),
    "memory_banks.delete": Case(
        (_BANK, _MEMORIES.replace("EXPIRES", "NULL")),
        lambda uow, limit, key: uow.memory_banks.delete(key, limit=limit),
        key=f"{_FIND_BANK}",
        also=1,
    ),
    "memories.prune": Case(
        (_BANK, _MEMORIES.replace("EXPIRES", "NULL")),
        lambda uow, limit, key: uow.memories.prune(key, keep=0, limit=limit),
        key=_FIND_BANK,
    ),
    "memories.sweep": Case(
        (_BANK, _MEMORIES.replace("EXPIRES", "now() - interval '1 day'")),
        lambda uow, limit, _: uow.memories.sweep(limit=limit),
    ),
    "memory_entries.forget_all": Case(
        (
            f"INSERT INTO memory_entries (namespace, content, embedding) SELECT 'chunk', 'entry ' || i,"
            f" {VECTOR.format(768)} FROM generate_series(1, {{n}}) AS i",
        ),
        lambda uow, limit, _: uow.memory_entries.forget_all("chunk", limit=limit),
    ),
    "memory_entries.sweep": Case(
        (
            "INSERT INTO memory_entries (namespace, content, expires_at) SELECT 'chunk', 'entry ' || i,"
            " now() - interval '1 day' FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.memory_entries.sweep(limit=limit),
    ),
    "conversations.delete_session": Case(
        (
            "INSERT INTO conversations (session_id, role, content) SELECT 'chunk', 'user', 'the message ' || i"
            " FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.conversations.delete_session("chunk", limit=limit),
        also=2,
    ),
    "conversations.purge": Case(
        (
            "INSERT INTO conversations (session_id, role, content, created_at) SELECT 'chunk-' || i / 20, 'user',"
            " 'the message ' || i, now() - interval '90 days' FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.conversations.purge(older_than=60, limit=limit),
        each=2,
    ),
    "knowledge.delete": Case(
        _POINTS,
        lambda uow, limit, _: uow.knowledge.delete("legal-knowledge", where=_WHERE, limit=limit),
    ),
    "knowledge.set_payload": Case(
        _POINTS,
        lambda uow, limit, _: uow.knowledge.set_payload(
            "legal-knowledge", {"y": 2}, where=_WHERE, limit=limit
        ),
    ),
    "knowledge.overwrite_payload": Case(
        _POINTS,
        lambda uow, limit, _: uow.knowledge.overwrite_payload(
            "legal-knowledge", {"k": 1, "z": 1}, where=_WHERE, limit=limit
        ),
    ),
    "knowledge.delete_payload": Case(
        _POINTS,
        lambda uow, limit, _: uow.knowledge.delete_payload(
            "legal-knowledge", ["x"], where=_WHERE, limit=limit
        ),
    ),
    "working_memory.sweep": Case(
        (
            "INSERT INTO wm.working_memory (name, memory_type, content, expires_at, blob_key) SELECT 'w', 't', NULL,"
            " now() - interval '1 day', 'chunk-' || i FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.working_memory.sweep(limit=limit),
    ),
    "working_memory.purge": Case(
        (
            "INSERT INTO wm.working_memory (name, memory_type, content, expires_at) SELECT 'w', 't', 'c',"
            " now() - interval '1 day' FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.working_memory.purge(limit=limit),
    ),
    "entities.delete_node": Case(
        (
            "INSERT INTO entity.entity_node (node_type, key, name) SELECT 'chunk', i::text, 'n'"
            " FROM generate_series(0, {n}) AS i",
            "INSERT INTO entity.entity_edge (source_id, target_id, edge_type) SELECT h.id, o.id, 'knows'"
            " FROM entity.entity_node AS h, entity.entity_node AS o WHERE h.node_type = 'chunk' AND h.key = '0'"
            " AND o.node_type = 'chunk' AND o.key <> '0'",
        ),
        lambda uow, limit, key: uow.entities.delete_node(
            key,
            limit=limit,
        ),
        key="SELECT id FROM entity.entity_node WHERE node_type = 'chunk' AND key = '0'",
        also=1,
    ),
    "broker_requests.purge": Case(
        (
            "INSERT INTO brk_tracking.broker_request (request_id, status, model, provider, created_at, finished_at)"
            " SELECT 'chunk-' || i, 'completed', 'm', 'p', now() - interval '90 days', now()"
            " FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.broker_requests.purge(older_than=60 * 86_400.0, limit=limit),
    ),
    "scheduler.claim": Case(
        (
            _SCHEDULE,
            _SLOTS.replace("'STATUS'", "'pending'")
            .replace("now() - interval '89 days', now() - interval '89 days'", "NULL, NULL")
            .replace("TOKEN", "NULL, NULL"),
        ),
        lambda uow, limit, _: uow.scheduler.claim("w", limit=limit),
        most=500,
    ),
    "scheduler.delete": Case(
        (_SCHEDULE, _SLOTS.replace("STATUS", "completed").replace("TOKEN", "NULL, NULL")),
        lambda uow, limit, key: uow.scheduler.delete(key, limit=limit),
        key="SELECT id FROM scheduler_tasks WHERE schedule_key = 'chunk'",
        also=1,
    ),
    "scheduler.purge": Case(
        (_SCHEDULE, _SLOTS.replace("STATUS", "completed").replace("TOKEN", "NULL, NULL")),
        lambda uow, limit, _: uow.scheduler.purge(older_than=60, limit=limit),
    ),
    "scheduler.reap": Case(
        (
            _SCHEDULE,
            _SLOTS.replace("STATUS", "running")
            .replace("now() - interval '89 days', now()", "NULL, now()")
            .replace("TOKEN", "gen_random_uuid(), now() - interval '1 min'"),
        ),
        lambda uow, limit, _: uow.scheduler.reap(limit=limit),
        most=500,
    ),
    "scheduler.tick": Case(
        (
            "INSERT INTO scheduler_tasks (name, command, schedule, schedule_key, next_run_at) SELECT 's', 'c', '0 0 1 1 *',"
            " 'chunk-' || i, now() - interval '1 min' FROM generate_series(1, {n}) AS i",
        ),
        lambda uow, limit, _: uow.scheduler.tick(limit=limit).created,
        each=2,
    ),
    "workflows.cancel": Case(
        (*_FLOW, _flow("pending", ", parent_execution_id", ", e.id")),
        lambda uow, limit, key: uow.workflows.cancel(key, limit=limit),
        key=f"SELECT {_ROOT}",
    ),
    "workflows.claim": Case(
        (*_FLOW, _flow("pending")),
        lambda uow, limit, key: uow.workflows.claim("w", [key], limit=limit),
        key="SELECT id FROM workflows WHERE name = 'chunk'",
        most=500,
    ),
    "workflows.purge": Case(
        (
            *_FLOW,
            _flow("completed", ", completed_at", ", now() - interval '90 days'"),
            "INSERT INTO workflow_steps (execution_id, step_key, seq, name, output) SELECT e.id, 'step-' || s, s, 's', '1'"
            " FROM workflow_executions AS e, generate_series(1, 10) AS s WHERE e.completed_at < now() - interval '80 days'",
        ),
        lambda uow, limit, _: uow.workflows.purge(older_than=60, limit=limit),
        each=11,
    ),
    "workflows.reap": Case(
        (
            *_FLOW,
            _flow(
                "running",
                ", lease_token, lease_expires_at, started_at",
                ", gen_random_uuid(), now() - interval '1 min', now()",
            ),
        ),
        lambda uow, limit, _: uow.workflows.reap(limit=limit),
        most=500,
    ),
    "cache.clear": Case((_cache(_NEVER),), lambda uow, limit, _: uow.cache.clear("chunk-", limit=limit)),
    "cache.evict": Case((_cache(_NEVER),), lambda uow, limit, _: uow.cache.evict(entries=1, limit=limit)),
    "cache.purge": Case((_cache("1"),), lambda uow, limit, _: uow.cache.purge(limit=limit)),
    "web_sessions.purge": Case(
        (_SESSIONS.replace("EXPIRES", "1"),), lambda uow, limit, _: uow.web_sessions.purge(limit=limit)
    ),
    "web_sessions.revoke_user": Case(
        (_SESSIONS.replace("EXPIRES", _NEVER),),
        lambda uow, limit, _: uow.web_sessions.revoke_user("chunk", limit=limit),
    ),
    "rate_limits.clear": Case(
        (_limits(_NEVER),), lambda uow, limit, _: uow.rate_limits.clear("chunk-", limit=limit)
    ),
    "rate_limits.purge": Case((_limits("1"),), lambda uow, limit, _: uow.rate_limits.purge(limit=limit)),
}
