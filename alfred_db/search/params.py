"""Parameters of searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InvalidInputError

__all__ = ["MAX_EF_SEARCH", "SearchParams", "SearchWeights"]


MAX_EF_SEARCH = 1000
"""The maximum that pgvector accepts."""


@dataclass(frozen=True, slots=True)
class SearchParams:
    """Parameters of a search.

    With None the library decides, by the estimated number of rows that match the filter.
    """

    exact: bool | None = None
    """True compares all rows; False always uses the index."""
    ef_search: int | None = None
    """Size of the candidate list of the index, 1 to 1000; a larger one is slower and has a better recall."""
    max_scan_tuples: int | None = None
    """Maximum number of rows that an iterative scan visits."""
    max_distance: float | None = None
    """Maximum distance of a hit."""
    timeout: float | None = None
    """Seconds after which the server cancels the search."""

    def __post_init__(self) -> None:
        _within("ef_search", self.ef_search, 1, MAX_EF_SEARCH)
        _within("max_scan_tuples", self.max_scan_tuples, 1, 2**31 - 1)
        _within("timeout", self.timeout, 0.001, 86400)


@dataclass(frozen=True, slots=True)
class SearchWeights:
    """Weights of the legs of a hybrid search; with 0 the rows of a leg do not add to the score.

    `docs/benchmarks/retrieval.md` has the curve by which the defaults were chosen.
    """

    vector: float = 0.3
    text: float = 0.7
    trigram: float = 0.2
    fusion: Literal["scores", "ranks"] = "scores"
    """`scores` adds the scores of the legs as shares of the best possible ones; `ranks` adds 1 / (5 + rank in the leg)."""


def _within(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise InvalidInputError(f"{name}: expected {least} to {most}, got {value}")
