"""The order of tests in a run of `tools/mutants.py`, as a plugin of pytest: the likeliest to fail first.

These are the tests that name a function around the change. Tests with large fixtures come last.
"""

from __future__ import annotations

import inspect
import os
import re

import pytest

LARGE = {"library_url", "large_url", "glosses_url"}
"""Fixtures that take long to fill."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests; those that are equally likely stay in their order."""
    words = os.environ.get("MUTANT_WORDS", "").split()

    def place(item: pytest.Item) -> tuple[bool, int]:
        source = inspect.getsource(item.function) if isinstance(item, pytest.Function) else ""
        named = (number for number, word in enumerate(words) if re.search(rf"\b{word}\b", source))
        return bool(LARGE & set(getattr(item, "fixturenames", ()))), next(named, len(words))

    items.sort(key=place)
