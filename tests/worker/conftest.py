"""A database of tasks, and workers of both halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import URL

from alfred_db import Database
from alfred_db.worker import _loop

from .at_work import Half, sql


@pytest.fixture(params=["sync", "async"])
def half(request: pytest.FixtureRequest) -> Half:
    return Half(request.param)


@pytest.fixture
def many_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many heartbeats in a lease that one is never far."""
    monkeypatch.setattr(_loop, "HEARTBEATS", 20)


@pytest.fixture(scope="module")
def own_url(template: URL, new_database: Callable[..., URL]) -> URL:
    return new_database(template.database)


@pytest.fixture
def db(own_url: URL) -> Iterator[Database]:
    """The database of this enqueue, emptied of what the last test left."""
    with Database(own_url) as database:
        sql(database, "TRUNCATE tasks, acme.tasks, scheduler_tasks, agent_registry CASCADE")
        yield database
