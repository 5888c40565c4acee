"""Agents: their capabilities, their status and their heartbeats."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..types import EnumText
from .base import Base, CreatedAt, Json, UpdatedAt, UuidId, one_of, updated_by_trigger

__all__ = ["Agent", "AgentStatus"]


class AgentStatus(StrEnum):
    """The status that an agent reports; whether it is alive is computed from its heartbeat."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    MAINTENANCE = "maintenance"


@updated_by_trigger
class Agent(Base):
    """An agent of the platform, identified by its name; each start of it is a new incarnation."""

    __tablename__ = "agent_registry"
    __table_args__ = (
        UniqueConstraint("name"),
        one_of("status", AgentStatus),
        Index(
            None,
            "capabilities",
            postgresql_using="gin",
            postgresql_ops={"capabilities": "jsonb_path_ops"},
        ),
        {"postgresql_with": {"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.01}},
    )

    id: Mapped[UuidId]
    """Key of the row; it is the same after restarts."""
    name: Mapped[str]
    """Unique name."""
    type: Mapped[str]
    """Kind of agent, defined by the platform."""
    version: Mapped[str]
    """Version of its code."""
    status: Mapped[AgentStatus] = mapped_column(EnumText(AgentStatus), server_default=AgentStatus.INACTIVE)
    """The status that it reports."""
    endpoint_url: Mapped[str | None]
    """URL for requests."""
    health_check_url: Mapped[str | None]
    """URL of its health check."""
    capabilities: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    """Its capabilities, an array of names."""
    configuration: Mapped[Json]
    """Its settings; not used by the library."""
    last_heartbeat: Mapped[datetime | None]
    """Time of its last heartbeat; deliberately not indexed, so that heartbeats are HOT."""
    registered_at: Mapped[CreatedAt]
    """When its name was first registered."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    incarnation: Mapped[uuid.UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    """New in each registration; a heartbeat of a replaced process is refused."""
