"""What a search returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol

from sqlalchemy import ColumnElement, RowMapping
from sqlalchemy.ext import serializer
from typing_extensions import TypeVar

__all__ = ["FoundRow", "Hit", "SearchCandidates", "SearchPath", "SearchResult"]

_EXPRESSIONS: Any = serializer

KeyT = TypeVar("KeyT", covariant=True, default=Any)
RowT = TypeVar("RowT", covariant=True, default=Any)


class SearchPath(StrEnum):
    """How a search was answered."""

    EXACT = "exact"
    """Every row that the filter leaves was compared."""
    HNSW = "hnsw"
    """The index gave its nearest."""
    HNSW_ITERATIVE = "hnsw-iterative"
    """The index was read on until enough rows had passed the filter."""


class FoundRow(Protocol):
    """A row that a search found: a `sqlalchemy.Row`, whose columns the protocol of its noun names.

    Vectors and text indexes are not fetched.
    """

    @property
    def _mapping(self) -> RowMapping:
        """The columns, and what the search computed, by name."""
        ...

    def _asdict(self) -> dict[str, Any]:
        """A dictionary of the same."""
        ...


class Hit(NamedTuple, Generic[RowT]):
    """One row that was found: `Hit[DocumentRow]` is one of the documents."""

    row: RowT
    """The model's columns, by the names of its attributes; vectors and text indexes are not fetched."""
    distance: float | None
    """The smaller, the nearer; None for a row that only other legs of a hybrid search found."""
    score: float
    """The larger, the better: 1 - distance for cosine, the fused score of a hybrid search."""
    ranks: Mapping[str, int] = MappingProxyType({})
    """Place, from 1, in each leg of a hybrid search that found it."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view can be neither pickled nor copied deeply.
        return type(self), (self.row, self.distance, self.score, dict(self.ranks))


@dataclass(frozen=True, slots=True)
class SearchResult(Generic[RowT]):
    """The hits, nearest first, and how they were found."""

    hits: Sequence[Hit[RowT]]
    path: SearchPath
    truncated: bool
    """Whether fewer hits than asked for are given although more rows may match."""
    candidates: int
    """Rows that were compared in the last step."""
    plan: str | None = None
    """The server's plan, when `explain` was asked for."""

    def __iter__(self) -> Iterator[Hit[RowT]]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, slots=True)
class SearchCandidates(Generic[RowT, KeyT]):
    """What a search found, by id and distance only: asked once, then read page by page.

    `SearchCandidates[DocumentRow, int]` are documents, whose ids are integers.
    """

    ids: Sequence[KeyT]
    """The nearest first; of equally near ones the one with the smaller id."""
    distances: Sequence[float]
    """One for each id."""
    path: SearchPath
    truncated: bool
    """Whether fewer are given than were asked for although more rows may match."""
    where: ColumnElement[bool] | None = field(default=None, repr=False)
    """What every row of a page must still match."""

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # An expression on a model refers to its mapper, which SQLAlchemy's own pickler names.
        where = None if self.where is None else _EXPRESSIONS.dumps(self.where)
        return _candidates, (self.ids, self.distances, self.path, self.truncated, where)


def _candidates(
    ids: Sequence[Any], distances: Sequence[float], path: SearchPath, truncated: bool, where: bytes | None
) -> SearchCandidates:
    from ..models import Base

    condition = None if where is None else _EXPRESSIONS.loads(where, Base.metadata)
    return SearchCandidates(ids, distances, path, truncated, condition)
