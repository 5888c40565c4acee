"""Results of the repository of validation."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

__all__ = ["ValidationRegression"]


@dataclass(frozen=True, slots=True)
class ValidationRegression:
    """One metric of one case, in a run and in the baseline."""

    metric: str
    case_id: int
    case: str
    """Name of the case."""
    baseline: Decimal
    current: Decimal | None
    """The value of the run; None if it is missing, which counts as worse."""
    change: Decimal | None
    """`current - baseline`, in the unit of the metric."""
    worse: bool
    """Whether it changed in the wrong direction by more than the tolerance."""
