"""Messages: the record of those that were handled."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from ...checks import MAX_SECONDS, check_text, within
from ...errors import InvalidInputError
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import fetch
from ...models import ProcessedMessage
from ...queries import messages as queries

MAX_KEY_BYTES = 2000
"""The length that always fits into an index entry."""

HOURS_48 = 48 * 3600.0


class AsyncMessageRepository(AsyncRepository):
    """The record of handled messages, for exactly-once effects."""

    async def first_time(self, message_id: str, *, ttl: float = HOURS_48) -> bool:
        """Record the message for `ttl` seconds; return whether it is new.

        In the transaction of the message's effects, these happen exactly once: a rollback removes the record
        too. A concurrent call for the same message waits until this transaction ends.
        """
        return bool(await self.first_time_many([message_id], ttl=ttl))

    async def first_time_many(self, message_ids: Sequence[str], *, ttl: float = HOURS_48) -> list[str]:
        """Record messages as `first_time` does; return the new ones, in order and without repeats."""
        within("ttl", ttl, 0.001, MAX_SECONDS)
        if isinstance(message_ids, str):
            raise InvalidInputError("message_ids: expected a sequence of ids, got one; put it in a list")
        for message_id in message_ids:
            check_text("message_id", message_id, MAX_KEY_BYTES)
        # All calls lock messages in the same order, so that two of them wait for each other instead of deadlocking.
        parameters = {"message_ids": sorted(set(message_ids)), "ttl": timedelta(seconds=ttl)}
        new = {row[0] for row in await fetch(self._session, queries.first_time(), parameters)}
        return [message_id for message_id in dict.fromkeys(message_ids) if message_id in new]

    async def get(self, message_id: str) -> ProcessedMessage | None:
        """Return the record of the message; after its `expires_at` the message counts as new."""
        return await self._first(queries.get(message_id))

    async def purge(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` (1 to 10,000) expired records; return their number. Only frees space."""
        within("limit", limit, 1, 10_000)
        return len(await self._rows(queries.purge(limit=limit)))

    async def purgeable(self) -> int:
        """Return how many messages calls of `purge` delete in the end."""
        return (await self._rows(queries.purgeable()))[0][0]
