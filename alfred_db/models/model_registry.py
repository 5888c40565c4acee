"""Model registry: models, their endpoints, and scores of their capabilities."""

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
    """A model of the platform, identified by its name."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("name"), {"schema": "model_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    name: Mapped[str]
    """Unique name for programs."""
    display_name: Mapped[str]
    """Display name."""
    provider: Mapped[str]
    """Provider that serves it."""
    model_type: Mapped[str]
    """Kind of model, defined by the platform: `chat`, `embedding`."""
    version: Mapped[str | None]
    """Version, as named by the provider."""
    description: Mapped[str | None]
    """Description."""
    deprecated_at: Mapped[datetime | None]
    """From when on it is not selected for new work; NULL while it is in use.

    Added: deleting a model would delete the endpoints of its users.
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
    """An endpoint of a model."""

    __tablename__ = "model_endpoints"
    __table_args__ = (Index(None, "model_id"), {"schema": "model_registry"})

    id: Mapped[BigIntId]
    """Key of the row."""
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_registry.models.id", ondelete="CASCADE"))
    """The model; its endpoints are deleted with it."""
    endpoint_type: Mapped[str]
    """Kind of API, defined by the platform."""
    endpoint_url: Mapped[str | None]
    """URL; NULL is the default of the provider."""
    auth_type: Mapped[str | None]
    """Method of authentication; credentials belong in a secret store."""
    headers: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Headers of each request; no secrets, because every tenant can read the table."""
    created_at: Mapped[CreatedAt]
    """When it was registered."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    model: Mapped[RegistryModel | None] = relationship(back_populates="endpoints")


class ModelCapability(Base):
    """The score of a model in a capability; at most one row for each."""

    __tablename__ = "model_capabilities"
    __table_args__ = (
        UniqueConstraint("model_id", "capability"),
        Index(None, "capability", "capability_score"),
        {"schema": "model_registry"},
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    model_id: Mapped[int | None] = mapped_column(ForeignKey("model_registry.models.id", ondelete="CASCADE"))
    """The model; its capabilities are deleted with it.

    The index of the unique constraint serves the foreign key.
    """
    capability: Mapped[str]
    """Name of the capability, defined by the platform; indexed with the score."""
    capability_score: Mapped[float] = mapped_column(Double)
    """Score; higher is better, on a scale of the platform."""

    model: Mapped[RegistryModel | None] = relationship(back_populates="capabilities")
