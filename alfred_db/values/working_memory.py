"""What the repository of working memory takes and returns when it is more than a row."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypedDict

from ..models import WorkingMemoryStatus
from ..search.results import FoundRow
from ..vectors.formats import VectorLike

__all__ = ["SweptWorkingMemory", "WorkingMemoryChanges", "WorkingMemoryRow"]


class WorkingMemoryRow(FoundRow, Protocol):
    """The columns of a `WorkingMemory` in a search's hit."""

    id: uuid.UUID
    """Key of the row."""
    name: str
    """What it is called."""
    memory_type: str
    """Kind of record, in the platform's words."""
    provider: str | None
    """The store that has the blob; NULL when the content is in this row."""
    status: WorkingMemoryStatus
    """Whether it can be used."""
    blob_key: str | None
    """Key of the blob in its store."""
    created_at: datetime
    """When it was stored."""
    content: str | None
    """The content, when it is text and short."""
    session_id: str | None
    """The session it serves."""
    agent: str | None
    """Name of the agent it serves; no foreign key: it need not be registered."""
    embedding_model: str | None
    """What made the vector."""
    metadata_: dict[str, Any]
    """The caller's notes; not read by the library."""
    updated_at: datetime
    """When the row last changed."""
    expires_at: datetime | None
    """When it may be swept away; NULL is never."""


class WorkingMemoryChanges(TypedDict, total=False):
    """The attributes of a record that `update` can set; the others stay."""

    name: str
    memory_type: str
    provider: str | None
    status: WorkingMemoryStatus | str
    blob_key: str | None
    content: str | None
    embedding: VectorLike | None
    embedding_model: str | None
    session_id: str | None
    agent: str | None
    metadata: Mapping[str, Any] | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class SweptWorkingMemory:
    """A record that was removed, and where its blob is, if it had one."""

    id: uuid.UUID
    provider: str | None
    blob_key: str | None
