"""With `-p workers -n 4` four workers share the suite: each takes a file at a time, or the files that belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from _pytest.pathlib import import_path
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Import a share of the files before the others, so that each file is compiled by one worker and read by the rest.

    To compile all of them, with what pytest makes of their asserts, takes longer than to collect them. What a file raises is left
    for its collection, which reports it.
    """
    config = session.config
    number, workers = (os.environ.get(f"PYTEST_XDIST_WORKER{end}", "") for end in ("", "_COUNT"))
    if not (number and workers):
        return
    for file in list(_files(config))[int(number.removeprefix("gw")) :: int(workers)]:
        with suppress(Exception, pytest.skip.Exception):
            import_path(file, mode="importlib", root=config.rootpath, consider_namespace_packages=False)


def _files(config: pytest.Config) -> Iterator[Path]:
    """The test files that are collected, in the same order in each worker."""
    for argument in config.args:
        place = config.invocation_params.dir / argument.partition("::")[0]
        for file in sorted(place.rglob("test_*.py")) if place.is_dir() else [place]:
            if not config.hook.pytest_ignore_collect(collection_path=file, config=config):
                yield file


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
