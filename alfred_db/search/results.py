"""Results of searches."""

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
    """How a search was executed."""

    EXACT = "exact"
    """All rows that match the filter were compared."""
    HNSW = "hnsw"
    """The index returned the nearest rows."""
    HNSW_ITERATIVE = "hnsw-iterative"
    """The index was scanned until enough rows matched the filter."""


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
    """One row of a result; that of `Hit[DocumentRow]` has the attributes of a document."""

    row: RowT
    """The columns of the model, by attribute; vectors and text search columns are not read."""
    distance: float | None
    """The distance; None for a row without a vector, and in a search by words alone."""
    score: float
    """The score, higher is better: 1 - distance for cosine, or the sum of the legs of a hybrid search."""
    ranks: Mapping[str, int] = MappingProxyType({})
    """The rank, from 1, in each leg of a hybrid search that found the row."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A MappingProxyType can be neither pickled nor deep-copied.
        return type(self), (self.row, self.distance, self.score, dict(self.ranks))


@dataclass(frozen=True, slots=True)
class SearchResult(Generic[RowT]):
    """The hits, nearest first, and how they were found."""

    hits: Sequence[Hit[RowT]]
    path: SearchPath
    truncated: bool
    """Whether there are fewer than `limit` hits although more rows may match."""
    candidates: int
    """Number of rows compared in the last step."""
    plan: str | None = None
    """The plan of the server, if `explain` was requested."""

    def __iter__(self) -> Iterator[Hit[RowT]]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, slots=True)
class SearchCandidates(Generic[RowT, KeyT]):
    """The ids and distances of a result, to be read page by page without repeating the search.

    `SearchCandidates[DocumentRow, int]` are documents, whose ids are integers.
    """

    ids: Sequence[KeyT]
    """The ids, nearest first; for equal distances the smaller id first."""
    distances: Sequence[float]
    """The distance of each id."""
    path: SearchPath
    truncated: bool
    """Whether there are fewer ids than requested although more rows may match."""
    where: ColumnElement[bool] | None = field(default=None, repr=False)
    """The condition that every row of a page must still match."""

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        # An expression on a model refers to its mapper, which the serializer of SQLAlchemy pickles by name.
        where = None if self.where is None else _EXPRESSIONS.dumps(self.where)
        return _candidates, (self.ids, self.distances, self.path, self.truncated, where)


def _candidates(
    ids: Sequence[Any], distances: Sequence[float], path: SearchPath, truncated: bool, where: bytes | None
) -> SearchCandidates:
    from ..models import Base

    condition = None if where is None else _EXPRESSIONS.loads(where, Base.metadata)
    return SearchCandidates(ids, distances, path, truncated, condition)
