"""RAG: sessions of queries, and the documents that each response used."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .base import Base, BigIntId, CreatedAt, UpdatedAt, updated_by_trigger
from .documents import Document

__all__ = ["RagQuery", "RagQueryDocument", "RagSession"]


@updated_by_trigger
class RagSession(Base):
    """Queries that share a context."""

    __tablename__ = "rag_sessions"
    # The reference has a UNIQUE constraint and an index: this is both, with the name of the index.
    __table_args__ = (UniqueConstraint("session_id", name="idx_rag_sessions_session_id"),)

    id: Mapped[BigIntId]
    """Key of the row, which its queries refer to."""
    session_id: Mapped[str]
    """Unique key of the caller."""
    context: Mapped[str | None]
    """Context of all its queries."""
    created_at: Mapped[CreatedAt]
    """When it began."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    queries: Mapped[list[RagQuery]] = relationship(
        back_populates="session", order_by="RagQuery.id", passive_deletes="all"
    )


class RagQuery(Base):
    """A query with its context and its response."""

    __tablename__ = "rag_queries"
    __table_args__ = (
        Index("idx_rag_queries_session_id", "session_id", "id"),
        Index(None, "created_at"),
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    session_id: Mapped[int | None] = mapped_column(ForeignKey("rag_sessions.id"))
    """Key of the row of the session, not the `session_id` of the caller."""
    query_text: Mapped[str]
    """The query."""
    context_used: Mapped[str | None]
    """The context passed to the model; it remains when its documents are deleted."""
    response: Mapped[str | None]
    """The response; NULL until it is known."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    """Metadata of the caller, such as the model and its settings."""
    created_at: Mapped[CreatedAt]
    """When it was recorded."""

    session: Mapped[RagSession | None] = relationship(back_populates="queries")
    documents: Mapped[list[RagQueryDocument]] = relationship(
        back_populates="query",
        order_by="RagQueryDocument.rank",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )


class RagQueryDocument(Base):
    """A document that a query used; added, so that a response can be traced to its sources and back."""

    __tablename__ = "rag_query_documents"
    __table_args__ = (
        Index("idx_rag_query_documents_document_id", "document_id", "query_id"),
        CheckConstraint("rank >= 1", name="rank"),
    )

    query_id: Mapped[int] = mapped_column(ForeignKey("rag_queries.id", ondelete="CASCADE"), primary_key=True)
    """The query; the rows are deleted with it."""
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    """The document; a cited document can be deleted, and `context_used` keeps its text."""
    rank: Mapped[int]
    """Its rank in the results of the search, from 1."""
    distance: Mapped[float | None] = mapped_column(Double)
    """Cosine distance from the query, 0 to 2; NULL if it was found only by full text."""

    query: Mapped[RagQuery] = relationship(back_populates="documents")
    document: Mapped[Document] = relationship(back_populates="rag_queries")
