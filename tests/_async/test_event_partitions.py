from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import pytest
from _async.event_log import month, publish, read, settle, subscribe, write
from plans import Explain
from sqlalchemy import func, select, text

from alfred_db import AsyncDatabase, Event
from alfred_db.errors import ConflictError, NotFoundError
from alfred_db.queries import event_consumers
from alfred_db.repositories._async.events import AsyncEventRepository

HOSTILE = "'; DROP TABLE events; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


async def test_a_reader_leaves_out_the_months_before(committed: AsyncDatabase) -> None:
    months = [date(2023, number, 1) for number in range(1, 7)]
    async with committed.begin() as uow:
        for first in months:
            await month(uow.session, first)
            await write(uow.session, "t", datetime(first.year, first.month, 15, tzinfo=UTC))
        await uow.events.subscribe("c", ["t"], start="beginning")
    await settle(committed)
    assert len(await read(committed, limit=4)) == 4
    async with committed.session() as session:
        reader = await AsyncEventRepository(session).get_consumer("c")
        assert reader is not None
        assert reader.since == datetime(2023, 4, 14, tzinfo=UTC)
        statement = event_consumers.batch(
            reader.topics,
            tx=reader.tx,
            event_id=reader.event_id,
            since=reader.since,
            horizon=1 << 60,
            limit=10,
        )
        plan = "\n".join(await session.scalars(Explain(statement)))
        used = set(re.findall(r"events_(\d{4}_\d\d)\b", plan))
        assert {name for name in used if name < "2024"} == {"2023_04", "2023_05", "2023_06"}
    assert len(await read(committed)) == 2


async def test_a_partition_goes_when_all_have_read_it(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        name = await month(uow.session, date(2023, 1, 1))
        await write(uow.session, "t", datetime(2023, 1, 2, tzinfo=UTC))
        await write(uow.session, "x", datetime(2023, 1, 3, tzinfo=UTC))
        for consumer in ("c", "d"):
            await uow.events.subscribe(consumer, ["t"], start="beginning")
        await uow.events.subscribe("other", ["u"], start="beginning")
    await settle(committed)
    async with committed.begin() as uow:
        (part,) = await uow.events.old_partitions(12)
        assert await uow.events.partition_readers(part.name) == ["c", "d"]
        for drop in (True, False):
            with pytest.raises(
                ConflictError, match=r"still to be read by 'c', 'd'; let them catch up"
            ) as caught:
                await uow.events.detach_partition(part.name, drop=drop)
            assert not caught.value.retryable
        assert await uow.session.scalar(select(func.count()).select_from(Event)) == 2
    assert len(await read(committed, "c")) == 1
    async with committed.begin() as uow:
        assert await uow.events.partition_readers(part.name) == ["d"]
        await uow.events.seek("d", "now")
        await uow.events.detach_partition(part.name)
        assert await uow.session.scalar(select(func.count()).select_from(Event)) == 0
        assert await uow.session.scalar(text(f"SELECT count(*) FROM {name}")) == 2
        for wrong in (part.name, "x; DROP TABLE y", HOSTILE):
            with pytest.raises(NotFoundError, match="no monthly partition of"):
                await uow.events.partition_readers(wrong)


async def test_early_rows_keep_their_place_when_their_month_is_made(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t")
    ids = await publish(committed, "t")
    ahead = (datetime.now(UTC).replace(day=15) + timedelta(days=152)).replace(day=10)
    async with committed.begin() as uow:
        await write(uow.session, "t", ahead)
    ids += await publish(committed, "t")
    async with committed.begin() as uow:
        assert await uow.events.count_default() == 1
        assert await uow.events.make_partitions(6) == 3
        assert await uow.events.count_default() == 0
    await settle(committed)
    found = await read(committed)
    assert len(found) == 3
    assert [found[0], found[2]] == ids
