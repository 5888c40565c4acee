"""Statements about test suites, their cases and runs, and the results of runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CTE, Select, Subquery, and_, case, literal, or_, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from ..models import (
    TestCase,
    TestCaseStatus,
    TestResult,
    TestResultStatus,
    TestRun,
    TestRunStatus,
    TestSuite,
)
from .shapes.functions import func
from .shapes.literals import constant, materialized
from .shapes.paging import page

LIST_KEY = ("id",)


def create_suite(name: str, description: str | None) -> ReturningInsert[TestSuite]:
    """Insert a test suite."""
    return insert(TestSuite).values(name=name, description=description).returning(TestSuite)


def get_suite(suite_id: int) -> Select[TestSuite]:
    """Select a suite by its id."""
    return select(TestSuite).where(TestSuite.id == suite_id)


def lock_suite(suite_id: int) -> Select[TestSuite]:
    """Select a suite and lock it until the transaction ends."""
    return get_suite(suite_id).with_for_update(key_share=True)


def list_suites(*, after: str | None, limit: int) -> Select[TestSuite]:
    """Select a page of suites, ordered by id."""
    return page(select(TestSuite), [TestSuite.id], after=after, limit=limit)


def add_case(suite_id: int, name: str, description: str | None) -> ReturningInsert[TestCase]:
    """Insert a test case; inserts no row if the suite does not exist."""
    suite = _suite(suite_id)
    rows = select(suite.c.id, literal(name), literal(description, TestCase.description.type))
    columns = [TestCase.test_suite_id, TestCase.name, TestCase.description]
    return insert(TestCase).from_select(columns, rows).returning(TestCase)


def _suite(suite_id: int) -> CTE:
    return materialized(select(TestSuite.id).where(TestSuite.id == suite_id), "suite")


def get_case(case_id: int) -> Select[TestCase]:
    """Select a test case by its id."""
    return select(TestCase).where(TestCase.id == case_id)


def list_cases(suite_id: int, *, after: str | None, limit: int) -> Select[TestCase]:
    """Select a page of the cases of a suite, ordered by id."""
    statement = select(TestCase).where(TestCase.test_suite_id == suite_id)
    return page(statement, [TestCase.id], after=after, limit=limit)


def finish_case(
    case_id: int, status: TestCaseStatus, *, result: str | None, execution_time: int | None
) -> ReturningUpdate[TestCase]:
    """Set status, result and time of execution of a case."""
    return (
        update(TestCase)
        .where(TestCase.id == case_id)
        .values(
            status=status,
            result=result,
            execution_time=execution_time,
            executed_at=func.statement_timestamp(),
        )
        .returning(TestCase)
    )


# Runs


def start_run(suite_id: int, metadata: Mapping[str, Any]) -> ReturningInsert[TestRun]:
    """Insert a run; inserts no row if the suite does not exist."""
    suite = _suite(suite_id)
    rows = select(suite.c.id, literal(dict(metadata), TestRun.metadata_.type))
    columns = [TestRun.test_suite_id, TestRun.metadata_]
    return insert(TestRun).from_select(columns, rows).returning(TestRun)


def get_run(run_id: int) -> Select[TestRun]:
    """Select a run by its id."""
    return select(TestRun).where(TestRun.id == run_id)


def lock_run(run_id: int) -> Select[TestRun]:
    """Select a run and lock it until the transaction ends.

    Waits for transactions that record results of the run, and blocks new ones.
    """
    return get_run(run_id).with_for_update(key_share=True)


def share_run(run_id: int) -> Select[TestRun]:
    """Select a run and lock it in share mode, so that it cannot be finished until the transaction ends."""
    return get_run(run_id).with_for_update(read=True)


def list_runs(suite_id: int, *, after: str | None, limit: int) -> Select[TestRun]:
    """Select a page of the runs of a suite, ordered by id."""
    statement = select(TestRun).where(TestRun.test_suite_id == suite_id)
    return page(statement, [TestRun.id], after=after, limit=limit)


def finish_run(run_id: int) -> ReturningUpdate[TestRun]:
    """Finish a run that is running.

    It fails if one of its results fails, or a case that was executed since the start of the run; otherwise it
    passes.
    """
    figure = select(TestResult.id).where(
        TestResult.test_run_id == TestRun.id, TestResult.status == constant(TestResultStatus.FAIL)
    )
    failure = select(TestCase.id).where(
        TestCase.test_suite_id == TestRun.test_suite_id,
        TestCase.status == TestCaseStatus.FAILED,
        TestCase.executed_at >= TestRun.started_at,
    )
    verdict = (
        select(
            TestRun.id,
            case(
                (or_(figure.exists(), failure.exists()), TestRunStatus.FAILED.value),
                else_=TestRunStatus.PASSED.value,
            ).label("status"),
        )
        .where(TestRun.id == run_id)
        .cte("verdict")
    )
    return (
        update(TestRun)
        .where(TestRun.id == verdict.c.id, TestRun.status == TestRunStatus.RUNNING)
        .values(status=verdict.c.status, finished_at=func.statement_timestamp())
        .returning(TestRun)
    )


def cancel_run(run_id: int) -> ReturningUpdate[TestRun]:
    """Cancel a run that is running."""
    return (
        update(TestRun)
        .where(TestRun.id == run_id, TestRun.status == TestRunStatus.RUNNING)
        .values(status=TestRunStatus.CANCELLED, finished_at=func.statement_timestamp())
        .returning(TestRun)
    )


def get_baseline(suite_id: int) -> Select[TestRun]:
    """Select the baseline run of a suite."""
    return select(TestRun).where(TestRun.test_suite_id == suite_id, TestRun.is_baseline)


def clear_baseline(suite_id: int) -> ReturningUpdate[int]:
    """Unmark the baseline run of a suite."""
    return (
        update(TestRun)
        .where(TestRun.test_suite_id == suite_id, TestRun.is_baseline)
        .values(is_baseline=False)
        .returning(TestRun.id)
    )


def set_baseline(run_id: int) -> ReturningUpdate[TestRun]:
    """Mark a run as the baseline of its suite."""
    return update(TestRun).where(TestRun.id == run_id).values(is_baseline=True).returning(TestRun)


# Results


def record(
    case_id: int,
    metric: str,
    value: Decimal,
    *,
    threshold: Decimal | None,
    higher_is_better: bool,
    status: TestResultStatus,
    run_id: int | None,
) -> ReturningInsert[TestResult]:
    """Insert a result: the value of a metric for a case."""
    return (
        insert(TestResult)
        .values(
            test_case_id=case_id,
            metric_name=metric,
            metric_value=value,
            threshold=threshold,
            higher_is_better=higher_is_better,
            status=status,
            created_at=func.statement_timestamp(),
            test_run_id=run_id,
        )
        .returning(TestResult)
    )


def list_results(
    run_id: int, *, status: TestResultStatus | None, after: str | None, limit: int
) -> Select[TestResult]:
    """Select a page of the results of a run, ordered by id; `status` filters if it is not None."""
    statement = select(TestResult).where(TestResult.test_run_id == run_id)
    if status == TestResultStatus.FAIL:  # a literal, as the index is of these only
        statement = statement.where(TestResult.status == constant(TestResultStatus.FAIL))
    elif status is not None:
        statement = statement.where(TestResult.status == status)
    return page(statement, [TestResult.id], after=after, limit=limit)


def compare(run_id: int, baseline_id: int) -> Select[str, int, str, Decimal | None, Decimal | None, bool]:
    """Select the last value of each case and metric of a baseline, with that of a run.

    Returns:
        A SELECT of metric, case id, case name, value of the baseline, value of the run (NULL if missing), and
        whether higher is better.
    """
    old, new = _last_figures(baseline_id, "before"), _last_figures(run_id, "current")
    before, current = old.c, new.c
    return (
        select(
            before.metric_name,
            TestCase.id,
            TestCase.name,
            before.metric_value,
            current.metric_value,
            func.coalesce(current.higher_is_better, before.higher_is_better),
        )
        .select_from(old)
        .join(TestCase, TestCase.id == before.test_case_id)
        .outerjoin(
            new,
            and_(
                current.test_case_id == before.test_case_id,
                current.metric_name == before.metric_name,
            ),
        )
        .order_by(TestCase.id, before.metric_name)
    )


def _last_figures(run_id: int, name: str) -> Subquery:
    """Select the last value of each case and metric of a run, with the columns of an index."""
    return (
        select(
            TestResult.test_case_id,
            TestResult.metric_name,
            TestResult.metric_value,
            TestResult.higher_is_better,
        )
        .where(TestResult.test_run_id == run_id, TestResult.metric_value.is_not(None))
        .ext(distinct_on(TestResult.test_case_id, TestResult.metric_name))
        .order_by(TestResult.test_case_id, TestResult.metric_name, TestResult.id.desc())
        .subquery(name)
    )


def trend(case_id: int, metric: str, *, since: datetime | None, limit: int) -> Select[TestResult]:
    """Select the newest results of a metric of a case, newest first."""
    statement = select(TestResult).where(TestResult.test_case_id == case_id, TestResult.metric_name == metric)
    if since is not None:
        statement = statement.where(TestResult.created_at >= since)
    return statement.order_by(TestResult.created_at.desc(), TestResult.id.desc()).limit(limit)
