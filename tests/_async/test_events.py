from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from _async.event_log import publish, read, settle, subscribe
from sqlalchemy import event as events_of
from sqlalchemy import func, select, text

from alfred_db import AsyncDatabase, Event, NewEvent
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.events import AsyncEventRepository

HOSTILE = "'; DROP TABLE events; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


@pytest.fixture
def events(uow: AsyncUnitOfWork) -> AsyncEventRepository:
    return AsyncEventRepository(uow.session)


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
            await events.publish_many([{"topic": "t"}] * (size - 1) + [event])  # type: ignore[arg-type]
    assert await events._session.scalar(select(func.count()).select_from(Event)) == 0


@pytest.mark.parametrize("size", [1, 1001])
async def test_what_only_the_server_refuses_is_one_error(events: AsyncEventRepository, size: int) -> None:
    nul: list[NewEvent] = [{"topic": "t", "payload": {"x": "a\0b"}}] * size
    with pytest.raises(InvalidInputError):
        await events.publish_many(nul)


async def test_many_events_are_one_statement(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        sent: list[str] = []
        engine = uow.session.get_bind().engine
        events_of.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
        ids = await uow.events.publish_many([{"topic": "t", "payload": {"n": n}} for n in range(1000)])
        assert len(sent) <= 1
        stored = await uow.session.scalars(select(Event).where(Event.id.in_(ids)).order_by(Event.id))
        assert [row.payload["n"] for row in stored] == list(range(1000))
    assert ids == sorted(ids)


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


async def test_a_rollback_makes_the_events_unread_again(committed: AsyncDatabase) -> None:
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
