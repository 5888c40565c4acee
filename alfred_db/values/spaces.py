"""Results of the repository of embedding spaces."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import NamedTuple

from ..models import EmbeddingSpace

__all__ = ["EmbeddingSpaceInfo", "PendingEmbedding", "SpaceCoverage"]


@dataclass(frozen=True, slots=True)
class EmbeddingSpaceInfo:
    """A space, and what is in it."""

    space: EmbeddingSpace
    default: bool
    """Whether calls without `space` use it."""
    vectors: int
    """Number of its vectors."""
    table: str
    """Name of the table with its vectors."""


class PendingEmbedding(NamedTuple):
    """A row whose content has no vector in a space."""

    id: int | uuid.UUID
    """Key of the row."""
    content: str
    """The text to embed."""
    hash: bytes
    """sha256 of the text, for `store`."""


@dataclass(frozen=True, slots=True)
class SpaceCoverage:
    """How many rows have a vector in a space. Rows without content, and expired ones, do not count."""

    rows: int
    """Number of rows that can be embedded."""
    missing: int
    """Number of rows without a vector."""
    stale: int
    """Number of rows whose content has changed since it was embedded."""

    @property
    def pending(self) -> int:
        """Number of rows that `spaces.pending` returns."""
        return self.missing + self.stale

    @property
    def complete(self) -> bool:
        """Whether each row has a vector of its content."""
        return not self.pending
