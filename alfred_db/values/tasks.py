"""What the repository of tasks takes and gives when it is more than a row."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, NotRequired, TypedDict

from ..errors import InvalidInputError

__all__ = ["ClaimedTask", "NewTask", "NewTaskResult", "QueueHealth", "TaskBackoff"]


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
    metadata: NotRequired[Mapping[str, Any] | None]


class NewTaskResult(TypedDict):
    """One result that `complete` stores."""

    result_type: str
    content: Mapping[str, Any]
    metadata: NotRequired[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TaskBackoff:
    """How long a failed task waits: `base * 2 ** attempts` seconds, at most `cap`, give or take `jitter` of it."""

    base: float = 5.0
    """Seconds before the first retry."""
    cap: float = 3600.0
    """Seconds that no wait exceeds, before jitter."""
    jitter: float = 0.1
    """0 to 1: tasks that failed together are spread over this part of the wait, to either side."""

    def __post_init__(self) -> None:
        for name, value, high in (
            ("base", self.base, 1e8),
            ("cap", self.cap, 1e8),
            ("jitter", self.jitter, 1),
        ):
            if not 0 <= value <= high:
                raise InvalidInputError(f"TaskBackoff.{name}: expected 0 to {high:,.0f}, got {value:,}")

    def spread(self) -> float:
        """A factor from `1 - jitter` to `1 + jitter`."""
        return random.uniform(1 - self.jitter, 1 + self.jitter)


class ClaimedTask(NamedTuple):
    """A task that is the caller's until `lease_expires_at`; pass it to whatever the caller does with it next."""

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
    """How many of both are followed by another."""
    attempt_deadline_at: datetime
    """When the attempt has used up the task's `timeout_seconds`, by the database's clock."""
    claim_seq: int
    """Grows with each claim of the task: a fence for systems outside the database."""
    lease_token: uuid.UUID
    """What every write of the holder is checked against."""
    lease_expires_at: datetime
    """By the database's clock."""
    lease: float
    """Seconds that were asked for, which a heartbeat asks for again."""
    held_until: float
    """The end of the lease on this process's own `time.monotonic()`, counted from before the claim was sent."""
    cancel_requested: bool = False
    """Whether its cancellation was asked for, as of the last heartbeat: stop, and end it by `fail`."""
    queue: str = "default"
    """The queue that it waited in."""

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.retry_count + self.crash_count + 1

    @property
    def is_over(self) -> bool:
        """Whether the lease has run out without a heartbeat, told without the database: stop, others may have it."""
        return time.monotonic() >= self.held_until


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """The state of the queue; what is counted is counted up to 10,000, which then means "or more"."""

    ready: int
    """Tasks that could be claimed now."""
    oldest_ready_age: float | None
    """Seconds that the longest-waiting of them could have been claimed; None when there is none."""
    running: int
    """Tasks that are held."""
    expired: int
    """Held tasks whose lease has expired: more than a few mean that nobody reaps."""
    failed: int
    """Dead letters."""
    dead_tuples: int
    """Row versions of the table that wait for vacuum, as the statistics last had it."""
    oldest_snapshot_age: float | None
    """Seconds since the start of the oldest transaction that keeps vacuum from them, as far as the role may see."""
    oldest_snapshot_pid: int | None
    """Its server process."""
    oldest_snapshot_application: str | None
    """What it calls itself."""
    overdue_handlers: int
    """Handlers that go on though their attempt is over, and so keep a slot of their worker. Workers of all tenants of this
    database count that listen; one behind a transaction pooler, or that drains, says it in its log alone."""
