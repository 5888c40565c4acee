"""Results of the repository of knowledge, and ids of points."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, Protocol, TypeAlias, TypedDict, TypeGuard

from ..errors import InvalidInputError, shown
from ..models import KnowledgeCollection
from ..search.results import FoundRow, Hit
from ..vectors.formats import VectorLike

__all__ = [
    "KnowledgeCollectionInfo",
    "KnowledgeFacetCount",
    "KnowledgePointGroup",
    "KnowledgePointId",
    "KnowledgePointRow",
    "NewKnowledgePoint",
    "point_id",
]

KnowledgePointId: TypeAlias = str | int | uuid.UUID
"""The id of a point. It is stored and returned as text, so that 42 and "42" are the same point."""


class KnowledgePointRow(FoundRow, Protocol):
    """The columns of a `KnowledgePoint` in a search's hit."""

    collection: str
    """The collection, which determines the partition; the points are removed with the partition."""
    id: str
    """Key in the collection: a UUID or an integer in Qdrant, stored as text to keep imported ids."""
    payload: dict[str, Any]
    """The payload, returned with hits and used by filters."""
    created_at: datetime
    """When the row was created."""
    updated_at: datetime
    """When the row last changed."""
    expires_at: datetime | None
    """When it expires; NULL is never; added, for points with a time to live."""


class NewKnowledgePoint(TypedDict):
    """One point of `upsert`."""

    id: KnowledgePointId
    vector: NotRequired[VectorLike | None]
    payload: NotRequired[Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class KnowledgeCollectionInfo:
    """A collection, with its aliases and the number of its points."""

    collection: KnowledgeCollection
    aliases: Sequence[str]
    points: int
    """The exact number of its points."""
    table: str
    """The table of its points, a partition of `knowledge_points`."""


@dataclass(frozen=True, slots=True)
class KnowledgeFacetCount:
    """A value of a payload key, and the number of points that have it."""

    value: str | float | bool
    count: int


@dataclass(frozen=True, slots=True)
class KnowledgePointGroup:
    """The nearest points that share a value of a payload key, nearest first."""

    value: str | float | bool
    hits: Sequence[Hit[KnowledgePointRow]]

    def __iter__(self) -> Iterator[Hit[KnowledgePointRow]]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


def is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value is a JSON object."""
    return isinstance(value, Mapping)


def is_array(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether a value is a JSON array."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


# The forms of a UUID that Qdrant reads; `uuid.UUID` accepts more.
_UUID = re.compile(
    r"(?:urn:uuid:)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}"
    r"|\{[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}",
    re.IGNORECASE | re.ASCII,
)


def point_id(value: Any) -> str:
    """Return the id of a point as text; all spellings of a UUID return the same text.

    Raises:
        InvalidInputError: The value cannot be an id.
    """
    if isinstance(value, str | int | uuid.UUID) and not isinstance(value, bool) and str(value):
        text = str(value)
        return str(uuid.UUID(text)) if len(text) >= 32 and _UUID.fullmatch(text) else text
    raise InvalidInputError(
        f"point id: expected an integer, a UUID or a text that is not empty, got {shown(value)}"
    )


def spellings(values: Iterable[Any]) -> list[str]:
    """Return the ids to look up.

    Each is looked up in its normal form and as passed, because earlier versions stored ids as passed.
    """
    return list(dict.fromkeys(text for value in values for text in (point_id(value), str(value))))
