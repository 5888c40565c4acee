"""Every operation of the catalogs, the graph, validation, users and storage is called by several at once in some test."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable

import faults.test_catalog_races
import faults.test_storage_races  # noqa: F401 (they fill RACES)
from faults.races import RACES
from faults.test_catalog_readers import READS, WRITES
from injection.signatures import methods, repositories


def operations() -> set[str]:
    """The public methods, and of working memory those that have to do with blobs."""
    return {
        f"{noun}.{name}"
        for noun in WRITES
        for name, method in methods(repositories()[noun])
        if noun != "working_memory" or "blob" in inspect.getsource(method)
    }


def source(test: Callable[..., None]) -> str:
    """Of the test, and of the functions of its module that it names."""
    own = inspect.getsource(test)
    others = inspect.getmembers(sys.modules[test.__module__], inspect.isfunction)
    named = [other for name, other in others if re.search(rf"\b{name}\b", own)]
    return own + "".join(map(inspect.getsource, named))


def test_every_operation_is_read_beside_a_writer_or_raced() -> None:
    found = operations()
    assert len(found) > 90
    assert sorted(found - READS.keys() - RACES.keys()) == []
    assert sorted((READS.keys() | RACES.keys()) - found) == []


def test_every_race_calls_its_operations() -> None:
    for operation, test in RACES.items():
        method = operation.partition(".")[2]
        assert re.search(rf"\.{method}\b", source(test)), f"{test.__name__} does not call {operation}"
    for operation, read in READS.items():
        assert f".{operation}(" in inspect.getsource(read), operation
