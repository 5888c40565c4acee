"""What the repository of workflows gives back when it is more than a row."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

__all__ = [
    "MAX_JSON_BYTES",
    "ClaimedWorkflow",
    "WaitingWorkflowVersion",
    "WorkflowWaitResult",
]

MAX_JSON_BYTES = 1 << 20
"""How long a definition, an input, an output or a payload may be as JSON; larger ones go by reference."""


class ClaimedWorkflow(NamedTuple):
    """An execution that is the caller's until `lease_expires_at`; pass it to whatever the caller does with it next."""

    id: int
    workflow_id: int
    name: str
    version: int | None
    definition: dict[str, Any] | None
    """The definition as it was when the execution was started."""
    input: dict[str, Any] | None
    current_step: int
    """How many steps are finished; `replay` and `steps` give them."""
    lease_token: uuid.UUID
    """What every write of the holder is checked against."""
    claim_seq: int
    """Grows with each claim of the execution: a fence for systems outside the database."""
    lease_expires_at: datetime
    """By the database's clock."""
    attempt_deadline_at: datetime | None
    """When the attempt has used up its time, by the database's clock; None is no limit."""
    retry_count: int
    """Attempts that failed in the handler since the last new checkpoint."""
    crash_count: int
    """Attempts whose worker vanished since then."""
    max_retries: int
    """How many of both are followed by another."""
    parent_execution_id: int | None
    """The execution that started this one as a part of itself."""
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


@dataclass(frozen=True, slots=True)
class WorkflowWaitResult:
    """How a wait for an event ended."""

    received: bool
    """Whether the event came; False is that the time was up."""
    payload: Any
    """What came with it."""


@dataclass(frozen=True, slots=True)
class WaitingWorkflowVersion:
    """Executions that wait for a worker that can run their version."""

    workflow_id: int
    name: str
    version: int | None
    executions: int
