"""With `-p sample` the generated half of the suite is a sample: the files about what the sync half has of its own.

The other files test code that tools/unasync.py makes from the async half, whose tests all run, and `make check` fails when a
generated file is not what that tool makes. `make test-all` runs every file, for both tenants.
"""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "_sync"

SAMPLE = frozenset(
    {
        "injection",  # calls every public method
        "argument_types",
        "sessions",  # connections, transactions and cancellations
        "copy",  # the driver's COPY
        "vector_types",
        "json_numbers",
        "cursors",
        "search",  # settings of a transaction, and two statements that depend on each other
        "search_pages",
        "tasks",  # statements on the driver's own connection, leases, and waiting
        "task_leases",
        "task_queues",
        "events",
        "spaces",
        "event_consumers",
        "durable_functions",  # threads instead of asyncio
        "durable_children",
        "workflow_steps",  # functions of the caller that are called
    }
)
"""The nouns of the files that run, as in `test_<noun>.py`."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out a file of the generated half that is not in the sample; None leaves it to others."""
    if collection_path.parent != FOLDER or not collection_path.match("test_*.py"):
        return None
    return True if collection_path.stem.removeprefix("test_") not in SAMPLE else None


def pytest_report_header() -> str:
    return f"tests/_sync: {len(SAMPLE)} of {len(list(FOLDER.glob('test_*.py')))} files; `make test-all` runs them all"


def pytest_configure() -> None:
    if missing := sorted(SAMPLE - {path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py")}):
        raise pytest.UsageError(f"tests/sample.py: there is no file for {', '.join(missing)}")
