"""What the repository of workflows gives back when it is more than a row."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = [
    "MAX_JSON_BYTES",
    "ClaimedWorkflow",
    "HeldWorkflow",
    "WaitingWorkflowVersion",
    "WorkflowWaitResult",
]

MAX_JSON_BYTES = 1 << 20
"""How long a definition, an input, an output or a payload may be as JSON; larger ones go by reference."""


@dataclass(frozen=True, slots=True)
class ClaimedWorkflow:
    """An execution that is the caller's until `lease_expires_at`; every write needs `id` and `lease_token`."""

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
    claim_seq: int
    """Grows with each claim of the execution: a fence for systems outside the database."""
    lease_expires_at: datetime
    attempt_deadline_at: datetime | None
    """When the attempt has used up its time, by the database's clock; None is no limit."""
    retry_count: int
    crash_count: int
    max_retries: int
    parent_execution_id: int | None


@dataclass(frozen=True, slots=True)
class HeldWorkflow:
    """An execution that is still the caller's."""

    id: int
    lease_expires_at: datetime
    cancel_requested_at: datetime | None
    """When its cancellation was asked for: begin no further step, and end it by `fail`."""


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
