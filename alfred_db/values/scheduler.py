"""Results of the repository of the scheduler."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, NotRequired, TypedDict

from ..models.scheduler import MisfirePolicy, OverlapPolicy

__all__ = ["ClaimedExecution", "NewSchedule", "ScheduleOutcome", "ScheduleProblem", "SchedulerTick"]


class ScheduleOutcome(StrEnum):
    """What `SchedulerRepository.create` did.

    It is true if the row is new, like the second value of `enqueue`.
    """

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    PAUSED = "paused"
    """Of `declare`: it was declared earlier, and is not any more."""

    def __bool__(self) -> bool:
        """Return whether the row is new."""
        return self is ScheduleOutcome.CREATED


class NewSchedule(TypedDict):
    """One schedule of `declare`; the keys are the arguments of `create`."""

    name: str
    schedule: str
    schedule_key: str
    command: NotRequired[str | None]
    timezone: NotRequired[str]
    intent: NotRequired[str | None]
    content: NotRequired[Mapping[str, Any] | None]
    queue: NotRequired[str]
    priority: NotRequired[int]
    dedupe_key: NotRequired[str | None]
    max_retries: NotRequired[int]
    retry_delay: NotRequired[int]
    timeout: NotRequired[int]
    misfire_policy: NotRequired[MisfirePolicy]
    misfire_grace_seconds: NotRequired[int]
    max_catchup: NotRequired[int]
    overlap_policy: NotRequired[OverlapPolicy]


@dataclass(frozen=True, slots=True)
class ScheduleProblem:
    """A task whose next slot cannot be computed.

    It is skipped until its schedule or time zone is corrected.
    """

    task_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class SchedulerTick:
    """What one call of `tick` did."""

    now: datetime | None
    """The time of the database that it used; None if no task was due."""
    created: Sequence[int]
    """Ids of the executions that it created, which can now be claimed."""
    enqueued: Sequence[uuid.UUID]
    """The `id` of each task that it enqueued, for slots of schedules that have an intent."""
    skipped: int
    """Number of slots that are not run: dropped by the misfire policy, or overlapping."""
    invalid: Sequence[ScheduleProblem]
    """Tasks that were not created by this library, or whose time zone is missing on this machine."""
    full: bool
    """Whether `limit` was reached; more tasks may be due, so call it again at once."""


class ClaimedExecution(NamedTuple):
    """An execution that the caller holds until `lease_expires_at`.

    Pass it to the methods that extend, complete, fail or release it.
    """

    id: int
    task_id: int
    """The scheduled task."""
    name: str
    command: str
    scheduled_at: datetime
    """The slot."""
    lease_token: uuid.UUID
    """The token that every write by the holder is checked against."""
    claim_seq: int
    """Grows with each claim of the execution; a fencing token for systems outside the database."""
    lease_expires_at: datetime
    """The end of the lease, by the clock of the database."""
    attempt_deadline_at: datetime
    """When the `timeout` of the attempt ends, by the clock of the database."""
    retry_count: int
    """Attempts that failed."""
    crash_count: int
    """Attempts whose worker vanished."""
    max_retries: int
    """How many failures and crashes are followed by another attempt."""
    missed_slots: int
    """Number of slots before this one that were dropped."""
    lease: float
    """The requested seconds of the lease, which a heartbeat requests again."""
    held_until: float
    """The end of the lease by `time.monotonic()` of this process, counted from before the claim was sent."""
    cancel_requested: bool = False
    """Whether a cancellation was requested, as of the last heartbeat; stop, and end the work with `fail`."""

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self.retry_count + self.crash_count + 1

    @property
    def is_over(self) -> bool:
        """Whether the lease has expired by the clock of this process.

        If so, stop: another worker may hold the work.
        """
        return time.monotonic() >= self.held_until
