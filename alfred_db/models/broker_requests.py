"""Requests to hosted models: the log of each tenant, partitioned by month."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    Numeric,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from ..types import EnumText
from .base import Base, CreatedAt, Json, monthly_partitions, one_of, status_times_by_trigger
from .broker import HostedModel

__all__ = ["BrokerRequest", "BrokerRequestStatus"]


class BrokerRequestStatus(StrEnum):
    """`pending` is live; the others are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class BrokerRequest(Base):
    """One request to a model and its outcome. Partitioned by month of `created_at`.

    `created_at` is part of the key: pass it in each lookup, so that only one partition is read. Model and
    provider are stored as text too, because the log outlives the catalog.
    """

    __tablename__ = "broker_request"
    __table_args__ = (
        one_of("status", BrokerRequestStatus),
        CheckConstraint("(status = 'pending') = (finished_at IS NULL)", name="finished_at"),
        CheckConstraint(
            "prompt_tokens >= 0 AND completion_tokens >= 0 AND cached_tokens >= 0 AND total_tokens >= 0",
            name="tokens",
        ),
        CheckConstraint("latency_ms >= 0", name="latency_ms"),
        CheckConstraint("cost >= 0", name="cost"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        Index(None, "created_at"),
        Index(None, "request_id"),
        Index(None, "model", "created_at"),
        Index(None, "hosted_model_id"),
        # The end of a request is no HOT update because of it. That costs a few per cent of the two writes, measured;
        # without it, to find what is pending reads the whole log.
        Index("idx_broker_request_pending", "created_at", "id", postgresql_where=text("status = 'pending'")),
        # Hashes, because a number is smaller than a name and always fits into an index entry. The keys differ from each
        # other, because the server names the indexes of the partitions after them.
        *(
            Index(f"idx_broker_request_{name}", *key, postgresql_where=text(f"{name} IS NOT NULL"))
            for name, key in {
                "session_id": (text("hashtextextended(session_id, 0)"), "created_at", "id"),
                "provider": (text("hashtextextended(provider, 0)"), "created_at"),
                "agent_name": (text("hashtext(agent_name)"), "created_at", "id"),
            }.items()
        ),
        {"schema": "brk_tracking", "postgresql_partition_by": "RANGE (created_at)"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    """Number of the request; unique together with `created_at`."""
    created_at: Mapped[CreatedAt] = mapped_column(primary_key=True)
    """When it was made; determines the partition."""
    request_id: Mapped[str]
    """Key of the broker; not unique, because a request may be sent again to another model."""
    status: Mapped[BrokerRequestStatus] = mapped_column(
        EnumText(BrokerRequestStatus), server_default=BrokerRequestStatus.PENDING
    )
    """Its status; only pending requests are indexed by it."""
    finished_at: Mapped[datetime | None]
    """When it ended in any final status; NULL exactly while it is `pending`."""
    hosted_model_id: Mapped[int | None] = mapped_column(BigInteger)
    """The target, which may have been deleted from the catalog: no foreign key keeps it there."""
    model: Mapped[str | None]
    """Code of the model at that time."""
    provider: Mapped[str | None]
    """Code of the provider at that time."""
    request: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Content of the request; NULL if contents are not stored."""
    response: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Content of the response; NULL if contents are not stored."""
    prompt_tokens: Mapped[int | None]
    """Tokens of input, including cached ones."""
    completion_tokens: Mapped[int | None]
    """Tokens of output."""
    cached_tokens: Mapped[int | None]
    """Tokens of input that the provider had cached."""
    total_tokens: Mapped[int | None]
    """Total tokens, as counted by the provider."""
    latency_ms: Mapped[int | None]
    """Milliseconds from the request to the end of the response."""
    cost: Mapped[Decimal | None] = mapped_column(Numeric(18, 9))
    """Cost at the price of that time."""
    currency: Mapped[str] = mapped_column(server_default="USD")
    """ISO 4217 code of `cost`."""
    error_code: Mapped[str | None]
    """Kind of failure, defined by the provider or the broker."""
    error_message: Mapped[str | None]
    """Message of the failure."""
    agent_name: Mapped[str | None]
    """Name of the agent that made the request."""
    session_id: Mapped[str | None]
    """Conversation or run of the request."""
    trace_id: Mapped[str | None]
    """Trace of the request, as identified by the tracing system."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the caller; not used by the library."""

    hosted_model: Mapped[HostedModel | None] = relationship(
        back_populates="requests",
        primaryjoin=lambda: foreign(BrokerRequest.hosted_model_id) == HostedModel.id,
    )
    """The target, or None if it is not in the catalog any more."""


monthly_partitions(BrokerRequest, "WITH (fillfactor = 90)")


status_times_by_trigger(
    BrokerRequest,
    "(NEW.status = 'pending') <> (NEW.finished_at IS NULL)",
)
