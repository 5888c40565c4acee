"""Runs of test suites: their results, and comparisons with a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, TypeAlias

from ...checks import aware, check_limit
from ...errors import ConflictError, InvalidInputError, InvalidTransition
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import in_transaction
from ...execution.missing import not_found
from ...models import (
    TestResult,
    TestResultStatus,
    TestRun,
    TestRunStatus,
)
from ...queries import validation as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.validation import ValidationRegression

Figure: TypeAlias = Decimal | float
"""A number below a million that the database stores with four decimal places."""


class AsyncValidationRuns(AsyncRepository):
    """The methods of the validation repository about runs and their results."""

    async def start_run(self, suite_id: int, *, metadata: Mapping[str, Any] | None = None) -> TestRun:
        """Start a run of a suite.

        Raises:
            NotFoundError: The suite does not exist.
        """
        run = await self._write(queries.start_run(suite_id, metadata or {}))
        if run is None:
            raise not_found("suite", suite_id)
        return run

    async def get_run(self, run_id: int) -> TestRun | None:
        """Return the run with this id."""
        return await self._first(queries.get_run(run_id))

    async def list_runs(self, suite_id: int, *, after: str | None = None, limit: int = 100) -> Page[TestRun]:
        """Return a page of the runs of a suite, the oldest first."""
        rows = await self._all(queries.list_runs(suite_id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    @in_transaction
    async def record(
        self,
        case_id: int,
        metric: str,
        value: Figure,
        *,
        threshold: Figure | None = None,
        higher_is_better: bool = True,
        warning_margin: Figure = 0,
        run_id: int | None = None,
    ) -> TestResult:
        """Store a value of a metric, with its verdict.

        A value passes if it reaches the threshold, and is a warning if it misses it by at most
        `warning_margin`. Without a threshold the verdict is unknown. Numbers are stored with four decimal
        places and must be below a million.

        Args:
            case_id: The case.
            metric: The name of the metric.
            value: The value.
            threshold: The value to reach.
            higher_is_better: Whether larger values are better.
            warning_margin: 0 or more.
            run_id: The run that the value belongs to.

        Raises:
            NotFoundError: The case or the run does not exist.
            InvalidTransition: The run has ended.
        """
        figure, limit = _figure("value", value), None
        if threshold is not None:
            limit = _figure("threshold", threshold)
        status = _judge(figure, limit, higher_is_better, _figure("warning_margin", warning_margin))
        case = await self._first(queries.get_case(case_id))
        if case is None:
            raise not_found("case", case_id)
        if run_id is not None:
            run = _running(run_id, await self._first(queries.share_run(run_id)))
            if run.test_suite_id != case.test_suite_id:
                raise InvalidInputError(f"case {case_id}: not of the suite that run {run_id} is of")
        result = await self._write(
            queries.record(
                case_id,
                metric,
                figure,
                threshold=limit,
                higher_is_better=higher_is_better,
                status=status,
                run_id=run_id,
            )
        )
        assert result is not None
        return result

    async def list_results(
        self,
        run_id: int,
        *,
        status: TestResultStatus | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[TestResult]:
        """Return a page of the results of a run, in the order in which they were recorded."""
        rows = await self._all(queries.list_results(run_id, status=status, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    @in_transaction
    async def finish_run(self, run_id: int) -> TestRun:
        """End the run as failed or passed.

        It has failed if one of its results, or a case executed since it started, has failed. Waits for
        transactions that are recording results.

        Raises:
            NotFoundError: The run does not exist.
            InvalidTransition: The run has ended.
        """
        _running(run_id, await self._first(queries.lock_run(run_id)))
        run = await self._write(queries.finish_run(run_id))
        assert run is not None
        return run

    async def cancel_run(self, run_id: int) -> TestRun:
        """End the run without a verdict.

        Raises:
            NotFoundError: The run does not exist.
            InvalidTransition: The run has ended.
        """
        run = await self._write(queries.cancel_run(run_id))
        return _running(run_id, await self.get_run(run_id)) if run is None else run

    @in_transaction
    async def set_baseline(self, run_id: int) -> TestRun:
        """Make the run the one that later runs of the suite are compared with.

        Raises:
            NotFoundError: The run does not exist.
            InvalidTransition: The run has neither passed nor failed.
        """
        run = await self.get_run(run_id)
        if run is None:
            raise not_found("run", run_id)
        if run.status not in (TestRunStatus.PASSED, TestRunStatus.FAILED):
            raise InvalidTransition(f"run {run_id}: {run.status.value}; finish it before it is a baseline")
        await self._first(queries.lock_suite(run.test_suite_id))
        await self._write(queries.clear_baseline(run.test_suite_id))
        baseline = await self._write(queries.set_baseline(run_id))
        assert baseline is not None
        return baseline

    async def get_baseline(self, suite_id: int) -> TestRun | None:
        """Return the run that others of the suite are compared with."""
        return await self._first(queries.get_baseline(suite_id))

    async def regression(
        self, run_id: int, *, baseline_id: int | None = None, tolerance: Figure = 0
    ) -> Sequence[ValidationRegression]:
        """Compare each metric of the baseline with that of the run; of several values the last one counts.

        Args:
            run_id: The run.
            baseline_id: A run of the same suite; None is the suite's baseline.
            tolerance: A change of at most this size is not `worse`.

        Raises:
            NotFoundError: One of the runs does not exist.
            ConflictError: The suite has no baseline.
        """
        allowed = _figure("tolerance", tolerance)
        run = await self.get_run(run_id)
        if run is None:
            raise not_found("run", run_id)
        if baseline_id is None:
            baseline = await self.get_baseline(run.test_suite_id)
            if baseline is None:
                raise ConflictError(
                    f"suite {run.test_suite_id}: has no baseline; call set_baseline, or pass baseline_id"
                )
        else:
            baseline = await self.get_run(baseline_id)
            if baseline is None:
                raise not_found("run", baseline_id)
            if baseline.test_suite_id != run.test_suite_id:
                raise InvalidInputError(
                    f"baseline_id: run {baseline_id} is of another suite than run {run_id}"
                )
        rows = await self._rows(queries.compare(run_id, baseline.id))
        return [
            ValidationRegression(
                metric=metric,
                case_id=case_id,
                case=case,
                baseline=before,
                current=now,
                change=None if now is None else now - before,
                worse=now is None or (before - now if higher_is_better else now - before) > allowed,
            )
            for metric, case_id, case, before, now, higher_is_better in rows
            if before is not None
        ]

    async def trend(
        self, case_id: int, metric: str, *, since: datetime | None = None, limit: int = 100
    ) -> Sequence[TestResult]:
        """Return the newest `limit` results of a metric, the oldest first."""
        check_limit(limit)
        if since is not None:
            aware("since", since)
        rows = await self._all(queries.trend(case_id, metric, since=since, limit=limit))
        return rows[::-1]


def _figure(name: str, value: Figure) -> Decimal:
    """Return the number as the database stores it, so that the stored value is judged."""
    try:
        figure = Decimal(str(value)).quantize(Decimal("0.0001"), ROUND_HALF_UP)
    except InvalidOperation:
        figure = Decimal("NaN")
    if not figure.is_finite() or abs(figure) >= 1_000_000:
        raise InvalidInputError(f"{name}: expected a number between -1,000,000 and 1,000,000")
    if name in ("warning_margin", "tolerance") and figure < 0:
        raise InvalidInputError(f"{name}: expected 0 or more")
    return figure


def _judge(
    figure: Decimal, threshold: Decimal | None, higher_is_better: bool, margin: Decimal
) -> TestResultStatus:
    if threshold is None:
        return TestResultStatus.UNKNOWN
    missed = threshold - figure if higher_is_better else figure - threshold
    if missed <= 0:
        return TestResultStatus.PASS
    return TestResultStatus.WARNING if missed <= margin else TestResultStatus.FAIL


def _running(run_id: int, run: TestRun | None) -> TestRun:
    if run is None:
        raise not_found("run", run_id)
    if run.status is not TestRunStatus.RUNNING:
        raise InvalidTransition(f"run {run_id}: it has ended ({run.status.value}); start another one")
    return run
