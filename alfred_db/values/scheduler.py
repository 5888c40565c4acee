"""What the repository of the scheduler gives back when it is more than a row."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

__all__ = ["ClaimedExecution", "ScheduleOutcome", "ScheduleProblem", "SchedulerTick"]


class ScheduleOutcome(StrEnum):
    """What `SchedulerRepository.create` did: it is true when the row is new, like the second value of `enqueue`."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"

    def __bool__(self) -> bool:
        """Whether the row is new."""
        return self is ScheduleOutcome.CREATED


@dataclass(frozen=True, slots=True)
class ScheduleProblem:
    """A task whose next slot cannot be computed; it is passed by until its schedule or time zone is corrected."""

    task_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class SchedulerTick:
    """What one call of `tick` did."""

    now: datetime | None
    """The database's time that it went by; None when no task was due."""
    filed: Sequence[int]
    """Ids of the executions that can now be claimed."""
    skipped: int
    """How many slots are not run: those that the misfire policy drops, and those that overlap."""
    invalid: Sequence[ScheduleProblem]
    """Tasks filed by other means than this library, or that need a time zone that this machine lacks."""
    full: bool
    """Whether `limit` was reached: more may be due, so call again at once."""


class ClaimedExecution(NamedTuple):
    """An execution that is the caller's until `lease_expires_at`; pass it to whatever the caller does with it next."""

    id: int
    task_id: int
    """The scheduled task that it is a slot of."""
    name: str
    command: str
    scheduled_at: datetime
    """The slot."""
    lease_token: uuid.UUID
    """What every write of the holder is checked against."""
    claim_seq: int
    """Grows with each claim of the execution: a fence for systems outside the database."""
    lease_expires_at: datetime
    """By the database's clock."""
    attempt_deadline_at: datetime
    """When the attempt has used up the task's `timeout`, by the database's clock."""
    retry_count: int
    """Attempts that failed."""
    crash_count: int
    """Attempts whose worker vanished."""
    max_retries: int
    """How many of both are followed by another."""
    missed_slots: int
    """How many slots before this one were dropped."""
    lease: float
    """Seconds that were asked for, which a heartbeat asks for again."""
    held_until: float
    """The end of the lease on this process's own `time.monotonic()`, counted from before the claim was sent."""
    cancel_requested: bool = False
    """Whether its cancellation was asked for, as of the last heartbeat: stop, and end it by `fail`."""

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.retry_count + self.crash_count + 1

    @property
    def is_over(self) -> bool:
        """Whether the lease has run out without a heartbeat, told without the database: stop, others may have it."""
        return time.monotonic() >= self.held_until
