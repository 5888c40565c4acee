from __future__ import annotations

import os
import random

import pytest
from _async.event_log import publish, read, settle, subscribe
from sqlalchemy import BigInteger, Text, cast, func, update

from alfred_db import AsyncDatabase, Event, EventConsumer
from alfred_db.errors import ConflictError
from alfred_db.types import TransactionId


async def test_a_log_that_was_restored_on_another_server_is_read_on(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t")
    ids = await publish(committed, "t", "t", "t", "t")
    assert await read(committed, limit=2) == ids[:2]
    async with committed.begin() as uow:
        assert await uow.events.after_restore() == 0, "it is in order"
        for model in (Event, EventConsumer):
            higher = cast(cast(cast(cast(model.tx, Text), BigInteger) + 1_000_000, Text), TransactionId)
            await uow.session.execute(update(model).values(tx=higher))
    await settle(committed)
    async with committed.begin() as uow:
        for call in (uow.events.read, uow.events.peek):
            with pytest.raises(ConflictError, match=r"came from another server; call `after_restore`"):
                await call("c")
    async with committed.begin() as uow:
        assert await uow.events.after_restore() == 4
    await settle(committed)
    late = await publish(committed, "t")
    assert await read(committed) == [*ids[2:], *late]


async def restored(db: AsyncDatabase, ahead: int) -> None:
    """As if the log came from a server whose transactions are so many ahead of this one's, or behind."""
    async with db.begin() as uow:
        for model in (Event, EventConsumer):
            number = cast(cast(model.tx, Text), BigInteger)
            moved = cast(cast(func.greatest(number + ahead, 3), Text), TransactionId)
            await uow.session.execute(update(model).where(number > 0).values(tx=moved))
    await settle(db)


async def read_on(db: AsyncDatabase, consumer: str, limit: int = 100) -> list[int]:
    """The ids of the next events, if need be after what the error says."""
    try:
        return await read(db, consumer, limit=limit)
    except ConflictError:
        pass
    async with db.begin() as uow:
        await uow.events.after_restore()
    await settle(db)
    return await read(db, consumer, limit=limit)


@pytest.mark.parametrize(
    ("ahead", "start", "read_before"),
    [
        (1_000_000, "beginning", 4),
        (1_000_000, "beginning", 2),
        (1_000_000, "now", 0),
        (3, "now", 2),
        (0, "now", 4),
        (-50, "beginning", 2),
    ],
)
async def test_what_is_published_before_the_log_was_put_in_order_is_not_lost(
    committed: AsyncDatabase, ahead: int, start: str, read_before: int
) -> None:
    early = [] if start == "beginning" else await publish(committed, "t")
    await subscribe(committed, "t", start=start)
    ids = await publish(committed, "t", "t", "t", "t")
    if read_before:
        assert await read(committed, limit=read_before) == ids[:read_before]
    await restored(committed, ahead)
    late = await publish(committed, "t", "t")
    async with committed.begin() as uow:
        await uow.events.after_restore()
    await settle(committed)
    found = await read(committed)
    if ahead == 3:  # the two servers have used the same numbers
        assert set(found) >= {*ids[read_before:], *late}
    else:
        assert found == [*ids[read_before:], *late], "in order, and each once"
    for _ in range(2):
        async with committed.begin() as uow:
            assert await uow.events.after_restore() == 0, "it is in order"
        assert await read(committed) == []
        later = await publish(committed, "t")
        assert await read(committed) == later
    assert not set(early) & set(late)


async def test_a_log_is_put_in_order_though_this_server_has_come_past_the_other(
    committed: AsyncDatabase,
) -> None:
    """No error tells of it then: the consumer stands where this server was when the first event was published."""
    await subscribe(committed, "t")
    ids = await publish(committed, "t", "t")
    assert await read(committed) == ids
    await restored(committed, 5)
    late = await publish(committed, *["t"] * 8)
    async with committed.begin() as uow:
        await uow.events.after_restore()
    await settle(committed)
    assert set(late) <= set(await read(committed))


@pytest.mark.parametrize("seed", [2, 5] if os.environ.get("ALFRED_DB_FAULTS") is None else range(100))
async def test_no_consumer_loses_an_event_by_restores_in_any_order(
    committed: AsyncDatabase, seed: int
) -> None:
    chance = random.Random(seed)
    topics = {"a": ["t"], "b": ["t", "u"], "c": ["u"]}
    wanted: dict[str, set[int]] = {name: set() for name in topics}
    found: dict[str, set[int]] = {name: set() for name in topics}
    for name, some in topics.items():
        async with committed.begin() as uow:
            await uow.events.subscribe(name, some, start=chance.choice(["beginning", "now"]))

    async def tell() -> None:
        some = chance.choices(["t", "u"], k=chance.randint(1, 3))
        for topic, id in zip(some, await publish(committed, *some), strict=True):
            for name in topics:
                if topic in topics[name]:
                    wanted[name].add(id)

    for _ in range(6):
        await restored(committed, chance.choice([-40, -3, 2, 7, 20, 1_000_000]))
        put_in_order = False
        for _ in range(6):
            step = chance.choice(["publish", "publish", "read", "after_restore"])
            if step == "publish":
                await tell()
            elif step == "after_restore" or (step == "read" and not put_in_order and chance.random() < 0.5):
                put_in_order = True
                async with committed.begin() as uow:
                    await uow.events.after_restore()
                await settle(committed)
            else:
                name = chance.choice(list(topics))
                found[name].update(await read_on(committed, name, chance.choice([1, 2, 100])))
        async with committed.begin() as uow:
            await uow.events.after_restore()
        await settle(committed)
    await tell()
    for name in topics:
        while batch := await read_on(committed, name):
            found[name].update(batch)
    assert {name: wanted[name] - found[name] for name in topics} == {name: set() for name in topics}
