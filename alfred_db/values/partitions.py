"""Partitions of the tables that have one for each month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = ["MonthlyPartition"]


@dataclass(frozen=True, slots=True)
class MonthlyPartition:
    """A part of a table that is partitioned by month."""

    name: str
    """Its table, quoted and qualified as SQL wants it."""
    starts_at: datetime | None
    """The first time in it; None in the default partition, which takes what no other one does."""
    ends_at: datetime | None
    """The first time that is no longer in it."""
    rows: int
    """As the last ANALYZE or VACUUM counted them; -1 when none has."""
    size: int
    """Bytes, with indexes."""

    @property
    def is_default(self) -> bool:
        """Whether it takes what no other partition does."""
        return self.starts_at is None
