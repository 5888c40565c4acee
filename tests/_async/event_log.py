"""What the tests of events share: events published, read and written by other means."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, Event
from alfred_db.queries import events as queries
from alfred_db.repositories._async.events import AsyncEventRepository


async def settle(db: AsyncDatabase) -> None:
    """Wait until what was committed can be read: autovacuum, too, opens transactions."""
    async with db.session() as session:
        _, newest = (await session.execute(queries.snapshot())).one()
        for _ in range(1000):
            if (await session.execute(queries.snapshot())).one()[0] >= newest:
                return
            await session.execute(text("SELECT pg_sleep(0.01)"))
    raise AssertionError("a transaction does not end")


async def publish(db: AsyncDatabase, *topics: str) -> list[int]:
    """One event of each of these topics, each in a transaction of its own."""
    ids: list[int] = []
    for topic in topics:
        async with db.begin() as uow:
            ids.append((await uow.events.publish(topic, {"number": len(ids)})).id)
    await settle(db)
    return ids


async def subscribe(db: AsyncDatabase, *topics: str, start: Any = "beginning") -> None:
    async with db.begin() as uow:
        await uow.events.subscribe("c", topics, start=start)


async def read(db: AsyncDatabase, consumer: str = "c", *, limit: int = 100) -> list[int]:
    """The ids of the next events, for good."""
    async with db.begin() as uow:
        return [event.id for event in await uow.events.read(consumer, limit=limit)]


async def month(session: AsyncSession, first: date) -> str:
    """Make a partition for a month, as the migration does; return its name."""
    parent = AsyncEventRepository(session)._table
    after = (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    name = f"{parent}_{first:%Y_%m}"
    bounds = f"FROM ('{first} 00:00:00+00') TO ('{after} 00:00:00+00')"
    await session.execute(text(f"CREATE TABLE {name} PARTITION OF {parent} FOR VALUES {bounds}"))
    return name


async def write(session: AsyncSession, topic: str, at: datetime) -> None:
    """An event as it would have been written then."""
    session.add(Event(topic=topic, created_at=at, began_at=at, payload={}))
    await session.flush()
