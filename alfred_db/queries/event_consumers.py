"""Statements about the consumers of events: their positions, and what they read next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Double,
    Select,
    Update,
    cast,
    column,
    delete,
    extract,
    literal,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert
from sqlalchemy.sql.selectable import LateralFromClause, NamedFromClause

from ..models import Event, EventConsumer
from ..models.base import table_of
from ..types import Text, TransactionId
from .shapes.functions import func
from .shapes.literals import number

COUNTED = 10_000
"""Maximum number of unread events that `lags` counts for a consumer."""

_e = table_of(Event).c
_c = table_of(EventConsumer).c


def consumer(name: str) -> Select[EventConsumer]:
    """Select a consumer by its name."""
    return select(EventConsumer).where(EventConsumer.name == name)


def lock(name: str, *, skip_locked: bool) -> Select[EventConsumer]:
    """Select a consumer and lock it until the transaction ends."""
    return consumer(name).with_for_update(key_share=True, skip_locked=skip_locked)


def subscribe(values: Mapping[str, Any]) -> ReturningInsert[EventConsumer]:
    """Insert a consumer, unless one with this name exists."""
    return insert(EventConsumer).values(dict(values)).on_conflict_do_nothing().returning(EventConsumer)


def change(name: str, values: Mapping[str, Any]) -> Update:
    """Update columns of a consumer."""
    return update(EventConsumer).where(EventConsumer.name == name).values(dict(values))


def advance(name: str, *, tx: int, event_id: int, since: datetime | None) -> Update:
    """Move the position of a consumer to the event (`tx`, `event_id`)."""
    return change(
        name, {"tx": tx, "event_id": event_id, "since": since, "read_at": func.statement_timestamp()}
    )


def unsubscribe(name: str) -> ReturningDelete[str]:
    """Delete a consumer."""
    return delete(EventConsumer).where(EventConsumer.name == name).returning(EventConsumer.name)


def batch(
    topics: Sequence[str],
    *,
    tx: int,
    event_id: int,
    since: datetime | None,
    horizon: int,
    limit: int,
    without: Sequence[int] = (),
) -> Select[Event]:
    """Select the first `limit` events after the position (`tx`, `event_id`) and below the horizon.

    At most `limit` events of each topic are read, from the index on topics.
    """
    wanted = _topics(literal(list(topics), ARRAY(Text)))
    after = literal(tx, TransactionId), literal(event_id, BigInteger)
    conditions = [_e.tx < horizon, *_written(since)]
    if without:
        conditions.append(_e.id != func.all(literal(list(without), ARRAY(BigInteger))))
    first = _unread(wanted, after, table_of(Event).c, conditions, limit)
    event = aliased(Event, first)
    return (
        select(event)
        .select_from(wanted)
        .join(first, true())
        .order_by(event.tx, event.id)
        .limit(number(limit))
    )


def first_written(topics: Sequence[str], since: datetime) -> Select[int, int]:
    """Select `tx` and `id` of the first event, in the order of reading, that was written since a time."""
    wanted = _topics(literal(list(topics), ARRAY(Text)))
    first = _unread(wanted, None, [_e.tx, _e.id], _written(since), 1)
    return (
        select(first.c.tx, first.c.id)
        .select_from(wanted)
        .join(first, true())
        .order_by(first.c.tx, first.c.id)
        .limit(number(1))
    )


def lags() -> Select[*tuple[Any, ...]]:
    """Select the fields of `EventConsumerLag`, by position."""
    after = _c.tx, _c.event_id
    written = [_e.created_at >= func.coalesce(_c.since, literal("-infinity", DateTime(timezone=True)))]
    wanted = _topics(_c.topics)
    some = _unread(wanted, after, [_e.id], written, COUNTED)
    counted = (
        select(some.c.id)
        .select_from(wanted)
        .join(some, true())
        .limit(number(COUNTED))
        .correlate(EventConsumer)
        .subquery()
    )
    first = _unread(wanted, after, [_e.created_at], written, 1)
    oldest = select(func.min(first.c.created_at)).select_from(wanted).join(first, true())
    return select(
        EventConsumer.name,
        EventConsumer.topics,
        select(func.count()).select_from(counted.lateral()).scalar_subquery(),
        age(oldest.correlate(EventConsumer).scalar_subquery()),
        EventConsumer.read_at,
    ).order_by(EventConsumer.name)


def foreign(*, horizon: int, newest: int) -> Select[str]:
    """Select the consumers that refer to transactions which this server has not assigned.

    Either the position of the consumer is one, or the last event of one of its topics belongs to one.
    """
    wanted = _topics(_c.topics)
    last = (
        select(_e.tx)
        .where(_e.topic == wanted.c.topic)
        .order_by(_e.tx.desc(), _e.id.desc())
        .limit(number(1))
        .correlate(wanted)
        .lateral()
    )
    ahead = select(last.c.tx).select_from(wanted).join(last, true()).where(last.c.tx >= newest)
    return (
        select(EventConsumer.name)
        .where(or_(_c.tx > horizon, ahead.correlate(EventConsumer).exists()))
        .order_by(EventConsumer.name)
    )


def _topics(topics: ColumnElement[Any]) -> NamedFromClause:
    return func.unnest(topics).table_valued(column("topic", Text)).render_derived(name="wanted")


def _unread(
    wanted: NamedFromClause,
    after: tuple[ColumnElement[Any], ColumnElement[Any]] | None,
    columns: Any,
    conditions: Sequence[ColumnElement[bool]],
    limit: int,
) -> LateralFromClause:
    """The first `limit` events of each topic after a position.

    The index returns them in this order, so that no further events are read.
    """
    statement = select(*columns).where(_e.topic == wanted.c.topic, *conditions)
    if after is not None:
        statement = statement.where(tuple_(_e.tx, _e.id) > tuple_(*after))
    return (
        statement.order_by(_e.tx, _e.id)
        .limit(number(limit))
        .correlate(wanted, table_of(EventConsumer))
        .lateral()
    )


def _written(since: datetime | None) -> list[ColumnElement[bool]]:
    """The condition that prunes the partitions before a time."""
    return [] if since is None else [_e.created_at >= since]


def age(time: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the seconds since a time."""
    return cast(extract("epoch", func.statement_timestamp() - time), Double)
