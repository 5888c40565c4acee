"""What the repository of documents takes and returns when it is more than a row."""

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
    """Its title; counts more than the content in a search by word."""
    content: str | None
    """Its text."""
    metadata_: dict[str, Any] | None
    """The caller's notes, to filter by."""
    created_at: datetime
    """When it was stored."""
    updated_at: datetime
    """When the row last changed."""
    external_id: str | None
    """The caller's own key, such as a path or URL."""
    embedding_model: str | None
    """What made the vector."""
    content_hash: bytes | None
    """sha256 of the content, made by the server."""


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
