"""Working memory: what agents have at hand for the work in progress, here or in a blob store."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from ..types import EnumText
from ..vectors.formats import Embedding
from ..vectors.types import Vector
from ._vectors import hnsw
from .base import Base, CreatedAt, Json, UpdatedAt, UuidId, one_of, trigram_index, updated_by_trigger

__all__ = ["WorkingMemory", "WorkingMemoryStatus"]


class WorkingMemoryStatus(StrEnum):
    """Whether a record can be used. That it has expired is computed from `expires_at`."""

    PENDING = "pending"
    """Its blob is not stored yet."""
    ACTIVE = "active"
    """It is there to be used."""
    ARCHIVED = "archived"
    """It is kept and no longer offered."""
    DELETED = "deleted"
    """It goes, with its blob, in the next sweep: a blob store is in no transaction."""


@updated_by_trigger
class WorkingMemory(Base):
    """One record; the reference shows `id` to `created_at` and `embedding`, the rest is added."""

    __tablename__ = "working_memory"
    __table_args__ = (
        one_of("status", WorkingMemoryStatus),
        hnsw("embedding_idx", "embedding"),
        Index(None, "blob_key", postgresql_where=text("blob_key IS NOT NULL")),
        Index(None, "created_at"),
        Index(None, "session_id", "created_at"),
        Index(None, "agent", "created_at"),
        Index(None, "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        {"schema": "wm", "postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[UuidId]
    """Key of the row."""
    name: Mapped[str]
    """What it is called."""
    memory_type: Mapped[str]
    """Kind of record, in the platform's words."""
    provider: Mapped[str | None]
    """The store that has the blob; NULL when the content is in this row."""
    status: Mapped[WorkingMemoryStatus] = mapped_column(
        EnumText(WorkingMemoryStatus), server_default=WorkingMemoryStatus.ACTIVE
    )
    """Whether it can be used; deliberately not indexed, so that a change of it is HOT."""
    blob_key: Mapped[str | None]
    """Key of the blob in its store."""
    created_at: Mapped[CreatedAt]
    """When it was stored."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(1536), deferred=True)
    """Meaning of the content; NULL until it is embedded, and then not found by meaning."""
    content: Mapped[str | None]
    """The content, when it is text and short; added, so that it needs no blob store."""
    session_id: Mapped[str | None]
    """The session it serves; added, because a record is looked for within one."""
    agent: Mapped[str | None]
    """Name of the agent it serves; added, as the session is; no foreign key: it need not be registered."""
    embedding_model: Mapped[str | None]
    """What made the vector; added, because vectors of two models have no meaningful distance."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The caller's notes; added; not read by the library."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed; added, as every row that changes has it."""
    expires_at: Mapped[datetime | None]
    """When it may be swept away; NULL is never; added, because such memory is meant to be short."""


trigram_index(WorkingMemory, "name")
