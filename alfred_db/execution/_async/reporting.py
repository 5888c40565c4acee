"""Progress of tasks as their holders report it, in one statement for any number of them."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncSession

from ...queries import task_reports as queries
from ...values.tasks import ClaimedTask
from .driver import fetch

__all__ = ["report"]


async def report(
    session: AsyncSession, reports: Collection[tuple[ClaimedTask, float, str | None]]
) -> set[uuid.UUID]:
    """Store the progress of tasks, one report for each; return the tasks that their callers still hold."""
    rows = await fetch(
        session,
        queries.report(),
        {
            "ids": [claimed.id for claimed, _, _ in reports],
            "tokens": [claimed.lease_token for claimed, _, _ in reports],
            "fractions": [float(fraction) for _, fraction, _ in reports],
            "notes": [note for _, _, note in reports],
        },
    )
    return {row[0] for row in rows}
