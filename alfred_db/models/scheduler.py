"""Scheduler: commands that recur, and one execution for each slot of their schedules."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..types import EnumText
from .base import Base, BigIntId, CreatedAt, UpdatedAt, one_of, updated_by_trigger

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
    """What becomes of slots that passed while no scheduler ran: none, the last one, or all of them."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


class OverlapPolicy(StrEnum):
    """What becomes of a slot that comes while an earlier one is live: it runs too, or is skipped."""

    ALLOW = "allow"
    SKIP = "skip"


@updated_by_trigger
class ScheduledTask(Base):
    """A command and its schedule. The next slot is stored, so that downtime loses none."""

    __tablename__ = "scheduler_tasks"
    __table_args__ = (
        UniqueConstraint("schedule_key"),
        one_of("misfire_policy", MisfirePolicy),
        one_of("overlap_policy", OverlapPolicy),
        CheckConstraint("max_retries >= 0 AND retry_delay >= 0", name="retries"),
        CheckConstraint("timeout > 0", name="timeout"),
        CheckConstraint("misfire_grace_seconds >= 0 AND max_catchup > 0", name="misfire"),
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
    """What people call it; not unique."""
    command: Mapped[str]
    """What is to be run: the name of a handler, or a command line."""
    schedule: Mapped[str | None]
    """Cron expression of five fields, read in `timezone`; NULL recurs at no time of its own."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether its slots are run; a slot that is due when it is switched off is not."""
    max_retries: Mapped[int] = mapped_column(server_default=text("3"))
    """How often a failed attempt at a slot is repeated."""
    retry_delay: Mapped[int] = mapped_column(server_default=text("60"))
    """Seconds between attempts at a slot."""
    timeout: Mapped[int] = mapped_column(server_default=text("300"))
    """Seconds that one attempt may take."""
    created_at: Mapped[CreatedAt]
    """When it was made."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    schedule_key: Mapped[str | None]
    """The caller's own key, added: registering it from every replica makes one row."""
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    """IANA name of the zone of `schedule`; added, because 02:30 is not the same everywhere."""
    next_run_at: Mapped[datetime | None]
    """The next slot; stored, so that downtime loses none. NULL is none: switched off, run by hand, or not looked at."""
    misfire_policy: Mapped[MisfirePolicy] = mapped_column(
        EnumText(MisfirePolicy), server_default=MisfirePolicy.LATEST
    )
    """What becomes of slots missed in downtime; added, so that a restart makes no storm."""
    misfire_grace_seconds: Mapped[int] = mapped_column(server_default=text("60"))
    """Seconds past its time up to which a slot is late and not missed; added for `misfire_policy`."""
    max_catchup: Mapped[int] = mapped_column(server_default=text("100"))
    """How many missed slots `all` makes up for at most, the latest first; added for `misfire_policy`."""
    overlap_policy: Mapped[OverlapPolicy] = mapped_column(
        EnumText(OverlapPolicy), server_default=OverlapPolicy.ALLOW
    )
    """What becomes of a slot while an earlier one is live; added for work that must not run beside itself."""

    executions: Mapped[list[ScheduledExecution]] = relationship(back_populates="task", passive_deletes="all")


class ScheduledExecution(Base):
    """One slot of a schedule. Its row is what makes it run once: retries are attempts of the same row.

    Every write by its holder carries `lease_token`, so a worker that lost it is refused.
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
    """What it is a slot of."""
    status: Mapped[ExecutionStatus] = mapped_column(
        EnumText(ExecutionStatus), server_default=ExecutionStatus.PENDING
    )
    """Where the slot stands."""
    start_time: Mapped[datetime | None]
    """When its first attempt began."""
    end_time: Mapped[datetime | None]
    """When it ended, in whatever way; NULL exactly while it is live."""
    exit_code: Mapped[int | None]
    """What the command returned; 0 is success."""
    output: Mapped[str | None]
    """What it wrote."""
    error_output: Mapped[str | None]
    """What it wrote as errors, or the text of its last failure."""
    created_at: Mapped[CreatedAt]
    """When the row was made; later than `scheduled_at` by the scheduler's delay."""
    scheduled_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    """The slot itself; added: unique in a task, so that many schedulers make one execution of it."""
    available_at: Mapped[CreatedAt]
    """Not to be claimed earlier; added for the delay between attempts."""
    retry_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts that failed and were filed again; added to hold `max_retries`."""
    crash_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts whose worker vanished; added, counted apart from the command's own failures."""
    missed_slots: Mapped[int] = mapped_column(server_default=text("0"))
    """How many slots before this one were dropped by `misfire_policy`; added, so that it can be seen."""
    exclusive: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it is the task's only live one; added, set by `overlap_policy` and held by a unique index."""
    worker_id: Mapped[str | None]
    """The process that holds or last held it; added, an aid to people, never what decides."""
    lease_token: Mapped[uuid.UUID | None]
    """Fresh in each claim; added, kept on a finished row to tell a repeated completion from a stale one."""
    claim_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Counts the claims; added to fence systems outside this database, which want a growing number."""
    lease_expires_at: Mapped[datetime | None]
    """Until when the holder may be silent; added, deliberately not indexed, so that heartbeats are HOT."""
    attempt_started_at: Mapped[datetime | None]
    """When the current attempt began; added, as `start_time` is the first one's."""
    attempt_deadline_at: Mapped[datetime | None]
    """When the current attempt has used up `timeout`; added, stored so that reaping needs no arithmetic."""
    cancel_requested_at: Mapped[datetime | None]
    """When its cancellation was asked for while a worker held it; added."""
    error_code: Mapped[str | None]
    """Kind of the last failure: `handler`, `timeout`, `lease_lost` or the command's own; added."""
    lease_seconds: Mapped[float | None] = mapped_column(Double)
    """How long its last claim was for; added, an aid to people: the holder has it in what `claim` returned."""

    task: Mapped[ScheduledTask | None] = relationship(back_populates="executions")
