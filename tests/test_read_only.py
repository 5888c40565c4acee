"""`read_only=True`: the server refuses what would write, whichever way a call reaches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injection.ground import build
from injection.specimens import SPECIMENS
from sqlalchemy import URL, NullPool, create_engine, text

from alfred_db import AsyncDatabase, Database
from alfred_db.errors import AlfredDBError, ConfigurationError, DatabaseUnavailable

REFUSED = "this server or connection is read-only"


def written(url: URL) -> Any:
    """What writes of rows would change, by the server's own counters."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return connection.execute(
            text(
                "SELECT tup_inserted, tup_updated, tup_deleted FROM pg_stat_database"
                " WHERE datname = current_database()"
            )
        ).one()


def test_no_call_of_a_repository_writes(
    template: URL, new_database: Callable[..., URL], tmp_path: Path
) -> None:
    url = new_database(template.database)
    with Database(url) as database, database.begin() as uow:
        ground = build(uow, tmp_path)
    before, refused, done = written(url), 0, 0
    with Database(url, read_only=True) as database:
        for name, specimen in SPECIMENS.items():
            noun, _, method = name.partition(",")[0].partition(".")
            arguments = specimen(ground)
            positional = arguments.pop("names", ())
            try:
                with database.begin() as uow:
                    getattr(getattr(uow, noun), method)(*positional, **arguments)
                done += 1
            except AlfredDBError as error:
                refused += REFUSED in str(error)
    assert written(url) == before
    assert refused > 50
    assert done > 50


def test_each_door_is_read_only(migrated_url: URL) -> None:
    with Database(migrated_url, read_only=True) as database:
        assert database.read_only
        with pytest.raises(DatabaseUnavailable, match=REFUSED), database.autocommit() as uow:
            uow.tasks.enqueue("X", {})
        with pytest.raises(DatabaseUnavailable, match=REFUSED):
            database.cache.set("key", b"1", ttl=9.0)
        with database.session() as session, pytest.raises(Exception, match="read-only transaction"):
            session.execute(text("DELETE FROM documents"))
        with database.begin() as uow:
            assert uow.documents.hybrid_search("x", None, limit=1).hits == []
        with database.begin() as uow:
            assert list(uow.tasks.list(limit=1)) == []


async def test_each_door_is_read_only_for_asyncio(migrated_url: URL) -> None:
    async with AsyncDatabase(migrated_url, read_only=True) as database:
        assert database.read_only
        with pytest.raises(DatabaseUnavailable, match=REFUSED):
            async with database.begin() as uow:
                await uow.tasks.enqueue("X", {})
        with pytest.raises(DatabaseUnavailable, match=REFUSED):
            async with database.autocommit() as uow:
                await uow.tasks.enqueue("X", {})
        with pytest.raises(DatabaseUnavailable, match=REFUSED):
            await database.cache.set("key", b"1", ttl=9.0)
        async with database.begin() as uow:
            assert (await uow.documents.hybrid_search("x", None, limit=1)).hits == []


@pytest.mark.parametrize("kind", [Database, AsyncDatabase])
def test_a_pooler_is_refused(kind: type[Any], migrated_url: URL) -> None:
    with pytest.raises(ConfigurationError, match='leave out pooler="transaction"'):
        kind(migrated_url, pooler="transaction", read_only=True)
