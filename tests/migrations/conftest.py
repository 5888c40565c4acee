"""Databases of the migration tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from servers import WITH_VECTOR
from sqlalchemy import URL


@pytest.fixture(params=WITH_VECTOR)
def any_server(request: pytest.FixtureRequest, new_database: Callable[..., URL]) -> Callable[[], URL]:
    """Makes empty databases on each server that the schema can be made on."""
    return lambda: new_database(on=request.param)


@pytest.fixture(params=("embedded", "pixeltable16"))
def newest_and_oldest(request: pytest.FixtureRequest, new_database: Callable[..., URL]) -> Callable[[], URL]:
    """Makes empty databases on the newest and on the oldest of these servers."""
    return lambda: new_database(on=request.param)
