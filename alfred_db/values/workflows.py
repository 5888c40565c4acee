"""Results of the repository of workflows."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ..models import WorkflowExecutionStatus

__all__ = [
    "MAX_JSON_BYTES",
    "ClaimedWorkflow",
    "WaitingWorkflowVersion",
    "WorkflowChildResult",
    "WorkflowWaitResult",
    "child_event",
]

MAX_JSON_BYTES = 1 << 20
"""Maximum size of a definition, input, output or payload as JSON; pass a reference to larger ones."""


class ClaimedWorkflow(NamedTuple):
    """An execution that the caller holds until `lease_expires_at`.

    Pass it to the methods that extend, complete, fail or release it.
    """

    id: int
    workflow_id: int
    name: str
    version: int | None
    definition: dict[str, Any] | None
    """The definition at the start of the execution."""
    input: dict[str, Any] | None
    current_step: int
    """Number of finished steps; `replay` and `steps` return them."""
    lease_token: uuid.UUID
    """The token that every write by the holder is checked against."""
    claim_seq: int
    """Grows with each claim of the execution; a fencing token for systems outside the database."""
    lease_expires_at: datetime
    """The end of the lease, by the clock of the database."""
    attempt_deadline_at: datetime | None
    """When the time of the attempt ends, by the clock of the database; None is unlimited."""
    retry_count: int
    """Attempts that failed in the handler since the last new checkpoint."""
    crash_count: int
    """Attempts whose worker vanished since then."""
    max_retries: int
    """How many failures and crashes are followed by another attempt."""
    parent_execution_id: int | None
    """The execution that started this one as a child."""
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


@dataclass(frozen=True, slots=True)
class WorkflowWaitResult:
    """How a wait for an event ended."""

    received: bool
    """Whether the event arrived; False if the wait timed out."""
    payload: Any
    """The payload of the event."""


@dataclass(frozen=True, slots=True)
class WorkflowChildResult:
    """How a child of an execution ended."""

    execution_id: int
    """The child."""
    status: WorkflowExecutionStatus
    """`completed`, `failed` or `cancelled`."""
    output: Any
    """The output of a completed child."""
    error: str | None
    """The message of the last failure."""


@dataclass(frozen=True, slots=True)
class WaitingWorkflowVersion:
    """Executions that wait for a worker that can run their version."""

    workflow_id: int
    name: str
    version: int | None
    executions: int


def child_event(child_id: int) -> str:
    """Return what an execution waits for, as `waiting_for`, that waits for a child."""
    return f"child {child_id}"
