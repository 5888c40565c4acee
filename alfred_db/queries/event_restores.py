"""Statements that renumber the events of a log that was restored from a dump of another server."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Select,
    Update,
    and_,
    case,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from ..models import Event, EventConsumer
from ..models.base import table_of
from ..types import Text, TransactionId
from .shapes.functions import func
from .shapes.literals import number

_e = table_of(Event).c


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


def _restored(restored: int | None, low: int, newest: int) -> ColumnElement[bool]:
    """The restored events that have to be renumbered."""
    ahead = _e.tx >= newest
    return ahead if restored is None else or_(ahead, and_(_e.id <= restored, _e.tx > low))
