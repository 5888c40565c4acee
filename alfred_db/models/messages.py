"""Messages: the ledger of processed messages, so that a repeated delivery has no second effect."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, CreatedAt

__all__ = ["ProcessedMessage"]


class ProcessedMessage(Base):
    """A processed message. After `expires_at` it counts as new again, whether or not it was purged.

    The table is not partitioned by time: the key would have to include the partition column, so that a
    message could be stored once in each partition.
    """

    __tablename__ = "processed_messages"
    __table_args__ = (
        Index(None, "expires_at"),
        {
            "postgresql_with": {
                "autovacuum_vacuum_scale_factor": 0.01,
                "autovacuum_vacuum_threshold": 1000,
                "autovacuum_vacuum_cost_delay": 0,
            }
        },
    )

    message_id: Mapped[str] = mapped_column(primary_key=True)
    """Key of the message, assigned by the sender; repeated deliveries have the same key."""
    processed_at: Mapped[CreatedAt]
    """When it was processed."""
    expires_at: Mapped[datetime] = mapped_column(server_default=text("now() + interval '48 hours'"))
    """Until when a repetition is refused; indexed for the purge."""
