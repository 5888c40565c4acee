"""Working memory: records for the work in progress of agents, in the row or in a blob store."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..types import EnumText
from ..vectors.formats import Embedding
from ..vectors.types import Vector
from ._vectors import hnsw
from .base import Base, CreatedAt, Json, UpdatedAt, UuidId, one_of, trigram_index, updated_by_trigger

__all__ = ["WorkingMemory", "WorkingMemoryStatus"]


class WorkingMemoryStatus(StrEnum):
    """Whether a record can be used. Expiry is computed from `expires_at`."""

    PENDING = "pending"
    """Its blob is not stored yet."""
    ACTIVE = "active"
    """It can be used."""
    ARCHIVED = "archived"
    """It is kept but not searched."""
    DELETED = "deleted"
    """The next sweep deletes it with its blob: a blob store has no transactions."""


@updated_by_trigger
class WorkingMemory(Base):
    """One record; the reference has `id` to `created_at` and `embedding`, the rest is added."""

    __tablename__ = "working_memory"
    __table_args__ = (
        one_of("status", WorkingMemoryStatus),
        hnsw("embedding_idx", "embedding"),
        Index(None, "blob_key", postgresql_where=text("blob_key IS NOT NULL")),
        Index(None, "created_at"),
        Index(None, "session_id", "created_at"),
        Index(None, "agent", "created_at"),
        Index(None, "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        Index(None, "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
        {"schema": "wm", "postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[UuidId]
    """Key of the row."""
    name: Mapped[str]
    """Name."""
    memory_type: Mapped[str]
    """Kind of record, defined by the platform."""
    provider: Mapped[str | None]
    """The store of the blob; NULL if the content is in this row."""
    status: Mapped[WorkingMemoryStatus] = mapped_column(
        EnumText(WorkingMemoryStatus), server_default=WorkingMemoryStatus.ACTIVE
    )
    """Whether it can be used; deliberately not indexed, so that its changes are HOT."""
    blob_key: Mapped[str | None]
    """Key of the blob in its store."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(1536), deferred=True)
    """Vector of the content; while it is NULL, vector search does not find the row."""
    content: Mapped[str | None]
    """The content, if it is text and short; added, so that it needs no blob store."""
    session_id: Mapped[str | None]
    """Its session; added, because searches are usually within one."""
    agent: Mapped[str | None]
    """Name of its agent; added; no foreign key, because the agent need not be registered."""
    embedding_model: Mapped[str | None]
    """Name of the embedding model; added, because distances between vectors of two models are meaningless."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the caller; added; not used by the library."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed; added, as for every row that changes."""
    expires_at: Mapped[datetime | None]
    """When it expires; NULL is never; added, because working memory is short-lived."""
    entity_node_id: Mapped[uuid.UUID | None]
    """The node of the entity graph that it belongs to; added; no foreign key, because the graph may be in another database."""
    description: Mapped[str | None]
    """What it is; added, as FireFoundry's services store it."""
    reasoning: Mapped[str | None]
    """Why it was stored; added, as FireFoundry's services store it."""
    lookup_info: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    """How it is looked up; added, as FireFoundry's services store it."""
    action_log: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    """What was done with it; added, as FireFoundry's services store it."""
    memory_content: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    """The content as JSON; added, as FireFoundry's services store it. Text is in `content`."""


trigram_index(WorkingMemory, "name")
