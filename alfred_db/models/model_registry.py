"""Model registry: which models there are, where each is reached, and how well each does what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Double, ForeignKey, Index, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .base import Base, BigIntId, CreatedAt, UpdatedAt, updated_by_trigger

__all__ = ["ModelCapability", "ModelEndpoint", "RegistryModel"]


@updated_by_trigger
class RegistryModel(Base):
    """A model of the platform, known by its name."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("name"), {"schema": "model_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    name: Mapped[str]
    """What programs call it; unique."""
    display_name: Mapped[str]
    """What people call it."""
    provider: Mapped[str]
    """Who serves it."""
    model_type: Mapped[str]
    """Kind of model, in the platform's words: `chat`, `embedding`."""
    version: Mapped[str | None]
    """The provider's version."""
    description: Mapped[str | None]
    """What it is good for."""
    deprecated_at: Mapped[datetime | None]
    """From when on it is no longer chosen for new work; NULL while it is in use.

    Added: to delete a model would take away the endpoints of those who still use it.
    """
    created_at: Mapped[CreatedAt]
    """When it was registered."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    endpoints: Mapped[list[ModelEndpoint]] = relationship(
        back_populates="model", cascade="all, delete-orphan", passive_deletes=True
    )
    capabilities: Mapped[list[ModelCapability]] = relationship(
        back_populates="model", cascade="all, delete-orphan", passive_deletes=True
    )


@updated_by_trigger
class ModelEndpoint(Base):
    """A place where a model is reached."""

    __tablename__ = "model_endpoints"
    __table_args__ = (Index(None, "model_id"), {"schema": "model_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_registry.models.id", ondelete="CASCADE"))
    """The model it serves; its endpoints go with it."""
    endpoint_type: Mapped[str]
    """Kind of interface, in the platform's words."""
    endpoint_url: Mapped[str | None]
    """Its address; NULL is the provider's usual one."""
    auth_type: Mapped[str | None]
    """How a caller proves who it is; the proof itself belongs in a secret store."""
    headers: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """What to send with each request; no secrets, the table is read by every tenant."""
    created_at: Mapped[CreatedAt]
    """When it was registered."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    model: Mapped[RegistryModel | None] = relationship(back_populates="endpoints")


class ModelCapability(Base):
    """How well a model does one thing; at most one row for each."""

    __tablename__ = "model_capabilities"
    __table_args__ = (
        UniqueConstraint("model_id", "capability"),
        Index(None, "capability", "capability_score"),
        {"schema": "model_registry"},
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_registry.models.id", ondelete="CASCADE"))
    """The model; its capabilities go with it. The unique constraint's index serves the foreign key."""
    capability: Mapped[str]
    """What it can do, in the platform's words; indexed with the score, to ask who does it best."""
    capability_score: Mapped[float] = mapped_column(Double)
    """How well; the larger the better, the scale is the platform's."""

    model: Mapped[RegistryModel | None] = relationship(back_populates="capabilities")
