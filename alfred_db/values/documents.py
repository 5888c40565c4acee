"""Arguments and results of the repository of documents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol, Required, TypedDict

from ..search.results import FoundRow
from ..vectors.formats import VectorLike

__all__ = ["DocumentChanges", "DocumentRow", "NewDocument"]


class DocumentRow(FoundRow, Protocol):
    """The columns of a `Document` in a search's hit."""

    id: int
    """Key of the row."""
    title: str | None
    """Title; it has a higher weight than the content in full-text search."""
    content: str | None
    """Text."""
    metadata_: dict[str, Any] | None
    """Metadata of the caller, for filters."""
    created_at: datetime
    """When the row was created."""
    updated_at: datetime
    """When the row last changed."""
    external_id: str | None
    """Unique key of the caller, such as a path or URL; added, so that storing a document again updates it."""
    embedding_model: str | None
    """Name of the embedding model; added, because distances between vectors of two models are meaningless."""
    content_hash: bytes | None
    """sha256 of the content, computed by the server; added, to find a known text before it is embedded."""


class DocumentChanges(TypedDict, total=False):
    """The attributes of a document that `update` can set; the others stay."""

    title: str | None
    content: str | None
    embedding: VectorLike | None
    metadata: Mapping[str, Any] | None
    external_id: str | None
    embedding_model: str | None
    created_at: datetime
    updated_at: datetime


class NewDocument(TypedDict, total=False):
    """One document of `add_many`; the keys are the arguments of `add`, and its times."""

    content: Required[str | None]
    title: str | None
    embedding: VectorLike | None
    metadata: Mapping[str, Any] | None
    external_id: str | None
    embedding_model: str | None
    created_at: datetime
    updated_at: datetime
