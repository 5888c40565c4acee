"""What the knowledge collections give back when it is more than a row, and how their points are named."""

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
"""What a point is called by; kept and given back as text, so that 42 and "42" are the same point."""


class KnowledgePointRow(FoundRow, Protocol):
    """The columns of a `KnowledgePoint` in a search's hit."""

    collection: str
    """The collection, and so the partition; it is removed with its partition, never row by row."""
    id: str
    """Key in the collection: a UUID or an integer in Qdrant, here as text, so that imported ones stay."""
    payload: dict[str, Any]
    """What the point says, to give back and to filter by."""
    created_at: datetime
    """When it was stored."""
    updated_at: datetime
    """When the row last changed."""


class NewKnowledgePoint(TypedDict):
    """One point of `upsert`."""

    id: KnowledgePointId
    vector: NotRequired[VectorLike | None]
    payload: NotRequired[Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class KnowledgeCollectionInfo:
    """A collection, and what is in it."""

    collection: KnowledgeCollection
    aliases: Sequence[str]
    points: int
    """How many points it has, counted."""
    table: str
    """The table of its points, a partition of `knowledge_points`."""


@dataclass(frozen=True, slots=True)
class KnowledgeFacetCount:
    """A value that a payload key has, and how many points have it there."""

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
    """Whether it is a JSON object."""
    return isinstance(value, Mapping)


def is_array(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether it is a JSON array."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


# The forms of a UUID that Qdrant reads; Python's own reader takes more.
_UUID = re.compile(
    r"(?:urn:uuid:)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}"
    r"|\{[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}",
    re.IGNORECASE | re.ASCII,
)


def point_id(value: Any) -> str:
    """The text of a point's id, one for all spellings of a UUID; raises InvalidInputError for what can be none."""
    if isinstance(value, str | int | uuid.UUID) and not isinstance(value, bool) and str(value):
        text = str(value)
        return str(uuid.UUID(text)) if len(text) >= 32 and _UUID.fullmatch(text) else text
    raise InvalidInputError(
        f"point id: expected an integer, a UUID or a text that is not empty, got {shown(value)}"
    )


def spellings(values: Iterable[Any]) -> list[str]:
    """The ids to look for: a UUID as it is stored now, and as it was stored as it came."""
    return list(dict.fromkeys(text for value in values for text in (point_id(value), str(value))))
