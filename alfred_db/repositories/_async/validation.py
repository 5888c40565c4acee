"""Validation: suites of test cases, the metrics of their runs, and comparisons."""

from __future__ import annotations

from ...checks import plain_text
from ...execution.missing import not_found
from ...models import (
    TestCase,
    TestCaseStatus,
    TestSuite,
)
from ...queries import validation as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from .validation_runs import AsyncValidationRuns


class AsyncValidationRepository(AsyncValidationRuns):
    """Test suites, cases, runs and results."""

    async def create_suite(self, name: str, *, description: str | None = None) -> TestSuite:
        """Create a suite; names need not be unique."""
        suite = await self._write(queries.create_suite(name, description))
        assert suite is not None
        return suite

    async def get_suite(self, suite_id: int) -> TestSuite | None:
        """Return the suite with this id."""
        return await self._first(queries.get_suite(suite_id))

    async def list_suites(self, *, after: str | None = None, limit: int = 100) -> Page[TestSuite]:
        """Return a page of the suites, the oldest first."""
        rows = await self._all(queries.list_suites(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def add_case(self, suite_id: int, name: str, *, description: str | None = None) -> TestCase:
        """Add a case to a suite.

        Raises:
            NotFoundError: The suite does not exist.
        """
        case = await self._write(queries.add_case(suite_id, name, description))
        if case is None:
            raise not_found("suite", suite_id)
        return case

    async def get_case(self, case_id: int) -> TestCase | None:
        """Return the case with this id."""
        return await self._first(queries.get_case(case_id))

    async def list_cases(
        self, suite_id: int, *, after: str | None = None, limit: int = 100
    ) -> Page[TestCase]:
        """Return a page of the cases of a suite, the oldest first."""
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
        """Record the outcome of the case's execution.

        Args:
            case_id: The case.
            status: Its new status.
            result: The output.
            execution_time: Milliseconds.

        Raises:
            NotFoundError: The case does not exist.
        """
        case = await self._write(
            queries.finish_case(
                case_id, status, result=result and plain_text(result), execution_time=execution_time
            )
        )
        if case is None:
            raise not_found("case", case_id)
        return case
