"""Monthly partitions of tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = ["MonthlyPartition"]


@dataclass(frozen=True, slots=True)
class MonthlyPartition:
    """A partition of a table that is partitioned by month."""

    name: str
    """Name of its table, qualified and quoted for SQL."""
    starts_at: datetime | None
    """Start of its range, inclusive; None for the default partition."""
    ends_at: datetime | None
    """End of its range, exclusive."""
    rows: int
    """Number of rows as of the last ANALYZE or VACUUM; -1 before the first one."""
    size: int
    """Size in bytes, including indexes."""

    @property
    def is_default(self) -> bool:
        """Whether it is the default partition, which holds the rows outside all others."""
        return self.starts_at is None
