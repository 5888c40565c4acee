"""Arguments and results of the repository of working memory."""

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
    """Name."""
    memory_type: str
    """Kind of record, defined by the platform."""
    provider: str | None
    """The store of the blob; NULL if the content is in this row."""
    status: WorkingMemoryStatus
    """Whether it can be used; deliberately not indexed, so that its changes are HOT."""
    blob_key: str | None
    """Key of the blob in its store."""
    created_at: datetime
    """When the row was created."""
    content: str | None
    """The content, if it is text and short; added, so that it needs no blob store."""
    session_id: str | None
    """Its session; added, because searches are usually within one."""
    agent: str | None
    """Name of its agent; added; no foreign key, because the agent need not be registered."""
    embedding_model: str | None
    """Name of the embedding model; added, because distances between vectors of two models are meaningless."""
    metadata_: dict[str, Any]
    """Metadata of the caller; added; not used by the library."""
    updated_at: datetime
    """When the row last changed; added, as for every row that changes."""
    expires_at: datetime | None
    """When it expires; NULL is never; added, because working memory is short-lived."""
    entity_node_id: uuid.UUID | None
    """The node of the entity graph that it belongs to; added; no foreign key, because the graph may be in another database."""
    description: str | None
    """What it is; added, as FireFoundry's services store it."""
    reasoning: str | None
    """Why it was stored; added, as FireFoundry's services store it."""
    lookup_info: Any | None
    """How it is looked up; added, as FireFoundry's services store it."""
    action_log: Any | None
    """What was done with it; added, as FireFoundry's services store it."""
    memory_content: Any | None
    """The content as JSON; added, as FireFoundry's services store it. Text is in `content`."""


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
    entity_node_id: uuid.UUID | None
    description: str | None
    reasoning: str | None
    lookup_info: Any
    action_log: Any
    memory_content: Any


@dataclass(frozen=True, slots=True)
class SweptWorkingMemory:
    """A deleted record, with the location of its blob if it had one."""

    id: uuid.UUID
    provider: str | None
    blob_key: str | None
