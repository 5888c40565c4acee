"""Validation: suites of cases, the figures that their runs gave, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, TypeAlias

from ...checks import aware, plain_text, within
from ...errors import ConflictError, InvalidInputError, InvalidTransition, NotFoundError
from ...execution._async.base import AsyncRepository
from ...models import (
    TestCase,
    TestCaseStatus,
    TestResult,
    TestResultStatus,
    TestRun,
    TestRunStatus,
    TestSuite,
)
from ...queries import validation as queries
from ...queries.shapes.paging import MAX_LIMIT, as_page
from ...values import Page
from ...values.validation import ValidationRegression

Figure: TypeAlias = Decimal | float
"""A number that the database keeps to four places and below a million."""


class AsyncValidationRepository(AsyncRepository):
    """Suites, cases, runs and results."""

    async def create_suite(self, name: str, *, description: str | None = None) -> TestSuite:
        """Make a suite; names need not be unique."""
        suite = await self._write(queries.create_suite(name, description))
        assert suite is not None
        return suite

    async def get_suite(self, suite_id: int) -> TestSuite | None:
        """The suite of that id."""
        return await self._first(queries.get_suite(suite_id))

    async def list_suites(self, *, after: str | None = None, limit: int = 100) -> Page[TestSuite]:
        """The suites, oldest first, a page at a time."""
        rows = await self._all(queries.list_suites(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def add_case(self, suite_id: int, name: str, *, description: str | None = None) -> TestCase:
        """Add a case to a suite; raises NotFoundError."""
        case = await self._write(queries.add_case(suite_id, name, description))
        if case is None:
            raise _no("suite", suite_id)
        return case

    async def get_case(self, case_id: int) -> TestCase | None:
        """The case of that id."""
        return await self._first(queries.get_case(case_id))

    async def list_cases(
        self, suite_id: int, *, after: str | None = None, limit: int = 100
    ) -> Page[TestCase]:
        """The cases of a suite, oldest first, a page at a time."""
        rows = await self._all(queries.list_cases(suite_id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def finish_case(
        self,
        case_id: int,
        status: TestCaseStatus,
        *,
        result: str | None = None,
        execution_time: int | None = None,
    ) -> TestCase:
        """Say how the case's execution went and how many milliseconds it took; raises NotFoundError."""
        case = await self._write(
            queries.finish_case(
                case_id, status, result=result and plain_text(result), execution_time=execution_time
            )
        )
        if case is None:
            raise _no("case", case_id)
        return case

    async def start_run(self, suite_id: int, *, metadata: Mapping[str, Any] | None = None) -> TestRun:
        """Begin a run of a suite; raises NotFoundError."""
        run = await self._write(queries.start_run(suite_id, metadata or {}))
        if run is None:
            raise _no("suite", suite_id)
        return run

    async def get_run(self, run_id: int) -> TestRun | None:
        """The run of that id."""
        return await self._first(queries.get_run(run_id))

    async def list_runs(self, suite_id: int, *, after: str | None = None, limit: int = 100) -> Page[TestRun]:
        """The runs of a suite, oldest first, a page at a time."""
        rows = await self._all(queries.list_runs(suite_id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

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
        """File a figure and how it stands to its threshold, which it passes when it reaches it.

        One that misses it by at most `warning_margin` is a warning, without a threshold it is unknown. Raises
        NotFoundError, and InvalidTransition when the run has ended.
        """
        figure, limit = _figure("value", value), None
        if threshold is not None:
            limit = _figure("threshold", threshold)
        status = _judge(figure, limit, higher_is_better, _figure("warning_margin", warning_margin))
        case = await self.get_case(case_id)
        if case is None:
            raise _no("case", case_id)
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
        """The figures of a run in the order they were filed, a page at a time."""
        rows = await self._all(queries.list_results(run_id, status=status, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def finish_run(self, run_id: int) -> TestRun:
        """End the run: failed if one of its figures, or a case executed since it began, has failed; else passed.

        Waits for transactions that still record figures. Raises NotFoundError, and InvalidTransition when it has
        ended.
        """
        _running(run_id, await self._first(queries.lock_run(run_id)))
        run = await self._write(queries.finish_run(run_id))
        assert run is not None
        return run

    async def cancel_run(self, run_id: int) -> TestRun:
        """End the run without a verdict; raises NotFoundError, and InvalidTransition when it has ended."""
        run = await self._write(queries.cancel_run(run_id))
        return _running(run_id, await self.get_run(run_id)) if run is None else run

    async def set_baseline(self, run_id: int) -> TestRun:
        """Compare later runs of the suite with this one; raises NotFoundError, and InvalidTransition before its verdict."""
        run = await self.get_run(run_id)
        if run is None:
            raise _no("run", run_id)
        if run.status not in (TestRunStatus.PASSED, TestRunStatus.FAILED):
            raise InvalidTransition(f"run {run_id}: {run.status.value}; finish it before it is a baseline")
        await self._first(queries.lock_suite(run.test_suite_id))
        await self._write(queries.clear_baseline(run.test_suite_id))
        baseline = await self._write(queries.set_baseline(run_id))
        assert baseline is not None
        return baseline

    async def get_baseline(self, suite_id: int) -> TestRun | None:
        """The run that others of the suite are compared with."""
        return await self._first(queries.get_baseline(suite_id))

    async def regression(
        self, run_id: int, *, baseline_id: int | None = None, tolerance: Figure = 0
    ) -> Sequence[ValidationRegression]:
        """Each figure of the baseline beside that of the run, the last where there are several; see `worse`.

        `baseline_id` is a run of the same suite, by default the suite's baseline. A change of at most `tolerance` is
        not worse. Raises NotFoundError, and ConflictError when the suite has no baseline.
        """
        allowed = _figure("tolerance", tolerance)
        run = await self.get_run(run_id)
        if run is None:
            raise _no("run", run_id)
        if baseline_id is None:
            baseline = await self.get_baseline(run.test_suite_id)
            if baseline is None:
                raise ConflictError(
                    f"suite {run.test_suite_id}: it has no baseline; call set_baseline, or give baseline_id"
                )
        else:
            baseline = await self.get_run(baseline_id)
            if baseline is None:
                raise _no("run", baseline_id)
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
        """The newest `limit` figures of a metric, oldest first."""
        within("limit", limit, 1, MAX_LIMIT)
        if since is not None:
            aware("since", since)
        rows = await self._all(queries.trend(case_id, metric, since=since, limit=limit))
        return rows[::-1]


def _figure(name: str, value: Figure) -> Decimal:
    """The number as the database keeps it, so that what is judged is what is stored."""
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
        raise _no("run", run_id)
    if run.status is not TestRunStatus.RUNNING:
        raise InvalidTransition(f"run {run_id}: it has ended ({run.status.value}); start another one")
    return run


def _no(thing: str, number: int) -> NotFoundError:
    return NotFoundError(f"{thing} {number}: there is none; check the id")
