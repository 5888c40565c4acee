from __future__ import annotations

import os
import random
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from plans import Explain
from sqlalchemy import BigInteger, Text, cast, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, Event, EventConsumer, NewEvent
from alfred_db.errors import ConflictError, InvalidInputError, NotFoundError
from alfred_db.queries import events as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.events import AsyncEventRepository
from alfred_db.types import TransactionId

HOSTILE = "'; DROP TABLE events; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


@pytest.fixture
def events(uow: AsyncUnitOfWork) -> AsyncEventRepository:
    return AsyncEventRepository(uow.session)


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
    """Make a partition for a month, as the migration does; gives its name."""
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


# Publishing


async def test_an_event_is_stored_as_it_is_published(events: AsyncEventRepository) -> None:
    before = await events._session.scalar(select(func.clock_timestamp()))
    event = await events.publish("orders", {"total": 1.5, HOSTILE: [None]}, type="order.paid", key=HOSTILE)
    assert (event.topic, event.type, event.key) == ("orders", "order.paid", HOSTILE)
    assert event.payload == {"total": 1.5, HOSTILE: [None]}
    assert before is not None
    assert event.began_at < before <= event.created_at
    assert event.tx == await events._session.scalar(text("SELECT pg_current_xact_id()::text::bigint"))
    assert await events.get(event.id) is event
    assert await events.get(event.id + 1) is None
    plain = await events.publish("orders")
    assert (plain.type, plain.key, plain.payload, plain.tx) == (None, None, {}, event.tx)
    assert plain.id > event.id


@pytest.mark.parametrize("size", [1, 3, 1000, 1001], ids=["one", "few", "insert", "copy"])
async def test_many_are_published_in_order(events: AsyncEventRepository, size: int) -> None:
    many: list[NewEvent] = [{"topic": "t", "payload": {"n": number}} for number in range(size)]
    many[-1] = {"topic": HOSTILE, "type": HOSTILE, "key": HOSTILE, "payload": {HOSTILE: HOSTILE}}
    ids = await events.publish_many(many)
    assert ids == sorted(set(ids))
    stored = (await events._session.scalars(select(Event).where(Event.id.in_(ids)).order_by(Event.id))).all()
    assert [event.id for event in stored] == ids
    assert [event.payload for event in stored[:-1]] == [{"n": number} for number in range(size - 1)]
    last = stored[-1]
    assert (last.topic, last.type, last.key, last.payload) == (HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    assert {event.tx for event in stored} == {last.tx}
    assert all(event.created_at >= event.began_at for event in stored)
    assert await events.publish_many([]) == []


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"topic": ""}, "topic: expected 1 to 500 bytes, got 0"),
        ({"topic": "ü" * 251}, "topic: expected 1 to 500 bytes, got 502"),
        ({"topic": "a\0b"}, "topic: holds a NUL"),
        ({"topic": 7}, "topic: expected text"),
        ({"topic": "t", "key": "k" * 501}, "key: expected 1 to 500 bytes, got 501"),
        ({"topic": "t", "type": ""}, "type: expected 1 to 500 bytes, got 0"),
        ({"topic": "t", "payload": [1]}, "payload: expected a mapping, got list"),
        ({"topic": "t", "payload": {"x": object()}}, "payload: not a JSON value"),
        ({"topic": "t", "payload": {"x": float("nan")}}, "payload: not a JSON value"),
        ({"topic": "t", "payload": {"x": "y" * (1 << 20)}}, "payload: has 1,048,585 bytes as JSON"),
    ],
)
async def test_bad_events_are_refused(
    events: AsyncEventRepository, event: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{message}"):
        await events.publish(**event)
    for size in (1, 1001):
        with pytest.raises(InvalidInputError, match=rf"^event {size - 1}: {message}"):
            await events.publish_many([{"topic": "t"}] * (size - 1) + [event])  # type: ignore[list-item]
    assert await events._session.scalar(select(func.count()).select_from(Event)) == 0


@pytest.mark.parametrize("size", [1, 1001])
async def test_what_only_the_server_refuses_is_one_error(events: AsyncEventRepository, size: int) -> None:
    nul: list[NewEvent] = [{"topic": "t", "payload": {"x": "a\0b"}}] * size
    with pytest.raises(InvalidInputError):
        await events.publish_many(nul)


async def test_keys_that_an_event_has_not_are_named(events: AsyncEventRepository) -> None:
    wrong: list[Any] = [{"topic": "t", "id": 1}, {"payload": {}}]
    for event in wrong:
        with pytest.raises(
            InvalidInputError, match="event 0: expected `topic` and some of type, key, payload"
        ):
            await events.publish_many([event])


# Reading


async def test_each_consumer_reads_each_event_once_and_in_order(committed: AsyncDatabase) -> None:
    await subscribe(committed, "a", "b")
    async with committed.begin() as uow:
        await uow.events.subscribe("other", ["b"], start="beginning")
    ids = await publish(committed, "a", "b", "x", "a", "b")
    assert await read(committed, limit=3) == [ids[0], ids[1], ids[3]]
    assert await read(committed, limit=3) == [ids[4]]
    assert await read(committed) == []
    assert await read(committed, "other") == [ids[1], ids[4]]
    (late,) = await publish(committed, "b")
    assert await read(committed) == await read(committed, "other") == [late]


async def test_events_of_one_transaction_come_together_and_in_order(committed: AsyncDatabase) -> None:
    await subscribe(committed, "a", "b")
    async with committed.begin() as uow:
        ids = await uow.events.publish_many([{"topic": "ab"[number % 2]} for number in range(1500)])
    await settle(committed)
    found: list[int] = []
    while batch := await read(committed, limit=400):
        found += batch
    assert found == ids


async def test_what_is_not_committed_is_not_read(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t")
    async with committed.session() as session:
        mine = AsyncEventRepository(session)
        await mine.publish("t")
        assert await mine.read("c") == []
        assert await read(committed) == []
        await session.rollback()
    await settle(committed)
    assert await read(committed) == []


async def test_a_rollback_gives_the_events_again(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t")
    ids = await publish(committed, "t", "t")
    async with committed.session() as session:
        mine = AsyncEventRepository(session)
        assert [event.id for event in await mine.read("c", limit=1)] == ids[:1]
        assert [event.id for event in await mine.read("c", limit=1)] == ids[1:]
        await session.rollback()
    assert await read(committed) == ids


async def test_peek_leaves_them_unread(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t")
    ids = await publish(committed, "t", "t")
    async with committed.begin() as uow:
        assert [event.id for event in await uow.events.peek("c", limit=1)] == ids[:1]
        assert [event.id for event in await uow.events.peek("c")] == ids
    assert await read(committed) == ids


async def test_a_topic_is_listed_page_by_page_without_a_consumer(committed: AsyncDatabase) -> None:
    ids = await publish(committed, "t", "x", "t", "t", "t")
    wanted = [ids[0], *ids[2:]]
    async with committed.begin() as uow:
        found: list[int] = []
        after: str | None = None
        while True:
            page = await uow.events.list("t", after=after, limit=2)
            found += [event.id for event in page]
            if (after := page.next) is None:
                break
        assert found == wanted
        last = page.items[-1]
        assert list(await uow.events.list("t", after=last)) == []
        since = await uow.events.list("t", since=page.items[0].created_at)
        assert [event.id for event in since] == wanted[2:]
    (late,) = await publish(committed, "t")
    async with committed.begin() as uow:
        assert [event.id for event in await uow.events.list("t", after=last)] == [late]
        with pytest.raises(InvalidInputError, match="is not a cursor"):
            await uow.events.list("t", after="nonsense")
        with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
            await uow.events.list("t", limit=1001)
        with pytest.raises(InvalidInputError, match="since: a time without time zone"):
            await uow.events.list("t", since=datetime(2025, 1, 1))


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


async def test_a_consumer_that_is_not_there_is_told_of(events: AsyncEventRepository) -> None:
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


# Partitions


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
        statement = queries.batch(
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


# Another server


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
            await uow.events.subscribe(name, some, start=chance.choice(["beginning", "now"]))  # type: ignore[arg-type]

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


async def test_events_of_one_tenant_are_not_seen_by_the_other(committed: AsyncDatabase) -> None:
    await subscribe(committed, "t")
    ids = await publish(committed, "t")
    other = AsyncDatabase(committed.url, schema="acme" if committed.schema is None else None)
    async with other, other.begin() as uow:
        assert await uow.events.consumers() == []
        assert len(await uow.events.list("t")) == 0
        await uow.events.subscribe("c", ["t"], start="beginning")
        assert await uow.events.read("c") == []
    await settle(committed)
    assert await read(committed) == ids
