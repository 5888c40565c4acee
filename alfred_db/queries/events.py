"""Statements about events and their consumers.

A consumer reads an event once the transaction that published it is below the horizon: the oldest transaction
that is still open. A separate statement reads the horizon before the events are read, on the node that
numbers the transactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnClause,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    Select,
    Update,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    extract,
    literal,
    null,
    or_,
    select,
    table,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert
from sqlalchemy.sql.selectable import CompoundSelect, LateralFromClause, NamedFromClause

from ..models import Event, EventConsumer
from ..models.base import table_of
from ..types import Text, TransactionId
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, materialized, number, readable, seconds_ago
from .shapes.paging import page

COUNTED = 10_000
"""Maximum number of unread events that `lags` counts for a consumer."""

LIST_KEY = ("tx", "id")

_e = table_of(Event).c
_c = table_of(EventConsumer).c


def remains(ids: Sequence[int]) -> Select[*tuple[Any, ...]]:
    """What is left to read of events that cannot be read as a whole: all but the payload, in order."""
    return (
        select(_e.id, _e.tx, _e.topic, _e.type, _e.key, readable(_e.created_at), readable(_e.began_at))
        .where(_e.id == func.any(literal(list(ids), ARRAY(BigInteger))))
        .order_by(_e.tx, _e.id)
    )


def publish(values: Mapping[str, Any]) -> ReturningInsert[Event]:
    """Insert an event."""
    return insert(Event).values(dict(values)).returning(Event)


@driver_statement
def publish_many() -> ReturningInsert[int]:
    """Insert events in the order of the parameters, so that their ids rise in this order.

    Each parameter is an array: `topic`, `type`, `key`, and `payload` as JSON text.
    """
    names = ("topic", "type", "key", "payload")
    given = (
        func.unnest(*(bindparam(name, type_=ARRAY(Text)) for name in names))
        .table_valued(*(column(name, Text) for name in names), with_ordinality="place")
        .render_derived("given")
    )
    rows = select(given.c.topic, given.c.type, given.c.key, cast(given.c.payload, JSONB)).order_by(
        given.c.place
    )
    return insert(Event).from_select(names, rows, include_defaults=False).returning(_e.id)


def get(id: int) -> Select[Event]:
    """Select an event by its id."""
    return select(Event).where(Event.id == id)


def snapshot() -> Select[int, int]:
    """Select the horizon of the current snapshot and its upper bound.

    All transactions below the horizon (`xmin`) have ended. No transaction from `xmax` on has started.
    """
    now = func.pg_current_snapshot()
    return select(
        func.pg_snapshot_xmin(now, type_=TransactionId), func.pg_snapshot_xmax(now, type_=TransactionId)
    )


def list_(
    topic: str, *, horizon: int, since: datetime | None, after: str | None, limit: int
) -> Select[Event]:
    """Select a page of the events of a topic that are below the horizon, in the order of reading."""
    statement = select(Event).where(Event.topic == topic, Event.tx < horizon)
    if since is not None:
        statement = statement.where(Event.created_at >= since)
    return page(statement, [Event.tx, Event.id], after=after, limit=limit)


# Consumers


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
        _age(oldest.correlate(EventConsumer).scalar_subquery()),
        EventConsumer.read_at,
    ).order_by(EventConsumer.name)


def holder() -> CompoundSelect[*tuple[Any, ...]]:
    """Select the oldest open transaction of the server: the fields of `EventHorizon`, and its age.

    The age is the number of transactions since it began.
    """
    activity = _catalog("pg_stat_activity", "xact_start", "pid", "application_name", "datname", "backend_xid")
    prepared = _catalog("pg_prepared_xacts", "prepared", "gid", "database", "transaction")
    return (
        union_all(
            select(
                _age(activity.xact_start),
                activity.pid,
                activity.application_name,
                activity.datname,
                func.age(activity.backend_xid).label("passed"),
            ).where(activity.backend_xid.is_not(None), activity.pid != func.pg_backend_pid()),
            select(
                _age(prepared.prepared),
                cast(null(), Integer),
                prepared.gid,
                prepared.database,
                func.age(prepared.transaction),
            ),
        )
        .order_by(column("passed", Integer).desc())
        .limit(1)
    )


# Events that are no longer needed


def purge(older_than: float, *, horizon: int, limit: int) -> ReturningDelete[int]:
    """Delete events that are older than `older_than` seconds and read by all consumers of their topics.

    The first published ones are deleted first; locked rows are skipped.
    """
    done = materialized(
        select(_e.id)
        .where(*_done(older_than, horizon))
        .order_by(_e.id)
        .limit(number(limit))
        .with_for_update(skip_locked=True),
        "done",
    )
    # The time prunes the partitions; an id alone is looked up in each of them.
    return (
        delete(Event).where(among(_e.id, done), _e.created_at < seconds_ago(older_than)).returning(Event.id)
    )


def purgeable(older_than: float, *, horizon: int) -> Select[int]:
    """Count the events that calls of `purge` delete in the end."""
    return select(func.count()).select_from(table_of(Event)).where(*_done(older_than, horizon))


def _done(older_than: float, horizon: int) -> list[ColumnElement[bool]]:
    # The position of a consumer from another server, before `after_restore`, shows nothing.
    unread = or_(tuple_(_e.tx, _e.id) > tuple_(_c.tx, _c.event_id), _c.tx > literal(horizon, TransactionId))
    waiting = select(_c.name).where(_e.topic == func.any(_c.topics), unread)
    return [_e.created_at < seconds_ago(older_than), ~waiting.exists()]


# After a restore on another server, whose transactions have other numbers


def locked_consumers() -> Select[EventConsumer]:
    """Select all consumers and lock them until the transaction ends."""
    return select(EventConsumer).order_by(EventConsumer.name).with_for_update(key_share=True)


def last_foreign(*, newest: int) -> Select[int]:
    """Select the last event whose transaction number this server has not assigned yet."""
    return select(_e.id).where(_e.tx >= newest).order_by(_e.id.desc()).limit(number(1))


def first_own(*, after: int, newest: int) -> Select[int]:
    """Select the first transaction of this server that published events, after the last restored event."""
    return select(_e.tx).where(_e.id > after, _e.tx < newest).order_by(_e.tx).limit(number(1))


def last_id() -> Select[int]:
    """Select the highest id of an event."""
    return select(_e.id).order_by(_e.id.desc()).limit(number(1))


def first_unread(
    reader: EventConsumer, *, ahead: bool, restored: int | None, low: int, newest: int
) -> Select[int, int]:
    """Select `tx` and `id`, after the renumbering, of the first event that a consumer may not have read.

    The position of the consumer shows what it read on the other server. An event with a higher `id` than the
    position was inserted later, whatever the transaction numbers are. Events of a transaction that was open
    for long are delivered again.
    """
    after = literal(reader.tx, TransactionId), literal(reader.event_id, BigInteger)
    unread = tuple_(_e.tx, _e.id) > tuple_(*after)
    if reader.event_id:
        unread = or_(unread, _e.id > reader.event_id)
    elif reader.tx:  # subscribed at `now`: there is no event to compare with
        later = [] if restored is None else [_e.id > restored]
        if restored is None or not ahead:
            later.append(_e.created_at >= literal(reader.created_at, DateTime(timezone=True)))
        unread = or_(unread, and_(*later))
    place = case((_restored(restored, low, newest), literal(low, TransactionId)), else_=_e.tx).label("place")
    return (
        select(place, _e.id)
        .where(_e.topic == func.any(literal(list(reader.topics), ARRAY(Text))), unread)
        .order_by(place, _e.id)
        .limit(number(1))
    )


def renumber(*, restored: int | None, low: int, newest: int) -> Update:
    """Move the restored events to a transaction number below those of this server."""
    return update(Event).where(_restored(restored, low, newest)).values(tx=low)


def forget_times() -> Update:
    """Clear the time from which consumers read.

    The clocks of two servers differ, so that only the position shows what is unread.
    """
    return update(EventConsumer).values(since=None)


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


def _restored(restored: int | None, low: int, newest: int) -> ColumnElement[bool]:
    """The restored events that have to be renumbered."""
    ahead = _e.tx >= newest
    return ahead if restored is None else or_(ahead, and_(_e.id <= restored, _e.tx > low))


def _catalog(name: str, *columns: str) -> Any:
    found: list[ColumnClause[Any]] = [column(item) for item in columns]
    return table(name, *found, schema="pg_catalog").c


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


def _age(time: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(extract("epoch", func.statement_timestamp() - time), Double)
