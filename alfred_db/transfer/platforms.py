"""What is known about the platforms: their tables, their other names for columns, and what their rows may lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Table

from ..models import (
    Agent,
    Base,
    BrokerModel,
    BrokerRequest,
    Conversation,
    Document,
    EntityEdge,
    EntityNode,
    HostedModel,
    HostingProvider,
    Memory,
    MemoryBank,
    MemoryEntry,
    ModelCapability,
    ModelEndpoint,
    ModelFamily,
    ModelMaker,
    ModelSnapshot,
    ProcessedMessage,
    RagQuery,
    RagSession,
    RegistryModel,
    ScheduledExecution,
    ScheduledTask,
    Task,
    TaskResult,
    TestCase,
    TestResult,
    TestSuite,
    User,
    Workflow,
    WorkflowExecution,
    WorkingMemory,
)
from ..models.base import table_of

__all__ = ["EXTRA_HOME", "NAMES", "RULES", "TABLES", "UNKNOWN", "Rules", "names_of"]

_MODELS: tuple[type[Base], ...] = (
    User, RegistryModel, ModelEndpoint, ModelCapability, ModelMaker, ModelFamily, BrokerModel, ModelSnapshot,
    HostingProvider, HostedModel, Task, TaskResult, ProcessedMessage, Agent, Document, MemoryBank, Memory,
    MemoryEntry, Conversation, RagSession, RagQuery, WorkingMemory, EntityNode, EntityEdge, BrokerRequest,
    TestSuite, TestCase, TestResult, ScheduledTask, ScheduledExecution, Workflow, WorkflowExecution,
)  # fmt: skip

TABLES: tuple[Table, ...] = tuple(
    table for table in Base.metadata.sorted_tables if table in {table_of(model) for model in _MODELS}
)
"""The tables that the platforms have, parents first."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "entity_node": ("entity_nodes", "node", "nodes"),
    "entity_edge": ("entity_edges", "edge", "edges"),
}
"""Other names of tables, looked for only in a schema that the models have them in."""

EXTRA_HOME = ("metadata", "properties")
"""The columns that keep what has no column of its own, under the key `adopted`."""

SYNONYMS: Mapping[str, str] = {
    "human": "user",
    "ai": "assistant",
    "agent": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "developer": "system",
    "success": "completed",
    "succeeded": "completed",
    "complete": "completed",
    "done": "completed",
    "finished": "completed",
    "error": "failed",
    "failure": "failed",
    "timeout": "failed",
    "timed_out": "failed",
    "canceled": "cancelled",
    "aborted": "cancelled",
    "queued": "pending",
    "created": "pending",
    "new": "pending",
    "in_progress": "processing",
    "running": "processing",
    "started": "processing",
    "pass": "passed",
    "ok": "passed",
    "fail": "failed",
}
"""What a status or a role that the models do not know most likely is."""

UNKNOWN: Mapping[tuple[str, str], str] = {
    ("tasks", "status"): "cancelled",
    ("scheduler_executions", "status"): "cancelled",
    ("workflow_executions", "status"): "cancelled",
    ("broker_request", "status"): "cancelled",
    ("test_cases", "status"): "skipped",
    ("working_memory", "status"): "archived",
    ("conversations", "role"): "user",
}
"""What becomes of one that nothing tells about: nothing that would have it run. Elsewhere it gets the default."""

_BY_COLUMN: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("scheduler_executions", "status"): {
        "processing": "running",
        "in_progress": "running",
        "started": "running",
    },
    ("workflow_executions", "status"): {
        "processing": "running",
        "in_progress": "running",
        "started": "running",
    },
    ("test_cases", "status"): {"error": "failed", "completed": "passed", "processing": "running"},
    ("test_results", "status"): {
        "passed": "pass",
        "failed": "fail",
        "error": "fail",
        "warn": "warning",
        "ok": "pass",
    },
    ("broker_request", "status"): {
        "processing": "pending",
        "running": "pending",
        "timeout": "timeout",
        "error": "failed",
    },
    ("agent_registry", "status"): {
        "running": "active",
        "online": "active",
        "offline": "inactive",
        "error": "inactive",
    },
    ("working_memory", "status"): {"completed": "active", "ready": "active", "inactive": "archived"},
    ("workflows", "status"): {"published": "active", "inactive": "archived", "paused": "archived"},
}


def names_of(table: str, column: str, members: tuple[str, ...]) -> dict[str, str]:
    """Return what the unknown values of a status or a role become."""
    known = {**SYNONYMS, **_BY_COLUMN.get((table, column), {})}
    return {other: value for other, value in known.items() if value in members and other not in members}


@dataclass(frozen=True)
class Rules:
    """What the rows of a table may lack, as SQL over the columns of the models."""

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Other names of a column, the first that exists is taken."""
    fallbacks: Mapping[str, str] = field(default_factory=dict[str, str])
    """What a column is where it is NULL or does not exist; also where the models have a default."""
    bounds: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the values of a column become that the models refuse; NULL is not among them."""
    times: Mapping[str, str] = field(default_factory=dict[str, str])
    """The columns that depend on the status, computed when all others are known."""
    derived: tuple[str, ...] = ()
    """Those of `times` that a platform may not have: to compute them changes nothing."""
    unique: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Texts that have to be unique among the rows that are the same in these columns: repeated ones get their key added."""
    ranked: str = ""
    """A window function over the columns before `times`, which knows it as `rank`."""

    @property
    def whole(self) -> bool:
        """Whether all rows have to be read at once."""
        return bool(self.unique or self.ranked)


_CODED = {"code": "COALESCE(name, CAST(id AS text))", "name": "COALESCE(code, CAST(id AS text))"}
_NAMED = {"name": "COALESCE(code, CAST(id AS text))"}

RULES: Mapping[str, Rules] = {
    "tasks": Rules(
        fallbacks={"status": "'pending'", "task_id": "CAST(id AS text)", "intent": "'unknown'"},
        bounds={
            "priority": "LEAST(GREATEST(priority, 1), 5)",
            "retry_count": "GREATEST(retry_count, 0)",
            "max_retries": "GREATEST(max_retries, 0)",
            "timeout_seconds": "CASE WHEN timeout_seconds > 0 THEN timeout_seconds ELSE 300 END",
        },
        times={
            "completed_at": "CASE WHEN status = 'completed' THEN COALESCE(completed_at, updated_at) END",
            "failed_at": "CASE WHEN status = 'failed' THEN COALESCE(failed_at, updated_at) END",
            "started_at": "CASE WHEN status = 'processing' THEN COALESCE(started_at, updated_at) ELSE started_at END",
            "cancelled_at": "CASE WHEN status = 'cancelled' THEN updated_at END",
            "available_at": "created_at",
            "lease_expires_at": (
                "CASE WHEN status = 'processing' THEN COALESCE(started_at, updated_at)"
                " + timeout_seconds * interval '1 second' END"
            ),
        },
        derived=("cancelled_at", "available_at", "lease_expires_at"),
    ),
    "task_results": Rules(fallbacks={"result_type": "'unknown'"}),
    "agent_registry": Rules(fallbacks={"type": "'unknown'", "version": "'unknown'"}),
    "memory_banks": Rules(fallbacks={"name": "CAST(id AS text)"}),
    "memory_entries": Rules(
        columns={"content": ("content_text", "content", "text"), "created_at": ("created_at", "timestamp")},
        fallbacks={"namespace": "NULLIF(concat_ws('/', app_name, user_id), '')"},
    ),
    "conversations": Rules(fallbacks={"session_id": "'unknown'"}),
    "working_memory": Rules(fallbacks={"name": "CAST(id AS text)", "memory_type": "'unknown'"}),
    "entity_node": Rules(
        columns={
            "node_type": ("node_type", "entity_type", "type", "type_name"),
            "key": ("key", "external_id", "name"),
            "properties": ("properties", "data", "attributes", "metadata"),
        },
        fallbacks={"node_type": "'unknown'", "key": "CAST(id AS text)"},
        unique={"key": ("node_type",)},
    ),
    "entity_edge": Rules(
        columns={
            "source_id": ("source_id", "from_id", "source_node_id", "from_node_id"),
            "target_id": ("target_id", "to_id", "target_node_id", "to_node_id"),
            "edge_type": ("edge_type", "relation", "relationship", "type", "type_name"),
            "properties": ("properties", "data", "attributes", "metadata"),
        },
        fallbacks={"edge_type": "'unknown'", "valid_from": "created_at"},
        bounds={"valid_to": "CASE WHEN valid_to > valid_from THEN valid_to END"},
        # The newest of the facts without an end stays; of those with one beginning, one stays.
        ranked=(
            "GREATEST(row_number() OVER (PARTITION BY source_id, target_id, edge_type, superseded_at, valid_from"
            " ORDER BY valid_to IS NULL DESC, created_at DESC, id), CASE WHEN valid_to IS NULL THEN row_number() OVER"
            " (PARTITION BY source_id, target_id, edge_type, superseded_at, valid_to IS NULL ORDER BY created_at DESC, id) END)"
        ),
        times={"superseded_at": "CASE WHEN rank > 1 THEN COALESCE(superseded_at, updated_at) ELSE superseded_at END"},
    ),
    "scheduler_tasks": Rules(
        fallbacks={"name": "CAST(id AS text)"},
        bounds={
            "max_retries": "GREATEST(max_retries, 0)",
            "retry_delay": "GREATEST(retry_delay, 0)",
            "timeout": "CASE WHEN timeout > 0 THEN timeout ELSE 300 END",
        },
    ),
    "scheduler_executions": Rules(
        fallbacks={
            "status": "CASE WHEN end_time IS NOT NULL THEN CASE WHEN exit_code <> 0 THEN 'failed' ELSE 'completed' END END"
        },
        # Times that increase by a microsecond at least within a task, because two rows of it may have one time.
        ranked="row_number() OVER (PARTITION BY task_id ORDER BY created_at, id)",
        times={
            "start_time": "CASE WHEN status = 'running' THEN COALESCE(start_time, created_at) ELSE start_time END",
            "end_time": "CASE WHEN status NOT IN ('pending', 'running') THEN COALESCE(end_time, start_time, created_at) END",
            "scheduled_at": (
                "max(created_at - rank * interval '1 microsecond') OVER (PARTITION BY task_id ORDER BY rank)"
                " + rank * interval '1 microsecond'"
            ),
            "available_at": "created_at",
            "lease_expires_at": "CASE WHEN status = 'running' THEN COALESCE(start_time, created_at) END",
        },
        derived=("scheduled_at", "available_at", "lease_expires_at"),
    ),
    "workflows": Rules(fallbacks={"name": "CAST(id AS text)"}),
    "workflow_executions": Rules(
        fallbacks={"status": "CASE WHEN completed_at IS NOT NULL THEN 'completed' END"},
        times={
            "started_at": "CASE WHEN status = 'running' THEN COALESCE(started_at, created_at) ELSE started_at END",
            "completed_at": "CASE WHEN status = 'completed' THEN COALESCE(completed_at, started_at, created_at) END",
            "failed_at": "CASE WHEN status = 'failed' THEN COALESCE(completed_at, started_at, created_at) END",
            "cancelled_at": "CASE WHEN status = 'cancelled' THEN COALESCE(completed_at, started_at, created_at) END",
            "available_at": "created_at",
            "lease_expires_at": "CASE WHEN status = 'running' THEN COALESCE(started_at, created_at) END",
        },
        derived=("failed_at", "cancelled_at", "available_at", "lease_expires_at"),
    ),
    "broker_request": Rules(
        fallbacks={"request_id": "CAST(id AS text)", "status": "'pending'"},
        bounds={
            **{
                name: f"CASE WHEN {name} >= 0 THEN {name} END"
                for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "total_tokens", "latency_ms", "cost")
            },
            "currency": "CASE WHEN currency ~ '^[A-Z]{3}$' THEN currency ELSE 'USD' END",
        },
        times={"finished_at": "CASE WHEN status <> 'pending' THEN COALESCE(finished_at, created_at) END"},
        derived=("finished_at",),
    ),
    "hosting_provider": Rules(fallbacks=_CODED, unique={"code": ()}),
    "model_maker": Rules(fallbacks=_CODED, unique={"code": ()}),
    "model_family": Rules(fallbacks=_CODED, unique={"code": ()}),
    "model": Rules(
        fallbacks=_CODED,
        bounds={
            name: f"CASE WHEN {name} > 0 THEN {name} END" for name in ("context_window", "max_output_tokens")
        },
        unique={"code": ()},
    ),
    "model_snapshot": Rules(fallbacks=_CODED, unique={"code": ("model_id",)}),
    "hosted_model": Rules(
        fallbacks={"code": "COALESCE(name, CAST(id AS text))"}, unique={"code": ("provider_id",)}
    ),
    "models": Rules(fallbacks={"display_name": "name", "provider": "'unknown'", "model_type": "'unknown'"}),
    "model_endpoints": Rules(fallbacks={"endpoint_type": "'unknown'"}),
}  # fmt: skip
"""By the name of the table."""
