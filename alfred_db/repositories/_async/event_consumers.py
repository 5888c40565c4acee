"""The consumers of events: what each has read, and what it reads next."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ...checks import aware, check_text, within
from ...errors import ConflictError, InvalidInputError, UnreadableRow, shown, translated
from ...execution._async.base import AsyncRepository
from ...execution._async.citus import lowered
from ...execution._async.driver import driver_of, in_transaction
from ...execution._async.unreadable import unreadable
from ...execution.missing import not_found
from ...models import Event, EventConsumer
from ...models.base import table_of
from ...models.events import UNREADABLE
from ...queries import event_consumers as queries
from ...queries import events as log
from ...values.events import EventConsumerLag, EventHorizon, EventPosition

_log = logging.getLogger("alfred_db")

MAX_BATCH = 1000
MAX_TOPICS = 100

MAX_NAME_BYTES = 500
"""A topic shares its index entry with two numbers; 2,000 bytes always fit."""

CLOCK_MARGIN = timedelta(days=1)
"""How far the server's clock may be set back, as in a failover, before an event is taken for an old one."""


class AsyncEventConsumers(AsyncRepository):
    """The methods of the event repository that consumers call."""

    async def subscribe(
        self, consumer: str, topics: Sequence[str], *, start: EventPosition = "now"
    ) -> EventConsumer:
        """Create a consumer of these topics, or add topics to an existing one.

        An existing consumer keeps its position; added topics are read from that position on.

        Args:
            consumer: The name, 1 to 500 bytes.
            topics: 1 to 100 topics.
            start: The position of a new consumer. `now` omits no event that commits after this call.

        Raises:
            NotFoundError: `start` is the id of an event that is not in the log.
        """
        check_text("consumer", consumer, MAX_NAME_BYTES)
        wanted = _topics(topics)
        standing = await self.get_consumer(consumer)
        if standing is None:
            values = {"name": consumer, "topics": wanted, **await self._place(start, wanted)}
            if (made := await self._write(queries.subscribe(values))) is not None:
                return made
            standing = await self._locked(consumer)
        if not set(wanted) <= set(standing.topics):
            standing = await self._locked(consumer)
            missing = [topic for topic in wanted if topic not in standing.topics]
            standing = await self._change(consumer, {"topics": _topics([*standing.topics, *missing])})
        return standing

    @in_transaction
    async def unsubscribe(self, consumer: str, topics: Sequence[str] | None = None) -> bool:
        """Remove topics from a consumer; without `topics`, or with none left, delete the consumer.

        Returns:
            Whether the consumer was deleted.

        Raises:
            NotFoundError: There is no such consumer.
        """
        if topics is not None:
            gone, standing = set(_topics(topics)), (await self._locked(consumer)).topics
            left = [topic for topic in standing if topic not in gone]
            if left:
                if left != standing:
                    await self._change(consumer, {"topics": left})
                return False
        if await self._write(queries.unsubscribe(consumer)) is None:
            raise not_found("consumer", consumer)
        return True

    async def get_consumer(self, consumer: str) -> EventConsumer | None:
        """Return the consumer with this name."""
        return await self._first(queries.consumer(consumer))

    @in_transaction
    async def read(self, consumer: str, *, limit: int = 100) -> Sequence[Event]:
        """Return the next events, which count as read when the transaction commits.

        What the caller does about them in the same transaction happens exactly once; after a rollback they
        are returned again. Until the transaction ends, another reader of the same consumer gets no events.
        An event that Python cannot read is delivered in its place with an empty payload, and the reason in
        its `unreadable`; the log names it too.

        Args:
            consumer: The name.
            limit: The maximum number of events, 1 to 1,000.

        Raises:
            NotFoundError: There is no such consumer.
            ConflictError: The data came from another server; call `after_restore`.
        """
        within("limit", limit, 1, MAX_BATCH)
        # The row lock is the right to read: it is held until the transaction ends. The position is advanced in the
        # same transaction, so that only a commit marks the events as read.
        reader = await self._first(queries.lock(consumer, skip_locked=True))
        if reader is None:
            if await self.get_consumer(consumer) is None:
                raise not_found("consumer", consumer)
            return []
        events = await self._after(reader, limit)
        for event in events:
            if event.unreadable is not None:
                _log.warning(
                    "event %s of topic %s: unreadable, %s", event.id, shown(event.topic), event.unreadable
                )
        if events:
            last = events[-1]
            whole = [event for event in events if event.unreadable is None]
            since = _before(whole[-1].began_at) if whole else reader.since
            with translated():
                await self._session.execute(
                    queries.advance(consumer, tx=last.tx, event_id=last.id, since=since)
                )
        return events

    async def peek(self, consumer: str, *, limit: int = 100) -> Sequence[Event]:
        """Return what `read` would return, and leave it unread; locks nothing.

        Raises:
            NotFoundError: There is no such consumer.
            ConflictError: The data came from another server; call `after_restore`.
        """
        within("limit", limit, 1, MAX_BATCH)
        reader = await self.get_consumer(consumer)
        if reader is None:
            raise not_found("consumer", consumer)
        return await self._after(reader, limit)

    @in_transaction
    async def seek(self, consumer: str, to: EventPosition) -> EventConsumer:
        """Move the consumer to a position; waits for a reader's transaction to end.

        From a time on, no event that was written since is omitted; a few from shortly before may be returned
        too.

        Raises:
            NotFoundError: There is no such consumer, or no event with this id.
        """
        topics = (await self._locked(consumer)).topics
        return await self._change(consumer, await self._place(to, topics))

    async def consumers(self) -> Sequence[EventConsumerLag]:
        """Return all consumers, by name, with how far behind they are."""
        return [EventConsumerLag(*row) for row in await self._rows(queries.lags())]

    async def horizon(self) -> EventHorizon | None:
        """Return the oldest open transaction that has written, other than this one: it holds back all readers."""
        with translated():
            found = (await self._session.execute(log.holder())).first()
        return None if found is None else EventHorizon(*found[:4])

    async def _after(self, reader: EventConsumer, limit: int) -> Sequence[Event]:
        horizon = await self._horizon()
        if reader.tx > horizon:
            raise ConflictError(
                f"consumer {reader.name!r}: has read up to transaction {reader.tx}, but this server is only at"
                f" {horizon}: its data came from another server; call `after_restore`, which loses no event"
            )
        reasons: dict[int, str] = {}
        while True:
            batch = queries.batch(
                reader.topics,
                tx=reader.tx,
                event_id=reader.event_id,
                since=reader.since,
                horizon=horizon,
                limit=limit,
                without=list(reasons),
            )
            try:
                events = await self._all(batch)
            except UnreadableRow:
                found = await unreadable(self._session, await driver_of(self._session), batch)
                if not found:
                    raise
                reasons |= {int(one.key["id"]): f"column {one.column}: {one.reason}" for one in found}
            else:
                break
        if not reasons:
            return events
        merged = [*events, *await self._remains(reasons)]
        return sorted(merged, key=lambda event: (event.tx, event.id))[:limit]

    async def _remains(self, reasons: Mapping[int, str]) -> Sequence[Event]:
        """What is left of events that cannot be read: a consumer sees by `unreadable` that they are not whole."""
        events: list[Event] = []
        names = ("id", "tx", "topic", "type", "key", "created_at", "began_at")
        for row in await self._rows(log.remains(list(reasons))):
            event = Event(**dict(zip(names, row, strict=True)), payload={})
            vars(event)[UNREADABLE] = reasons[event.id]
            events.append(event)
        return events

    async def _horizon(self) -> int:
        # Citus has its node asked after this, and before the events are read.
        horizon = (await self._rows(log.snapshot()))[0][0]
        return await lowered(self._session, table_of(Event), horizon)

    async def _locked(self, consumer: str) -> EventConsumer:
        reader = await self._first(queries.lock(consumer, skip_locked=False))
        if reader is None:
            raise not_found("consumer", consumer)
        return reader

    async def _change(self, consumer: str, values: Mapping[str, Any]) -> EventConsumer:
        with translated():
            await self._session.execute(queries.change(consumer, values))
        return await self._locked(consumer)

    async def _place(self, position: EventPosition, topics: Sequence[str]) -> dict[str, Any]:
        """Return the columns of a consumer that reads from this position on."""
        if position == "beginning":
            return {"tx": 0, "event_id": 0, "since": None}
        # The horizon is read first, and no position is beyond it: transactions that are still open may publish
        # events from the horizon on.
        place, since = (await self._horizon(), 0), None
        if isinstance(position, datetime):
            for tx, id in await self._rows(queries.first_written(topics, aware("position", position))):
                place = min(place, (tx, id - 1))
            since = _before(position)
        elif isinstance(position, int):
            found = await self._first(log.get(position))
            if found is None:
                raise not_found("event", position)
            if found.tx < place[0]:  # otherwise the events before it are not all known yet
                place, since = (found.tx, found.id - 1), _before(found.began_at)
        elif position != "now":
            raise InvalidInputError(
                "position: expected 'beginning', 'now', a datetime or the id of an event, got"
                f" {shown(position)}"
            )
        return {"tx": place[0], "event_id": place[1], "since": since}


def _before(time: datetime) -> datetime | None:
    """No event that comes later in order was written before; None is not known."""
    try:
        return time - CLOCK_MARGIN
    except OverflowError:  # of the year 1
        return None


def _topics(topics: Sequence[str]) -> list[str]:
    if isinstance(topics, str):
        raise InvalidInputError("topics: expected a sequence of topics, got one; put it in a list")
    for topic in topics:
        check_text("topic", topic, MAX_NAME_BYTES)
    found = list(dict.fromkeys(topics))
    within("topics", len(found), 1, MAX_TOPICS)
    return found
