"""A drill of backup and restore: a dump, its restore into a new database, and whether that one answers the same."""

from __future__ import annotations

from .comparing import Answers, answers, differences
from .running import DrillReport, drill

__all__ = ["Answers", "DrillReport", "answers", "differences", "drill"]
