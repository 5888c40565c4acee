"""Arguments and results of the repository of tasks."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from ..checks import check_text, finite, within
from ..errors import InvalidInputError

__all__ = [
    "MOST_COUNTED",
    "AfterFailure",
    "ClaimedTask",
    "NewTask",
    "NewTaskResult",
    "QueueHealth",
    "TaskBackoff",
    "TaskBatch",
    "TaskBatchProgress",
    "TaskCount",
    "check_progress",
]

AfterFailure = Literal["cancel", "run"]
"""What becomes of a task when one that it depends on fails or is cancelled."""

MOST_COUNTED = 20_000
"""Where a count of tasks stops by default."""

MAX_NOTE_BYTES = 2000
"""The longest note about the progress of a task."""


class NewTask(TypedDict):
    """One task of `enqueue_many`; the keys are the arguments of `enqueue`."""

    intent: str
    content: NotRequired[Mapping[str, Any] | None]
    task_id: NotRequired[str | None]
    priority: NotRequired[int]
    delay: NotRequired[float]
    available_at: NotRequired[datetime | None]
    max_retries: NotRequired[int]
    timeout_seconds: NotRequired[int]
    assigned_to: NotRequired[str | None]
    created_by: NotRequired[str | None]
    parent_task_id: NotRequired[uuid.UUID | None]
    dedupe_key: NotRequired[str | None]
    queue: NotRequired[str]
    concurrency_key: NotRequired[str | None]
    metadata: NotRequired[Mapping[str, Any] | None]
    ordering_key: NotRequired[str | None]
    after: NotRequired[Sequence[uuid.UUID | str]]
    after_failure: NotRequired[AfterFailure]


class NewTaskResult(TypedDict):
    """One result that `complete` stores."""

    result_type: str
    content: Mapping[str, Any]
    metadata: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """What `batch` has enqueued."""

    id: uuid.UUID
    """The batch; equal to the `id` of the task that waits for it, if there is one."""
    tasks: Sequence[uuid.UUID]
    """The `id` of each task, in order."""
    then: uuid.UUID | None
    """The `id` of the task that runs once the others have ended."""
    created: bool
    """Whether this call created the batch; False if the task `then` existed before, and nothing was enqueued."""


@dataclass(frozen=True, slots=True)
class TaskBatchProgress:
    """How many tasks of a batch have which status; purged ones are not counted."""

    total: int
    """All tasks of the batch, without the one that waits for them."""
    pending: int
    """Tasks that have not begun, or wait for another attempt."""
    processing: int
    """Tasks that a worker holds."""
    completed: int
    """Tasks that were completed."""
    failed: int
    """Tasks that have failed."""
    cancelled: int
    """Tasks that were cancelled."""

    @property
    def ended(self) -> int:
        """Tasks with a final status."""
        return self.completed + self.failed + self.cancelled

    @property
    def fraction(self) -> float:
        """The part of the tasks that has ended, from 0 to 1; 1 for an empty batch."""
        return self.ended / self.total if self.total else 1.0


class TaskCount(int):
    """A number of tasks, which may be the least that there are.

    It is an integer: `count > 5` and `f"{count}"` work as with any other.
    """

    exact: bool
    """Whether this is the whole number; False if there are more, and the count stopped."""

    def __new__(cls, counted: int, up_to: int | None = None) -> TaskCount:
        """Return a count of `counted` rows that stopped after one more than `up_to`."""
        exact = up_to is None or counted <= up_to
        count = super().__new__(cls, counted if exact or up_to is None else up_to)
        count.exact = exact
        return count


@dataclass(frozen=True, slots=True)
class TaskBackoff:
    """The wait before a failed task is retried.

    It is `base * 2 ** attempts` seconds, at most `cap`, plus or minus up to `jitter` of it.
    """

    base: float = 5.0
    """Seconds before the first retry."""
    cap: float = 3600.0
    """Maximum seconds of a wait, before jitter."""
    jitter: float = 0.1
    """Fraction of the wait, 0 to 1, by which it varies.

    It spreads the retries of tasks that failed together.
    """

    def __post_init__(self) -> None:
        for name, value, high in (
            ("base", self.base, 1e8),
            ("cap", self.cap, 1e8),
            ("jitter", self.jitter, 1),
        ):
            if not 0 <= value <= high:
                raise InvalidInputError(f"TaskBackoff.{name}: expected 0 to {high:,.0f}, got {value:,}")

    def spread(self) -> float:
        """Return a random factor from `1 - jitter` to `1 + jitter`."""
        return random.uniform(1 - self.jitter, 1 + self.jitter)


class ClaimedTask(NamedTuple):
    """A task that the caller holds until `lease_expires_at`.

    Pass it to the methods that extend, complete, fail or release it.
    """

    id: uuid.UUID
    task_id: str
    intent: str
    content: dict[str, Any]
    metadata: dict[str, Any]
    priority: int
    created_by: str | None
    assigned_to: str | None
    parent_task_id: uuid.UUID | None
    available_at: datetime
    """Since when it could be claimed."""
    retry_count: int
    """Attempts that failed in the handler."""
    crash_count: int
    """Attempts whose worker vanished."""
    max_retries: int
    """How many failures and crashes are followed by another attempt."""
    attempt_deadline_at: datetime
    """When the `timeout_seconds` of the attempt end, by the clock of the database."""
    claim_seq: int
    """Grows with each claim of the task; a fencing token for systems outside the database."""
    lease_token: uuid.UUID
    """The token that every write by the holder is checked against."""
    lease_expires_at: datetime
    """The end of the lease, by the clock of the database."""
    lease: float
    """The requested seconds of the lease, which a heartbeat requests again."""
    held_until: float
    """The end of the lease by `time.monotonic()` of this process, counted from before the claim was sent."""
    cancel_requested: bool = False
    """Whether a cancellation was requested, as of the last heartbeat; stop, and end the work with `fail`."""
    queue: str = "default"
    """The queue that it was claimed from."""

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


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """The state of the queue. Counts stop at 10,000, which then means "or more"."""

    ready: int
    """Tasks that can be claimed now."""
    oldest_ready_age: float | None
    """Seconds since the longest-waiting of them became available; None if no task is ready."""
    running: int
    """Tasks that are held."""
    expired: int
    """Held tasks whose lease has expired; more than a few mean that no worker reaps."""
    failed: int
    """Failed tasks."""
    waiting: int
    """Tasks that wait for others: for their turn, for dependencies, or for a batch."""
    dead_tuples: int
    """Row versions of the table that wait for vacuum, according to the statistics."""
    oldest_snapshot_age: float | None
    """Seconds since the start of the oldest transaction that blocks vacuum, as far as the role can see."""
    oldest_snapshot_pid: int | None
    """Its server process."""
    oldest_snapshot_application: str | None
    """Its application name."""
    overdue_handlers: int
    """Handlers that still run although their attempt has ended, and that occupy their worker.

    Counts the workers of all tenants of this database that listen. A worker behind a transaction pooler, or
    one that drains, reports its own only in its log.
    """
    overdue_schedules: int
    """Active schedules whose next slot is past its grace period; more than a few mean that no worker runs schedules."""
    waiting_executions: int
    """Executions of schedules that can be claimed now."""
    oldest_execution_age: float | None
    """Seconds since the longest-waiting of them became available; a long time means that none has a handler of it."""
    missed_slots: int
    """Slots of the last day that were not run: dropped after a downtime, or skipped for an earlier one that was live."""
    paused_queues: int = 0
    """Queues that are paused; their waiting tasks count as ready."""
    limited_queues: int = 0
    """Queues with a limit or a rate."""


def check_progress(fraction: float, note: str | None) -> None:
    """Check the arguments of a report about progress.

    Raises:
        InvalidInputError: The fraction is not a number from 0 to 1, or the note is too long or cannot be stored.
    """
    finite("fraction", fraction)
    within("fraction", fraction, 0, 1)
    if note is not None and note != "":
        check_text("note", note, MAX_NOTE_BYTES)
