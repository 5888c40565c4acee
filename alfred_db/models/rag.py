"""RAG: sessions of questions, and which documents each answer was made from."""

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
    """Questions that share a context."""

    __tablename__ = "rag_sessions"
    # The reference has a UNIQUE and an index besides: this is both, under the index's name.
    __table_args__ = (UniqueConstraint("session_id", name="idx_rag_sessions_session_id"),)

    id: Mapped[BigIntId]
    """Key of the row, and what its queries refer to."""
    session_id: Mapped[str]
    """The caller's own key."""
    context: Mapped[str | None]
    """What all its questions presuppose."""
    created_at: Mapped[CreatedAt]
    """When it began."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    queries: Mapped[list[RagQuery]] = relationship(
        back_populates="session", order_by="RagQuery.id", passive_deletes="all"
    )


class RagQuery(Base):
    """A question, the context that it was given, and the answer."""

    __tablename__ = "rag_queries"
    __table_args__ = (
        Index("idx_rag_queries_session_id", "session_id", "id"),
        Index(None, "created_at"),
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    session_id: Mapped[int | None] = mapped_column(ForeignKey("rag_sessions.id"))
    """The session it was asked in: the row's key there, not the caller's."""
    query_text: Mapped[str]
    """The question."""
    context_used: Mapped[str | None]
    """The text that the model was given; stays when the documents it came from are deleted."""
    response: Mapped[str | None]
    """The answer; NULL until there is one."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    """The caller's notes, such as the model and its settings."""
    created_at: Mapped[CreatedAt]
    """When it was asked."""

    session: Mapped[RagSession | None] = relationship(back_populates="queries")
    documents: Mapped[list[RagQueryDocument]] = relationship(
        back_populates="query",
        order_by="RagQueryDocument.rank",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )


class RagQueryDocument(Base):
    """A document that a query used; added, so that an answer can be traced to its sources and back."""

    __tablename__ = "rag_query_documents"
    __table_args__ = (Index(None, "document_id"), CheckConstraint("rank >= 1", name="rank"))

    query_id: Mapped[int] = mapped_column(ForeignKey("rag_queries.id", ondelete="CASCADE"), primary_key=True)
    """The query; what it used goes with it."""
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    """The document; deleting it must stay possible once it was cited, and `context_used` keeps its text."""
    rank: Mapped[int]
    """Its place among the results of the search, from 1."""
    distance: Mapped[float | None] = mapped_column(Double)
    """Cosine distance from the question, 0 to 2; NULL when it was found by word alone."""

    query: Mapped[RagQuery] = relationship(back_populates="documents")
    document: Mapped[Document] = relationship(back_populates="rag_queries")
