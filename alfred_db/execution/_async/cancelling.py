"""Telling workers at once that the cancellation of what they hold was requested."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncSession

from ...engine.notifications import cancelled_payload, channel_of_cancelled
from ...queries.lease_endings import notify
from .driver import fetch, tenant_of

__all__ = ["announce"]


async def announce(session: AsyncSession, noun: str, ids: Collection[uuid.UUID | int]) -> None:
    """Notify the workers that hold these rows, one notification for all of them, when the transaction commits.

    The notification is part of the transaction, unlike those of new tasks: to cancel what runs is rare, and no other
    connection is needed. Workers that do not listen see the request in their next heartbeat.

    Args:
        session: The session that has requested the cancellation.
        noun: What they are, `Leased.noun`.
        ids: Those of them that run.
    """
    if ids:
        channel = channel_of_cancelled(dict(tenant_of(session)).get(None))
        await fetch(session, notify(), {"channel": channel, "payload": cancelled_payload(noun, ids)})
