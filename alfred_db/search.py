"""What a search is asked with, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row
from sqlalchemy.ext import serializer

from .errors import InvalidInputError

__all__ = ["Candidates", "Hit", "SearchParams", "SearchPath", "SearchResult", "Weights"]

_EXPRESSIONS: Any = serializer

MAX_EF_SEARCH = 1000
"""pgvector's own limit."""


class SearchPath(StrEnum):
    """How a search was answered."""

    EXACT = "exact"
    """Every row that the filter leaves was compared."""
    HNSW = "hnsw"
    """The index gave its nearest."""
    HNSW_ITERATIVE = "hnsw-iterative"
    """The index was read on until enough rows had passed the filter."""


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How to search; None leaves it to the library, which decides by the filter's estimated matches."""

    exact: bool | None = None
    """True compares every row; False always uses the index."""
    ef_search: int | None = None
    """How many candidates the index keeps, 1 to 1000: more is slower and finds more of the true nearest."""
    max_scan_tuples: int | None = None
    """How many rows an iterative scan may visit before it gives up."""
    max_distance: float | None = None
    """Leave out hits that are farther away."""
    timeout: float | None = None
    """Seconds after which the server cancels the search."""

    def __post_init__(self) -> None:
        _within("ef_search", self.ef_search, 1, MAX_EF_SEARCH)
        _within("max_scan_tuples", self.max_scan_tuples, 1, 2**31 - 1)
        _within("timeout", self.timeout, 0.001, 86400)


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each leg of a hybrid search counts; 0 leaves its finds without influence."""

    vector: float = 1.0
    text: float = 1.0
    trigram: float = 0.4


class Hit(NamedTuple):
    """One row that was found."""

    row: Row[Any]
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
class SearchResult:
    """The hits, nearest first, and how they were found."""

    hits: Sequence[Hit]
    path: SearchPath
    truncated: bool
    """Whether fewer hits than asked for are given although more rows may match."""
    candidates: int
    """Rows that were compared in the last step."""
    plan: str | None = None
    """The server's plan, when `explain` was asked for."""

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a search found, by id and distance only: asked once, then read page by page."""

    ids: Sequence[Any]
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
) -> Candidates:
    from .models import Base

    condition = None if where is None else _EXPRESSIONS.loads(where, Base.metadata)
    return Candidates(ids, distances, path, truncated, condition)


def _within(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidInputError(f"{name}: expected {least} to {most}, got {value}")
