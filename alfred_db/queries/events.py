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
    Integer,
    Select,
    bindparam,
    cast,
    column,
    delete,
    literal,
    null,
    or_,
    select,
    table,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert
from sqlalchemy.sql.selectable import CompoundSelect

from ..models import Event, EventConsumer
from ..models.base import table_of
from ..types import Text, TransactionId
from .event_consumers import age
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, materialized, number, readable, seconds_ago
from .shapes.paging import page

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


def holder() -> CompoundSelect[*tuple[Any, ...]]:
    """Select the oldest open transaction of the server: the fields of `EventHorizon`, and its age.

    The age is the number of transactions since it began.
    """
    activity = _catalog("pg_stat_activity", "xact_start", "pid", "application_name", "datname", "backend_xid")
    prepared = _catalog("pg_prepared_xacts", "prepared", "gid", "database", "transaction")
    return (
        union_all(
            select(
                age(activity.xact_start),
                activity.pid,
                activity.application_name,
                activity.datname,
                func.age(activity.backend_xid).label("passed"),
            ).where(activity.backend_xid.is_not(None), activity.pid != func.pg_backend_pid()),
            select(
                age(prepared.prepared),
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


def _catalog(name: str, *columns: str) -> Any:
    found: list[ColumnClause[Any]] = [column(item) for item in columns]
    return table(name, *found, schema="pg_catalog").c
