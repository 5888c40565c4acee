"""With `-p skips` the suite fails when a test is skipped for a reason that is not known here."""

from __future__ import annotations

import re
from typing import Any

import pytest

KNOWN = (
    r"no Python that another user can run",  # as where the checkout or Python is in /root
    r"ALFRED_DB_FAULTS=1 runs it$",  # long forms
    r"pydantic is not installed$",  # it comes with the extra `mcp`
    r"systemd is not installed",
)

_unknown: dict[str, None] = {}  # in their order


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(re.search(known, reason) for known in KNOWN):
        _unknown[f"{report.nodeid}: {reason}"] = None


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist tells of the tests that it skips, but not of the modules."""
    _unknown.update(dict.fromkeys(getattr(node, "workeroutput", {}).get("skips", ())))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["skips"] = list(_unknown)
    if _unknown and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _unknown:
        terminalreporter.section("skipped for reasons that tests/skips.py does not know", red=True)
        for line in _unknown:
            terminalreporter.line(line)
