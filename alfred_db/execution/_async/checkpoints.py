"""The write of a finished step of a workflow, which the repository and durable functions share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import MAX_SECONDS, one_of, plain_text, within
from ...models import WorkflowStepKind
from ...queries import workflow_steps as queries
from ...values.workflows import ClaimedWorkflow
from .driver import fetch

__all__ = ["parameters_of", "store"]

_FRESH = 0.9
"""The share of a lease that must be left for a checkpoint not to extend it."""


def parameters_of(
    claimed: ClaimedWorkflow,
    step_key: str,
    output: str | None,
    *,
    seq: int,
    name: str,
    kind: WorkflowStepKind,
    error: str | None = None,
    attempt: int = 1,
    started_at: datetime | None = None,
    lease: float | None = None,
) -> dict[str, Any]:
    """Return the parameters of `store`; `output` is JSON text."""
    seconds = claimed.lease if lease is None else lease
    within("lease", seconds, 0.001, MAX_SECONDS)
    return {
        "execution": claimed.id,
        "token": claimed.lease_token,
        "key": step_key,
        "number": seq,
        "label": name,
        "kind": one_of(WorkflowStepKind, kind).value,
        "result": output,
        "failure": error and plain_text(error),
        "tries": attempt,
        "began": started_at,
        "lease": timedelta(seconds=seconds),
        "fresh": timedelta(seconds=seconds * _FRESH),
    }


async def store(session: AsyncSession, parameters: Mapping[str, Any]) -> bool:
    """Store a finished step; return False if the lease is lost or a step has its key or number."""
    # Both statements check the token of the claim: without the lease nothing is stored. The first one leaves the
    # execution's row unchanged, and stores nothing when the lease must be extended: then the second one runs.
    for extending in (False, True):
        if await fetch(session, queries.checkpoint(extending=extending), parameters):
            return True
    return False
