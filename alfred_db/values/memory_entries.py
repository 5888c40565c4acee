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
    """Key of the row; a UUID, so that several instances of the agent can make it themselves."""
    namespace: str
    """What it belongs to, such as a project or user: each search is within one."""
    agent: str | None
    """Name of the agent that stored it; no foreign key: it may write before it is registered."""
    source: str | None
    """Where the knowledge comes from, such as a URL: what an answer cites."""
    content: str
    """The knowledge, in words."""
    embedding_model: str | None
    """What made the vector: vectors of two models have no meaningful distance."""
    content_hash: bytes | None
    """sha256 of the normalised content, set by the library: a namespace holds a thing once, or NULL."""
    metadata_: dict[str, Any]
    """The caller's notes."""
    created_at: datetime
    """When it was stored."""
    updated_at: datetime
    """When the row last changed."""
    expires_at: datetime | None
    """When it may be forgotten; NULL is never."""
