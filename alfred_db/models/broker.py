"""Broker: the catalog of hosted models, shared by all tenants, and each tenant's log of requests to them.

Every row of the catalog has a `code`, which stays the same from database to database: the catalog is kept
elsewhere, and imports find rows by it.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, WriteOnlyMapped, mapped_column, relationship

from ..types import EnumText
from .base import Base, BigIntId, CreatedAt, Json, UpdatedAt, monthly_partitions, one_of, updated_by_trigger

__all__ = [
    "BrokerModel",
    "BrokerRequest",
    "BrokerRequestStatus",
    "HostedModel",
    "HostedModelPrice",
    "HostingProvider",
    "ModelFamily",
    "ModelMaker",
    "ModelSnapshot",
]


class BrokerRequestStatus(StrEnum):
    """`pending` is live; the others are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


@updated_by_trigger
class HostingProvider(Base):
    """Who serves models: Azure, Bedrock, Anthropic."""

    __tablename__ = "hosting_provider"
    __table_args__ = (UniqueConstraint("code"), {"schema": "brk_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    code: Mapped[str]
    """What programs call it; unique."""
    name: Mapped[str]
    """What people call it."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether requests may go there."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The catalog's notes; not read by the library."""
    created_at: Mapped[CreatedAt]
    """When it came into the catalog."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    hosted_models: Mapped[list[HostedModel]] = relationship(back_populates="provider", passive_deletes="all")


@updated_by_trigger
class ModelMaker(Base):
    """Who makes models: Anthropic, OpenAI, Meta."""

    __tablename__ = "model_maker"
    __table_args__ = (UniqueConstraint("code"), {"schema": "brk_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    code: Mapped[str]
    """What programs call it; unique."""
    name: Mapped[str]
    """What people call it."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The catalog's notes; not read by the library."""
    created_at: Mapped[CreatedAt]
    """When it came into the catalog."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    families: Mapped[list[ModelFamily]] = relationship(back_populates="maker", passive_deletes="all")


@updated_by_trigger
class ModelFamily(Base):
    """Models of one maker that belong together: Claude, GPT, Llama."""

    __tablename__ = "model_family"
    __table_args__ = (UniqueConstraint("code"), Index(None, "maker_id"), {"schema": "brk_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    maker_id: Mapped[int] = mapped_column(ForeignKey("brk_registry.model_maker.id"))
    """Who makes it."""
    code: Mapped[str]
    """What programs call it; unique."""
    name: Mapped[str]
    """What people call it."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The catalog's notes; not read by the library."""
    created_at: Mapped[CreatedAt]
    """When it came into the catalog."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    maker: Mapped[ModelMaker] = relationship(back_populates="families")
    models: Mapped[list[BrokerModel]] = relationship(back_populates="family", passive_deletes="all")


@updated_by_trigger
class BrokerModel(Base):
    """A model, whoever serves it."""

    __tablename__ = "model"
    __table_args__ = (
        UniqueConstraint("code"),
        Index(None, "family_id"),
        Index(
            None,
            "capabilities",
            postgresql_using="gin",
            postgresql_ops={"capabilities": "jsonb_path_ops"},
        ),
        CheckConstraint("context_window > 0 AND max_output_tokens > 0", name="limits"),
        {"schema": "brk_registry"},
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    family_id: Mapped[int] = mapped_column(ForeignKey("brk_registry.model_family.id"))
    """The family it is of."""
    code: Mapped[str]
    """What programs call it; unique."""
    name: Mapped[str]
    """What people call it."""
    capabilities: Mapped[Json]
    """What it can do, by name: `{"vision": true, "tools": true}`; indexed for containment."""
    context_window: Mapped[int | None]
    """Tokens that input and output may have together."""
    max_output_tokens: Mapped[int | None]
    """Tokens that one answer may have."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The catalog's notes; not read by the library."""
    created_at: Mapped[CreatedAt]
    """When it came into the catalog."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    family: Mapped[ModelFamily] = relationship(back_populates="models")
    snapshots: Mapped[list[ModelSnapshot]] = relationship(back_populates="model", passive_deletes="all")
    hosted_models: Mapped[list[HostedModel]] = relationship(back_populates="model", passive_deletes="all")


@updated_by_trigger
class ModelSnapshot(Base):
    """One dated version of a model."""

    __tablename__ = "model_snapshot"
    __table_args__ = (UniqueConstraint("model_id", "code"), {"schema": "brk_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    model_id: Mapped[int] = mapped_column(ForeignKey("brk_registry.model.id"))
    """The model it is a version of; the unique constraint's index serves the foreign key."""
    code: Mapped[str]
    """What programs call it; unique in the model."""
    name: Mapped[str]
    """What people call it."""
    released_at: Mapped[datetime | None]
    """When its maker released it."""
    retired_at: Mapped[datetime | None]
    """When its maker withdraws or withdrew it."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The catalog's notes; not read by the library."""
    created_at: Mapped[CreatedAt]
    """When it came into the catalog."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    model: Mapped[BrokerModel] = relationship(back_populates="snapshots")
    hosted_models: Mapped[list[HostedModel]] = relationship(back_populates="snapshot", passive_deletes="all")


@updated_by_trigger
class HostedModel(Base):
    """A model at a provider: what a request is sent to, and what has a price."""

    __tablename__ = "hosted_model"
    __table_args__ = (
        UniqueConstraint("provider_id", "code"),
        Index(None, "model_id"),
        Index(None, "snapshot_id"),
        {"schema": "brk_registry"},
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    model_id: Mapped[int] = mapped_column(ForeignKey("brk_registry.model.id"))
    """The model that is served."""
    provider_id: Mapped[int] = mapped_column(ForeignKey("brk_registry.hosting_provider.id"))
    """Who serves it; the unique constraint's index serves the foreign key."""
    snapshot_id: Mapped[int | None] = mapped_column(ForeignKey("brk_registry.model_snapshot.id"))
    """The version that is served; NULL is whichever is the provider's latest."""
    code: Mapped[str]
    """What the provider calls it in its interface; unique at the provider."""
    name: Mapped[str | None]
    """What people call it; NULL is the model's name."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether requests may go there."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The catalog's notes: region, quota; not read by the library."""
    created_at: Mapped[CreatedAt]
    """When it came into the catalog."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    model: Mapped[BrokerModel] = relationship(back_populates="hosted_models")
    provider: Mapped[HostingProvider] = relationship(back_populates="hosted_models")
    snapshot: Mapped[ModelSnapshot | None] = relationship(back_populates="hosted_models")
    prices: Mapped[list[HostedModelPrice]] = relationship(
        back_populates="hosted_model",
        cascade="all, delete-orphan",
        passive_deletes=True,
        order_by="HostedModelPrice.valid_from",
    )
    requests: WriteOnlyMapped[BrokerRequest] = relationship(
        back_populates="hosted_model", passive_deletes=True
    )


class HostedModelPrice(Base):
    """A price from some time on: the one that holds is the latest not after it.

    Added: a price that is overwritten would make the cost of old requests wrong.
    """

    __tablename__ = "hosted_model_price"
    __table_args__ = (
        UniqueConstraint("hosted_model_id", "valid_from"),
        CheckConstraint("input_price >= 0 AND output_price >= 0 AND cached_input_price >= 0", name="prices"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        {"schema": "brk_registry"},
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    hosted_model_id: Mapped[int] = mapped_column(
        ForeignKey("brk_registry.hosted_model.id", ondelete="CASCADE")
    )
    """What it is the price of; its prices go with it. The unique index serves the foreign key."""
    valid_from: Mapped[datetime]
    """From when on it holds, until the next one does."""
    input_price: Mapped[Decimal] = mapped_column(Numeric(18, 9))
    """Price of a million tokens of input."""
    output_price: Mapped[Decimal] = mapped_column(Numeric(18, 9))
    """Price of a million tokens of output."""
    cached_input_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 9))
    """Price of a million tokens of input that the provider had cached; NULL is `input_price`."""
    currency: Mapped[str] = mapped_column(server_default="USD")
    """ISO 4217 code of all three."""
    created_at: Mapped[CreatedAt]
    """When it came into the catalog."""

    hosted_model: Mapped[HostedModel] = relationship(back_populates="prices")


class BrokerRequest(Base):
    """One request to a model and what came of it. Partitioned by month of `created_at`.

    `created_at` is a part of the key, so give it in each lookup: then one partition is read. Model and
    provider stand in the row as text too, because the log outlives the catalog.
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
        {"schema": "brk_tracking", "postgresql_partition_by": "RANGE (created_at)"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    """Counts the requests; unique together with `created_at`."""
    created_at: Mapped[CreatedAt] = mapped_column(primary_key=True)
    """When it was made; decides the partition."""
    request_id: Mapped[str]
    """The broker's own key; not unique, as one request may be sent again to another model."""
    status: Mapped[BrokerRequestStatus] = mapped_column(
        EnumText(BrokerRequestStatus), server_default=BrokerRequestStatus.PENDING
    )
    """Where it stands; deliberately not indexed, so that finishing a request is a HOT update."""
    finished_at: Mapped[datetime | None]
    """When it ended, in whatever way; NULL exactly while it is `pending`."""
    hosted_model_id: Mapped[int | None] = mapped_column(
        ForeignKey("brk_registry.hosted_model.id", ondelete="SET NULL")
    )
    """What it was sent to; NULL when that has left the catalog."""
    model: Mapped[str | None]
    """Code of the model, as it was then."""
    provider: Mapped[str | None]
    """Code of the provider, as it was then."""
    request: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """What was sent; NULL where contents are not to be kept."""
    response: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """What came back; NULL where contents are not to be kept."""
    prompt_tokens: Mapped[int | None]
    """Tokens of input, the cached ones among them."""
    completion_tokens: Mapped[int | None]
    """Tokens of output."""
    cached_tokens: Mapped[int | None]
    """Tokens of input that the provider had cached."""
    total_tokens: Mapped[int | None]
    """Tokens in all, as the provider counts them."""
    latency_ms: Mapped[int | None]
    """Milliseconds from sending to the last of the answer."""
    cost: Mapped[Decimal | None] = mapped_column(Numeric(18, 9))
    """What it cost, at the price of then."""
    currency: Mapped[str] = mapped_column(server_default="USD")
    """ISO 4217 code of `cost`."""
    error_code: Mapped[str | None]
    """Kind of failure, in the provider's or the broker's words."""
    error_message: Mapped[str | None]
    """Text of the failure."""
    agent_name: Mapped[str | None]
    """Who made the request."""
    session_id: Mapped[str | None]
    """The conversation or run that it belongs to."""
    trace_id: Mapped[str | None]
    """The trace that it belongs to, in the tracing system's words."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The caller's notes; not read by the library."""

    hosted_model: Mapped[HostedModel | None] = relationship(back_populates="requests")


monthly_partitions(BrokerRequest, "WITH (fillfactor = 90)")
