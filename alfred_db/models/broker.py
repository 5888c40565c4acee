"""Broker: the catalog of hosted models, shared by all tenants, and the request log of each tenant.

Every row of the catalog has a `code`, which is the same in every database: the catalog is maintained
elsewhere, and imports identify rows by it.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Numeric,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, WriteOnlyMapped, mapped_column, relationship

from .base import Base, BigIntId, CreatedAt, Json, UpdatedAt, updated_by_trigger

if TYPE_CHECKING:
    from .broker_requests import BrokerRequest

__all__ = [
    "BrokerModel",
    "HostedModel",
    "HostedModelPrice",
    "HostingProvider",
    "ModelFamily",
    "ModelMaker",
    "ModelSnapshot",
]


@updated_by_trigger
class HostingProvider(Base):
    """A provider that serves models, such as Azure, Bedrock or Anthropic."""

    __tablename__ = "hosting_provider"
    __table_args__ = (UniqueConstraint("code"), {"schema": "brk_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    code: Mapped[str]
    """Unique name for programs."""
    name: Mapped[str]
    """Display name."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether requests may be sent to it."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the catalog; not used by the library."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    hosted_models: Mapped[list[HostedModel]] = relationship(back_populates="provider", passive_deletes="all")


@updated_by_trigger
class ModelMaker(Base):
    """A maker of models, such as Anthropic, OpenAI or Meta."""

    __tablename__ = "model_maker"
    __table_args__ = (UniqueConstraint("code"), {"schema": "brk_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    code: Mapped[str]
    """Unique name for programs."""
    name: Mapped[str]
    """Display name."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the catalog; not used by the library."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    families: Mapped[list[ModelFamily]] = relationship(back_populates="maker", passive_deletes="all")


@updated_by_trigger
class ModelFamily(Base):
    """A family of models of one maker, such as Claude, GPT or Llama."""

    __tablename__ = "model_family"
    __table_args__ = (UniqueConstraint("code"), Index(None, "maker_id"), {"schema": "brk_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    maker_id: Mapped[int] = mapped_column(ForeignKey("brk_registry.model_maker.id"))
    """Its maker."""
    code: Mapped[str]
    """Unique name for programs."""
    name: Mapped[str]
    """Display name."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the catalog; not used by the library."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    maker: Mapped[ModelMaker] = relationship(back_populates="families")
    models: Mapped[list[BrokerModel]] = relationship(back_populates="family", passive_deletes="all")


@updated_by_trigger
class BrokerModel(Base):
    """A model, independent of its providers."""

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
    """Its family."""
    code: Mapped[str]
    """Unique name for programs."""
    name: Mapped[str]
    """Display name."""
    capabilities: Mapped[Json]
    """Its capabilities by name: `{"vision": true, "tools": true}`; indexed for containment."""
    context_window: Mapped[int | None]
    """Maximum tokens of input and output together."""
    max_output_tokens: Mapped[int | None]
    """Maximum tokens of a response."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the catalog; not used by the library."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
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
    """The model; the index of the unique constraint serves the foreign key."""
    code: Mapped[str]
    """Name for programs, unique within the model."""
    name: Mapped[str]
    """Display name."""
    released_at: Mapped[datetime | None]
    """When its maker released it."""
    retired_at: Mapped[datetime | None]
    """When its maker withdraws or withdrew it."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the catalog; not used by the library."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    model: Mapped[BrokerModel] = relationship(back_populates="snapshots")
    hosted_models: Mapped[list[HostedModel]] = relationship(back_populates="snapshot", passive_deletes="all")


@updated_by_trigger
class HostedModel(Base):
    """A model at a provider: the target of requests, which has a price."""

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
    """The provider; the index of the unique constraint serves the foreign key."""
    snapshot_id: Mapped[int | None] = mapped_column(ForeignKey("brk_registry.model_snapshot.id"))
    """The version that is served; NULL is the latest version of the provider."""
    code: Mapped[str]
    """Its name in the API of the provider; unique at the provider."""
    name: Mapped[str | None]
    """Display name; NULL is the name of the model."""
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether requests may be sent to it."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the catalog, such as region and quota; not used by the library."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
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
        back_populates="hosted_model",
        primaryjoin="HostedModel.id == foreign(BrokerRequest.hosted_model_id)",
        passive_deletes="all",
    )
    """The requests to it, in the log of the session's tenant; they stay when it is deleted."""


class HostedModelPrice(Base):
    """A price from a time on; the latest that is not after a time is valid at that time.

    Prices are added: overwriting a price would make the cost of earlier requests wrong.
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
    """The hosted model; its prices are deleted with it. The unique index serves the foreign key."""
    valid_from: Mapped[datetime]
    """Start of its validity, which ends with the next price."""
    input_price: Mapped[Decimal] = mapped_column(Numeric(18, 9))
    """Price of a million tokens of input."""
    output_price: Mapped[Decimal] = mapped_column(Numeric(18, 9))
    """Price of a million tokens of output."""
    cached_input_price: Mapped[Decimal | None] = mapped_column(Numeric(18, 9))
    """Price of a million tokens of input that the provider had cached; NULL is `input_price`."""
    currency: Mapped[str] = mapped_column(server_default="USD")
    """ISO 4217 code of the three prices."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""

    hosted_model: Mapped[HostedModel] = relationship(back_populates="prices")
