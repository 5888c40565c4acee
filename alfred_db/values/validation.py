"""What validation gives back when it is more than a row."""

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
    """None when the run has no such figure, which counts as worse."""
    change: Decimal | None
    """`current - baseline`, in the metric's own unit."""
    worse: bool
    """Whether it moved the wrong way by more than the tolerance."""
