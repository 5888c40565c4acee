"""Example calls of the statements about validation."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from unit.examples import Call, call

from alfred_db import TestCaseStatus, TestResultStatus

PAGE = {"after": None, "limit": 471}

EXAMPLES: dict[str, list[Call]] = {
    "create_suite": [call("suite-4711", "text-4711"), call("suite-4711", None)],
    "get_suite": [call(4711)],
    "lock_suite": [call(4711)],
    "list_suites": [call(**PAGE), call(after="WzQ3MTFd", limit=471)],
    "add_case": [call(4711, "case-4711", "text-4711"), call(4711, "case-4711", None)],
    "get_case": [call(4711)],
    "list_cases": [call(4711, **PAGE)],
    "finish_case": [call(4711, TestCaseStatus.PASSED, result="result-4711", execution_time=4712)],
    "start_run": [call(4711, {"key-4711": "value-4711"})],
    "get_run": [call(4711)],
    "lock_run": [call(4711)],
    "share_run": [call(4711)],
    "list_runs": [call(4711, **PAGE)],
    "finish_run": [call(4711)],
    "cancel_run": [call(4711)],
    "get_baseline": [call(4711)],
    "clear_baseline": [call(4711)],
    "set_baseline": [call(4711)],
    "record": [
        call(
            4711,
            "metric-4711",
            Decimal("4711.5"),
            threshold=None,
            higher_is_better=True,
            status=TestResultStatus.PASS,
            run_id=4712,
        )
    ],
    "list_results": [
        call(4711, status=None, **PAGE),
        call(4711, status=TestResultStatus.FAIL, **PAGE),
    ],
    "compare": [call(4711, 4712)],
    "trend": [
        call(4711, "metric-4711", since=None, limit=471),
        call(4711, "metric-4711", since=datetime(2011, 4, 7, tzinfo=UTC), limit=471),
    ],
}
