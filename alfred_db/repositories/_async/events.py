"""Events: published in the transaction that they report, and read by each consumer once and in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...checks import MAX_SECONDS, as_cursor, aware, check_text, has_keys, json_text, within
from ...errors import InvalidInputError, shown
from ...execution._async.citus import check_coordinator
from ...execution._async.copy import copy_rows, reserve_ids
from ...execution._async.driver import fetch
from ...execution._async.partitions import AsyncPartitions
from ...models import Event, EventConsumer
from ...models.base import table_of
from ...queries import events as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.events import NewEvent
from .event_consumers import MAX_NAME_BYTES, AsyncEventConsumers
from .event_restores import AsyncEventRestores

COPIED = 1000
"""More events than this are published by COPY."""

MAX_PAYLOAD_BYTES = 1 << 20


_KEYS = ("topic", "type", "key", "payload")


class AsyncEventRepository(AsyncEventConsumers, AsyncEventRestores, AsyncPartitions):
    """The tenant's log of events, partitioned by month, and its consumers.

    Events are read in the order in which their transactions first wrote, and within a transaction in the
    order of publication. So an event can be read only when all transactions that began to write before its
    own have ended. An open transaction anywhere on the server holds back all readers, and `horizon` names it.
    There are no notifications: poll with `read`.
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
        """Publish an event; consumers see it once the transaction commits.

        Args:
            topic: 1 to 500 bytes.
            payload: A mapping of at most 1 MiB as JSON.
            type: The kind of event.
            key: What the event is about.

        Raises:
            InvalidInputError: One of these is too long, or cannot be stored.
            ConfigurationError: The server is a worker of Citus.
        """
        values = _checked({"topic": topic, "payload": payload or {}, "type": type, "key": key}, "")
        await check_coordinator(self._session, table_of(Event))
        published = await self._write(queries.publish(values))
        assert published is not None
        return published

    async def publish_many(self, events: Sequence[NewEvent]) -> list[int]:
        """Publish events, more than 1000 of them by COPY.

        Returns:
            Their ids, in order.

        Raises:
            InvalidInputError: An event cannot be stored; the message names it. None was written.
            ConfigurationError: The encoding of the connection is not UTF-8, or the server is a worker of Citus.
        """
        rows = [_checked(event, f"event {number}: ") for number, event in enumerate(events)]
        if not rows:
            return []
        await check_coordinator(self._session, table_of(Event))
        if len(rows) <= COPIED:
            arrays: dict[str, Any] = {name: [row[name] for row in rows] for name in _KEYS}
            arrays["payload"] = [json_text("payload", payload) for payload in arrays["payload"]]
            written = await fetch(self._session, queries.publish_many(), arrays)
            # The rows were numbered in their order, whatever the order of RETURNING.
            return sorted(id_ for (id_,) in written)
        table = table_of(Event)
        ids = list(await reserve_ids(self._session, table, len(rows)))
        columns = [table.c.id, *(table.c[name] for name in _KEYS)]
        values = ([id, *(row[name] for name in _KEYS)] for id, row in zip(ids, rows, strict=True))
        await copy_rows(self._session, table, columns, values)
        return ids

    async def get(self, id: int) -> Event | None:
        """Return the event with this id."""
        return await self._first(queries.get(id))

    async def list(
        self,
        topic: str,
        *,
        since: datetime | None = None,
        after: str | Event | None = None,
        limit: int = 100,
    ) -> Page[Event]:
        """Return a page of the events of a topic, in order, without a consumer.

        Args:
            topic: The topic.
            since: Only events written at this time or later.
            after: `next` of the previous page, or the last event that the caller has seen.
            limit: The maximum number of events.
        """
        if since is not None:
            aware("since", since)
        if isinstance(after, Event):
            after = as_cursor([after.tx, after.id])
        statement = queries.list_(topic, horizon=await self._horizon(), since=since, after=after, limit=limit)
        return as_page(await self._all(statement), queries.LIST_KEY, limit)

    # Consumers

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete at most `limit` events that are older than `older_than` seconds and that nobody is to read.

        An event stays until all consumers of its topic have read it. For whole months `detach_partition` is
        faster.

        Returns:
            The number of events deleted.
        """
        within("older_than", older_than, 0, MAX_SECONDS)
        within("limit", limit, 1, 10_000)
        horizon = await self._horizon()
        return len(await self._rows(queries.purge(older_than, horizon=horizon, limit=limit)))

    async def purgeable(self, *, older_than: float) -> int:
        """Return how many events calls of `purge` delete in the end."""
        within("older_than", older_than, 0, MAX_SECONDS)
        statement = queries.purgeable(older_than, horizon=await self._horizon())
        return (await self._rows(statement))[0][0]


def _checked(event: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not has_keys(event, NewEvent, "topic"):
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
