"""The operations that tests call at the same time; tests/unit/test_operations.py names those without a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

RACES: dict[str, Callable[..., None]] = {}
"""An operation, as the unit of work has it, and the test in which many call it at the same time."""


def races(*operations: str) -> Callable[[T], T]:
    """Mark the test of these operations."""

    def mark(test: Any) -> Any:
        RACES.update(dict.fromkeys(operations, test))
        return test

    return mark
