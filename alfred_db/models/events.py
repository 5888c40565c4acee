"""Events: a log that is only appended to, and how far each of its consumers has read."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, DateTime, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from ..types import Text, TransactionId
from .base import Base, CreatedAt, Json, monthly_partitions

__all__ = ["Event", "EventConsumer"]


UNREADABLE = "unreadable_reason"
"""Where an instance keeps what `Event.unreadable` returns."""


class Event(Base):
    """Something that happened, told to whoever subscribes to its topic. Partitioned by month of `created_at`.

    Added, as the platform's own schema has no events. They are read in the order of (`tx`, `id`), and only up to the
    oldest transaction that is still open: an `id` is given before its transaction commits, so that a reader who went
    by the last one it saw would pass over what commits later.
    """

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "topic", "tx", "id"),
        {"postgresql_partition_by": "RANGE (created_at)"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    """Counts the events as they are written; unique together with `created_at`."""
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp(), primary_key=True
    )
    """When it was written; decides the partition. Not to be given: readers rely on it."""
    began_at: Mapped[CreatedAt]
    """When its transaction began: what comes after it in order was written later, so readers skip older partitions."""
    tx: Mapped[int] = mapped_column(TransactionId, server_default=func.pg_current_xact_id())
    """The transaction that wrote it; readers wait until all up to it have ended."""
    topic: Mapped[str]
    """What it is about, such as `orders`; consumers subscribe to topics."""
    type: Mapped[str | None]
    """What happened, such as `order.paid`; not read by the library."""
    key: Mapped[str | None]
    """What it happened to, such as the id of an order; not read by the library, and not unique."""
    payload: Mapped[Json]
    """What there is to know."""

    @property
    def unreadable(self) -> str | None:
        """Why a consumer gets this event without what Python cannot read of it, such as its payload; else None."""
        reason: str | None = vars(self).get(UNREADABLE)
        return reason


monthly_partitions(Event)


class EventConsumer(Base):
    """Somebody who reads the events of some topics, each once and in order, and how far that has come."""

    __tablename__ = "event_consumers"
    __table_args__ = (
        CheckConstraint("cardinality(topics) > 0", name="topics"),
        # Each batch updates the row: kept on its page, and vacuumed before the versions pile up.
        {"postgresql_with": {"fillfactor": 50, "autovacuum_vacuum_threshold": 1000}},
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    """The caller's name for it."""
    topics: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """What it has subscribed to."""
    tx: Mapped[int] = mapped_column(TransactionId, server_default=text("'0'::xid8"))
    """Transaction of the last event that it has read."""
    event_id: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """The last event that it has read: everything of its topics up to (`tx`, `event_id`) is behind it."""
    since: Mapped[datetime | None]
    """No event that it has still to read was written before; NULL is not known."""
    read_at: Mapped[datetime | None]
    """When it last got events."""
    created_at: Mapped[CreatedAt]
    """When it subscribed."""
