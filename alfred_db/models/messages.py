"""Messages: the ledger of what was handled already, so that a repeated delivery has no second effect."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, CreatedAt

__all__ = ["ProcessedMessage"]


class ProcessedMessage(Base):
    """A message that was handled. Past `expires_at` it counts as new again, whether or not it was purged.

    Not partitioned by time: the key of a partitioned table holds the partition's column, and one message
    could then be stored once in each partition.
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
    """The sender's key of the message; two deliveries of one message have the same."""
    processed_at: Mapped[CreatedAt]
    """When it was handled."""
    expires_at: Mapped[datetime] = mapped_column(server_default=text("now() + interval '48 hours'"))
    """Until when a repetition is refused; indexed for the purge."""
