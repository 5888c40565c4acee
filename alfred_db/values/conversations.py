"""What conversations are told with, and what they give back when it is more than a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from ..models import MessageRole

__all__ = ["ConversationSummary", "NewMessage"]


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
