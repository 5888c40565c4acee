"""Scheduler: recurring commands, and one execution for each slot of their schedules."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..types import EnumText
from .base import (
    Base,
    BigIntId,
    CreatedAt,
    Json,
    UpdatedAt,
    one_of,
    status_times_by_trigger,
    updated_by_trigger,
)
from .tasks import DEFAULT_QUEUE

__all__ = ["ExecutionStatus", "MisfirePolicy", "OverlapPolicy", "ScheduledExecution", "ScheduledTask"]


class ExecutionStatus(StrEnum):
    """`pending` and `running` are live; the others are final. `skipped` and `cancelled` are added."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class MisfirePolicy(StrEnum):
    """Which of the slots that passed while no scheduler ran are run: none, the last one, or all."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


class OverlapPolicy(StrEnum):
    """Whether a slot runs while an earlier one is live, or is skipped."""

    ALLOW = "allow"
    SKIP = "skip"


@updated_by_trigger
class ScheduledTask(Base):
    """What to do, and its schedule. The next slot is stored, so that a downtime loses none.

    With an `intent` each slot enqueues a task. Otherwise a worker's handler of the `command` runs it.
    """

    __tablename__ = "scheduler_tasks"
    __table_args__ = (
        UniqueConstraint("schedule_key"),
        one_of("misfire_policy", MisfirePolicy),
        one_of("overlap_policy", OverlapPolicy),
        CheckConstraint("max_retries >= 0 AND retry_delay >= 0", name="retries"),
        CheckConstraint("timeout > 0", name="timeout"),
        CheckConstraint("misfire_grace_seconds >= 0 AND max_catchup > 0", name="misfire"),
        CheckConstraint("priority BETWEEN 1 AND 5", name="priority"),
        Index(None, "is_active"),
        Index(
            "idx_scheduler_tasks_due",
            "next_run_at",
            postgresql_where=text("is_active AND schedule IS NOT NULL"),
        ),
        {"postgresql_with": {"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.01}},
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    name: Mapped[str]
    """Display name; not unique."""
    command: Mapped[str]
    """What to run: the name of a worker's handler for commands; the intent, if each slot enqueues a task."""
    schedule: Mapped[str | None]
    """Cron expression of five fields, in `timezone`; NULL for a task that is only triggered."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether its slots are run; a slot that is due when it is switched off is not."""
    max_retries: Mapped[int] = mapped_column(server_default=text("3"))
    """How often a failed attempt at a slot is repeated."""
    retry_delay: Mapped[int] = mapped_column(server_default=text("60"))
    """Seconds between attempts at a slot."""
    timeout: Mapped[int] = mapped_column(server_default=text("300"))
    """Seconds that one attempt may take."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    schedule_key: Mapped[str | None]
    """The caller's own key, added: registering it from every replica makes one row."""
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    """IANA name of the time zone of `schedule`; added, because 02:30 is not the same time everywhere."""
    next_run_at: Mapped[datetime | None]
    """The next slot; stored, so that downtime loses none. NULL is none: switched off, run by hand, or not looked at."""
    misfire_policy: Mapped[MisfirePolicy] = mapped_column(
        EnumText(MisfirePolicy), server_default=MisfirePolicy.LATEST
    )
    """Which slots missed in a downtime are run; added, so that a restart causes no burst."""
    misfire_grace_seconds: Mapped[int] = mapped_column(server_default=text("60"))
    """Seconds after its time from which on a slot is missed instead of late; added for `misfire_policy`."""
    max_catchup: Mapped[int] = mapped_column(server_default=text("100"))
    """Maximum number of missed slots that `all` runs, the latest ones; added for `misfire_policy`."""
    overlap_policy: Mapped[OverlapPolicy] = mapped_column(
        EnumText(OverlapPolicy), server_default=OverlapPolicy.ALLOW
    )
    """Whether a slot runs while an earlier one is live; added for work that must not run concurrently."""
    intent: Mapped[str | None]
    """Intent of the task that each slot enqueues; NULL if a handler runs `command`. Added, as the next four are."""
    content: Mapped[Json]
    """Content of the task."""
    queue: Mapped[str] = mapped_column(server_default=DEFAULT_QUEUE)
    """Queue of the task."""
    priority: Mapped[int] = mapped_column(server_default=text("1"))
    """Priority of the task, 1 (the least urgent) to 5."""
    dedupe_key: Mapped[str | None]
    """Key of the task: while a live task has it, a slot is skipped."""
    owner: Mapped[str | None]
    """The application that declares it at each start; added, so that it pauses its own schedules only."""
    withdrawn_at: Mapped[datetime | None]
    """When it was paused because its owner declares it no longer; added, so that it resumes if it is declared again."""

    executions: Mapped[list[ScheduledExecution]] = relationship(back_populates="task", passive_deletes="all")


class ScheduledExecution(Base):
    """One slot of a schedule. The row makes it run once: retries are attempts of the same row.

    Every write by its holder carries `lease_token`, so that a worker that lost it is refused.
    """

    __tablename__ = "scheduler_executions"
    __table_args__ = (
        UniqueConstraint("task_id", "scheduled_at"),
        one_of("status", ExecutionStatus),
        CheckConstraint("retry_count >= 0 AND crash_count >= 0 AND missed_slots >= 0", name="counters"),
        CheckConstraint("(status IN ('pending', 'running')) = (end_time IS NULL)", name="end_time"),
        CheckConstraint("lease_expires_at IS NULL OR status = 'running'", name="lease"),
        Index(None, "task_id"),
        Index(None, "status"),
        Index(
            "idx_scheduler_executions_ready",
            "available_at",
            "id",
            postgresql_where=text("status = 'pending'"),
        ),
        Index("idx_scheduler_executions_running", "id", postgresql_where=text("status = 'running'")),
        Index(
            "idx_scheduler_executions_finished",
            "end_time",
            postgresql_where=text("status IN ('completed', 'failed', 'cancelled', 'skipped')"),
        ),
        Index(
            "uq_scheduler_executions_exclusive",
            "task_id",
            unique=True,
            postgresql_where=text("exclusive AND status IN ('pending', 'running')"),
        ),
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
    task_id: Mapped[int | None] = mapped_column(ForeignKey("scheduler_tasks.id"))
    """The scheduled task."""
    status: Mapped[ExecutionStatus] = mapped_column(
        EnumText(ExecutionStatus), server_default=ExecutionStatus.PENDING
    )
    """Status."""
    start_time: Mapped[datetime | None]
    """When its first attempt began."""
    end_time: Mapped[datetime | None]
    """When it ended in any final status; NULL exactly while it is live."""
    exit_code: Mapped[int | None]
    """Exit code of the command; 0 is success."""
    output: Mapped[str | None]
    """Output of the command."""
    error_output: Mapped[str | None]
    """Error output of the command, or the message of its last failure."""
    created_at: Mapped[CreatedAt]
    """When the row was created; later than `scheduled_at` by the delay of the scheduler."""
    scheduled_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    """The slot; added: unique in a task, so that several schedulers create one execution of it."""
    available_at: Mapped[CreatedAt]
    """Earliest time of a claim; added for the delay between attempts."""
    retry_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts that failed and were retried; added to enforce `max_retries`."""
    crash_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts whose worker vanished; added, counted separately from failures of the command."""
    missed_slots: Mapped[int] = mapped_column(server_default=text("0"))
    """Number of slots before this one that `misfire_policy` dropped; added, for information."""
    exclusive: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it is the only live one of its task.

    Added, set by `overlap_policy` and enforced by a unique index.
    """
    worker_id: Mapped[str | None]
    """The process that holds or last held it; added, for information only."""
    lease_token: Mapped[uuid.UUID | None]
    """New in each claim; added, kept on a finished row to distinguish a repeated completion from a stale one."""
    claim_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Counts the claims; added as a fencing token for systems outside the database."""
    lease_expires_at: Mapped[datetime | None]
    """When the lease expires unless the holder extends it; added, deliberately not indexed, so that heartbeats are HOT."""
    attempt_started_at: Mapped[datetime | None]
    """When the current attempt began; added, because `start_time` is that of the first."""
    attempt_deadline_at: Mapped[datetime | None]
    """When the `timeout` of the current attempt ends; added, stored so that reaping needs no computation."""
    cancel_requested_at: Mapped[datetime | None]
    """When its cancellation was requested while a worker held it; added."""
    error_code: Mapped[str | None]
    """Kind of the last failure: `handler`, `timeout`, `lease_lost` or a code of the command; added."""
    lease_seconds: Mapped[float | None] = mapped_column(Double)
    """Seconds of the lease of its last claim; added, for information only."""
    enqueued_task_id: Mapped[uuid.UUID | None]
    """The `id` of the task that the slot has enqueued, which may be deleted by now; added."""

    task: Mapped[ScheduledTask | None] = relationship(back_populates="executions")


status_times_by_trigger(
    ScheduledExecution,
    "(NEW.status IN ('pending', 'running')) <> (NEW.end_time IS NULL)"
    " OR NEW.status = 'running' AND NEW.start_time IS NULL"
    " OR NEW.status <> 'running' AND NEW.lease_expires_at IS NOT NULL",
)
