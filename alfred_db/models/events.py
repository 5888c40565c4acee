"""Events: an append-only log, and the positions of its consumers."""

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
    """An event, delivered to the consumers of its topic. Partitioned by month of `created_at`.

    Added: the schema of the platform has no events. They are read in the order of (`tx`, `id`), and only up
    to the oldest transaction that is still open. An `id` is assigned before its transaction commits, so that
    a consumer that continued after the last `id` would miss events that commit later.
    """

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "topic", "tx", "id"),
        {"postgresql_partition_by": "RANGE (created_at)"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    """Number of the event, in the order of writing; unique together with `created_at`."""
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp(), primary_key=True
    )
    """When it was written; determines the partition. Never set it: consumers rely on it."""
    began_at: Mapped[CreatedAt]
    """When its transaction began.

    Later events in the order of reading were written after it, so that older partitions can be pruned.
    """
    tx: Mapped[int] = mapped_column(TransactionId, server_default=func.pg_current_xact_id())
    """The transaction that wrote it; consumers wait until all transactions up to it have ended."""
    topic: Mapped[str]
    """Subject, such as `orders`; consumers subscribe to topics."""
    type: Mapped[str | None]
    """Kind of event, such as `order.paid`; not used by the library."""
    key: Mapped[str | None]
    """Object of the event, such as the id of an order; not used by the library, and not unique."""
    payload: Mapped[Json]
    """Content."""

    @property
    def unreadable(self) -> str | None:
        """Why a consumer gets this event without what Python cannot read of it, such as its payload; else None."""
        reason: str | None = vars(self).get(UNREADABLE)
        return reason


monthly_partitions(Event)


class EventConsumer(Base):
    """A consumer that reads the events of some topics, each once and in order, and its position."""

    __tablename__ = "event_consumers"
    __table_args__ = (
        CheckConstraint("cardinality(topics) > 0", name="topics"),
        # Each batch updates the row: it stays on its page, and is vacuumed before dead versions accumulate.
        {"postgresql_with": {"fillfactor": 50, "autovacuum_vacuum_threshold": 1000}},
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    """Unique name, chosen by the caller."""
    topics: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """The topics that it subscribes to."""
    tx: Mapped[int] = mapped_column(TransactionId, server_default=text("'0'::xid8"))
    """Transaction of the last event that it read."""
    event_id: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """The last event that it read: all events of its topics up to (`tx`, `event_id`) are read."""
    since: Mapped[datetime | None]
    """No unread event was written before this time; NULL if unknown."""
    read_at: Mapped[datetime | None]
    """When it last received events."""
    created_at: Mapped[CreatedAt]
    """When it subscribed."""
