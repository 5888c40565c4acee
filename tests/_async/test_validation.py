from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from plans import Explain
from sqlalchemy import func, select, text, update

from alfred_db import (
    AsyncDatabase,
    TestCase,
    TestCaseStatus,
    TestResult,
    TestResultStatus,
    TestRun,
    TestRunStatus,
)
from alfred_db.errors import ConflictError, InvalidInputError, InvalidTransition, NotFoundError
from alfred_db.queries import validation as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.validation import AsyncValidationRepository


@pytest.fixture
def validation(uow: AsyncUnitOfWork) -> AsyncValidationRepository:
    return AsyncValidationRepository(uow.session)


async def suite_of(validation: AsyncValidationRepository, *names: str) -> tuple[int, list[int]]:
    """A suite, and its cases."""
    suite = await validation.create_suite("search", description="recall and time")
    return suite.id, [(await validation.add_case(suite.id, name)).id for name in names]


async def run_of(
    validation: AsyncValidationRepository, suite: int, figures: dict[tuple[int, str], float]
) -> int:
    """A finished run; the metric `ms` is better when it is lower."""
    run = await validation.start_run(suite)
    for (case, metric), value in figures.items():
        await validation.record(case, metric, value, higher_is_better=metric != "ms", run_id=run.id)
    return (await validation.finish_run(run.id)).id


async def test_suites_and_cases(validation: AsyncValidationRepository) -> None:
    suite, (first, second) = await suite_of(validation, "exact", "hnsw")
    other, _ = await suite_of(validation, "x")
    found = await validation.get_suite(suite)
    assert found is not None
    assert (found.name, found.description) == ("search", "recall and time")
    page = await validation.list_cases(suite, limit=1)
    rest = await validation.list_cases(suite, after=page.next, limit=1)
    assert [case.id for case in [*page, *rest]] == [first, second]
    page_of_suites = await validation.list_suites(limit=1)
    more = await validation.list_suites(after=page_of_suites.next)
    assert [suite.id for suite in [*page_of_suites, *more]] == [suite, other]
    case = await validation.get_case(first)
    assert case is not None
    assert case.status is TestCaseStatus.PENDING
    assert await validation.get_suite(-1) is None
    assert await validation.get_case(-1) is None
    with pytest.raises(InvalidInputError, match="NUL"):
        await validation.create_suite("a\0b")


async def test_a_case_has_its_outcome(validation: AsyncValidationRepository) -> None:
    _, (case,) = await suite_of(validation, "exact")
    done = await validation.finish_case(case, TestCaseStatus.PASSED, result="all", execution_time=12)
    assert (done.status, done.result, done.execution_time) == (TestCaseStatus.PASSED, "all", 12)
    assert done.executed_at is not None
    with pytest.raises(InvalidInputError, match="expected one of pending, running"):
        await validation.finish_case(case, "fine")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="case -1: not found"):
        await validation.finish_case(-1, TestCaseStatus.PASSED)


@pytest.mark.parametrize(
    ("value", "threshold", "higher", "margin", "status"),
    [
        (0.95, 0.9, True, 0, "pass"),
        (0.9, 0.9, True, 0, "pass"),
        (0.8999, 0.9, True, 0, "fail"),
        (0.88, 0.9, True, 0.02, "warning"),
        (0.8799, 0.9, True, 0.02, "fail"),
        (0.89999, 0.9, True, 0, "pass"),
        (100, 120, False, 0, "pass"),
        (120, 120, False, 5, "pass"),
        (125, 120, False, 5, "warning"),
        (125.001, 120, False, 5, "fail"),
        (0.5, None, True, 1, "unknown"),
        (Decimal("-3"), Decimal("-2"), True, 0, "fail"),
        (-999_999.9999, 0, False, 0, "pass"),
    ],
)
async def test_a_figure_is_held_to_its_threshold(
    validation: AsyncValidationRepository,
    value: float,
    threshold: float | None,
    higher: bool,
    margin: float,
    status: str,
) -> None:
    _, (case,) = await suite_of(validation, "exact")
    result = await validation.record(
        case, "m", value, threshold=threshold, higher_is_better=higher, warning_margin=margin
    )
    assert result.status.value == status
    assert result.higher_is_better is higher
    assert result.test_run_id is None
    assert result.metric_value == Decimal(str(value)).quantize(Decimal("0.0001"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1_000_000, 999_999.99995, -1e300, 1e30])
async def test_a_figure_is_a_number_that_fits(validation: AsyncValidationRepository, value: float) -> None:
    _, (case,) = await suite_of(validation, "exact")
    with pytest.raises(InvalidInputError, match="value: expected a number between"):
        await validation.record(case, "m", value)
    with pytest.raises(InvalidInputError, match="threshold: expected a number between"):
        await validation.record(case, "m", 1, threshold=value)


async def test_margins_are_not_negative(validation: AsyncValidationRepository) -> None:
    suite, (case,) = await suite_of(validation, "exact")
    with pytest.raises(InvalidInputError, match="warning_margin: expected 0 or more"):
        await validation.record(case, "m", 1, threshold=1, warning_margin=-1)
    run = await run_of(validation, suite, {})
    with pytest.raises(InvalidInputError, match="tolerance: expected 0 or more"):
        await validation.regression(run, baseline_id=run, tolerance=-1)


@pytest.mark.parametrize(
    ("figures", "failed_case", "verdict"),
    [
        ([1.0, 1.0], False, TestRunStatus.PASSED),
        ([1.0, 0.4], False, TestRunStatus.PASSED),
        ([1.0, 0.1], False, TestRunStatus.FAILED),
        ([], False, TestRunStatus.PASSED),
        ([1.0], True, TestRunStatus.FAILED),
    ],
)
async def test_the_verdict_of_a_run(
    validation: AsyncValidationRepository, figures: list[float], failed_case: bool, verdict: TestRunStatus
) -> None:
    suite, (case,) = await suite_of(validation, "exact")
    await validation.record(case, "m", 0, threshold=1)  # outside the run
    run = await validation.start_run(suite, metadata={"commit": "abc"})
    assert (run.status, run.metadata_) == (TestRunStatus.RUNNING, {"commit": "abc"})
    for figure in figures:
        await validation.record(case, "m", figure, threshold=0.5, warning_margin=0.1, run_id=run.id)
    if failed_case:
        await validation.finish_case(case, TestCaseStatus.FAILED)
    done = await validation.finish_run(run.id)
    assert done.status is verdict
    assert done.finished_at is not None


async def test_a_case_that_failed_before_is_no_matter(
    validation: AsyncValidationRepository, uow: AsyncUnitOfWork
) -> None:
    suite, (case,) = await suite_of(validation, "exact")
    await validation.finish_case(case, TestCaseStatus.FAILED)
    past = func.now() - timedelta(seconds=1)
    await uow.session.execute(update(TestCase).values(executed_at=past))
    assert (
        await validation.finish_run((await validation.start_run(suite)).id)
    ).status is TestRunStatus.PASSED


async def test_a_run_ends_once(validation: AsyncValidationRepository) -> None:
    suite, (case,) = await suite_of(validation, "exact")
    other, (stranger,) = await suite_of(validation, "x")
    run = (await validation.start_run(suite)).id
    with pytest.raises(InvalidInputError, match=f"case {stranger}: not of the suite"):
        await validation.record(stranger, "m", 1, run_id=run)
    await validation.cancel_run(run)
    for call in (validation.finish_run, validation.cancel_run):
        with pytest.raises(InvalidTransition, match=r"it has ended \(cancelled\)"):
            await call(run)
        with pytest.raises(NotFoundError, match="run -1: not found"):
            await call(-1)
    with pytest.raises(InvalidTransition, match="it has ended"):
        await validation.record(case, "m", 1, run_id=run)
    with pytest.raises(NotFoundError, match="case -1"):
        await validation.record(-1, "m", 1, run_id=run)
    with pytest.raises(NotFoundError, match="run -1"):
        await validation.record(case, "m", 1, run_id=-1)
    with pytest.raises(NotFoundError, match="suite -1"):
        await validation.start_run(-1)
    with pytest.raises(NotFoundError, match="suite -1"):
        await validation.add_case(-1, "x")
    assert [found.id for found in await validation.list_runs(suite)] == [run]
    assert len(await validation.list_runs(other)) == 0


async def test_results_of_a_run_by_status(validation: AsyncValidationRepository) -> None:
    suite, (case,) = await suite_of(validation, "exact")
    run = (await validation.start_run(suite)).id
    for value in (1, 0, 1, 0, 1):
        await validation.record(case, "m", value, threshold=1, run_id=run)
    assert len(await validation.list_results(run, status=TestResultStatus.FAIL)) == 2
    page = await validation.list_results(run, limit=3)
    rest = await validation.list_results(run, after=page.next, limit=3)
    assert [int(result.metric_value or 0) for result in [*page, *rest]] == [1, 0, 1, 0, 1]


async def test_what_got_worse_and_by_how_much(validation: AsyncValidationRepository) -> None:
    suite, (a, b) = await suite_of(validation, "exact", "hnsw")
    before = await run_of(
        validation,
        suite,
        {(a, "recall"): 0.9, (a, "ms"): 10, (b, "recall"): 0.8, (b, "ms"): 5, (b, "gone"): 1},
    )
    assert (await validation.set_baseline(before)).is_baseline
    after = await run_of(
        validation,
        suite,
        {(a, "recall"): 0.85, (a, "ms"): 9, (b, "recall"): 0.8, (b, "ms"): 5.5, (b, "new"): 1},
    )
    found = {(one.case, one.metric): one for one in await validation.regression(after)}
    assert set(found) == {
        ("exact", "recall"),
        ("exact", "ms"),
        ("hnsw", "recall"),
        ("hnsw", "ms"),
        ("hnsw", "gone"),
    }
    worse = {key: one.change for key, one in found.items() if one.worse}
    assert worse == {
        ("exact", "recall"): Decimal("-0.05"),
        ("hnsw", "ms"): Decimal("0.5"),
        ("hnsw", "gone"): None,
    }
    assert found["exact", "ms"].change == -1
    assert (found["exact", "recall"].baseline, found["exact", "recall"].current) == (
        Decimal("0.9"),
        Decimal("0.85"),
    )
    assert found["exact", "recall"].case_id == a
    tolerant = await validation.regression(after, tolerance=0.5)
    assert [one.metric for one in tolerant if one.worse] == ["gone"]
    back = await validation.regression(before, baseline_id=after)
    assert sorted(one.metric for one in back if one.worse) == ["ms", "new"]


async def test_the_last_figure_of_a_run_counts(validation: AsyncValidationRepository) -> None:
    suite, (case,) = await suite_of(validation, "exact")
    before = await run_of(validation, suite, {(case, "recall"): 0.5})
    run = (await validation.start_run(suite)).id
    for value in (0.1, 0.7):
        await validation.record(case, "recall", value, run_id=run)
    (one,) = await validation.regression(run, baseline_id=before)
    assert (one.current, one.worse) == (Decimal("0.7"), False)


async def test_a_suite_has_one_baseline(validation: AsyncValidationRepository) -> None:
    suite, _ = await suite_of(validation)
    first, second = await run_of(validation, suite, {}), await run_of(validation, suite, {})
    with pytest.raises(ConflictError, match="has no baseline; call set_baseline"):
        await validation.regression(second)
    assert await validation.get_baseline(suite) is None
    for run in (first, second, second):
        await validation.set_baseline(run)
        found = await validation.get_baseline(suite)
        assert found is not None
        assert found.id == run
    running = await validation.start_run(suite)
    with pytest.raises(InvalidTransition, match="finish it before"):
        await validation.set_baseline(running.id)
    with pytest.raises(NotFoundError, match="run -1"):
        await validation.set_baseline(-1)
    with pytest.raises(NotFoundError, match="run -1"):
        await validation.regression(-1)
    with pytest.raises(NotFoundError, match="run -1"):
        await validation.regression(first, baseline_id=-1)
    other, _ = await suite_of(validation)
    with pytest.raises(InvalidInputError, match="is of another suite"):
        await validation.regression(first, baseline_id=await run_of(validation, other, {}))


async def test_the_trend_of_a_metric(validation: AsyncValidationRepository, uow: AsyncUnitOfWork) -> None:
    _, (case, other) = await suite_of(validation, "exact", "hnsw")
    for number in range(6):
        await validation.record(case, "recall", number)
        await validation.record(other, "recall", 9)
        await validation.record(case, "ms", 9)
    day = datetime(2020, 1, 1, tzinfo=UTC)
    for number in range(6):
        moved = update(TestResult).where(TestResult.metric_value == number)
        await uow.session.execute(moved.values(created_at=day + timedelta(days=number)))
    assert [int(one.metric_value or 0) for one in await validation.trend(case, "recall")] == [*range(6)]
    assert [int(one.metric_value or 0) for one in await validation.trend(case, "recall", limit=2)] == [4, 5]
    since = await validation.trend(case, "recall", since=day + timedelta(days=3))
    assert [int(one.metric_value or 0) for one in since] == [3, 4, 5]
    with pytest.raises(InvalidInputError, match="limit: expected 1 to"):
        await validation.trend(case, "recall", limit=0)
    with pytest.raises(InvalidInputError, match="since: a time without time zone"):
        await validation.trend(case, "recall", since=datetime(2020, 1, 1))


async def test_the_index_serves_the_trend(
    validation: AsyncValidationRepository, uow: AsyncUnitOfWork
) -> None:
    await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
    await uow.session.execute(text("SET LOCAL enable_sort = off"))
    plan = "\n".join(await uow.session.scalars(Explain(queries.trend(1, "m", since=None, limit=5))))
    assert "idx_test_results_test_case_id_metric_name_created_at_id" in plan
    assert "Sort" not in plan


# Two at once


async def test_a_run_waits_for_the_figures_that_are_being_recorded(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        validation = AsyncValidationRepository(uow.session)
        suite, (case,) = await suite_of(validation, "exact")
        run = (await validation.start_run(suite)).id
    async with committed.session() as one, committed.session() as other:
        await AsyncValidationRepository(one).record(case, "m", 0, threshold=1, run_id=run)
        await other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError, match="holds the lock"):
            await AsyncValidationRepository(other).finish_run(run)
        await other.rollback()
        await one.commit()
        assert (await AsyncValidationRepository(other).finish_run(run)).status is TestRunStatus.FAILED
        await other.commit()
        with pytest.raises(InvalidTransition, match="it has ended"):
            await AsyncValidationRepository(one).finish_run(run)


async def test_two_baselines_at_once_are_one_in_the_end(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        validation = AsyncValidationRepository(uow.session)
        suite, _ = await suite_of(validation)
        runs = [await run_of(validation, suite, {}), await run_of(validation, suite, {})]
    async with committed.session() as one, committed.session() as other:
        await AsyncValidationRepository(one).set_baseline(runs[0])
        await other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError, match="holds the lock"):
            await AsyncValidationRepository(other).set_baseline(runs[1])
        await other.rollback()
        await one.commit()
        await AsyncValidationRepository(other).set_baseline(runs[1])
        await other.commit()
        found = await one.scalars(select(TestRun.id).where(TestRun.is_baseline))
        assert found.all() == [runs[1]]
