"""Validation: test suites, their cases, and the figures each run of them gave."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import CheckConstraint, ForeignKey, Index, Numeric, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..types import EnumText
from .base import Base, BigIntId, CreatedAt, Json, one_of

__all__ = [
    "TestCase",
    "TestCaseStatus",
    "TestResult",
    "TestResultStatus",
    "TestRun",
    "TestRunStatus",
    "TestSuite",
]

# `__test__ = False` tells pytest that these are no tests, whatever their names.


class TestCaseStatus(StrEnum):
    """How the case's last execution went; `skipped` is added for cases that a run left out."""

    __test__ = False

    PENDING = "pending"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class TestResultStatus(StrEnum):
    """How a metric stands to its threshold."""

    __test__ = False

    UNKNOWN = "unknown"
    PASS = "pass"
    FAIL = "fail"
    WARNING = "warning"


class TestRunStatus(StrEnum):
    """`running` is live; the others are final."""

    __test__ = False

    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TestSuite(Base):
    """A set of cases that are run together."""

    __test__: ClassVar[bool] = False
    __tablename__ = "test_suites"

    id: Mapped[BigIntId]
    """Key of the row."""
    name: Mapped[str]
    """What people call it."""
    description: Mapped[str | None]
    """What it checks."""
    created_at: Mapped[CreatedAt]
    """When it was made."""

    cases: Mapped[list[TestCase]] = relationship(back_populates="suite", passive_deletes="all")
    runs: Mapped[list[TestRun]] = relationship(back_populates="suite", passive_deletes="all")


class TestCase(Base):
    """One check of a suite, with the outcome of its last execution."""

    __test__: ClassVar[bool] = False
    __tablename__ = "test_cases"
    __table_args__ = (one_of("status", TestCaseStatus), Index(None, "test_suite_id"), Index(None, "status"))

    id: Mapped[BigIntId]
    """Key of the row."""
    test_suite_id: Mapped[int | None] = mapped_column(ForeignKey("test_suites.id"))
    """The suite it is in."""
    name: Mapped[str]
    """What people call it."""
    description: Mapped[str | None]
    """What it checks."""
    status: Mapped[TestCaseStatus] = mapped_column(
        EnumText(TestCaseStatus), server_default=TestCaseStatus.PENDING
    )
    """How its last execution went."""
    result: Mapped[str | None]
    """What its last execution said."""
    execution_time: Mapped[int | None]
    """Milliseconds that its last execution took."""
    created_at: Mapped[CreatedAt]
    """When it was made."""
    executed_at: Mapped[datetime | None]
    """When it was last executed."""

    suite: Mapped[TestSuite | None] = relationship(back_populates="cases")
    results: Mapped[list[TestResult]] = relationship(back_populates="case", passive_deletes="all")


class TestRun(Base):
    """One run of a suite. Added: figures are compared between runs, and one run is the baseline."""

    __test__: ClassVar[bool] = False
    __tablename__ = "test_runs"
    __table_args__ = (
        one_of("status", TestRunStatus),
        CheckConstraint("(status = 'running') = (finished_at IS NULL)", name="finished_at"),
        Index(None, "test_suite_id"),
        Index("uq_test_runs_baseline", "test_suite_id", unique=True, postgresql_where=text("is_baseline")),
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    test_suite_id: Mapped[int] = mapped_column(ForeignKey("test_suites.id"))
    """The suite that was run."""
    status: Mapped[TestRunStatus] = mapped_column(
        EnumText(TestRunStatus), server_default=TestRunStatus.RUNNING
    )
    """Where the run stands."""
    is_baseline: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether later runs are compared with this one; at most one of a suite."""
    started_at: Mapped[CreatedAt]
    """When it began."""
    finished_at: Mapped[datetime | None]
    """When it ended; NULL exactly while it runs."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """What was tested: commit, model, machine; not read by the library."""

    suite: Mapped[TestSuite] = relationship(back_populates="runs")
    results: Mapped[list[TestResult]] = relationship(
        back_populates="run", cascade="all, delete-orphan", passive_deletes=True
    )


class TestResult(Base):
    """One figure that a case gave, and how it stands to its threshold."""

    __test__: ClassVar[bool] = False
    __tablename__ = "test_results"
    __table_args__ = (
        one_of("status", TestResultStatus),
        Index(None, "test_case_id"),
        Index(None, "test_case_id", "metric_name", "created_at", "id"),
        Index(None, "test_run_id"),
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    test_case_id: Mapped[int | None] = mapped_column(ForeignKey("test_cases.id"))
    """The case that gave it."""
    metric_name: Mapped[str]
    """What was measured."""
    metric_value: Mapped[Decimal | None] = mapped_column(Numeric(10, 4))
    """The figure, in the metric's own unit; rounded to four places."""
    threshold: Mapped[Decimal | None] = mapped_column(Numeric(10, 4))
    """What it is compared with."""
    status: Mapped[TestResultStatus] = mapped_column(
        EnumText(TestResultStatus), server_default=TestResultStatus.UNKNOWN
    )
    """How it stands to the threshold."""
    higher_is_better: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether more is better, added: neither a threshold nor a baseline can be judged without it."""
    created_at: Mapped[CreatedAt]
    """When it was measured."""
    test_run_id: Mapped[int | None] = mapped_column(ForeignKey("test_runs.id", ondelete="CASCADE"))
    """The run it belongs to, added for comparison with the baseline; NULL is a figure outside any run."""

    case: Mapped[TestCase | None] = relationship(back_populates="results")
    run: Mapped[TestRun | None] = relationship(back_populates="results")
