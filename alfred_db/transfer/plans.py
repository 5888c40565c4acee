"""What an adoption will do, what it has done, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

__all__ = ["AdoptedTable", "AdoptionPlan", "AdoptionProgress", "PlannedTable"]


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """What happens to one table."""

    table: str
    """Its name in the models."""
    source: str
    """Where it is now."""
    rows: int
    """Its rows."""
    done: int
    """Those that an earlier run has adopted."""
    changes: Mapping[str, int]
    """What is changed, with the number of rows."""
    losses: Mapping[str, int]
    """What cannot be kept, with the number of rows."""


@dataclass(frozen=True, slots=True)
class AdoptionPlan:
    """What an adoption does."""

    source: str
    """The database and the schema that the rows are in."""
    zone: str
    """The time zone in which times without one are read."""
    moved: tuple[str, ...]
    """The tables that are moved to the schema `legacy` first, because those of the models have their names."""
    left: Mapping[str, str]
    """Tables that stay as they are, and why."""
    tables: tuple[PlannedTable, ...]
    """The tables, in the order in which they are adopted."""
    done_at: datetime | None = None
    """When the last table was adopted, if all were."""

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True, slots=True)
class AdoptionProgress:
    """How far the adoption of one table has come."""

    table: str
    rows: int
    total: int


@dataclass(frozen=True, slots=True)
class AdoptedTable:
    """The comparison of one table after the adoption."""

    table: str
    rows: int
    """Rows of the source."""
    adopted: int
    """Rows of the target."""
    same: bool
    """Whether the checksums of all columns that were written are the same on both sides."""
