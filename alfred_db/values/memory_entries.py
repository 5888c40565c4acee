"""What the repository of memory entries returns when it is more than a row."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Protocol

from ..search.results import FoundRow

__all__ = ["MemoryEntryRow"]


class MemoryEntryRow(FoundRow, Protocol):
    """The columns of a `MemoryEntry` in a search's hit."""

    id: uuid.UUID
    """Key of the row; a UUID, so that several instances of the agent can generate it."""
    namespace: str
    """Project or user that it belongs to: each search is within one namespace."""
    agent: str | None
    """Name of the agent that stored it; no foreign key, because the agent need not be registered."""
    source: str | None
    """Source, such as a URL, for citations."""
    content: str
    """The text."""
    embedding_model: str | None
    """Name of the embedding model; distances between vectors of two models are meaningless."""
    content_hash: bytes | None
    """sha256 of the normalised content, set by the library; unique within a namespace unless NULL."""
    metadata_: dict[str, Any]
    """Metadata of the caller."""
    created_at: datetime
    """When the row was created."""
    updated_at: datetime
    """When the row last changed."""
    expires_at: datetime | None
    """When it expires; NULL is never."""
    app_name: str | None
    """The application that it comes from; added, as the knowledge agent stores it."""
    user_id: str | None
    """The user that it belongs to; added, as the knowledge agent stores it."""
    event_id: str | None
    """The event of a session that it was taken from; added, as the knowledge agent stores it."""
    author: str | None
    """The author of the event; added, as the knowledge agent stores it."""
