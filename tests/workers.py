"""With `-p workers -n 2` two workers share the suite: each takes a file at a time, or the files that belong together."""

from __future__ import annotations

import re

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

TOGETHER = (
    r"tests/faults/",  # one server, which takes its time to be stopped and started
    r"test_search\w*\.py|tests/vectors/",  # large_url and library_url, which take long to fill
    r"test_memory_recall\.py",  # glosses_url
)


class _Files(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return next((pattern for pattern in TOGETHER if re.search(pattern, file)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Files:
    config.option.loadscopereorder = False  # in order, the short files come last
    return _Files(config, log)
