"""Validation: test suites, their cases, and the results of their runs."""

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

# `__test__ = False` keeps pytest from collecting these classes as tests.


class TestCaseStatus(StrEnum):
    """Outcome of the last execution of a case; `skipped` is added for cases that a run left out."""

    __test__ = False

    PENDING = "pending"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class TestResultStatus(StrEnum):
    """Result of the comparison of a metric with its threshold."""

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
    """Display name."""
    description: Mapped[str | None]
    """Description."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""

    cases: Mapped[list[TestCase]] = relationship(back_populates="suite", passive_deletes="all")
    runs: Mapped[list[TestRun]] = relationship(back_populates="suite", passive_deletes="all")


class TestCase(Base):
    """One test of a suite, with the outcome of its last execution."""

    __test__: ClassVar[bool] = False
    __tablename__ = "test_cases"
    __table_args__ = (one_of("status", TestCaseStatus), Index(None, "test_suite_id"), Index(None, "status"))

    id: Mapped[BigIntId]
    """Key of the row."""
    test_suite_id: Mapped[int | None] = mapped_column(ForeignKey("test_suites.id"))
    """Its suite."""
    name: Mapped[str]
    """Display name."""
    description: Mapped[str | None]
    """Description."""
    status: Mapped[TestCaseStatus] = mapped_column(
        EnumText(TestCaseStatus), server_default=TestCaseStatus.PENDING
    )
    """Outcome of its last execution."""
    result: Mapped[str | None]
    """Output of its last execution."""
    execution_time: Mapped[int | None]
    """Duration of its last execution in milliseconds."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    executed_at: Mapped[datetime | None]
    """When it was last executed."""

    suite: Mapped[TestSuite | None] = relationship(back_populates="cases")
    results: Mapped[list[TestResult]] = relationship(back_populates="case", passive_deletes="all")


class TestRun(Base):
    """One run of a suite. Added: results are compared between runs, and one run is the baseline."""

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
    """One value of a metric of a case, and its comparison with a threshold."""

    __test__: ClassVar[bool] = False
    __tablename__ = "test_results"
    __table_args__ = (
        one_of("status", TestResultStatus),
        Index(None, "test_case_id"),
        Index(None, "test_case_id", "metric_name", "created_at", "id"),
        Index("idx_test_results_test_run_id", "test_run_id", "id"),
        # The last value of each case and metric of a run, which a comparison reads from the index alone.
        Index(
            "idx_test_results_figures",
            "test_run_id",
            "test_case_id",
            "metric_name",
            text("id DESC"),
            postgresql_include=["metric_value", "higher_is_better"],
            postgresql_where=text("metric_value IS NOT NULL"),
        ),
        Index("idx_test_results_fail", "test_run_id", "id", postgresql_where=text("status = 'fail'")),
    )

    id: Mapped[BigIntId]
    """Key of the row."""
    test_case_id: Mapped[int | None] = mapped_column(ForeignKey("test_cases.id"))
    """The case."""
    metric_name: Mapped[str]
    """Name of the metric."""
    metric_value: Mapped[Decimal | None] = mapped_column(Numeric(10, 4))
    """The value, in the unit of the metric; rounded to four places."""
    threshold: Mapped[Decimal | None] = mapped_column(Numeric(10, 4))
    """The value that it is compared with."""
    status: Mapped[TestResultStatus] = mapped_column(
        EnumText(TestResultStatus), server_default=TestResultStatus.UNKNOWN
    )
    """Result of the comparison."""
    higher_is_better: Mapped[bool] = mapped_column(server_default=text("true"))
    """Whether a higher value is better; added, because no comparison is possible without it."""
    created_at: Mapped[CreatedAt]
    """When it was measured."""
    test_run_id: Mapped[int | None] = mapped_column(ForeignKey("test_runs.id", ondelete="CASCADE"))
    """The run, added for the comparison with the baseline; NULL for a result outside any run."""

    case: Mapped[TestCase | None] = relationship(back_populates="results")
    run: Mapped[TestRun | None] = relationship(back_populates="results")
