"""Tasks: work that is enqueued once, claimed by one worker at a time, and finished once."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..types import EnumText
from .base import (
    Base,
    CreatedAt,
    Json,
    UpdatedAt,
    UuidId,
    one_of,
    status_times_by_trigger,
    updated_by_trigger,
)

__all__ = ["DEFAULT_QUEUE", "WAITING", "Task", "TaskDependency", "TaskProgress", "TaskResult", "TaskStatus"]

DEFAULT_QUEUE = "default"
"""The queue of a task that is enqueued without one."""

WAITING = datetime(9999, 12, 28, tzinfo=UTC)
"""`available_at` of a task that waits for others: later than any claim, and a time that Python can hold."""


class TaskStatus(StrEnum):
    """`pending` and `processing` are live; the others are final."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@updated_by_trigger
class Task(Base):
    """A unit of work.

    Every write by its holder carries `lease_token`, so that a worker that lost it is refused.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("task_id"),
        one_of("status", TaskStatus),
        CheckConstraint("priority BETWEEN 1 AND 5", name="priority"),
        CheckConstraint("retry_count >= 0 AND crash_count >= 0 AND max_retries >= 0", name="counters"),
        CheckConstraint("timeout_seconds > 0", name="timeout"),
        CheckConstraint("(status = 'completed') = (completed_at IS NOT NULL)", name="completed_at"),
        CheckConstraint("(status = 'failed') = (failed_at IS NOT NULL)", name="failed_at"),
        CheckConstraint("cancelled_at IS NULL OR status = 'cancelled'", name="cancelled_at"),
        CheckConstraint("lease_expires_at IS NULL OR status = 'processing'", name="lease"),
        Index(
            "idx_tasks_ready",
            text("priority DESC"),
            "available_at",
            "id",
            postgresql_where=text("status = 'pending'"),
        ),
        # Claims by queue, by intent and by both have an index each. The expressions are all different, so that the planner
        # cannot select another index, which would read past the tasks of others. Names are hashed: a number is written
        # in two thirds of the time of a text, and always fits into an index entry.
        *(
            Index(
                f"idx_tasks_waiting_{name}",
                text(key),
                text("(- priority)"),
                "available_at",
                "id",
                postgresql_where=text("status = 'pending'"),
            )
            for name, key in {
                "queue": "hashtextextended(queue, 0)",
                "intent": "hashtextextended(intent, 0)",
                "queue_intent": "hashtextextended(intent, hashtextextended(queue, 0))",
            }.items()
        ),
        # The limits of a queue count what runs by queue, and by queue and key. A task without a key has its entry too: one
        # index for both is all that a claim has to write.
        Index(
            "idx_tasks_running_queue",
            text("hashtextextended(queue, 0)"),
            text("hashtextextended(concurrency_key, 0)"),
            postgresql_where=text("status = 'processing'"),
        ),
        # What waits with a key, for a claim that has to find keys below their limit behind a backlog of others. A task
        # without a key is not in them.
        *(
            Index(
                f"idx_tasks_waiting_key_{name}",
                text(key),
                text("(- priority)"),
                text("hashtextextended(concurrency_key, 0)"),
                "available_at",
                "id",
                postgresql_where=text("status = 'pending' AND concurrency_key IS NOT NULL"),
            )
            for name, key in {
                "queue": "hashtextextended(queue, 0)",
                "queue_intent": "hashtextextended(intent, hashtextextended(queue, 0))",
            }.items()
        ),
        Index("idx_tasks_failed", "failed_at", postgresql_where=text("status = 'failed'")),
        Index("idx_tasks_cancelled", "cancelled_at", postgresql_where=text("status = 'cancelled'")),
        # Lists of an intent, an agent or a queue. The seed 1 keeps the claims, which hash with the seed 0, away from
        # an index of all tasks; the conditions keep out the tasks that nobody lists in this way.
        Index("idx_tasks_intent", text("hashtextextended(intent, 1)"), "id"),
        Index(
            "idx_tasks_assigned_to",
            text("hashtextextended(assigned_to, 1)"),
            "id",
            postgresql_where=text("assigned_to IS NOT NULL"),
        ),
        Index(
            "idx_tasks_queue",
            text("hashtextextended(queue, 1)"),
            "id",
            postgresql_where=text("queue <> 'default'"),
        ),
        # A summary of each 32 pages: rows come in the order of their time, and an entry of a tree for each costs more.
        Index(
            "idx_tasks_created_at",
            "created_at",
            postgresql_using="brin",
            postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
        ),
        Index(
            "idx_tasks_finished",
            text("COALESCE(completed_at, failed_at, cancelled_at)"),
            postgresql_where=text("status IN ('completed', 'failed', 'cancelled')"),
        ),
        Index(
            "idx_tasks_parent_task_id", "parent_task_id", postgresql_where=text("parent_task_id IS NOT NULL")
        ),
        Index(
            "uq_tasks_dedupe_key",
            "dedupe_key",
            unique=True,
            postgresql_where=text(
                "dedupe_key IS NOT NULL AND status IN ('pending', 'processing') AND cancel_requested_at IS NULL"
            ),
        ),
        # One task of a key is open: the others wait for their turn, whatever else writes to the table.
        Index(
            "uq_tasks_ordering_key",
            "ordering_key",
            unique=True,
            postgresql_where=text(
                "ordering_key IS NOT NULL AND NOT awaits_turn AND status IN ('pending', 'processing')"
            ),
        ),
        Index("idx_tasks_awaits_turn", "ordering_key", "id", postgresql_where=text("awaits_turn")),
        Index("idx_tasks_batch_id", "batch_id", postgresql_where=text("batch_id IS NOT NULL")),
        {
            "postgresql_with": {
                "fillfactor": 70,
                "autovacuum_vacuum_scale_factor": 0.01,
                "autovacuum_vacuum_threshold": 1000,
                "autovacuum_vacuum_cost_delay": 0,
            }
        },
    )

    id: Mapped[UuidId]
    """Key of the row, which children and results refer to."""
    task_id: Mapped[str]
    """Unique key of the caller; enqueuing it again returns the same task."""
    intent: Mapped[str]
    """Kind of work: the name of a handler."""
    status: Mapped[TaskStatus] = mapped_column(EnumText(TaskStatus), server_default=TaskStatus.PENDING)
    """Status; a final status changes only by an explicit requeue."""
    content: Mapped[Json]
    """Input of the handler."""
    priority: Mapped[int] = mapped_column(server_default=text("1"))
    """1 (the least urgent) to 5 (the most urgent)."""
    created_by: Mapped[str | None]
    """Who enqueued it."""
    assigned_to: Mapped[str | None]
    """The agent that is to do it; NULL is any agent."""
    parent_task_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tasks.id"))
    """The task that this one is a part of."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    started_at: Mapped[datetime | None]
    """When its first attempt began."""
    completed_at: Mapped[datetime | None]
    """When it was completed; set exactly in the status `completed`."""
    failed_at: Mapped[datetime | None]
    """When it failed finally; set exactly in the status `failed`."""
    error_message: Mapped[str | None]
    """Message of the last failure."""
    retry_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts that failed in the handler and were retried."""
    max_retries: Mapped[int] = mapped_column(server_default=text("3"))
    """How often a failed attempt is retried before the task fails."""
    timeout_seconds: Mapped[int] = mapped_column(server_default=text("300"))
    """Seconds that one attempt may take, however often its lease is extended."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the caller; not used by the library."""
    available_at: Mapped[CreatedAt]
    """Earliest time of a claim: the delay of a new task, or the back-off of a failed one."""
    worker_id: Mapped[str | None]
    """The process that holds or last held it; for information only."""
    lease_token: Mapped[uuid.UUID | None]
    """New in each claim; kept on a finished row to distinguish a repeated completion from a stale one."""
    claim_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Counts the claims; a fencing token for systems outside the database."""
    lease_expires_at: Mapped[datetime | None]
    """When the lease expires unless the holder extends it; deliberately not indexed, so that heartbeats are HOT."""
    attempt_started_at: Mapped[datetime | None]
    """When the current attempt began."""
    attempt_deadline_at: Mapped[datetime | None]
    """When the `timeout_seconds` of the current attempt end; stored, so that reaping needs no computation."""
    crash_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts whose worker vanished; counted separately from failures of the handler."""
    cancel_requested_at: Mapped[datetime | None]
    """When its cancellation was requested while a worker held it."""
    cancelled_at: Mapped[datetime | None]
    """When it was cancelled."""
    error_code: Mapped[str | None]
    """Kind of the last failure: `handler`, `timeout`, `lease_lost` or a code of the handler."""
    dedupe_key: Mapped[str | None]
    """At most one live task has it; free again when that task is final, or its cancellation is requested."""
    queue: Mapped[str] = mapped_column(server_default=DEFAULT_QUEUE)
    """Name of its queue, at most 200 bytes; a backlog of one queue does not slow the claims of another."""
    concurrency_key: Mapped[str | None]
    """What the limit per key of its queue counts by, such as a customer; a task without a key is not counted."""

    ordering_key: Mapped[str | None]
    """Tasks with the same key run one after the other, in the order in which they were enqueued. Added for that order."""
    awaits_turn: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether an earlier task with its `ordering_key` has not ended; a retry keeps its turn."""
    waits_for: Mapped[int] = mapped_column(server_default=text("0"))
    """How many dependencies and tasks of its batch have not ended; it cannot be claimed before none is left.

    No index has it, so that counting down is a heap-only update.
    """
    awaited_by: Mapped[int] = mapped_column(server_default=text("0"))
    """How often something was made to wait for its end; if 0, its end has nothing to release.

    It only grows, and so also shows whether something was added since a snapshot.
    """
    not_before: Mapped[datetime | None]
    """The earliest time of a claim once it waits for no other task; until then `available_at` is the year 9999."""
    batch_id: Mapped[uuid.UUID | None]
    """The batch that it is part of: the `id` of the task that waits for all of them, if the batch has one."""

    parent: Mapped[Task | None] = relationship(back_populates="children", remote_side="Task.id")
    children: Mapped[list[Task]] = relationship(back_populates="parent", passive_deletes="all")
    results: Mapped[list[TaskResult]] = relationship(
        back_populates="task", cascade="all, delete-orphan", passive_deletes=True
    )


class TaskResult(Base):
    """One result of a task; a task may have several, of different types."""

    __tablename__ = "task_results"
    __table_args__ = (Index(None, "task_id"),)

    id: Mapped[UuidId]
    """Key of the row."""
    task_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    """The task; its results are deleted with it."""
    result_type: Mapped[str]
    """Kind of `content`, defined by the handler."""
    content: Mapped[dict[str, Any]]
    """The result."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the caller; not used by the library."""

    task: Mapped[Task | None] = relationship(back_populates="results")


status_times_by_trigger(
    Task,
    "(NEW.status = 'completed') <> (NEW.completed_at IS NOT NULL)"
    " OR (NEW.status = 'failed') <> (NEW.failed_at IS NOT NULL)"
    " OR (NEW.status = 'cancelled') <> (NEW.cancelled_at IS NOT NULL)"
    " OR NEW.status = 'processing' AND NEW.started_at IS NULL"
    " OR NEW.status <> 'processing' AND NEW.lease_expires_at IS NOT NULL",
)


class TaskDependency(Base):
    """A task that waits, or has waited, for another one. Added so that a task can wait for several others."""

    __tablename__ = "task_dependencies"
    __table_args__ = (
        CheckConstraint("task_id <> after_id", name="itself"),
        Index(None, "after_id"),
    )

    task_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    """The task that waits."""
    after_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    """The task whose end it waits for."""
    runs_anyway: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it also runs after the other one failed or was cancelled; otherwise it is cancelled then."""
    settled: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the end of the other task has been taken into account."""


class TaskProgress(Base):
    """How far the handler of a task has come, as it reported last.

    A table beside that of the tasks: a report never waits for the row of the task, and no heartbeat waits for a report.
    """

    __tablename__ = "task_progress"
    __table_args__ = (
        CheckConstraint("fraction BETWEEN 0 AND 1", name="fraction"),
        Index(None, "deleted_with"),
        {
            "postgresql_with": {
                "fillfactor": 70,
                "autovacuum_vacuum_scale_factor": 0.01,
                "autovacuum_vacuum_threshold": 1000,
                "autovacuum_vacuum_cost_delay": 0,
            }
        },
    )

    task_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    """The task. Not a foreign key: its check would wait for a transaction that has locked the row of the task."""
    fraction: Mapped[float] = mapped_column(Double)
    """How much is done, from 0 to 1."""
    note: Mapped[str | None]
    """What is being done, for people."""
    claim_seq: Mapped[int] = mapped_column(BigInteger)
    """The number of the claim that reported it: a later attempt begins anew."""
    reported_at: Mapped[CreatedAt]
    """When it was reported."""
    deleted_with: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    """The task again, with which the report is deleted. NULL until a report finds the row of the task unlocked."""
