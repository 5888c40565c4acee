"""A database of tasks, and workers of both colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import URL

from alfred_db import (
    Database,
)

from .at_work import Colour, sql


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Colour:
    return Colour(request.param)


@pytest.fixture(scope="module")
def own_url(template: URL, new_database: Callable[..., URL]) -> URL:
    return new_database(template.database)


@pytest.fixture
def db(own_url: URL) -> Iterator[Database]:
    """The database of this file, emptied of what the last test left."""
    with Database(own_url) as database:
        sql(database, "TRUNCATE tasks, acme.tasks, scheduler_tasks, agent_registry CASCADE")
        yield database
