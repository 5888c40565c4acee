"""Memories: texts that agents remember, in banks, and entries of the knowledge agent, in namespaces."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..vectors.formats import Embedding
from ..vectors.types import Vector
from ._vectors import hnsw
from .base import Base, BigIntId, CreatedAt, Json, UpdatedAt, UuidId, trigram_index, updated_by_trigger

__all__ = ["Memory", "MemoryBank", "MemoryEntry"]

# An index on the expression, and plain columns for the ranking, instead of a generated column: with a BEFORE UPDATE
# trigger the server recomputes every generated column in each update, and a compressed one then counts as changed, so
# that the update is not HOT.
# A tsvector holds 1 MB; the limit keeps a long text from being refused because of its index.
_SEARCH = "to_tsvector('english'::regconfig, \"left\"(content, 100000))"


@updated_by_trigger
class MemoryBank(Base):
    """A set of memories, such as those of one agent or one person."""

    __tablename__ = "memory_banks"
    __table_args__ = (Index(None, "name"),)

    id: Mapped[BigIntId]
    """Key of the row."""
    name: Mapped[str]
    """Name; not unique, as in the reference."""
    description: Mapped[str | None]
    """Description."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    memories: Mapped[list[Memory]] = relationship(back_populates="bank", passive_deletes="all")


@updated_by_trigger
class Memory(Base):
    """One memory. Recall updates it, and no index contains the updated columns, so that the update is HOT."""

    __tablename__ = "memories"
    __table_args__ = (
        UniqueConstraint("memory_bank_id", "content_hash"),
        hnsw(None, "embedding"),
        Index(None, "memory_bank_id"),
        Index("idx_memories_importance", text("importance DESC")),
        Index(None, "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        Index("idx_memories_search", text(_SEARCH), postgresql_using="gin"),
        Index(None, "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
        # Rows keep their vector, whose words would otherwise make them too long for it.
        {"postgresql_with": {"fillfactor": 70, "toast_tuple_target": 2800}},
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    memory_bank_id: Mapped[int | None] = mapped_column(ForeignKey("memory_banks.id"))
    """Its bank."""
    content: Mapped[str]
    """The remembered text."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(384), deferred=True)
    """Vector of the content; while it is NULL, vector search does not find the row."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    """Metadata of the caller."""
    importance: Mapped[int] = mapped_column(server_default=text("1"))
    """Importance; a larger number is more important, and the library assigns at least 1."""
    access_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Number of recalls; deliberately not indexed."""
    last_accessed: Mapped[datetime | None]
    """When it was last recalled; deliberately not indexed."""
    created_at: Mapped[CreatedAt]
    """When it was first stored."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    """sha256 of the normalised content, set by the library; added, so that a bank holds a text once.

    NULL, as plain SQL leaves it, is not unique: the reference allows a text twice in a bank.
    """
    seen_count: Mapped[int] = mapped_column(server_default=text("1"))
    """How often the text was stored, including the first time; added, for merged duplicates."""
    expires_at: Mapped[datetime | None]
    """When it expires; NULL is never; added, for memories with a time to live."""
    embedding_model: Mapped[str | None]
    """Name of the embedding model; added, because distances between vectors of two models are meaningless."""
    search: Mapped[str | None] = mapped_column(TSVECTOR, deferred=True)
    """English words of the first 100,000 characters, set by the library; added, so that searches parse no text."""
    search_hash: Mapped[int | None] = mapped_column(BigInteger, deferred=True)
    """Hash of the text whose words `search` has. Where it is another one, as after plain SQL, searches parse the text."""

    bank: Mapped[MemoryBank | None] = relationship(back_populates="memories")


@updated_by_trigger
class MemoryEntry(Base):
    """An entry of the knowledge agent.

    The reference has the name of the table, its vector and its index. The other columns are what such an
    agent needs to find an entry, to cite it and to expire it.
    """

    __tablename__ = "memory_entries"
    __table_args__ = (
        UniqueConstraint("namespace", "content_hash"),
        hnsw(None, "embedding"),
        Index(None, "namespace", "created_at"),
        Index(None, "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        Index("idx_memory_entries_search", text(_SEARCH), postgresql_using="gin"),
        Index(None, "metadata", postgresql_using="gin", postgresql_ops={"metadata": "jsonb_path_ops"}),
    )

    id: Mapped[UuidId]
    """Key of the row; a UUID, so that several instances of the agent can generate it."""
    namespace: Mapped[str] = mapped_column(server_default=text("'default'"))
    """Project or user that it belongs to: each search is within one namespace."""
    agent: Mapped[str | None]
    """Name of the agent that stored it; no foreign key, because the agent need not be registered."""
    source: Mapped[str | None]
    """Source, such as a URL, for citations."""
    content: Mapped[str]
    """The text."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(768), deferred=True)
    """Vector of the content; while it is NULL, vector search does not find the row."""
    embedding_model: Mapped[str | None]
    """Name of the embedding model; distances between vectors of two models are meaningless."""
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    """sha256 of the normalised content, set by the library; unique within a namespace unless NULL."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the caller."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    expires_at: Mapped[datetime | None]
    """When it expires; NULL is never."""
    app_name: Mapped[str | None]
    """The application that it comes from; added, as the knowledge agent stores it."""
    user_id: Mapped[str | None]
    """The user that it belongs to; added, as the knowledge agent stores it."""
    event_id: Mapped[str | None]
    """The event of a session that it was taken from; added, as the knowledge agent stores it."""
    author: Mapped[str | None]
    """The author of the event; added, as the knowledge agent stores it."""
    search: Mapped[str | None] = mapped_column(TSVECTOR, deferred=True)
    """English words of the first 100,000 characters, set by the library, so that searches parse no text."""
    search_hash: Mapped[int | None] = mapped_column(BigInteger, deferred=True)
    """Hash of the text whose words `search` has. Where it is another one, as after plain SQL, searches parse the text."""


trigram_index(Memory, "content")
trigram_index(MemoryEntry, "content")
