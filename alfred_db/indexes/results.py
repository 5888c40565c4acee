"""What the care of vector indexes gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = ["EfRecall", "IndexState", "IndexStatus", "Progress", "Rebuilt", "RecallReport"]


class IndexState(StrEnum):
    """Whether an index is of use."""

    VALID = "valid"
    INVALID = "invalid"
    """It costs every write, and no search uses it."""
    BUILDING = "building"
    """Somebody builds it now."""
    LEFTOVER = "leftover"
    """A rebuild that failed left it: it costs writes, and is of no use."""
    MISSING = "missing"
    """The models have it, and the database does not."""


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """One vector index, of a table or of one partition. What is None is not known, as on Citus, or to nobody yet."""

    name: str
    schema: str
    table: str
    state: IndexState
    parent: str | None
    """The index of the partitioned table that it is a part of."""
    size: int | None
    """Bytes on disk."""
    rows: int | None
    """Rows of the table or partition, as the last ANALYZE or VACUUM counted them."""
    scans: int | None
    """How often it was read since the statistics were reset."""
    since: datetime | None
    """When that was; None: never."""
    warnings: tuple[str, ...]
    """What is wrong with it, and what to do about it."""

    @property
    def valid(self) -> bool:
        """Whether searches can use it."""
        return self.state is IndexState.VALID

    @property
    def unused(self) -> bool:
        """Whether no search has used it since the statistics were reset."""
        return self.valid and self.scans == 0

    def as_dict(self) -> dict[str, Any]:
        """The status for programs."""
        since = None if self.since is None else self.since.isoformat()
        return {**asdict(self), "since": since, "valid": self.valid, "unused": self.unused}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the rebuild of one index has come."""

    index: str
    phase: str
    """As in pg_stat_progress_create_index."""
    done: int
    """Blocks of the table, in the phases that read it."""
    total: int

    @property
    def fraction(self) -> float | None:
        """What part of this phase is done, from 0 to 1; None in a phase that does not count."""
        return self.done / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did to one index."""

    name: str
    schema: str
    table: str
    seconds: float
    size_before: int | None
    size: int | None
    """Bytes now; None for a leftover, which was dropped, and on Citus."""
    dropped: bool


@dataclass(frozen=True, slots=True)
class EfRecall:
    """What one value of hnsw.ef_search gave."""

    ef: int
    recall: float
    """Mean part of the truly nearest that was found, from 0 to 1."""
    worst: float
    """The same for the sample with the least."""
    milliseconds: float
    """Median of a search's time, as the caller sees it."""


@dataclass(frozen=True, slots=True)
class RecallReport:
    """What was measured, by rising ef_search."""

    table: str
    index: str
    target: float
    k: int
    samples: int
    exact_milliseconds: float
    """Median time of a comparison of all rows."""
    measured: tuple[EfRecall, ...]
    rebuild: str
    """The command that rebuilds the index, in backticks."""

    @property
    def ef(self) -> int | None:
        """The smallest ef_search that meets the target; None: none of them does."""
        return next((one.ef for one in self.measured if one.recall >= self.target), None)

    def as_dict(self) -> dict[str, Any]:
        """The report for programs."""
        return {**asdict(self), "ef": self.ef}

    def as_text(self) -> str:
        """The report for people."""
        lines = [
            f"{self.table}, {self.index}: recall@{self.k} of {self.samples} stored vectors",
            "ef_search  recall   worst       ms",
        ]
        for one in self.measured:
            lines.append(f"{one.ef:>9}  {one.recall:.4f}  {one.worst:.4f}  {one.milliseconds:>7.2f}")
        lines.append(f"    exact  1.0000  1.0000  {self.exact_milliseconds:>7.2f}")
        verdict = f"ef_search = {self.ef} is the smallest that meets {self.target:g}"
        if self.ef is None:
            verdict = (
                f"no ef_search up to {self.measured[-1].ef} meets {self.target:g}: try larger ones, or rebuild"
                f" the index ({self.rebuild})"
            )
        return "\n".join([*lines, verdict])
