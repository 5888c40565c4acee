"""What conversations are told with, and what they give back when it is more than a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, Protocol, TypedDict

from ..models import MessageRole
from ..search.results import FoundRow

__all__ = ["ConversationRow", "ConversationSummary", "NewMessage"]


class ConversationRow(FoundRow, Protocol):
    """The columns of a `Conversation` in a search's hit."""

    id: int
    """Key of the row, and its place in the session."""
    session_id: str
    """The session it is part of, in the caller's words."""
    role: MessageRole
    """Who said it."""
    content: str
    """What was said."""
    metadata_: dict[str, Any] | None
    """The caller's notes, such as the name of a tool and the call that it answers."""
    created_at: datetime
    """When it was stored."""


class NewMessage(TypedDict):
    """One message to append, as `append` takes it."""

    role: MessageRole | str
    content: str
    metadata: NotRequired[Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """A session, and how much was said in it."""

    id: int
    """Of its newest message."""
    session_id: str
    messages: int
    last_at: datetime
    """When its newest message was stored."""
