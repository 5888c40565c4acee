"""Lists and purges read what they return, on tables of which they want little."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import BrokerRequestStatus, Memory, MemoryEntry, TaskStatus, TestResultStatus, WorkingMemory
from alfred_db.models import Base
from alfred_db.queries import (
    broker_requests,
    conversations,
    rag,
    task_maintenance,
    tasks,
    validation,
    workflow_steps,
    workflows,
)
from alfred_db.queries.shapes.explain import Explain
from alfred_db.queries.shapes.filters import compile_filter
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.search.filters import Filter, eq

pytestmark = pytest.mark.not_on_citus("EXPLAIN shows the plan of the coordinator")

NOW = datetime.now(UTC)
ROWS = 3_000
FILL = (
    """
    INSERT INTO {home}tasks (task_id, intent, status, assigned_to, queue, created_at, completed_at, failed_at, cancelled_at)
    SELECT n::text, CASE WHEN n % 1000 = 7 THEN 'rare' ELSE 'common' END, status,
        CASE WHEN n % 1000 = 9 THEN 'seldom' WHEN n % 3 = 0 THEN 'often' END,
        CASE WHEN n % 1000 = 11 THEN 'narrow' WHEN n % 3 = 0 THEN 'wide' ELSE 'default' END, now() - n * interval '1 min',
        CASE status WHEN 'completed' THEN now() - n * interval '1 min' END,
        CASE status WHEN 'failed' THEN now() - n * interval '1 min' END,
        CASE status WHEN 'cancelled' THEN now() - n * interval '1 min' END
    FROM generate_series(1, :rows * 10) AS n, LATERAL (SELECT CASE WHEN n % 1000 = 13 THEN 'cancelled'
        WHEN n % 1000 = 17 THEN 'failed' ELSE 'completed' END AS status) AS s
    """,
    """
    INSERT INTO {tracking}broker_request (request_id, status, finished_at, provider, agent_name, session_id)
    SELECT n::text, CASE WHEN n % 1000 = 3 THEN 'pending' ELSE 'completed' END, CASE WHEN n % 1000 <> 3 THEN now() END,
        CASE WHEN n % 1000 = 1 THEN 'small' ELSE 'large' END,
        CASE WHEN n % 1000 = 2 THEN 'quiet' ELSE 'loud' END, 'session-' || n / 10
    FROM generate_series(1, :rows) AS n
    """,
    "INSERT INTO {home}workflows (name, definition, status) SELECT n::text, '{{}}', 'active' FROM generate_series(1, 50) AS n",
    """
    INSERT INTO {home}workflow_executions (workflow_id, status, completed_at, definition)
    SELECT (SELECT min(id) FROM {home}workflows) + n % 49, 'completed', now(), '{{}}' FROM generate_series(1, :rows) AS n
    """,
    "UPDATE {home}workflow_executions SET parent_execution_id = (SELECT min(id) FROM {home}workflow_executions) WHERE id % 2 = 0",
    """
    INSERT INTO {home}workflow_steps (execution_id, step_key, seq, name)
    SELECT (SELECT max(id) FROM {home}workflow_executions), n::text, n, 's' FROM generate_series(1, :rows) AS n
    """,
    "INSERT INTO {home}rag_sessions (session_id) VALUES ('s')",
    "INSERT INTO {home}documents (content) SELECT 'c' FROM generate_series(1, 10)",
    """
    INSERT INTO {home}rag_queries (session_id, query_text)
    SELECT (SELECT max(id) FROM {home}rag_sessions), 'q' FROM generate_series(1, :rows)
    """,
    """
    INSERT INTO {home}conversations (session_id, role, content)
    SELECT 's', 'user', 'the message ' || CASE WHEN n % 1000 = 0 THEN 'unusual' ELSE '' END FROM generate_series(1, :rows) AS n
    """,
    "INSERT INTO {home}memory_banks (name) VALUES ('b')",
    """
    INSERT INTO {home}memories (memory_bank_id, content, metadata)
    SELECT (SELECT max(id) FROM {home}memory_banks), n::text, jsonb_build_object('k', n) FROM generate_series(1, :rows) AS n
    """,
    "INSERT INTO {home}memory_entries (content, metadata) SELECT n::text, jsonb_build_object('k', n) FROM generate_series(1, :rows) AS n",
    """
    INSERT INTO {wm}working_memory (name, memory_type, metadata)
    SELECT n::text, 't', jsonb_build_object('k', n) FROM generate_series(1, :rows) AS n
    """,
    "INSERT INTO {home}test_suites (name) VALUES ('s')",
    "INSERT INTO {home}test_cases (test_suite_id, name) SELECT max(id), 'c' FROM {home}test_suites",
    "INSERT INTO {home}test_runs (test_suite_id) SELECT (SELECT max(id) FROM {home}test_suites) FROM generate_series(1, 3)",
    """
    INSERT INTO {home}test_results (test_case_id, metric_name, metric_value, status, test_run_id)
    SELECT (SELECT max(id) FROM {home}test_cases), 'm-' || n % 50, n % 10, CASE WHEN n % 1000 = 0 THEN 'fail' ELSE 'pass' END,
        (SELECT max(id) FROM {home}test_runs) - n % 3
    FROM generate_series(1, :rows) AS n
    """,
    """
    INSERT INTO {home}rag_query_documents (query_id, document_id, rank)
    SELECT id, (SELECT max(id) FROM {home}documents), 1 FROM {home}rag_queries
    """,
)
Statement = Callable[[dict[str, int]], Any]

PLANS: dict[str, tuple[Statement, str]] = {
    "tasks by intent": (lambda k: tasks.list_(intent="rare", after=None, limit=10), "idx_tasks_intent"),
    "tasks by agent": (
        lambda k: tasks.list_(assigned_to="seldom", after=None, limit=10),
        "idx_tasks_assigned_to",
    ),
    "tasks by an agent with many": (
        lambda k: tasks.list_(assigned_to="often", after=None, limit=60),
        "Index Scan Backward using idx_tasks_assigned_to",
    ),
    "tasks by queue": (lambda k: tasks.list_(queue="narrow", after=None, limit=10), "idx_tasks_queue"),
    "tasks by status": (
        lambda k: tasks.list_(status=TaskStatus.CANCELLED, after=None, limit=10),
        "idx_tasks_cancelled",
    ),
    "tasks of a count": (lambda k: tasks.count(intent="rare", up_to=10), "idx_tasks_intent"),
    "requests by session": (lambda k: _recent(session_id="session-7"), "hashtextextended(session_id"),
    "requests by agent": (lambda k: _recent(agent_name="quiet"), "hashtext(agent_name"),
    "requests by provider": (lambda k: _recent(provider="small"), "hashtextextended(provider"),
    "pending requests": (
        lambda k: _recent(status=BrokerRequestStatus.PENDING),
        "broker_request_default_created_at_id_idx|broker_request_\\d+_\\d+_created_at_id_idx",
    ),
    "executions of a name": (
        lambda k: workflows.history("50", after=None, limit=10),
        "idx_workflow_executions_workflow_id",
    ),
    "executions of an unknown name": (
        lambda k: workflows.history("nothing", after=None, limit=10),
        "idx_workflow_executions_workflow_id",
    ),
    "children": (
        lambda k: workflows.children(k["parent"], after=None, limit=10),
        "workflow_executions",
    ),
    "steps": (
        lambda k: workflow_steps.steps(k["execution"], after=None, limit=10),
        "uq_workflow_steps_execution_id_seq",
    ),
    "messages with a rare word": (
        lambda k: conversations.search("unusual", session_id=None, limit=10),
        "idx_conversations_search",
    ),
    "messages with a common word": (
        lambda k: conversations.search("message", session_id=None, limit=10),
        "Index Scan Backward using pk_conversations",
    ),
    "memories by metadata": (lambda k: _by_metadata(Memory), "idx_memories_metadata"),
    "entries by metadata": (lambda k: _by_metadata(MemoryEntry), "idx_memory_entries_metadata"),
    "working memory by metadata": (lambda k: _by_metadata(WorkingMemory), "idx_working_memory_metadata"),
    "results that fail": (
        lambda k: validation.list_results(k["run"], status=TestResultStatus.FAIL, after=None, limit=10),
        "idx_test_results_fail",
    ),
    "figures of a run": (
        lambda k: validation.compare(k["run"], k["run"]),
        "idx_test_results_figures",
    ),
    "usage by day": (lambda k: _usage(), "HashAggregate"),
    "usage of a provider": (lambda k: _usage(provider="small"), "hashtextextended(provider"),
    "usage of an agent": (lambda k: _usage(agent_name="quiet"), "hashtext(agent_name"),
    "queries of a document": (
        lambda k: rag.queries_using(k["document"], after=None, limit=10),
        "idx_rag_query_documents_document_id",
    ),
}


def _recent(**by: Any) -> Any:
    others: dict[str, Any] = dict.fromkeys(("model", "provider", "agent_name", "session_id", "status")) | by
    return broker_requests.recent(since=None, until=None, contents=False, after=None, limit=10, **others)


def _by_metadata(model: type[Base]) -> Any:
    return select(*model.__mapper__.primary_key).where(
        compile_filter(model, Filter(must=[eq("metadata.k", 7)]))
    )


def _usage(**by: Any) -> Any:
    days = [
        NOW.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=n) for n in range(-360, 2)
    ]
    others: dict[str, Any] = {"model": None, "provider": None, "agent_name": None, **by}
    return broker_requests.usage(
        since=days[0], until=days[-1], by=("model", "day"), timezone="UTC", days=days, **others
    )


async def test_what_wants_little_reads_little(uow: AsyncUnitOfWork, schema: str | None) -> None:
    session = uow.session
    home, tracking, wm = ("", "brk_tracking.", "wm.") if schema is None else (f"{schema}.",) * 3
    for statement in FILL:
        await session.execute(text(statement.format(home=home, tracking=tracking, wm=wm)), {"rows": ROWS})
    for table in (
        "tasks", "workflows", "workflow_executions", "workflow_steps", "rag_queries", "rag_query_documents",
        "conversations", "memories", "memory_entries", "test_results"
    ):  # fmt: skip
        await session.execute(text(f"ANALYZE {home}{table}"))
    await session.execute(text(f"ANALYZE {tracking}broker_request"))
    await session.execute(text(f"ANALYZE {wm}working_memory"))
    keys = {
        "parent": f"SELECT min(id) FROM {home}workflow_executions",
        "execution": f"SELECT max(id) FROM {home}workflow_executions",
        "document": f"SELECT max(id) FROM {home}documents",
        "run": f"SELECT max(id) FROM {home}test_runs",
    }
    known = {name: (await session.execute(text(sql))).scalar_one() for name, sql in keys.items()}
    for name, (build, index) in PLANS.items():
        plan = "\n".join(await session.scalars(Explain(build(known))))
        assert re.search(index if "|" in index else re.escape(index), plan), f"{name}:\n{plan}"
    for status, index in (
        (TaskStatus.FAILED, "idx_tasks_failed"),
        (TaskStatus.CANCELLED, "idx_tasks_cancelled"),
    ):
        plan = await _plan_of_delete(session, task_maintenance.purge(60, status=status, limit=10))
        assert index in plan, plan


async def _plan_of_delete(session: AsyncSession, statement: Any) -> str:
    return "\n".join(await session.scalars(Explain(statement)))


@pytest.mark.parametrize("up_to", [None, 1, 3, 4, 5])
async def test_a_count_shows_whether_it_is_exact(uow: AsyncUnitOfWork, up_to: int | None) -> None:
    for number in range(4):
        await uow.tasks.enqueue("counted", queue="q" if number else "default")
    count = await uow.tasks.count(intent="counted", up_to=up_to)
    assert (count, count.exact) == (4 if up_to is None else min(up_to, 4), up_to is None or up_to >= 4)
    assert (await uow.tasks.count(queue="q"), await uow.tasks.count(intent="counted", queue="default")) == (
        3,
        1,
    )


async def test_requests_are_found_by_each_name(uow: AsyncUnitOfWork) -> None:
    for number in range(4):
        names: dict[str, Any] = {
            "provider": f"p{number % 2}",
            "agent_name": f"a{number % 2}",
            "session_id": f"s{number}",
        }
        await uow.broker_requests.start(f"r{number}", model="m", **names)
    since = NOW - timedelta(days=1)
    asked: list[dict[str, Any]] = [
        {"provider": "p1"},
        {"agent_name": "a1"},
        {"provider": "p1", "agent_name": "a1"},
    ]
    for by in asked:
        found = await uow.broker_requests.recent(since=since, **by)
        assert [row.request_id for row in found] == ["r3", "r1"], by
    found = await uow.broker_requests.recent(session_id="s2", status=BrokerRequestStatus.PENDING)
    assert [row.request_id for row in found] == ["r2"]


async def test_pages_go_on_where_they_ended(uow: AsyncUnitOfWork) -> None:
    for name in ("a", "b", "c"):
        await uow.agents.register(name, type="t", version="1", capabilities=["x"])
    workflow, _ = await uow.workflows.define("paged", {})
    await uow.workflows.activate(workflow.id)
    parent, _ = await uow.workflows.start("paged")
    children = [(await uow.workflows.start("paged", parent_id=parent.id))[0].id for _ in range(3)]
    (held,) = await uow.workflows.claim("w", [workflow.id])
    for seq in range(3):
        await uow.workflows.checkpoint(held, f"s{seq}", seq, seq=seq)
    lists: list[tuple[Callable[[str | None], Any], Callable[[Any], Any], list[Any]]] = [
        (lambda after: uow.agents.list_alive(after=after, limit=2), lambda row: row.name, ["a", "b", "c"]),
        (
            lambda after: uow.agents.find_by_capability("x", alive_within=60, after=after, limit=2),
            lambda row: row.name,
            ["a", "b", "c"],
        ),
        (lambda after: uow.workflows.children(parent.id, after=after, limit=2), lambda row: row.id, children),
        (lambda after: uow.workflows.steps(held.id, after=after, limit=2), lambda row: row.seq, [0, 1, 2]),
        (
            lambda after: uow.workflows.history("paged", after=after, limit=2),
            lambda row: row.id,
            [*reversed(children), parent.id],
        ),
    ]
    for page_of, key, expected in lists:
        found: list[Any] = []
        cursor: str | None = None
        while True:
            page = await page_of(cursor)
            assert len(page) <= 2
            found += [key(row) for row in page]
            cursor = page.next
            if cursor is None:
                break
        assert found == expected
