"""Memories: what agents keep, in banks, and what the knowledge agent keeps, in namespaces."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..vectors.formats import Embedding
from ..vectors.types import Vector
from ._vectors import hnsw
from .base import Base, BigIntId, CreatedAt, Json, UpdatedAt, UuidId, trigram_index, updated_by_trigger

__all__ = ["Memory", "MemoryBank", "MemoryEntry"]

# An index over the expression, not a generated column: beside a BEFORE UPDATE trigger the server makes every
# generated column anew in each update, and one that it had compressed then passes for changed: not HOT.
# A tsvector holds 1 MB; the limit keeps a long text from being refused for the sake of its index.
_SEARCH = "to_tsvector('english'::regconfig, \"left\"(content, 100000))"


@updated_by_trigger
class MemoryBank(Base):
    """A set of memories that belong together, such as those of one agent or one person."""

    __tablename__ = "memory_banks"
    __table_args__ = (Index(None, "name"),)

    id: Mapped[BigIntId]
    """Key of the row."""
    name: Mapped[str]
    """What it is called; not unique, as in the reference."""
    description: Mapped[str | None]
    """What it is for."""
    created_at: Mapped[CreatedAt]
    """When it was made."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    memories: Mapped[list[Memory]] = relationship(back_populates="bank", passive_deletes="all")


@updated_by_trigger
class Memory(Base):
    """One thing to remember. To recall it touches it, and no index holds what a touch changes: it is HOT."""

    __tablename__ = "memories"
    __table_args__ = (
        UniqueConstraint("memory_bank_id", "content_hash"),
        hnsw(None, "embedding"),
        Index(None, "memory_bank_id"),
        Index("idx_memories_importance", text("importance DESC")),
        Index(None, "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        Index("idx_memories_search", text(_SEARCH), postgresql_using="gin"),
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    memory_bank_id: Mapped[int | None] = mapped_column(ForeignKey("memory_banks.id"))
    """The bank it is in."""
    content: Mapped[str]
    """What is remembered."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(384), deferred=True)
    """Meaning of the content; NULL until it is embedded, and then not found by meaning."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    """The caller's notes."""
    importance: Mapped[int] = mapped_column(server_default=text("1"))
    """How much it matters; more is more, 1 is the least that the library gives."""
    access_count: Mapped[int] = mapped_column(server_default=text("0"))
    """How often it was recalled; deliberately not indexed."""
    last_accessed: Mapped[datetime | None]
    """When it was last recalled; deliberately not indexed."""
    created_at: Mapped[CreatedAt]
    """When it was first remembered."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    """sha256 of the normalised content, set by the library; added, so that a bank holds a thing once.

    NULL, as plain SQL leaves it, is not held to that: the reference lets a bank hold a text twice.
    """
    seen_count: Mapped[int] = mapped_column(server_default=text("1"))
    """How often it was told, the first time included; added, for duplicates that become one memory."""
    expires_at: Mapped[datetime | None]
    """When it may be forgotten; NULL is never; added, for memories with a time to live."""
    embedding_model: Mapped[str | None]
    """What made the vector; added, because vectors of two models have no meaningful distance."""

    bank: Mapped[MemoryBank | None] = relationship(back_populates="memories")


@updated_by_trigger
class MemoryEntry(Base):
    """A piece of the knowledge agent's knowledge.

    The reference has the table's name, its vector and its index; the other columns are what such an agent
    needs to find a piece, to cite it and to let go of it.
    """

    __tablename__ = "memory_entries"
    __table_args__ = (
        UniqueConstraint("namespace", "content_hash"),
        hnsw(None, "embedding"),
        Index(None, "namespace", "created_at"),
        Index(None, "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        Index("idx_memory_entries_search", text(_SEARCH), postgresql_using="gin"),
    )

    id: Mapped[UuidId]
    """Key of the row; a UUID, so that several instances of the agent can make it themselves."""
    namespace: Mapped[str] = mapped_column(server_default=text("'default'"))
    """What it belongs to, such as a project or user: each search is within one."""
    agent: Mapped[str | None]
    """Name of the agent that stored it; no foreign key: it may write before it is registered."""
    source: Mapped[str | None]
    """Where the knowledge comes from, such as a URL: what an answer cites."""
    content: Mapped[str]
    """The knowledge, in words."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(768), deferred=True)
    """Meaning of the content; NULL until it is embedded, and then not found by meaning."""
    embedding_model: Mapped[str | None]
    """What made the vector: vectors of two models have no meaningful distance."""
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    """sha256 of the normalised content, set by the library: a namespace holds a thing once, or NULL."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The caller's notes."""
    created_at: Mapped[CreatedAt]
    """When it was stored."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    expires_at: Mapped[datetime | None]
    """When it may be forgotten; NULL is never."""


trigram_index(Memory, "content")
trigram_index(MemoryEntry, "content")
