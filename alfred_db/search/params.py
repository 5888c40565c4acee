"""What a search is asked with, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidInputError

__all__ = ["MAX_EF_SEARCH", "SearchParams", "SearchWeights"]


MAX_EF_SEARCH = 1000
"""pgvector's own limit."""


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
class SearchWeights:
    """How much each leg of a hybrid search counts; 0 leaves its finds without influence."""

    vector: float = 1.0
    text: float = 1.0
    trigram: float = 0.4


def _within(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidInputError(f"{name}: expected {least} to {most}, got {value}")
