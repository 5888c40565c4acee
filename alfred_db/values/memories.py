"""What memories are told with, and what they give back when it is more than a row."""

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
    """The bank it is in."""
    content: str
    """What is remembered."""
    metadata_: dict[str, Any] | None
    """The caller's notes."""
    importance: int
    """How much it matters; more is more, 1 is the least that the library gives."""
    access_count: int
    """How often it was recalled."""
    last_accessed: datetime | None
    """When it was last recalled."""
    created_at: datetime
    """When it was first remembered."""
    updated_at: datetime
    """When the row last changed."""
    content_hash: bytes | None
    """sha256 of the normalised content, set by the library."""
    seen_count: int
    """How often it was told, the first time included."""
    expires_at: datetime | None
    """When it may be forgotten; NULL is never."""
    embedding_model: str | None
    """What made the vector."""


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
    """One thing to remember, as `remember` takes it; only `content` must be there."""

    content: str
    embedding: VectorLike | None
    importance: int
    metadata: Mapping[str, Any] | None
    ttl: timedelta | None
    embedding_model: str | None


class MemoryOutcome(StrEnum):
    """What became of something that was told."""

    STORED = "stored"
    """It is a new memory."""
    SEEN = "seen"
    """The bank held, or the batch had, the same text: that memory counts it."""
    MERGED = "merged"
    """A memory means nearly the same: that memory counts it and keeps its own text."""


@dataclass(frozen=True, slots=True)
class RememberedMemory:
    """The memory that now stands for what was told."""

    id: int
    outcome: MemoryOutcome


@dataclass(frozen=True, slots=True)
class MemoryRecallWeights:
    """How much of its score a memory can lose, from 0 (nothing) to 1 (all of it): a fifth, as in Hindsight."""

    importance: float = 0.2
    """To its unimportance: what a memory of importance 0 would lose; one of 10 or more loses nothing."""
    recency: float = 0.2
    """To its age: what a memory loses that was not used for ever; after one half-life it is half of that."""

    def __post_init__(self) -> None:
        for name, value in (("importance", self.importance), ("recency", self.recency)):
            if not 0 <= value <= 1:
                raise InvalidInputError(f"weights.{name}: expected 0 to 1, got {value}")


@dataclass(frozen=True, slots=True)
class MemoryRecallResult:
    """The memories with the best score, best first."""

    hits: Sequence[Hit[MemoryRow]]
    path: SearchPath
    certified: bool
    """Whether no memory of the bank can have a better score, up to neighbours that the index itself misses."""
    candidates: int
    """Memories that were compared in the last step."""

    def __iter__(self) -> Iterator[Hit[MemoryRow]]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, slots=True)
class MemoryBankSummary:
    """A bank, and how much is in it."""

    id: int
    name: str
    description: str | None
    created_at: datetime
    memories: int
    """Memories that have not expired."""
