"""How to search: parameters, filters, and what a search returns."""

from __future__ import annotations

from .filters import Condition, Filter, contains, eq, exists, in_, range_, size
from .params import SearchParams, Weights
from .results import Candidates, Hit, SearchPath, SearchResult

__all__ = [
    "Candidates",
    "Condition",
    "Filter",
    "Hit",
    "SearchParams",
    "SearchPath",
    "SearchResult",
    "Weights",
    "contains",
    "eq",
    "exists",
    "in_",
    "range_",
    "size",
]
