"""The results of the maintenance of vector indexes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = [
    "EfRecall",
    "FieldIndex",
    "IndexAdvice",
    "IndexState",
    "IndexStatus",
    "MeasuredIndex",
    "Progress",
    "Rebuilt",
    "RecallReport",
]


class IndexState(StrEnum):
    """The states of a vector index."""

    VALID = "valid"
    INVALID = "invalid"
    """Every write maintains it, and no search uses it."""
    BUILDING = "building"
    """It is being built now."""
    LEFTOVER = "leftover"
    """A failed rebuild has left it: it costs writes and is never used."""
    MISSING = "missing"
    """The models define it, and the database does not have it."""


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """One vector index, of a table or of one partition.

    None is an unknown value, as on Citus.
    """

    name: str
    schema: str
    table: str
    state: IndexState
    parent: str | None
    """The index of the partitioned table to which this one is attached."""
    size: int | None
    """Bytes on disk."""
    rows: int | None
    """Rows of the table or partition, as the last ANALYZE or VACUUM counted them."""
    scans: int | None
    """The number of scans since the statistics were reset."""
    since: datetime | None
    """The time of that reset; None: never."""
    warnings: tuple[str, ...]
    """Problems of the index, each with the command or statement that fixes it."""

    @property
    def valid(self) -> bool:
        """Whether searches can use it."""
        return self.state is IndexState.VALID

    @property
    def unused(self) -> bool:
        """Whether no search has used it since the statistics were reset."""
        return self.valid and self.scans == 0

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain values, with a time as text."""
        since = None if self.since is None else self.since.isoformat()
        return {**asdict(self), "since": since, "valid": self.valid, "unused": self.unused}


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of the work on one index."""

    index: str
    phase: str
    """The phase of a build, as in pg_stat_progress_create_index; `measuring` while an index is searched."""
    done: int
    """Blocks of the table read so far, in the phases that read it; searches, while an index is measured."""
    total: int

    @property
    def fraction(self) -> float | None:
        """The part of this phase that is done, from 0 to 1; None in a phase that counts nothing."""
        return self.done / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The result of a rebuild for one index."""

    name: str
    schema: str
    table: str
    seconds: float
    size_before: int | None
    size: int | None
    """Bytes now; None for a leftover, which was dropped, and on Citus."""
    dropped: bool


@dataclass(frozen=True, slots=True)
class FieldIndex:
    """An index of a field of a JSON column."""

    field: str | None
    """The field, such as `documents.metadata.year`; None if the build has not ended."""
    name: str
    schema: str
    table: str
    valid: bool
    """Whether searches can use it; add it again if not."""
    size: int
    """Bytes on disk."""
    scans: int
    """The number of scans since the statistics were reset."""


@dataclass(frozen=True, slots=True)
class EfRecall:
    """The measurement at one value of hnsw.ef_search."""

    ef: int
    recall: float
    """Mean part of the nearest rows that was found, from 0 to 1."""
    worst: float
    """The lowest part that was found for any sample."""
    milliseconds: float
    """Median time of a search, as the caller sees it."""


@dataclass(frozen=True, slots=True)
class RecallReport:
    """The measurements of a table, by rising ef_search."""

    table: str
    index: str
    target: float
    k: int
    samples: int
    exact_milliseconds: float
    """Median time of an exact search."""
    measured: tuple[EfRecall, ...]
    rebuild: str
    """The command that rebuilds the index, in backticks."""

    @property
    def ef(self) -> int | None:
        """The smallest ef_search that meets the target; None if none does."""
        return next((one.ef for one in self.measured if one.recall >= self.target), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {**asdict(self), "ef": self.ef}

    def as_text(self) -> str:
        """Return the report as a table for people."""
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


@dataclass(frozen=True, slots=True)
class MeasuredIndex:
    """One kind of index, built on a sample and measured, by rising ef_search."""

    index: str
    """The kind, as `SpaceIndex` names it."""
    size: int
    """About the bytes on disk of an index of all rows."""
    build_seconds: float
    """About the time to build it, in one process."""
    measured: tuple[EfRecall, ...]
    """For an index of bits, ef_search is also the number of candidates that are ranked again."""

    def at(self, target: float) -> EfRecall | None:
        """Return the fastest measurement that meets a recall; None if none does."""
        good = [one for one in self.measured if one.recall >= target]
        return min(good, key=lambda one: one.milliseconds) if good else None


@dataclass(frozen=True, slots=True)
class IndexAdvice:
    """The measurements of all kinds of indexes of the same vectors."""

    table: str
    """The table or the space."""
    dimensions: int
    rows: int
    """Rows of the table, as the last ANALYZE or VACUUM counted them."""
    sampled: int
    """Rows that were searched."""
    target: float
    k: int
    samples: int
    exact_milliseconds: float
    """Median time of an exact search of the sample."""
    indexes: tuple[MeasuredIndex, ...]

    @property
    def best(self) -> MeasuredIndex | None:
        """The fastest that meets the target; of those within a tenth of its time the smallest. None if none meets it."""
        good = {one.index: found for one in self.indexes if (found := one.at(self.target)) is not None}
        if not good:
            return None
        fast = 1.1 * min(found.milliseconds for found in good.values())
        near = [one for one in self.indexes if one.index in good and good[one.index].milliseconds <= fast]
        return min(near, key=lambda one: one.size)

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as plain values."""
        return {**asdict(self), "best": None if self.best is None else self.best.index}

    def as_text(self) -> str:
        """Return the advice as a table for people."""
        lines = [
            f"{self.table}: {self.dimensions} dimensions, {self.sampled:,} of {self.rows:,} rows, recall@{self.k} of"
            f" {self.samples} queries",
            "index          size, MB  build, s  ef_search  recall       ms",
        ]
        for one in self.indexes:
            found = one.at(self.target) or max(one.measured, key=lambda each: each.recall)
            missed = "" if one.at(self.target) else "  misses the target"
            lines.append(
                f"{one.index:<13}  {one.size / 2**20:>8,.1f}  {one.build_seconds:>8.1f}  {found.ef:>9}  {found.recall:.4f}"
                f"  {found.milliseconds:>7.2f}{missed}"
            )
        lines.append(f"exact                                         1.0000  {self.exact_milliseconds:>7.2f}")
        if self.best is None:
            lines.append(f"no index meets {self.target:g}: try a larger ef_search, or search exactly")
        else:
            lines.append(f"{self.best.index} meets {self.target:g} in the least time")
        return "\n".join(lines)
