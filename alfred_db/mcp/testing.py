"""The group testing: suites of test cases, their runs, results and comparisons."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from ..models import TestCase, TestCaseStatus, TestResult, TestResultStatus, TestRun, TestSuite
from .results import Cursor, Cut, Key, Limit, Metadata, PageOf, When
from .tools import Tools

__all__ = ["register"]

Name = Annotated[str, Field(min_length=1, max_length=1_000)]
Description = Annotated[str | None, Field(max_length=100_000)]
Number = Annotated[float, Field(gt=-1_000_000, lt=1_000_000)]


class Suite(BaseModel):
    """A test suite."""

    suite_id: int
    name: str
    description: str | None
    created_at: When


class SuitePage(PageOf):
    """A page of suites."""

    suites: list[Suite]


class Case(BaseModel):
    """A test case."""

    case_id: int
    name: str
    description: str | None
    status: str = Field(description="The outcome of its last execution.")


class CasePage(PageOf):
    """A page of cases."""

    cases: list[Case]


class Run(BaseModel):
    """A run of a suite."""

    run_id: int
    suite_id: int
    status: str
    is_baseline: bool
    started_at: When
    finished_at: When | None


class RunPage(PageOf):
    """A page of runs."""

    runs: list[Run]


class Result(BaseModel):
    """A recorded value of a metric."""

    result_id: int
    case_id: int | None
    run_id: int | None
    metric: str
    value: float | None
    threshold: float | None
    status: str = Field(description="pass, warning, fail, or unknown without a threshold.")
    created_at: When


class ResultPage(PageOf):
    """A page of results, in the order in which they were recorded."""

    results: list[Result]


class Trend(BaseModel):
    """The results of one metric, the oldest first."""

    results: list[Result]


class Change(BaseModel):
    """One metric of one case in a run and in the baseline."""

    case_id: int
    case: str
    metric: str
    baseline: float
    current: float | None = Field(description="Null if the run has no value, which counts as worse.")
    change: float | None
    worse: bool


class Comparison(BaseModel):
    """A run beside the baseline of its suite."""

    regressed: bool = Field(description="Whether any metric is worse.")
    changes: list[Change]


def register(tools: Tools) -> None:
    """Register the tools of the group."""
    _register_suites(tools)
    _register_runs(tools)


def _register_suites(tools: Tools) -> None:
    @tools.writes("Create a test suite")
    async def create_test_suite(name: Name, description: Description = None) -> Suite:
        """Create a suite of test cases. Names need not be unique: look with list_test_suites first."""
        async with tools.writing() as uow:
            return _suite(await uow.validation.create_suite(name, description=description), Cut(1, ""))

    @tools.reads("List test suites")
    async def list_test_suites(after: Cursor = None, limit: Limit = 50) -> SuitePage:
        """List the test suites, the oldest first."""
        async with tools.reading() as uow:
            page = await uow.validation.list_suites(after=after, limit=limit)
        cut = Cut(len(page), "no tool returns the whole text.")
        return SuitePage(suites=[_suite(suite, cut) for suite in page], next=page.next, note=cut.note)

    @tools.writes("Add a test case")
    async def add_test_case(suite_id: Key, name: Name, description: Description = None) -> Case:
        """Add a case to a suite; the description says how to execute it."""
        async with tools.writing() as uow:
            return _case(await uow.validation.add_case(suite_id, name, description=description), Cut(1, ""))

    @tools.reads("List test cases")
    async def list_test_cases(suite_id: Key, after: Cursor = None, limit: Limit = 50) -> CasePage:
        """List the cases of a suite with the outcome of their last execution."""
        async with tools.reading() as uow:
            if await uow.validation.get_suite(suite_id) is None:
                raise ToolError(f"suite {suite_id}: not found; list_test_suites returns the ids")
            page = await uow.validation.list_cases(suite_id, after=after, limit=limit)
        cut = Cut(len(page), "ask for fewer with `limit`.")
        return CasePage(cases=[_case(case, cut) for case in page], next=page.next, note=cut.note)


def _register_runs(tools: Tools) -> None:
    @tools.writes("Start a run of a test suite")
    async def run_test_suite(suite_id: Key, metadata: Metadata = None) -> Run:
        """Start a run of a suite. It executes nothing: you execute the cases and record what they measured.

        Then: list_test_cases, record_test_result for each metric, finish_test_run, compare_test_run.
        """
        async with tools.writing() as uow:
            return _run(await uow.validation.start_run(suite_id, metadata=metadata))

    @tools.writes("Record a test result")
    async def record_test_result(
        case_id: Key,
        metric: Name,
        value: Number,
        run_id: Annotated[Key | None, Field(description="The run that it belongs to.")] = None,
        threshold: Number | None = None,
        higher_is_better: bool = True,
        warning_margin: Annotated[float, Field(ge=0, lt=1_000_000)] = 0,
    ) -> Result:
        """Record the value of one metric of a case, with its verdict against the threshold."""
        async with tools.writing() as uow:
            return _result(
                await uow.validation.record(
                    case_id,
                    metric,
                    value,
                    threshold=threshold,
                    higher_is_better=higher_is_better,
                    warning_margin=warning_margin,
                    run_id=run_id,
                )
            )

    @tools.writes("Record the outcome of a test case", destructive=True, idempotent=True)
    async def finish_test_case(
        case_id: Key,
        status: Literal["passed", "failed", "skipped"],
        output: Annotated[str | None, Field(max_length=1_000_000)] = None,
        milliseconds: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None,
    ) -> Case:
        """Record how the execution of a case ended; replaces the outcome of its last execution."""
        async with tools.writing() as uow:
            case = await uow.validation.finish_case(
                case_id, TestCaseStatus(status), result=output, execution_time=milliseconds
            )
            return _case(case, Cut(1, ""))

    @tools.writes("Finish a test run")
    async def finish_test_run(run_id: Key) -> Run:
        """End a run: it has failed if a result or a case executed since its start has failed, else passed."""
        async with tools.writing() as uow:
            return _run(await uow.validation.finish_run(run_id))

    @tools.reads("List test runs")
    async def list_test_runs(suite_id: Key, after: Cursor = None, limit: Limit = 50) -> RunPage:
        """List the runs of a suite, the oldest first."""
        async with tools.reading() as uow:
            if await uow.validation.get_suite(suite_id) is None:
                raise ToolError(f"suite {suite_id}: not found; list_test_suites returns the ids")
            page = await uow.validation.list_runs(suite_id, after=after, limit=limit)
        return RunPage(runs=[_run(run) for run in page], next=page.next)

    @tools.reads("List test results")
    async def list_test_results(
        run_id: Key,
        status: Literal["unknown", "pass", "fail", "warning"] | None = None,
        after: Cursor = None,
        limit: Limit = 100,
    ) -> ResultPage:
        """List the results of a run, all or those with one verdict."""
        async with tools.reading() as uow:
            if await uow.validation.get_run(run_id) is None:
                raise ToolError(f"run {run_id}: not found; list_test_runs returns the ids")
            page = await uow.validation.list_results(
                run_id,
                status=None if status is None else TestResultStatus(status),
                after=after,
                limit=limit,
            )
        return ResultPage(results=[_result(result) for result in page], next=page.next)

    @tools.writes("Make a run the baseline", destructive=True, idempotent=True)
    async def set_test_baseline(run_id: Key) -> Run:
        """Make a finished run the one that compare_test_run compares later runs of its suite with."""
        async with tools.writing() as uow:
            return _run(await uow.validation.set_baseline(run_id))

    @tools.reads("Compare a run with the baseline")
    async def compare_test_run(
        run_id: Key,
        baseline_id: Annotated[Key | None, Field(description="A run; null is the suite's baseline.")] = None,
        tolerance: Annotated[float, Field(ge=0, lt=1_000_000)] = 0,
    ) -> Comparison:
        """Compare each metric of a run with the baseline of its suite, and say which are worse."""
        async with tools.reading() as uow:
            rows = await uow.validation.regression(run_id, baseline_id=baseline_id, tolerance=tolerance)
        changes = [
            Change(
                case_id=row.case_id,
                case=row.case[:1_000],
                metric=row.metric[:1_000],
                baseline=float(row.baseline),
                current=None if row.current is None else float(row.current),
                change=None if row.change is None else float(row.change),
                worse=row.worse,
            )
            for row in rows
        ]
        return Comparison(regressed=any(change.worse for change in changes), changes=changes)

    @tools.reads("Show the trend of a metric")
    async def metric_trend(
        case_id: Key,
        metric: Name,
        since: Annotated[
            datetime | None, Field(description="Only results since this time, with a time zone.")
        ] = None,
        limit: Limit = 50,
    ) -> Trend:
        """Return the newest results of one metric of a case, the oldest first."""
        async with tools.reading() as uow:
            if await uow.validation.get_case(case_id) is None:
                raise ToolError(f"case {case_id}: not found; list_test_cases returns the ids")
            rows = await uow.validation.trend(case_id, metric, since=since, limit=limit)
        return Trend(results=[_result(row) for row in rows])


def _suite(suite: TestSuite, cut: Cut) -> Suite:
    return Suite(
        suite_id=suite.id,
        name=cut.required(suite.name),
        description=cut.text(suite.description),
        created_at=suite.created_at,
    )


def _case(case: TestCase, cut: Cut) -> Case:
    return Case(
        case_id=case.id,
        name=cut.required(case.name),
        description=cut.text(case.description),
        status=case.status.value,
    )


def _run(run: TestRun) -> Run:
    return Run(
        run_id=run.id,
        suite_id=run.test_suite_id,
        status=run.status.value,
        is_baseline=run.is_baseline,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def _result(result: TestResult) -> Result:
    return Result(
        result_id=result.id,
        case_id=result.test_case_id,
        run_id=result.test_run_id,
        metric=result.metric_name[:1_000],
        value=None if result.metric_value is None else float(result.metric_value),
        threshold=None if result.threshold is None else float(result.threshold),
        status=result.status.value,
        created_at=result.created_at,
    )
