"""What the repository of the scheduler gives back when it is more than a row."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

__all__ = ["ClaimedExecution", "HeldExecution", "ScheduleOutcome", "ScheduleProblem", "SchedulerTick"]


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


@dataclass(frozen=True, slots=True)
class ClaimedExecution:
    """An execution that is the caller's until `lease_expires_at`; every write needs `id` and `lease_token`."""

    id: int
    task_id: int
    name: str
    command: str
    scheduled_at: datetime
    """The slot."""
    lease_token: uuid.UUID
    claim_seq: int
    """Grows with each claim of the execution: a fence for systems outside the database."""
    lease_expires_at: datetime
    attempt_deadline_at: datetime
    """When the attempt has used up the task's `timeout`, by the database's clock."""
    retry_count: int
    crash_count: int
    max_retries: int
    missed_slots: int
    """How many slots before this one were dropped."""

    @property
    def attempt(self) -> int:
        """Which attempt at the slot this is, from 1."""
        return self.retry_count + self.crash_count + 1


@dataclass(frozen=True, slots=True)
class HeldExecution:
    """An execution that is still the caller's."""

    id: int
    lease_expires_at: datetime
    cancel_requested_at: datetime | None
    """When its cancellation was asked for: stop, and end it by `fail`."""
