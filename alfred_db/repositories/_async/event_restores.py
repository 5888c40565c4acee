"""A log of events that was restored from a dump of another server."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import CursorResult

from ...errors import translated
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import in_transaction
from ...models import EventConsumer
from ...queries import event_consumers, events
from ...queries import event_restores as queries


class AsyncEventRestores(AsyncRepository):
    """The method of the event repository that is called after a restore."""

    @in_transaction
    async def after_restore(self) -> int:
        """Make the log readable on a server where it was restored from a dump.

        Events are ordered by the numbers of their transactions, and those of the other server mean nothing
        here. Its events are renumbered before this server's own. Consumers move back to the first event that
        they may not have read: none loses an event, and some may read events again. Call it after each
        restore from a dump, best before anything is published or read; a later call works too.

        Returns:
            The number of events renumbered.
        """
        readers = await self._all(queries.locked_consumers())
        horizon, newest = (await self._rows(events.snapshot()))[0]
        # All ids up to this one were assigned by the other server: the dump has no later ones.
        known = [
            *await self._all(queries.last_foreign(newest=newest)),
            *(reader.event_id for reader in readers if reader.tx > horizon and reader.event_id),
        ]
        restored = max(known, default=None)
        low = horizon - 1
        if restored is not None:
            for tx in await self._all(queries.first_own(after=restored, newest=newest)):
                low = min(low, tx - 1)
        for reader in readers:
            await self._replace(reader, horizon=horizon, newest=newest, restored=restored, low=low)
        with translated():
            await self._session.execute(queries.forget_times())
            changed = await self._session.execute(queries.renumber(restored=restored, low=low, newest=newest))
        return cast("CursorResult[Any]", changed).rowcount

    async def _replace(
        self, reader: EventConsumer, *, horizon: int, newest: int, restored: int | None, low: int
    ) -> None:
        """Move the consumer to before the first event that it may not have read."""
        ahead = reader.tx > horizon
        statement = queries.first_unread(reader, ahead=ahead, restored=restored, low=low, newest=newest)
        first = next(iter(await self._rows(statement)), None)
        if first is not None and first[0] < horizon:
            place = first[0], first[1] - 1
        elif ahead:  # all before the horizon is read
            place = horizon - 1, max(await self._all(queries.last_id()), default=0)
        else:
            return
        if ahead or place < (reader.tx, reader.event_id):
            with translated():
                await self._session.execute(
                    event_consumers.change(reader.name, {"tx": place[0], "event_id": place[1]})
                )
