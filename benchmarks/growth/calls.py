"""Arguments of every public method: realistic ones here, and the specimens of the tests where a small row is as good.

A key that ends in `, something` is another call of the same method. `missing` names the methods without an entry.
"""

from __future__ import annotations

import dataclasses
import inspect
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy
from injection import Specimens
from injection.ground import Ground
from injection.signatures import methods, repositories
from injection.specimens import SPECIMENS
from sqlalchemy import text

from alfred_db import TaskStatus, TestResultStatus, WorkflowExecutionStatus
from alfred_db.repositories import UnitOfWork
from alfred_db.search.filters import Filter, eq, range_

__all__ = ["REFUSED", "Place", "Rows", "calls", "missing"]

REFUSED = {
    "broker_requests.schedule_maintenance": "needs pg_cron",
    "broker_requests.unschedule_maintenance": "needs pg_cron",
    "events.schedule_maintenance": "needs pg_cron",
    "events.unschedule_maintenance": "needs pg_cron",
    "spaces.switch": "needs a vector of every row in another space",
    "broker_requests.detach_partition": "runs outside of a transaction, and cannot be rolled back",
    "events.detach_partition": "runs outside of a transaction, and cannot be rolled back",
}
"""Methods that are not measured, and why."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Keys of filled rows."""

    bank: int
    """The bank with a third of the memories."""
    task: uuid.UUID
    """A completed task."""
    failed: uuid.UUID
    parent: uuid.UUID
    execution: int
    """The workflow execution with a tenth of the steps."""
    family: int
    """The workflow execution with a tenth of the others as its children."""
    document: int
    """The document that a tenth of the queries used."""
    rag_session: int
    run: int
    base: int
    case: int
    suite: int
    scheduled: int
    agent: uuid.UUID
    incarnation: uuid.UUID
    edge: uuid.UUID
    event: int
    hub: uuid.UUID
    near: uuid.UUID
    middle: datetime
    """The time in the middle of the tasks."""


@dataclasses.dataclass(frozen=True)
class Place:
    """What a call may refer to: a few rows of the tests' ground, and the filled ones."""

    ground: Ground
    rows: Rows

    @classmethod
    def find(cls, uow: UnitOfWork, ground: Ground) -> Place:
        rows = {name: uow.session.execute(text(sql)).scalar_one() for name, sql in _KEYS.items()}
        return cls(ground, Rows(**rows))


_KEYS = {
    "bank": "SELECT id FROM memory_banks WHERE name = 'bank-1'",
    "task": "SELECT id FROM tasks WHERE status = 'completed' AND task_id LIKE 'task-%' ORDER BY id LIMIT 1 OFFSET 10",
    "failed": "SELECT id FROM tasks WHERE status = 'failed' LIMIT 1",
    "parent": "SELECT parent_task_id FROM tasks WHERE parent_task_id IS NOT NULL ORDER BY id LIMIT 1",
    "execution": "SELECT min(id) + 1 FROM workflow_executions WHERE status = 'completed'",
    "family": "SELECT parent_execution_id FROM workflow_executions WHERE parent_execution_id IS NOT NULL LIMIT 1",
    "document": "SELECT min(id) FROM documents WHERE external_id LIKE 'document-%'",
    "rag_session": "SELECT id FROM rag_sessions WHERE session_id = 'rag-3'",
    "run": "SELECT test_run_id FROM test_results WHERE metric_name LIKE 'metric-%' ORDER BY id LIMIT 1",
    "base": "SELECT max(test_run_id) FROM test_results",
    "case": "SELECT min(id) FROM test_cases WHERE name LIKE 'case-%'",
    "suite": "SELECT min(id) FROM test_suites WHERE name LIKE 'suite-%'",
    "scheduled": "SELECT min(id) FROM scheduler_tasks WHERE schedule_key LIKE 'schedule-%'",
    "agent": "SELECT id FROM agent_registry WHERE name = 'ground'",
    "incarnation": "SELECT incarnation FROM agent_registry WHERE name = 'ground'",
    "edge": "SELECT id FROM entity.entity_edge WHERE edge_type LIKE 'knows%' LIMIT 1",
    "event": "SELECT max(id) - 5 FROM events",
    "hub": "SELECT id FROM entity.entity_node WHERE key = 'node-0'",
    "near": "SELECT id FROM entity.entity_node WHERE key = 'node-2'",
    "middle": "SELECT created_at FROM tasks WHERE task_id LIKE 'task-%' ORDER BY id OFFSET (SELECT count(*) / 2 FROM tasks) LIMIT 1",
}


def _vector(dimensions: int) -> Any:
    return numpy.random.default_rng(1).random(dimensions, dtype=numpy.float32)


_YEAR = {"since": datetime.now(UTC) - timedelta(days=360), "until": datetime.now(UTC)}
_DAY = {"since": datetime.now(UTC) - timedelta(days=1), "until": datetime.now(UTC)}

Calls = Mapping[str, Callable[[Place], dict[str, Any]]]

CALLS: Calls = {
    # Tasks
    "tasks.age": lambda p: {"after": 60.0, "limit": 100},
    "tasks.cancel": lambda p: {"id": p.rows.parent},
    "tasks.claim": lambda p: {"worker": "w"},
    "tasks.claim, of an intent": lambda p: {"worker": "w", "intents": ["intent-1"]},
    "tasks.complete_many": lambda p: {"claimed": [p.ground.task]},
    "tasks.heartbeat": lambda p: {"claimed": p.ground.task},
    "tasks.heartbeat_many": lambda p: {"claimed": [p.ground.task]},
    "tasks.release": lambda p: {"claimed": p.ground.task},
    "tasks.batch": lambda p: {"tasks": [{"intent": "i"}] * 10, "then": {"intent": "i"}},
    "tasks.batch_progress": lambda p: {"id": p.rows.task},
    "tasks.children": lambda p: {"id": p.rows.parent},
    "tasks.dependencies": lambda p: {"id": p.rows.task},
    "tasks.dependents": lambda p: {"id": p.rows.task},
    "tasks.get": lambda p: {"id": p.rows.task},
    "tasks.get_progress": lambda p: {"id": p.rows.task},
    "tasks.list_progress": lambda p: {"ids": [p.rows.task]},
    "tasks.results": lambda p: {"id": p.rows.task},
    "tasks.requeue": lambda p: {"id": p.rows.failed},
    "tasks.requeue_failed": lambda p: {"limit": 100},
    "tasks.purge": lambda p: {"older_than": 60.0, "limit": 100},
    "tasks.purge, failed ones": lambda p: {"older_than": 60.0, "status": TaskStatus.FAILED, "limit": 100},
    "tasks.purge, cancelled ones": lambda p: {
        "older_than": 60.0,
        "status": TaskStatus.CANCELLED,
        "limit": 100,
    },
    "tasks.purge, of a small queue": lambda p: {"older_than": 60.0, "queue": "narrow", "limit": 100},
    "tasks.count": lambda p: {},
    "tasks.count, completed ones": lambda p: {"status": TaskStatus.COMPLETED},
    "tasks.count, of a rare intent": lambda p: {"intent": "rare"},
    "tasks.list": lambda p: {},
    "tasks.list, completed ones": lambda p: {"status": TaskStatus.COMPLETED},
    "tasks.list, cancelled ones": lambda p: {"status": TaskStatus.CANCELLED},
    "tasks.list, failed ones": lambda p: {"status": TaskStatus.FAILED},
    "tasks.list, running ones": lambda p: {"status": TaskStatus.PROCESSING},
    "tasks.list, of an intent": lambda p: {"intent": "intent-3"},
    "tasks.list, of a rare intent": lambda p: {"intent": "rare"},
    "tasks.list, of an unknown intent": lambda p: {"intent": "nobody"},
    "tasks.list, of a small queue": lambda p: {"queue": "narrow"},
    "tasks.list, of an agent": lambda p: {"assigned_to": "agent-3"},
    "tasks.list, of an agent with few": lambda p: {"assigned_to": "seldom"},
    "tasks.list, of a minute": lambda p: {
        "created_after": p.rows.middle,
        "created_before": p.rows.middle + timedelta(minutes=1),
    },
    "tasks.list, before a time": lambda p: {"created_before": p.rows.middle},
    # Events
    "events.get": lambda p: {"id": p.rows.event},
    "events.list": lambda p: {"topic": "topic-3"},
    "events.list, of an unknown topic": lambda p: {"topic": "nothing"},
    "events.old_partitions": lambda p: {"keep_months": 12},
    # Agents
    "agents.get": lambda p: {"agent_id": p.rows.agent},
    "agents.heartbeat": lambda p: {"agent_id": p.rows.agent, "incarnation": p.rows.incarnation},
    "agents.deregister": lambda p: {"agent_id": p.rows.agent, "incarnation": p.rows.incarnation},
    "agents.find_by_capability": lambda p: {"names": ["c"]},
    "agents.find_by_capability, a rare one": lambda p: {"names": ["c-7"], "alive_within": 86_400.0},
    "agents.list_alive": lambda p: {"within": 864_000.0},
    "agents.list_alive, of a type": lambda p: {"within": 864_000.0, "type": "type-3"},
    # Scheduler
    "scheduler.heartbeat": lambda p: {"claimed": p.ground.execution},
    "scheduler.heartbeat_many": lambda p: {"claimed": [p.ground.execution]},
    "scheduler.release": lambda p: {"claimed": p.ground.execution},
    "scheduler.start": lambda p: {"claimed": p.ground.execution},
    "scheduler.cancel": lambda p: {"execution_id": p.ground.execution.id},
    "scheduler.delete": lambda p: {"task_id": p.rows.scheduled},
    "scheduler.get": lambda p: {"task_id": p.rows.scheduled},
    "scheduler.get_execution": lambda p: {"execution_id": p.ground.execution.id},
    "scheduler.history": lambda p: {"task_id": p.rows.scheduled},
    "scheduler.next_runs": lambda p: {"task_id": p.rows.scheduled},
    "scheduler.pause": lambda p: {"task_id": p.rows.scheduled},
    "scheduler.resume": lambda p: {"task_id": p.rows.scheduled},
    "scheduler.trigger": lambda p: {"task_id": p.rows.scheduled},
    "scheduler.purge": lambda p: {"older_than": 60.0, "limit": 100},
    # Workflows
    "workflows.activate": lambda p: {"workflow_id": p.ground.workflow},
    "workflows.archive": lambda p: {"workflow_id": p.ground.workflow},
    "workflows.get": lambda p: {"workflow_id": p.ground.workflow},
    "workflows.get_execution": lambda p: {"execution_id": p.rows.execution},
    "workflows.cancel": lambda p: {"execution_id": p.ground.run.id},
    "workflows.children": lambda p: {"execution_id": p.rows.family},
    "workflows.steps": lambda p: {"execution_id": p.rows.execution},
    "workflows.events": lambda p: {"execution_id": p.ground.run.id},
    "workflows.heartbeat": lambda p: {"claimed": p.ground.run},
    "workflows.heartbeat_many": lambda p: {"claimed": [p.ground.run]},
    "workflows.release": lambda p: {"claimed": p.ground.run},
    "workflows.history": lambda p: {"name": "flow-3"},
    "workflows.list, of the failed": lambda p: {"status": WorkflowExecutionStatus.FAILED},
    "workflows.list": lambda p: {},
    "workflows.resume": lambda p: {"execution_id": p.ground.halted},
    "workflows.state": lambda p: {"execution_id": p.ground.run.id},
    "workflows.history, of an unknown name": lambda p: {"name": "nothing"},
    "workflows.history, of a small one": lambda p: {"name": "ground"},
    "workflows.purge": lambda p: {"older_than": 60.0, "limit": 100},
    "workflows.waiting": lambda p: {"workflow_ids": [p.ground.workflow]},
    # Documents and memories
    "documents.get": lambda p: {"document_id": p.rows.document},
    "documents.delete": lambda p: {"document_id": p.ground.document},
    "documents.search": lambda p: {"embedding": _vector(384)},
    "documents.search, by a field": lambda p: {
        "embedding": _vector(384),
        "where": Filter(must=[eq("metadata.k", 7)]),
    },
    "documents.search, by a range": lambda p: {
        "embedding": _vector(384),
        "where": Filter(must=[range_("metadata.year", gte=2015)]),
    },
    "documents.hybrid_search": lambda p: {"text": "document text 77", "embedding": _vector(384)},
    "memory_banks.get": lambda p: {"bank_id": p.rows.bank},
    "memory_banks.delete": lambda p: {"bank": p.ground.bank},
    "memories.duplicates": lambda p: {"bank": p.rows.bank, "embedding": _vector(384)},
    "memories.forget": lambda p: {"memory_id": p.ground.memory},
    "memories.get": lambda p: {"memory_id": p.ground.memory},
    "memories.list": lambda p: {"bank": p.rows.bank},
    "memories.prune": lambda p: {"bank": p.ground.bank, "keep": 1},
    "memories.recall": lambda p: {"bank": p.rows.bank, "embedding": _vector(384)},
    "memories.search": lambda p: {"bank": p.rows.bank, "embedding": _vector(384)},
    "memories.search, by a field": lambda p: {
        "bank": p.rows.bank,
        "embedding": _vector(384),
        "where": Filter(must=[eq("metadata.k", 7)]),
    },
    "memory_entries.search": lambda p: {"namespace": "namespace-3", "embedding": _vector(768)},
    "memory_entries.search, by a field": lambda p: {
        "namespace": "namespace-7",
        "embedding": _vector(768),
        "where": Filter(must=[eq("metadata.k", 7)]),
    },
    "messages.purge": lambda p: {"limit": 10},
    "working_memory.search": lambda p: {"embedding": _vector(1536)},
    "working_memory.search, by a field": lambda p: {
        "embedding": _vector(1536),
        "where": Filter(must=[eq("metadata.k", 7)]),
    },
    "memories.hybrid_search": lambda p: {
        "bank": p.rows.bank,
        "text": "memory 77",
        "embedding": _vector(384),
    },
    "memories.touch": lambda p: {"memory_ids": [p.ground.memory]},
    "memory_entries.forget": lambda p: {"entry_id": p.ground.entry},
    "memory_entries.get": lambda p: {"entry_id": p.ground.entry},
    "memory_entries.list": lambda p: {"namespace": "namespace-3"},
    "working_memory.get": lambda p: {"memory_id": p.ground.working_memory},
    "working_memory.list": lambda p: {"session_id": "session-5"},
    # Conversations and RAG
    "conversations.purge": lambda p: {"older_than": 60.0, "limit": 100},
    "conversations.history": lambda p: {"session_id": "long"},
    "conversations.last": lambda p: {"session_id": "long"},
    "conversations.search": lambda p: {"text": "unusual"},
    "conversations.search, of a common word": lambda p: {"text": "message"},
    "rag.history": lambda p: {"session": p.rows.rag_session},
    "rag.queries_using": lambda p: {"document_id": p.rows.document},
    # Knowledge
    "knowledge.count": lambda p: {"collection": "legal-knowledge"},
    "knowledge.count, by a field": lambda p: {
        "collection": "legal-knowledge",
        "where": Filter(must=[eq("payload.lang", "l-3")]),
    },
    "knowledge.facet": lambda p: {"collection": "legal-knowledge", "key": "lang"},
    "knowledge.scroll": lambda p: {"collection": "legal-knowledge"},
    "knowledge.hybrid_search": lambda p: {
        "collection": "legal-knowledge",
        "text": "unusual",
        "embedding": _vector(1536),
    },
    "knowledge.query": lambda p: {"collection": "legal-knowledge", "embedding": _vector(1536)},
    "knowledge.describe_collection": lambda p: {"name": "legal-knowledge"},
    # Entities
    "entities.delete_edge": lambda p: {"edge_id": p.rows.edge},
    "entities.delete_node": lambda p: {"node_id": p.ground.other},
    "entities.end_edge": lambda p: {"edge_id": p.rows.edge},
    "entities.get_edge": lambda p: {"edge_id": p.rows.edge},
    "entities.get_node": lambda p: {"node_id": p.rows.hub},
    "entities.supersede_edge": lambda p: {"edge_id": p.rows.edge},
    "entities.neighbours": lambda p: {"node_id": p.rows.hub},
    "entities.facts": lambda p: {"node_id": p.rows.hub},
    "entities.subgraph": lambda p: {"node_ids": [p.rows.hub]},
    "entities.shortest_path": lambda p: {"source_id": p.rows.hub, "target_id": p.rows.near},
    "entities.list_nodes": lambda p: {"node_type": "person"},
    # Catalogs and requests
    "model_registry.export_catalog": lambda p: {},
    "broker_catalog.export_catalog": lambda p: {},
    "broker_catalog.import_catalog": lambda p: {"document": {"providers": [{"code": "new", "name": "n"}]}},
    "broker_requests.get": lambda p: {"id": p.ground.request, "created_at": p.ground.requested},
    "broker_requests.old_partitions": lambda p: {"keep_months": 12},
    "broker_requests.recent": lambda p: {},
    "broker_requests.recent, of a session": lambda p: {"session_id": "session-5"},
    "broker_requests.recent, of an agent": lambda p: {"agent_name": "agent-3"},
    "broker_requests.recent, of an agent with few": lambda p: {"agent_name": "quiet"},
    "broker_requests.recent, of a provider": lambda p: {"provider": "provider-1"},
    "broker_requests.recent, of a small provider": lambda p: {"provider": "small"},
    "broker_requests.recent, of a model": lambda p: {"model": "model-3"},
    "broker_requests.recent, pending ones": lambda p: {"status": "pending"},
    "broker_requests.recent, pending ones of a day": lambda p: {"status": "pending", **_DAY},
    "broker_requests.usage": lambda p: {"by": ["model", "day"], **_YEAR},
    "broker_requests.usage, of a year by model": lambda p: {"by": ["model"], **_YEAR},
    "broker_requests.usage, of an agent with few": lambda p: {"by": ["day"], "agent_name": "quiet", **_YEAR},
    "broker_requests.usage, of a day": lambda p: {"by": ["model", "day"], **_DAY},
    # Validation
    "validation.cancel_run": lambda p: {"run_id": p.ground.test_run},
    "validation.finish_run": lambda p: {"run_id": p.ground.test_run},
    "validation.get_baseline": lambda p: {"suite_id": p.rows.suite},
    "validation.get_case": lambda p: {"case_id": p.rows.case},
    "validation.get_run": lambda p: {"run_id": p.rows.run},
    "validation.get_suite": lambda p: {"suite_id": p.rows.suite},
    "validation.set_baseline": lambda p: {"run_id": p.rows.run},
    "validation.regression": lambda p: {"run_id": p.rows.run, "baseline_id": p.rows.base},
    "validation.list_cases": lambda p: {"suite_id": p.rows.suite},
    "validation.list_results": lambda p: {"run_id": p.rows.run},
    "validation.list_results, that fail": lambda p: {"run_id": p.rows.run, "status": TestResultStatus.FAIL},
    "validation.trend": lambda p: {"case_id": p.rows.case, "metric": "metric-1"},
    "validation.record": lambda p: {"case_id": p.rows.case, "metric": "m", "value": Decimal(1)},
    # Users and files
    "users.get": lambda p: {"user_id": uuid.UUID(int=1)},
    "storage.list": lambda p: {"bucket_id": "ground", "prefix": "folder-7"},
}


COMMON: Mapping[str, Any] = {"older_than": 60.0, "limit": 100}
"""Values of parameters that have one meaning in all methods; a method that needs no others has no entry."""


def calls() -> Iterator[tuple[str, Callable[[Place], dict[str, Any]]]]:
    """Every call by its name, the methods in their order: of this table, else of the specimens, else without arguments."""
    own = _by_method(CALLS)
    others = _by_method(SPECIMENS)
    for noun, repository in repositories().items():
        for method, call in methods(repository):
            name = f"{noun}.{method}"
            if name in REFUSED:
                continue
            if name in own:
                yield from own[name]
            elif name in others:
                first, build = others[name][0]
                yield first.partition(",")[0], lambda place, build=build: build(place.ground)  # type: ignore[misc]
            else:
                needed = [one for one in _needed(call) if one in COMMON]
                yield name, lambda place, needed=needed: {one: COMMON[one] for one in needed}  # type: ignore[misc]


def missing() -> list[str]:
    """Methods with parameters that must be given, and no entry."""
    known = {*_by_method(CALLS), *_by_method(SPECIMENS), *REFUSED}
    return [
        f"{noun}.{name}"
        for noun, repository in repositories().items()
        for name, method in methods(repository)
        if f"{noun}.{name}" not in known and not set(_needed(method)) <= set(COMMON)
    ]


def _needed(method: Callable[..., Any]) -> list[str]:
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return [one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]


def _by_method(
    table: Calls | Specimens,
) -> dict[str, list[tuple[str, Callable[[Any], dict[str, Any]]]]]:
    found: dict[str, list[tuple[str, Callable[[Any], dict[str, Any]]]]] = {}
    for name, build in table.items():
        found.setdefault(name.partition(",")[0], []).append((name, build))
    return found
