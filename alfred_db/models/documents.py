"""Documents: texts with a title, for vector, full-text and hybrid search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Computed, Index, LargeBinary, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..vectors.formats import Embedding
from ..vectors.types import Vector
from ._vectors import hnsw
from .base import Base, BigIntId, CreatedAt, UpdatedAt, trigram_index, updated_by_trigger

if TYPE_CHECKING:
    from .rag import RagQueryDocument

__all__ = ["Document"]

# sha256 of the bytes of the content, with immutable functions only, as a generated column requires: `convert_to` is
# only stable, and `md5` is refused by a server in FIPS mode. chr(92) is the backslash.
_HASH = "sha256(decode(replace(content, chr(92), repeat(chr(92), 2)), 'escape'::text))"

# A tsvector holds 1 MB; the limits keep a long text from being refused because of its index.
_SEARCH = (
    "setweight(to_tsvector('english'::regconfig,"
    " \"left\"(COALESCE(title, ''::text), 10000)), 'A'::\"char\") ||"
    " setweight(to_tsvector('english'::regconfig,"
    " \"left\"(COALESCE(content, ''::text), 100000)), 'B'::\"char\")"
)


@updated_by_trigger
class Document(Base):
    """A text, or one chunk of a longer text, with its vector."""

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("external_id"),
        hnsw(None, "embedding"),
        Index(None, "created_at"),
        Index(None, "metadata", postgresql_using="gin"),
        Index(None, "content_hash"),
        Index(None, "search", postgresql_using="gin"),
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    title: Mapped[str | None]
    """Title; it has a higher weight than the content in full-text search."""
    content: Mapped[str | None]
    """Text."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(384), deferred=True)
    """Vector of the text; while it is NULL, vector search does not find the row."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    """Metadata of the caller, for filters."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    external_id: Mapped[str | None]
    """Unique key of the caller, such as a path or URL; added, so that storing a document again updates it."""
    embedding_model: Mapped[str | None]
    """Name of the embedding model; added, because distances between vectors of two models are meaningless."""
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary, Computed(_HASH, persisted=True))
    """sha256 of the content, computed by the server; added, to find a known text before it is embedded."""
    search: Mapped[str | None] = mapped_column(TSVECTOR, Computed(_SEARCH, persisted=True), deferred=True)
    """English words of title (10,000 characters) and content (100,000); added, for full-text search."""

    rag_queries: Mapped[list[RagQueryDocument]] = relationship(
        back_populates="document", cascade="all, delete-orphan", passive_deletes=True
    )


trigram_index(Document, "title")
