"""Conversations: the messages of each session, in order."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Computed, Index
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from ..types import EnumText
from .base import Base, BigIntId, CreatedAt, one_of

__all__ = ["Conversation", "ConversationSession", "MessageRole"]


class MessageRole(StrEnum):
    """Role of the author; the reference has the first two, and agents need the others too."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


class Conversation(Base):
    """One message of a session. Messages are appended and never changed; `id` is their order."""

    __tablename__ = "conversations"
    __table_args__ = (
        one_of("role", MessageRole),
        Index("idx_conversations_session_id", "session_id", "id"),
        Index(None, "created_at"),
        Index(None, "search", postgresql_using="gin"),
    )

    id: Mapped[BigIntId]
    """Key of the row, and its position in the session."""
    session_id: Mapped[str]
    """The session, identified by the caller."""
    role: Mapped[MessageRole] = mapped_column(EnumText(MessageRole))
    """Role of the author."""
    content: Mapped[str]
    """Text of the message."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    """Metadata of the caller, such as the name of a tool and the call that it answers."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    search: Mapped[str | None] = mapped_column(
        TSVECTOR,
        Computed("to_tsvector('english'::regconfig, \"left\"(content, 100000))", persisted=True),
        deferred=True,
    )
    """English words of the first 100,000 characters (a tsvector holds 1 MB); added, for full-text search."""


class ConversationSession(Base):
    """A count of messages of a session; written together with the messages.

    Added: a list of sessions would otherwise cost as much as all messages that they hold. A session has a row
    for each transaction that appended to it at the same time as others, most have one: an append takes a row
    that nobody has locked, or inserts one, so that it never waits. The number of messages is the sum.
    """

    __tablename__ = "conversation_sessions"
    __table_args__ = (Index(None, "session_id"), Index(None, "last_id"))

    id: Mapped[BigIntId]
    """Key of the row."""
    session_id: Mapped[str]
    """The session, identified by the caller."""
    messages: Mapped[int] = mapped_column(BigInteger)
    """Number of messages that were counted here; negative if more were deleted."""
    first_at: Mapped[datetime]
    """When the first of them was stored; it stays when old messages are purged."""
    last_id: Mapped[int] = mapped_column(BigInteger)
    """Id of the newest of them: the order of the sessions."""
    last_at: Mapped[datetime]
    """When the newest of them was stored."""
