"""Databases of the migration tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from servers import WITH_VECTOR, Servers
from sqlalchemy import URL

from alfred_db import migrate
from alfred_db.config import parse_url

from .catalog import run


@pytest.fixture(params=WITH_VECTOR)
def any_server(request: pytest.FixtureRequest, new_database: Callable[..., URL]) -> Callable[[], URL]:
    """Makes empty databases on each server that the schema can be made on."""
    return lambda: new_database(on=request.param)


@pytest.fixture(params=("embedded", "pixeltable16"))
def newest_and_oldest(request: pytest.FixtureRequest, new_database: Callable[..., URL]) -> Callable[[], URL]:
    """Makes empty databases on the newest and on the oldest of these servers."""
    return lambda: new_database(on=request.param)


@pytest.fixture(scope="session")
def templates(new_database: Callable[..., URL]) -> Callable[[str, str | None], URL]:
    """Databases at a revision that nobody connects to, each migrated once."""
    made: dict[tuple[str, str | None], URL] = {}

    def template(revision: str, schema: str | None) -> URL:
        if (revision, schema) not in made:
            url = new_database(None if schema is None else template("head", None).database)
            migrate.upgrade(url, revision, schema=schema)
            made[revision, schema] = url
        return made[revision, schema]

    return template


@pytest.fixture
def migrated_to(
    templates: Callable[[str, str | None], URL], servers: Servers, new_database: Callable[..., URL]
) -> Iterator[Callable[..., URL]]:
    """Makes databases at a revision, without tenants; or with a tenant that is at it, and all else at the newest one.

    They are for tests that begin there: how they came there is tested by others.
    """
    made: list[URL] = []

    def make(revision: str = "head", schema: str | None = None) -> URL:
        made.append(new_database(templates(revision, schema).database))
        return made[-1]

    yield make
    for url in made:
        run(parse_url(servers["embedded"]), f"DROP DATABASE IF EXISTS {url.database} WITH (FORCE)")
