"""How one run of a durable function ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..queries.leases import HANDLER

__all__ = ["WorkflowOutcome", "WorkflowRun"]


class WorkflowRun(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The attempt failed; the execution may be tried again."""
    SUSPENDED = "suspended"
    """It sleeps, or waits for an event or a child, and is not held any more."""
    LOST = "lost"
    """Its lease is lost: nothing is left to be done."""


@dataclass(frozen=True)
class WorkflowOutcome:
    """How a run ended, and what `complete` or `fail` of the repository are called with."""

    status: WorkflowRun
    """How it ended."""
    output: Any = None
    """The output of a completed run."""
    error: str = ""
    """The text of a failure."""
    code: str = HANDLER
    """The kind of a failure."""
    retry: bool = True
    """Whether a failed attempt is retried."""
    delay: float | None = None
    """Seconds until the next attempt; None is 1, 2, 4 ... 300."""
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    """What the code raised, for a log."""
