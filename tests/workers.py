"""With `-p workers -n 4` four workers share the suite: each takes a file at a time, or the files that belong together."""

from __future__ import annotations

import re

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

TOGETHER = (
    r"tests/faults/",  # one server, which takes its time to be stopped and started
    r"test_search\w*\.py|tests/indexes/",  # large_url and library_url, which take long to fill
    r"test_memory_recall\.py",  # glosses_url
)

FIRST = (*TOGETHER[:2], r"tests/worker/")
"""What takes longest is started first, so that no worker is left alone with it at the end."""


class _Files(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return next((pattern for pattern in TOGETHER if re.search(pattern, file)), file)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest to the front; the others stay in their order."""

    def place(item: pytest.Item) -> int:
        found = (number for number, pattern in enumerate(FIRST) if re.search(pattern, item.nodeid))
        return next(found, len(FIRST))

    items.sort(key=place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Files:
    config.option.loadscopereorder = False  # in order, the short files come last
    return _Files(config, log)
