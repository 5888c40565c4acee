"""Arguments and results of searches: parameters, filters and hits."""

from __future__ import annotations

from .filters import Filter, FilterCondition, contains, eq, exists, in_, range_, size
from .params import SearchParams, SearchWeights
from .results import FoundRow, Hit, SearchCandidates, SearchPath, SearchResult

__all__ = [
    "Filter",
    "FilterCondition",
    "FoundRow",
    "Hit",
    "SearchCandidates",
    "SearchParams",
    "SearchPath",
    "SearchResult",
    "SearchWeights",
    "contains",
    "eq",
    "exists",
    "in_",
    "range_",
    "size",
]
