"""Loops that claim tasks themselves wait for notifications instead of polling."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy import URL

from alfred_db import AsyncDatabase, ConfigurationError, Database

HEARD, SILENT = 20.0, 0.2
"""Seconds to wait for a notification that comes, and for one that does not."""


def test_a_listener_waits_for_tasks_of_its_queues_and_intents(database_url: URL) -> None:
    with Database(database_url, notify=True) as db, db.listen(queues=["gpu"], intents=["WANTED"]) as tasks:
        assert tasks.wait(HEARD)  # LISTEN has begun: what was enqueued before has notified nobody
        for queue, intent, heard in (
            ("gpu", "OTHER", False),
            ("cpu", "WANTED", False),
            ("gpu", "WANTED", True),
        ):
            with db.begin() as uow:
                uow.tasks.enqueue(intent, queue=queue)
            assert tasks.wait(HEARD if heard else SILENT) is heard
        assert not tasks.wait(SILENT)


def test_what_came_between_two_waits_counts(database_url: URL) -> None:
    with Database(database_url, notify=True) as db, db.listen() as tasks, db.listen() as others:
        assert tasks.wait(HEARD)
        assert others.wait(HEARD)
        with db.begin() as uow:
            uow.tasks.enqueue("WANTED")
        assert others.wait(HEARD)  # it has arrived
        assert tasks.wait(HEARD)
        with suppress(ZeroDivisionError), db.begin() as uow:
            uow.tasks.enqueue("WANTED")
            raise ZeroDivisionError
        assert not tasks.wait(SILENT)


def test_asyncio(database_url: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(database_url, notify=True) as db, db.listen(intents=["WANTED"]) as tasks:
            assert await tasks.wait(HEARD)
            assert not await tasks.wait(SILENT)
            waiting = asyncio.create_task(tasks.wait(HEARD))
            async with db.begin() as uow:
                await uow.tasks.enqueue("WANTED")
            assert await waiting

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Database, AsyncDatabase])
def test_a_pooler_is_refused(kind: type[Database | AsyncDatabase], database_url: URL) -> None:
    with pytest.raises(ConfigurationError, match="pooler"):
        kind(database_url, pooler="transaction").listen()
