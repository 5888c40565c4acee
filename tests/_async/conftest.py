"""A database of either kind of tenant, and a unit of work that is rolled back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from sqlalchemy import URL
from tenants import tenants

from alfred_db import AsyncDatabase
from alfred_db.repositories import AsyncUnitOfWork


class _Undone(Exception):
    """Has a transaction rolled back."""


@pytest.fixture(params=tenants("_async"), ids=lambda schema: schema or "public")
def schema(request: pytest.FixtureRequest) -> str | None:
    """The tenant: the default one, or a named one of the same database; see tests/tenants.py."""
    tenant: str | None = request.param
    return tenant


@pytest.fixture
async def db(migrated_url: URL, schema: str | None) -> AsyncIterator[AsyncDatabase]:
    """A database for tests that commit nothing."""
    async with AsyncDatabase(migrated_url, schema=schema) as database:
        yield database


@pytest.fixture
async def committed(database_url: URL, schema: str | None) -> AsyncIterator[AsyncDatabase]:
    """A database of the test's own, for tests that commit."""
    async with AsyncDatabase(database_url, schema=schema) as database:
        yield database


@pytest.fixture
async def uow(db: AsyncDatabase) -> AsyncIterator[AsyncUnitOfWork]:
    """A unit of work whose transaction is rolled back at the end."""
    with suppress(_Undone):
        async with db.begin() as uow:
            yield uow
            raise _Undone
