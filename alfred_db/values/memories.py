"""Arguments and results of the repository of memories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, TypedDict

from ..errors import InvalidInputError
from ..search.results import FoundRow, Hit, SearchPath
from ..vectors.formats import VectorLike

__all__ = [
    "MemoryBankSummary",
    "MemoryChanges",
    "MemoryOutcome",
    "MemoryRecallResult",
    "MemoryRecallWeights",
    "MemoryRow",
    "NewMemory",
    "RememberedMemory",
]


class MemoryRow(FoundRow, Protocol):
    """The columns of a `Memory` in a search's hit."""

    id: int
    """Key of the row."""
    memory_bank_id: int | None
    """Its bank."""
    content: str
    """The remembered text."""
    metadata_: dict[str, Any] | None
    """Metadata of the caller."""
    importance: int
    """Importance; a larger number is more important, and the library assigns at least 1."""
    access_count: int
    """Number of recalls; deliberately not indexed."""
    last_accessed: datetime | None
    """When it was last recalled; deliberately not indexed."""
    created_at: datetime
    """When it was first stored."""
    updated_at: datetime
    """When the row last changed."""
    content_hash: bytes | None
    """sha256 of the normalised content, set by the library; added, so that a bank holds a text once.

    NULL, as plain SQL leaves it, is not unique: the reference allows a text twice in a bank.
    """
    seen_count: int
    """How often the text was stored, including the first time; added, for merged duplicates."""
    expires_at: datetime | None
    """When it expires; NULL is never; added, for memories with a time to live."""
    embedding_model: str | None
    """Name of the embedding model; added, because distances between vectors of two models are meaningless."""


class MemoryChanges(TypedDict, total=False):
    """The attributes of a memory that `update` can set; the others stay."""

    memory_bank_id: int | None
    content: str
    embedding: VectorLike | None
    metadata: Mapping[str, Any] | None
    importance: int
    access_count: int
    last_accessed: datetime | None
    created_at: datetime
    updated_at: datetime
    seen_count: int
    expires_at: datetime | None
    embedding_model: str | None


class NewMemory(TypedDict, total=False):
    """One memory of `remember_many`; the keys are the arguments of `remember`, and `content` is required."""

    content: str
    embedding: VectorLike | None
    importance: int
    metadata: Mapping[str, Any] | None
    ttl: timedelta | None
    embedding_model: str | None


class MemoryOutcome(StrEnum):
    """How a text was stored."""

    STORED = "stored"
    """As a new memory."""
    SEEN = "seen"
    """The bank or the batch already had the same text; that memory counts it."""
    MERGED = "merged"
    """A memory is nearly the same by its vector; it counts the text and keeps its content."""


@dataclass(frozen=True, slots=True)
class RememberedMemory:
    """The memory that holds a stored text."""

    id: int
    outcome: MemoryOutcome


@dataclass(frozen=True, slots=True)
class MemoryRecallWeights:
    """How much of its score a memory can lose, from 0 (nothing) to 1 (everything).

    The default is a fifth for each factor, as in Hindsight.
    """

    importance: float = 0.2
    """The part that a memory of importance 0 loses; one of importance 10 or more loses nothing."""
    recency: float = 0.2
    """The part that an infinitely old memory loses; after one half-life a memory has lost half of it."""

    def __post_init__(self) -> None:
        for name, value in (("importance", self.importance), ("recency", self.recency)):
            if not 0 <= value <= 1:
                raise InvalidInputError(f"weights.{name}: expected 0 to 1, got {value}")


@dataclass(frozen=True, slots=True)
class MemoryRecallResult:
    """The memories with the best scores, best first."""

    hits: Sequence[Hit[MemoryRow]]
    path: SearchPath
    certified: bool
    """Whether the whole bank was compared: no other memory of it has a better score, whatever the index misses."""
    candidates: int
    """Number of memories that were scored in the last step."""

    def __iter__(self) -> Iterator[Hit[MemoryRow]]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, slots=True)
class MemoryBankSummary:
    """A bank with the number of its memories."""

    id: int
    name: str
    description: str | None
    created_at: datetime
    memories: int
    """Number of memories that have not expired; if it is not `exact`, where the count stopped."""
    exact: bool = True
    """Whether this is the whole number; False if the bank holds more rows than were counted."""
