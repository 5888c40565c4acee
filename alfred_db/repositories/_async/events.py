"""Events: published in the transaction of what they tell of, and read by each consumer once and in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult

from ...checks import as_cursor, aware, check_text, json_text, within
from ...errors import ConflictError, InvalidInputError, NotFoundError, shown, translated
from ...execution._async.copy import copy_rows, reserve_ids
from ...execution._async.partitions import AsyncPartitions
from ...models import Event, EventConsumer
from ...models.base import table_of
from ...queries import events as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.events import EventConsumerLag, EventHorizon, EventPosition, NewEvent

COPIED = 1000
"""More events than this are published by COPY."""

MAX_BATCH = 1000
MAX_PAYLOAD_BYTES = 1 << 20
MAX_TOPICS = 100
MAX_NAME_BYTES = 500
"""A topic shares its index entry with two numbers, and 2,000 bytes are what fits for certain."""

CLOCK_MARGIN = timedelta(days=1)
"""By how much the server's clock may be set back, as a failover can, without an event being taken for an old one."""

_KEYS = ("topic", "type", "key", "payload")


class AsyncEventRepository(AsyncPartitions):
    """The tenant's log of events, by month, and its consumers.

    Events are read in the order in which their transactions first wrote, and in one transaction as published. So an
    event is read only when all transactions that began to write before its own have ended: an open one holds back
    the readers of the whole server, and `horizon` names it. Nothing is notified: poll with `read`.
    """

    _partitioned = Event
    _read_by = EventConsumer

    async def publish(
        self,
        topic: str,
        payload: Mapping[str, Any] | None = None,
        *,
        type: str | None = None,
        key: str | None = None,
    ) -> Event:
        """Add an event; it comes about when the transaction commits. `payload` is at most 1 MiB of JSON."""
        values = _checked({"topic": topic, "payload": payload or {}, "type": type, "key": key}, "")
        published = await self._write(queries.publish(values))
        assert published is not None
        return published

    async def publish_many(self, events: Sequence[NewEvent]) -> list[int]:
        """Add events, more than 1000 of them by COPY; gives their ids, in order."""
        rows = [_checked(event, f"event {number}: ") for number, event in enumerate(events)]
        if not rows:
            return []
        if len(rows) <= COPIED:
            with translated():
                return list((await self._session.scalars(queries.publish_many(), rows)).all())
        table = table_of(Event)
        ids = list(await reserve_ids(self._session, table, len(rows)))
        columns = [table.c.id, *(table.c[name] for name in _KEYS)]
        values = ([id, *(row[name] for name in _KEYS)] for id, row in zip(ids, rows, strict=True))
        await copy_rows(self._session, table, columns, values)
        return ids

    async def get(self, id: int) -> Event | None:
        """The event of that `id`."""
        return await self._first(queries.get(id))

    async def list(
        self,
        topic: str,
        *,
        since: datetime | None = None,
        after: str | Event | None = None,
        limit: int = 100,
    ) -> Page[Event]:
        """Events of a topic in order, without a consumer; `since` is when they were written.

        `after` is `next` of the page before, or an event: the last that the caller has seen.
        """
        if since is not None:
            aware("since", since)
        if isinstance(after, Event):
            after = as_cursor([after.tx, after.id])
        statement = queries.list_(topic, horizon=await self._horizon(), since=since, after=after, limit=limit)
        return as_page(await self._all(statement), queries.LIST_KEY, limit)

    # Consumers

    async def subscribe(
        self, consumer: str, topics: Sequence[str], *, start: EventPosition = "now"
    ) -> EventConsumer:
        """Make a consumer of these topics, from `start` on; `now` leaves out no event that commits after this call.

        One of that name is given as it stands: it goes on where it is. Topics that it lacks are added from there on.
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

    async def unsubscribe(self, consumer: str, topics: Sequence[str] | None = None) -> bool:
        """Take topics from a consumer; with none left, or without `topics`, it is gone. Says whether it is."""
        if topics is not None:
            gone, standing = set(_topics(topics)), (await self._locked(consumer)).topics
            left = [topic for topic in standing if topic not in gone]
            if left:
                if left != standing:
                    await self._change(consumer, {"topics": left})
                return False
        if await self._write(queries.unsubscribe(consumer)) is None:
            raise _unknown(consumer)
        return True

    async def get_consumer(self, consumer: str) -> EventConsumer | None:
        """The consumer of that name."""
        return await self._first(queries.consumer(consumer))

    async def read(self, consumer: str, *, limit: int = 100) -> Sequence[Event]:
        """The next events, at most `limit` (1 to 1,000), which count as read when the transaction commits.

        What the caller does about them in the same transaction happens exactly once; a rollback gives them again.
        Until then they are the caller's: another reader of the consumer gets none. Raises NotFoundError.
        """
        within("limit", limit, 1, MAX_BATCH)
        reader = await self._first(queries.lock(consumer, skip_locked=True))
        if reader is None:
            if await self.get_consumer(consumer) is None:
                raise _unknown(consumer)
            return []
        events = await self._after(reader, limit)
        if events:
            last = events[-1]
            since = last.began_at - CLOCK_MARGIN
            with translated():
                await self._session.execute(
                    queries.advance(consumer, tx=last.tx, event_id=last.id, since=since)
                )
        return events

    async def peek(self, consumer: str, *, limit: int = 100) -> Sequence[Event]:
        """What `read` would give, and leave it unread; locks nothing."""
        within("limit", limit, 1, MAX_BATCH)
        reader = await self.get_consumer(consumer)
        if reader is None:
            raise _unknown(consumer)
        return await self._after(reader, limit)

    async def seek(self, consumer: str, to: EventPosition) -> EventConsumer:
        """Have the consumer go on, or read again, from there; waits for a reader's transaction to end.

        From a time on no event that was written since is left out; a few from just before may come too.
        """
        topics = (await self._locked(consumer)).topics
        return await self._change(consumer, await self._place(to, topics))

    async def consumers(self) -> Sequence[EventConsumerLag]:
        """All consumers by name, and how far behind they are."""
        return [EventConsumerLag(*row) for row in await self._rows(queries.lags())]

    async def horizon(self) -> EventHorizon | None:
        """What holds readers back: the oldest open transaction that has written, other than this one."""
        with translated():
            found = (await self._session.execute(queries.holder())).first()
        return None if found is None else EventHorizon(*found[:4])

    async def after_restore(self) -> int:
        """Make the log readable on a server that it was restored on from a dump.

        Events are ordered by the numbers of their transactions, and those of the other server mean nothing here.
        Its events are given a number before this server's own, and consumers a place before what they have not
        read for certain: none loses an event, and some may get events again. Call it after each restore from a
        dump, best before anything is published or read; later is not too late.

        Returns:
            How many events were renumbered.
        """
        readers = await self._all(queries.locked_consumers())
        horizon, newest = (await self._rows(queries.snapshot()))[0]
        # All ids up to this one are the other server's: those that it gave, and no later ones, are in the dump.
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
        """Have the consumer stand before what it may not have read."""
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
                    queries.change(reader.name, {"tx": place[0], "event_id": place[1]})
                )

    async def _after(self, reader: EventConsumer, limit: int) -> Sequence[Event]:
        horizon = await self._horizon()
        if reader.tx > horizon:
            raise ConflictError(
                f"consumer {reader.name!r}: has read up to transaction {reader.tx}, but this server is only at"
                f" {horizon}: its data came from another server; call `after_restore`, which loses no event"
            )
        return await self._all(
            queries.batch(
                reader.topics,
                tx=reader.tx,
                event_id=reader.event_id,
                since=reader.since,
                horizon=horizon,
                limit=limit,
            )
        )

    async def _horizon(self) -> int:
        return (await self._rows(queries.snapshot()))[0][0]

    async def _locked(self, consumer: str) -> EventConsumer:
        reader = await self._first(queries.lock(consumer, skip_locked=False))
        if reader is None:
            raise _unknown(consumer)
        return reader

    async def _change(self, consumer: str, values: Mapping[str, Any]) -> EventConsumer:
        with translated():
            await self._session.execute(queries.change(consumer, values))
        return await self._locked(consumer)

    async def _place(self, position: EventPosition, topics: Sequence[str]) -> dict[str, Any]:
        """Where a consumer stands that reads from there on."""
        if position == "beginning":
            return {"tx": 0, "event_id": 0, "since": None}
        # The horizon comes first, and nobody stands beyond it: what cannot be seen yet may still come at it.
        place, since = (await self._horizon(), 0), None
        if isinstance(position, datetime):
            for tx, id in await self._rows(queries.first_written(topics, aware("position", position))):
                place = min(place, (tx, id - 1))
            since = position - CLOCK_MARGIN
        elif isinstance(position, int):
            found = await self.get(position)
            if found is None:
                raise NotFoundError(f"event {position}: not in the log; seek a time, or 'beginning'")
            if found.tx < place[0]:  # else what comes before it, and when that was written, is not known
                place, since = (found.tx, found.id - 1), found.began_at - CLOCK_MARGIN
        elif position != "now":
            raise InvalidInputError(
                "position: expected 'beginning', 'now', a datetime or the id of an event, got"
                f" {shown(position)}"
            )
        return {"tx": place[0], "event_id": place[1], "since": since}


def _checked(event: Mapping[str, Any], where: str) -> dict[str, Any]:
    unknown = set(event) - set(_KEYS)
    if unknown or "topic" not in event:
        raise InvalidInputError(
            f"{where}expected `topic` and some of type, key, payload, got {', '.join(sorted(map(shown, event)))}"
        )
    values: dict[str, Any] = {**dict.fromkeys(_KEYS), **event}
    check_text(f"{where}topic", values["topic"], MAX_NAME_BYTES)
    for name in ("type", "key"):
        if values[name] is not None:
            check_text(f"{where}{name}", values[name], MAX_NAME_BYTES)
    if not isinstance(event.get("payload"), Mapping | None):
        kind = values["payload"].__class__.__name__
        raise InvalidInputError(f"{where}payload: expected a mapping, got {kind}")
    payload: Mapping[str, Any] = event.get("payload") or {}
    values["payload"] = dict(payload)
    json_text(f"{where}payload", values["payload"], MAX_PAYLOAD_BYTES)
    return values


def _topics(topics: Sequence[str]) -> list[str]:
    if isinstance(topics, str):
        raise InvalidInputError("topics: expected a sequence of topics, got one; put it in a list")
    for topic in topics:
        check_text("topic", topic, MAX_NAME_BYTES)
    found = list(dict.fromkeys(topics))
    within("topics", len(found), 1, MAX_TOPICS)
    return found


def _unknown(consumer: str) -> NotFoundError:
    return NotFoundError(f"consumer {shown(consumer)}: has not subscribed; call `subscribe` first")
