"""Workflows: definitions, their executions, and the checkpoints from which an execution resumes."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..types import EnumText
from .base import Base, BigIntId, CreatedAt, UpdatedAt, one_of, status_times_by_trigger, updated_by_trigger

__all__ = [
    "Workflow",
    "WorkflowEvent",
    "WorkflowExecution",
    "WorkflowExecutionStatus",
    "WorkflowStatus",
    "WorkflowStep",
    "WorkflowStepKind",
]


class WorkflowStatus(StrEnum):
    """Status of a version; `archived` is added for versions that are no longer started."""

    DRAFT = "draft"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    ARCHIVED = "archived"


class WorkflowExecutionStatus(StrEnum):
    """`pending` and `running` are live; the others are final. `cancelled` is added.

    An execution that sleeps or waits is `pending`, with `available_at` in the future.
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WorkflowStepKind(StrEnum):
    """What a step was; added, so that a resumed run notices that its code now does something else."""

    STEP = "step"
    """A function of the caller."""
    SLEEP = "sleep"
    EVENT = "event"
    """A wait for an event."""
    CHILD = "child"
    """The start of a child; its output is the id of the execution."""
    RESULT = "result"
    """The end of a child; its output is that of the child."""
    VALUE = "value"
    """A time, a random number, or a UUID."""
    STATE = "state"
    """A value that the execution shows to others."""
    PATCH = "patch"
    """A marker that the execution has taken the new way through changed code."""


@updated_by_trigger
class Workflow(Base):
    """One version of a definition. A change is a new version; executions keep theirs."""

    __tablename__ = "workflows"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        one_of("status", WorkflowStatus),
        CheckConstraint("version > 0", name="version"),
        Index(None, "status"),
    )

    id: Mapped[BigIntId]
    """Key of the row, which identifies one version of one workflow."""
    name: Mapped[str]
    """Name of the workflow, the same in all its versions."""
    definition: Mapped[dict[str, Any]]
    """Its steps, defined by the orchestrator; not used by the library."""
    status: Mapped[WorkflowStatus] = mapped_column(
        EnumText(WorkflowStatus), server_default=WorkflowStatus.DRAFT
    )
    """Status of this version."""
    created_by: Mapped[str | None]
    """Creator."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    version: Mapped[int | None]
    """Number of the version; NULL if not created by this library.

    Added, so that a worker can claim the versions that it can run.
    """

    executions: Mapped[list[WorkflowExecution]] = relationship(
        back_populates="workflow", passive_deletes="all"
    )


class WorkflowExecution(Base):
    """One run of a workflow. Every write by its holder carries `lease_token`; so does every checkpoint."""

    __tablename__ = "workflow_executions"
    __table_args__ = (
        UniqueConstraint("idempotency_key"),
        one_of("status", WorkflowExecutionStatus),
        CheckConstraint("retry_count >= 0 AND crash_count >= 0 AND max_retries >= 0", name="counters"),
        CheckConstraint("timeout_seconds > 0", name="timeout"),
        CheckConstraint("(status = 'completed') = (completed_at IS NOT NULL)", name="completed_at"),
        CheckConstraint("failed_at IS NULL OR status = 'failed'", name="failed_at"),
        CheckConstraint("cancelled_at IS NULL OR status = 'cancelled'", name="cancelled_at"),
        CheckConstraint("lease_expires_at IS NULL OR status = 'running'", name="lease"),
        CheckConstraint("waiting_for IS NULL OR status = 'pending'", name="waiting_for"),
        CheckConstraint("(forked_from_id IS NULL) = (forked_from_seq IS NULL)", name="forked_from"),
        Index("idx_workflow_executions_workflow_id", "workflow_id", "id"),
        Index(None, "status"),
        Index(
            "idx_workflow_executions_ready",
            "workflow_id",
            "available_at",
            "id",
            postgresql_where=text("status = 'pending'"),
        ),
        Index("idx_workflow_executions_running", "id", postgresql_where=text("status = 'running'")),
        Index(
            "idx_workflow_executions_finished",
            text("COALESCE(completed_at, failed_at, cancelled_at)"),
            postgresql_where=text("status IN ('completed', 'failed', 'cancelled')"),
        ),
        Index(
            "idx_workflow_executions_parent_execution_id",
            "parent_execution_id",
            "id",
            postgresql_where=text("parent_execution_id IS NOT NULL"),
        ),
        Index(None, "forked_from_id", postgresql_where=text("forked_from_id IS NOT NULL")),
        {
            "postgresql_with": {
                "fillfactor": 70,
                "autovacuum_vacuum_scale_factor": 0.01,
                "autovacuum_vacuum_threshold": 1000,
                "autovacuum_vacuum_cost_delay": 0,
            }
        },
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    workflow_id: Mapped[int | None] = mapped_column(ForeignKey("workflows.id"))
    """The version that is run; workers pass those that they can run to `claim`."""
    status: Mapped[WorkflowExecutionStatus] = mapped_column(
        EnumText(WorkflowExecutionStatus), server_default=WorkflowExecutionStatus.PENDING
    )
    """Status."""
    current_step: Mapped[int] = mapped_column(server_default=text("0"))
    """Progress when its lease was last extended or ended; for information, `workflow_steps` is exact."""
    input_data: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Input; never changed."""
    output_data: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    """Output, any JSON value; written together with the final status."""
    error_message: Mapped[str | None]
    """Message of the last failure."""
    started_at: Mapped[datetime | None]
    """When its first attempt began."""
    completed_at: Mapped[datetime | None]
    """When it was completed; set exactly in the status `completed`."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    workflow_version: Mapped[int | None]
    """The version at the start; added. NULL if not created by this library."""
    definition: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """The definition at the start; NULL if not created by this library.

    Added, so that a later change of the workflow has no effect.
    """
    idempotency_key: Mapped[str | None]
    """Unique key of the caller.

    Added: starting it again returns the same execution. Children have one too.
    """
    parent_execution_id: Mapped[int | None] = mapped_column(ForeignKey("workflow_executions.id"))
    """The execution that started this one as a child; added, for waiting and for cancellation."""
    forked_from_id: Mapped[int | None] = mapped_column(ForeignKey("workflow_executions.id"))
    """The execution whose first steps were copied; added, for a replay from a step."""
    forked_from_seq: Mapped[int | None]
    """The first step that was not copied; added, set with `forked_from_id`."""
    available_at: Mapped[CreatedAt]
    """Earliest time of a claim; added for delays, back-off, sleeps, and waits for events."""
    waiting_for: Mapped[str | None]
    """The event that ends the wait before `available_at`; added, NULL if it waits for no event."""
    wait_deadline_at: Mapped[datetime | None]
    """Deadline of the wait for the event; added, kept until the wait has its checkpoint."""
    failed_at: Mapped[datetime | None]
    """When it failed finally; added."""
    cancelled_at: Mapped[datetime | None]
    """When it was cancelled; added."""
    cancel_requested_at: Mapped[datetime | None]
    """When its cancellation was requested while a worker held it; added, checked before each step."""
    retry_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts that failed and were retried since the last new checkpoint; added."""
    max_retries: Mapped[int] = mapped_column(server_default=text("3"))
    """How often attempts without a new checkpoint are retried before the execution fails; added."""
    crash_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts whose worker vanished since the last new checkpoint; added, counted separately from failures."""
    timeout_seconds: Mapped[int | None]
    """Seconds that one attempt may take, however often its lease is extended; added, NULL is no limit."""
    worker_id: Mapped[str | None]
    """The process that holds or last held it; added, for information only."""
    lease_token: Mapped[uuid.UUID | None]
    """New in each claim; added, kept on a finished row to distinguish a repeated completion from a stale one."""
    claim_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Counts the claims; added as a fencing token for systems outside the database."""
    lease_expires_at: Mapped[datetime | None]
    """When the lease expires unless the holder extends it; added, deliberately not indexed, so that heartbeats are HOT."""
    attempt_started_at: Mapped[datetime | None]
    """When the current attempt began; added, because `started_at` is that of the first."""
    attempt_deadline_at: Mapped[datetime | None]
    """When the `timeout_seconds` of the current attempt end; added, so that reaping needs no computation."""
    error_code: Mapped[str | None]
    """Kind of the last failure: `handler`, `timeout`, `lease_lost` or a code of the workflow; added."""
    lease_seconds: Mapped[float | None] = mapped_column(Double)
    """Seconds of the lease of its last claim; added, for information only."""

    workflow: Mapped[Workflow | None] = relationship(back_populates="executions")
    parent: Mapped[WorkflowExecution | None] = relationship(
        back_populates="children", foreign_keys=[parent_execution_id], remote_side="WorkflowExecution.id"
    )
    children: Mapped[list[WorkflowExecution]] = relationship(
        back_populates="parent", foreign_keys=[parent_execution_id], passive_deletes="all"
    )
    forked_from: Mapped[WorkflowExecution | None] = relationship(
        back_populates="forks", foreign_keys=[forked_from_id], remote_side="WorkflowExecution.id"
    )
    forks: Mapped[list[WorkflowExecution]] = relationship(
        back_populates="forked_from", foreign_keys=[forked_from_id], passive_deletes="all"
    )
    steps: Mapped[list[WorkflowStep]] = relationship(
        back_populates="execution",
        cascade="all, delete-orphan",
        passive_deletes=True,
        order_by="WorkflowStep.seq",
    )
    events: Mapped[list[WorkflowEvent]] = relationship(
        back_populates="execution", cascade="all, delete-orphan", passive_deletes=True
    )


class WorkflowStep(Base):
    """The checkpoint of one finished step: the first write wins, and a resumed run uses it unchanged.

    Added: without it an execution that lost its worker would start from the beginning.
    """

    __tablename__ = "workflow_steps"
    __table_args__ = (
        UniqueConstraint("execution_id", "seq"),
        CheckConstraint("seq >= 0 AND attempt > 0", name="counters"),
        one_of("kind", WorkflowStepKind),
    )

    execution_id: Mapped[int] = mapped_column(
        ForeignKey("workflow_executions.id", ondelete="CASCADE"), primary_key=True
    )
    """The execution; its steps are deleted with it."""
    step_key: Mapped[str] = mapped_column(primary_key=True)
    """Key of the step in the execution: its name, with a counter if the name repeats."""
    seq: Mapped[int]
    """Number of the step, from 0; with `name` it reveals that the code took another path than before."""
    name: Mapped[str]
    """Name of the step in the code."""
    attempt: Mapped[int] = mapped_column(server_default=text("1"))
    """The attempt that finished it, from 1."""
    output: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    """Output, any JSON value; for a sleep, its end."""
    error: Mapped[str | None]
    """Message of its final failure, which a resumed run raises again; NULL is success."""
    lease_token: Mapped[uuid.UUID | None]
    """The lease under which it was written; distinguishes a repeated write from a stale one."""
    started_at: Mapped[datetime | None]
    """When it began."""
    completed_at: Mapped[CreatedAt]
    """When it ended and was stored."""
    kind: Mapped[WorkflowStepKind] = mapped_column(
        EnumText(WorkflowStepKind), server_default=WorkflowStepKind.STEP
    )
    """What the step was; with `seq` and `name` it reveals that the code took another path than before."""

    execution: Mapped[WorkflowExecution] = relationship(back_populates="steps")


class WorkflowEvent(Base):
    """An event for one execution, by name: the first write wins. Added, so that an execution can wait."""

    __tablename__ = "workflow_events"

    execution_id: Mapped[int] = mapped_column(
        ForeignKey("workflow_executions.id", ondelete="CASCADE"), primary_key=True
    )
    """The execution; its events are deleted with it."""
    name: Mapped[str] = mapped_column(primary_key=True)
    """Name of the event; unique in an execution."""
    payload: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    """Payload, any JSON value."""
    created_at: Mapped[CreatedAt]
    """When it was sent."""

    execution: Mapped[WorkflowExecution] = relationship(back_populates="events")


status_times_by_trigger(
    WorkflowExecution,
    "(NEW.status = 'completed') <> (NEW.completed_at IS NOT NULL)"
    " OR (NEW.status = 'failed') <> (NEW.failed_at IS NOT NULL)"
    " OR (NEW.status = 'cancelled') <> (NEW.cancelled_at IS NOT NULL)"
    " OR NEW.status = 'running' AND NEW.started_at IS NULL"
    " OR NEW.status <> 'running' AND NEW.lease_expires_at IS NOT NULL"
    " OR NEW.status <> 'pending' AND NEW.waiting_for IS NOT NULL",
)
