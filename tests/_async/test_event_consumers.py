from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from _async.event_log import publish, read, settle, subscribe
from sqlalchemy import text

from alfred_db import AsyncDatabase
from alfred_db.errors import InvalidInputError, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.events import AsyncEventRepository

HOSTILE = "'; DROP TABLE events; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


@pytest.fixture
def events(uow: AsyncUnitOfWork) -> AsyncEventRepository:
    return AsyncEventRepository(uow.session)


# Subscriptions


async def test_to_subscribe_again_changes_nothing(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t")
    (first,) = await publish(committed, "t")
    assert await read(committed) == [first]
    await subscribe(committed, "t", start="beginning")
    await subscribe(committed, "t", start="now")
    assert await read(committed) == []
    async with committed.begin() as uow:
        consumer = await uow.events.subscribe("c", ["t"])
        assert (consumer.name, consumer.topics, consumer.event_id) == ("c", ["t"], first)
        assert consumer.read_at is not None


async def test_topics_are_added_and_taken_away(committed: AsyncDatabase) -> None:
    await subscribe(committed, "a", "b")
    ids = await publish(committed, "x", "a")
    assert await read(committed) == ids[1:]
    async with committed.begin() as uow:
        assert (await uow.events.subscribe("c", ["x", "a", "x"])).topics == ["a", "b", "x"]
    ids = await publish(committed, "a", "b", "x")
    assert await read(committed) == ids
    async with committed.begin() as uow:
        assert await uow.events.unsubscribe("c", ["a", "unknown"]) is False
    ids = await publish(committed, "a", "b")
    assert await read(committed) == ids[1:]
    async with committed.begin() as uow:
        assert await uow.events.unsubscribe("c", ["b", "x"]) is True
        assert await uow.events.get_consumer("c") is None


async def test_from_now_on_nothing_before_is_read(committed: AsyncDatabase) -> None:
    await publish(committed, "t")
    await subscribe(committed, "t", start="now")
    ids = await publish(committed, "t")
    assert await read(committed) == ids


async def test_a_consumer_reads_again_from_an_event_or_a_time(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t", "u")
    ids = await publish(committed, "t", "u", "t", "t")
    assert await read(committed) == ids
    async with committed.begin() as uow:
        third = await uow.events.get(ids[2])
        assert third is not None
    places: list[tuple[Any, list[int]]] = [
        (ids[2], ids[2:]),
        (third.created_at, ids[2:]),
        (third.created_at + timedelta(microseconds=1), ids[3:]),
        ("beginning", ids),
        (datetime(2020, 1, 1, tzinfo=UTC), ids),
        ("now", []),
        (datetime(2999, 1, 1, tzinfo=UTC), []),
    ]
    for place, expected in places:
        async with committed.begin() as uow:
            consumer = await uow.events.seek("c", place)
            assert consumer.topics == ["t", "u"]
        assert await read(committed) == expected, place
        async with committed.begin() as uow:
            await uow.events.subscribe("new", ["u", "t"], start=place)
        assert await read(committed, "new") == expected, place
        async with committed.begin() as uow:
            assert await uow.events.unsubscribe("new") is True


async def test_bad_subscriptions_are_refused(events: AsyncEventRepository) -> None:
    for topics, message in (
        ([], "topics: expected 1 to 100, got 0"),
        ("orders", "topics: expected a sequence of topics, got one"),
        ([""], "topic: expected 1 to 500 bytes"),
        ([str(number) for number in range(101)], "topics: expected 1 to 100, got 101"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            await events.subscribe("c", topics)
    for name in ("", "x" * 501, "a\0b"):
        with pytest.raises(InvalidInputError, match="consumer: "):
            await events.subscribe(name, ["t"])
    wrong: Any = "yesterday"
    with pytest.raises(
        InvalidInputError, match="position: expected 'beginning', 'now', a datetime or the id"
    ):
        await events.subscribe("c", ["t"], start=wrong)
    with pytest.raises(InvalidInputError, match="position: a time without time zone"):
        await events.subscribe("c", ["t"], start=datetime(2025, 1, 1))
    with pytest.raises(NotFoundError, match="event 7: not in the log"):
        await events.subscribe("c", ["t"], start=7)
    assert await events.consumers() == []
    await events.subscribe(HOSTILE, [HOSTILE])
    assert [lag.name for lag in await events.consumers()] == [HOSTILE]


async def test_a_missing_consumer_is_an_error(events: AsyncEventRepository) -> None:
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (events.read, ()),
        (events.peek, ()),
        (events.seek, ("now",)),
        (events.unsubscribe, ()),
        (events.unsubscribe, (["t"],)),
    ]
    for call, arguments in calls:
        with pytest.raises(
            NotFoundError, match="consumer 'nobody': has not subscribed; call `subscribe` first"
        ):
            await call("nobody", *arguments)
    for limit in (0, 1001):
        with pytest.raises(InvalidInputError, match=f"limit: expected 1 to 1,000, got {limit:,}"):
            await events.read("c", limit=limit)
        with pytest.raises(InvalidInputError, match=f"limit: expected 1 to 1,000, got {limit:,}"):
            await events.peek("c", limit=limit)


async def test_the_place_of_a_consumer_stays_on_its_page(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t")
    await publish(committed, *["t"] * 20)
    for _ in range(20):
        async with committed.begin() as uow:
            assert len(await uow.events.read("c", limit=1)) == 1
            await uow.session.execute(text("SELECT pg_stat_force_next_flush()"))
    await committed.close()  # a session reports its statistics at its end at the latest
    name = "event_consumers" if committed.schema is None else f"{committed.schema}.event_consumers"
    statement = text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass(:name)"
    )
    async with committed.session() as session:
        written, hot = (await session.execute(statement, {"name": name})).one()
    assert written == 20
    assert hot >= 16


# How far they are


async def test_the_lag_of_each_consumer(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t", "u")
    async with committed.begin() as uow:
        await uow.events.subscribe("idle", ["x"])
    await publish(committed, "t", "u", "u", "y")
    await read(committed, limit=1)
    async with committed.begin() as uow:
        await uow.session.execute(text("SELECT pg_sleep(0.05)"))
        late, idle = await uow.events.consumers()
        assert (late.name, list(late.topics), late.behind) == ("c", ["t", "u"], 2)
        assert late.oldest_unread_age is not None
        assert 0.05 <= late.oldest_unread_age < 600
        assert late.read_at is not None
        assert (idle.name, idle.behind, idle.oldest_unread_age, idle.read_at) == ("idle", 0, None, None)
        await uow.events.publish_many([{"topic": "t"}] * 10_001)
        assert (await uow.events.consumers())[0].behind == 10_000
    await settle(committed)
