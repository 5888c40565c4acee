"""Publishers and readers that meet: ids are handed out in one order, and committed in another."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from plans import Explain
from servers import running
from sqlalchemy import URL, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles

from alfred_db import Database, Event
from alfred_db.embedded import system
from alfred_db.errors import AlfredDBError, ConflictError
from alfred_db.queries import event_consumers
from alfred_db.queries import events as queries
from alfred_db.repositories._sync.events import EventRepository


class Measured(Explain):
    """The plan as it was run, as JSON."""

    inherit_cache = False


@compiles(Measured)
def _measured(element: Measured, compiler: Any, **options: Any) -> str:
    statement = compiler.process(element.statement, **options)
    return f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=12) as database:
        with database.begin() as uow:
            uow.events.subscribe("c", ["t"], start="beginning")
        yield database


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def settle(db: Database) -> None:
    """Wait until what was committed can be read: autovacuum, too, opens transactions."""
    with db.session() as session:
        _, newest = session.execute(queries.snapshot()).one()
        until(lambda: session.execute(queries.snapshot()).one()[0] >= newest)


def publish(db: Database, number: int) -> int:
    with db.begin() as uow:
        return uow.events.publish("t", {"n": number}).id


def read(db: Database, limit: int = 100) -> list[int]:
    with db.begin() as uow:
        return [event.payload["n"] for event in uow.events.read("c", limit=limit)]


def test_a_slow_early_transaction_is_waited_for(db: Database) -> None:
    naive: list[int] = []
    last = 0

    def read_by_id() -> None:
        """What a cursor over ids returns: the way that loses events."""
        nonlocal last
        with db.session() as session:
            for event in session.scalars(select(Event).where(Event.id > last).order_by(Event.id)):
                naive.append(event.payload["n"])
                last = event.id

    with db.session() as slow:
        early = EventRepository(slow).publish("t", {"n": 1})
        late = publish(db, 2)
        assert early.id < late
        read_by_id()
        assert read(db) == []
        with db.begin() as uow:
            (lag,) = uow.events.consumers()
            assert lag.behind == 1
            holder = uow.events.horizon()
            assert holder is not None
            assert holder.pid == slow.scalar(text("SELECT pg_backend_pid()"))
            assert (holder.application_name, holder.database) == ("alfred-db", db.url.database)
            assert holder.age is not None
            assert 0 <= holder.age < 600
        slow.commit()
    settle(db)
    read_by_id()
    assert naive == [2], "the event that committed late is lost"
    assert read(db) == [1, 2]
    assert read(db) == []


def test_a_transaction_that_wrote_first_and_publishes_late_is_waited_for(db: Database) -> None:
    with db.session() as slow:
        slow.execute(text("SELECT pg_current_xact_id()"))
        publish(db, 2)
        EventRepository(slow).publish("t", {"n": 1})
        assert read(db) == []
        slow.commit()
    settle(db)
    assert read(db) == [1, 2]


@pytest.mark.parametrize("savepoint", [False, True])
def test_of_a_slow_transaction_that_fails_nothing_is_read(db: Database, savepoint: bool) -> None:
    with db.session() as slow:
        events = EventRepository(slow)
        inner = slow.begin_nested() if savepoint else slow.get_transaction()
        events.publish_many([{"topic": "t", "payload": {"n": 1}}] * (1001 if savepoint else 1))
        assert inner is not None or not savepoint
        publish(db, 2)
        slow.get_nested_transaction().rollback() if savepoint else slow.rollback()  # type: ignore[union-attr]
        events.publish("t", {"n": 3})
        slow.commit()
    settle(db)
    assert sorted(read(db)) == [2, 3]


@pytest.mark.parametrize("start", ["now", "event", "time"])
def test_who_subscribes_meanwhile_misses_nothing_that_commits_later(db: Database, start: str) -> None:
    with db.session() as slow:
        EventRepository(slow).publish("t", {"n": 1})
        second = publish(db, 2)
        with db.begin() as uow:
            event = uow.events.get(second)
            assert event is not None
            place = {"now": "now", "event": second, "time": event.created_at}[start]
            uow.events.subscribe("new", ["t"], start=place)  # type: ignore[arg-type]
        slow.commit()
    settle(db)
    with db.begin() as uow:
        assert [event.payload["n"] for event in uow.events.read("new")] == [1, 2]


def test_a_page_of_a_topic_misses_nothing_that_commits_later(db: Database) -> None:
    first = publish(db, 0)
    settle(db)
    with db.session() as slow:
        EventRepository(slow).publish("t", {"n": 1})
        publish(db, 2)
        with db.begin() as uow:
            page = uow.events.list("t")
            assert [event.id for event in page] == [first]
        slow.commit()
    settle(db)
    with db.begin() as uow:
        assert [event.payload["n"] for event in uow.events.list("t", after=page.items[-1])] == [1, 2]


def test_of_two_readers_of_a_consumer_one_gets_the_events(db: Database) -> None:
    for number in range(4):
        publish(db, number)
    settle(db)
    with db.session() as one, db.session() as two:
        first = EventRepository(one).read("c", limit=2)
        assert [event.payload["n"] for event in first] == [0, 1]
        started = time.monotonic()
        assert EventRepository(two).read("c") == []
        assert [event.payload["n"] for event in EventRepository(two).peek("c", limit=1)] == [0]
        two.rollback()
        one.commit()
        settle(db)
        assert [event.payload["n"] for event in EventRepository(two).read("c")] == [2, 3]
        assert time.monotonic() - started < 60, "nobody waited for anybody"


def test_to_seek_waits_for_the_reader(db: Database) -> None:
    publish(db, 0)
    settle(db)

    def again() -> None:
        with db.begin() as uow:
            uow.events.seek("c", "beginning")

    with db.session() as reader, ThreadPoolExecutor(1) as pool:
        assert len(EventRepository(reader).read("c")) == 1
        seeking = pool.submit(again)
        time.sleep(0.2)
        assert not seeking.done()
        reader.commit()
        seeking.result(30)
    settle(db)
    assert read(db) == [0]


def test_twenty_who_subscribe_make_one_consumer(db: Database) -> None:
    def subscribe(number: int) -> int:
        with db.begin() as uow:
            return len(uow.events.subscribe("new", ["common", f"t-{number}"]).topics)

    with ThreadPoolExecutor(10) as pool:
        sizes = sorted(pool.map(subscribe, range(20)))
    assert sizes == list(range(2, 22)), "each adds its own topic to those of the others"
    with db.begin() as uow:
        assert [lag.name for lag in uow.events.consumers()] == ["c", "new"]


def test_a_reader_whose_connection_is_cut_gets_the_batch_again(db: Database) -> None:
    for number in range(3):
        publish(db, number)
    settle(db)
    with db.session() as reader:
        assert len(EventRepository(reader).read("c", limit=2)) == 2
        pid = reader.scalar(text("SELECT pg_backend_pid()"))
        with db.session() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
        with pytest.raises(AlfredDBError):
            EventRepository(reader).read("c", limit=2)
    assert read(db) == [0, 1, 2]
    assert read(db) == []


@pytest.mark.parametrize("seed", range(3))
def test_each_committed_event_takes_effect_once_and_in_order(db: Database, seed: int) -> None:
    """Publishers that dawdle and roll back; readers that roll back and are cut off. Effects share the readers' transactions."""
    publishers, rounds = 4, 25
    with db.begin() as uow:
        uow.session.execute(
            text(
                "CREATE TABLE effects (position bigint GENERATED ALWAYS AS IDENTITY, publisher int, n int, id bigint)"
            )
        )
    committed: dict[int, list[int]] = defaultdict(list)
    over = threading.Event()

    def tell(publisher: int) -> None:
        chance = random.Random(seed * 100 + publisher)
        number = 0
        for _ in range(rounds):
            with db.session() as session:
                events = EventRepository(session)
                size = chance.choice([1, 1, 1, 2, 5])
                if chance.random() < 0.3:
                    session.execute(text("SELECT pg_current_xact_id()"))
                    time.sleep(chance.random() * 0.03)
                mine = range(number, number + size)
                if size == 1:
                    events.publish("t", {"publisher": publisher, "n": number})
                else:
                    events.publish_many(
                        [{"topic": "t", "payload": {"publisher": publisher, "n": n}} for n in mine]
                    )
                if chance.random() < 0.3:
                    time.sleep(chance.random() * 0.03)
                if chance.random() < 0.2:
                    session.rollback()
                else:
                    session.commit()
                    committed[publisher] += mine
                    number += size

    def consume(reader: int) -> int:
        """Of its batches one fails in the handler, one is cut off, and one goes well, again and again."""
        chance = random.Random(seed * 100 + 50 + reader)
        batches = 0
        while True:
            last = over.is_set()
            try:
                with db.begin() as uow:
                    batch = uow.events.read("c", limit=chance.choice([1, 3, 10]))
                    for event in batch:
                        uow.session.execute(
                            text("INSERT INTO effects (publisher, n, id) VALUES (:publisher, :n, :id)"),
                            {**event.payload, "id": event.id},
                        )
                    batches += len(batch) > 0
                    if batch and batches % 3 == 1:
                        raise RuntimeError("the handler fails")
                    if batch and batches % 3 == 2:
                        uow.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            except (RuntimeError, DBAPIError):
                continue
            if last and not batch:
                return batches
            if not batch:
                time.sleep(0.002)

    with ThreadPoolExecutor(publishers + 2) as pool:
        readers = [pool.submit(consume, number) for number in range(2)]
        published = [pool.submit(tell, number) for number in range(publishers)]
        for done in published:
            done.result(120)
        settle(db)
        over.set()
        assert sum(reader.result(120) for reader in readers) >= 3, "too few batches to show anything"
    settle(db)
    with db.begin() as uow:
        assert uow.events.read("c") == []
        rows = uow.session.execute(text("SELECT publisher, n, id FROM effects ORDER BY position")).all()
        stored = uow.session.scalars(select(Event.id).order_by(Event.tx, Event.id)).all()
    seen: dict[int, list[int]] = defaultdict(list)
    for publisher, n, _ in rows:
        seen[publisher].append(n)
    assert seen == committed
    assert [id for *_, id in rows] == list(stored), "the order is that of the transactions"
    assert stored != sorted(stored), "ids were committed in order: the test shows less than it should"


def test_an_event_that_commits_while_its_partition_goes_is_not_lost(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alfred_db.queries.shapes.partitions.LOCK_TIMEOUT", "30s")
    with db.begin() as uow:
        uow.session.execute(
            text(
                "CREATE TABLE events_2023_01 PARTITION OF events"
                " FOR VALUES FROM ('2023-01-01 00:00+00') TO ('2023-02-01 00:00+00')"
            )
        )

    def drop() -> None:
        with db.begin() as uow:
            (part,) = uow.events.old_partitions(1)
            assert uow.events.partition_readers(part.name) == []
            uow.events.detach_partition(part.name, drop=True)

    with db.session() as slow, ThreadPoolExecutor(1) as pool:
        slow.add(Event(topic="t", payload={"n": 1}, created_at=text("'2023-01-02 00:00+00'::timestamptz")))
        slow.flush()
        dropping = pool.submit(drop)
        with db.session() as watcher:
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            until(lambda: bool(watcher.scalar(waiting)))
        slow.commit()
        with pytest.raises(ConflictError, match="still to be read by 'c'"):
            dropping.result(60)
    settle(db)
    assert read(db) == [1]


def test_a_prepared_transaction_holds_readers_back_and_is_named() -> None:
    if not system.available():
        pytest.skip("the embedded server's binaries are not installed")
    with (
        running(system.binaries(), setting="max_prepared_transactions=1") as url,
        Database(url) as db,
        db.session() as session,
    ):
        events = EventRepository(session)
        assert events.horizon() is None
        session.execute(text("CREATE TABLE anything ()"))
        session.execute(text("PREPARE TRANSACTION 'left over'"))
        holder = events.horizon()
        assert holder is not None
        assert (holder.pid, holder.application_name, holder.database) == (None, "left over", "postgres")
        assert holder.age is not None
        assert holder.age >= 0


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def test_the_plan_of_a_batch_reads_little_of_a_large_log(db: Database) -> None:
    """300,000 events of three topics over twelve months and the default partition; the consumer is near the end."""
    with db.begin() as uow:
        for number in range(1, 13):
            following = f"{2023 + number // 12}-{number % 12 + 1:02}-01 00:00+00"
            uow.session.execute(
                text(
                    f"CREATE TABLE events_2023_{number:02} PARTITION OF events"
                    f" FOR VALUES FROM ('2023-{number:02}-01 00:00+00') TO ('{following}')"
                )
            )
        uow.session.execute(
            text(
                "INSERT INTO events (created_at, began_at, tx, topic, payload)"
                " SELECT at, at, (3 + n / 1000)::text::xid8, 'topic-' || n % 3, jsonb_build_object('n', n)"
                " FROM generate_series(0, 299999) AS n,"
                " LATERAL (SELECT timestamptz '2023-01-01 00:00+00' + n * interval '105 seconds' AS at) AS made"
            )
        )
        uow.session.execute(text("DELETE FROM event_consumers"))
        uow.session.execute(
            text(
                "INSERT INTO event_consumers (name, topics, tx, event_id, since)"
                " SELECT 'c', ARRAY['topic-1', 'topic-2'], tx, id, began_at - interval '1 day' FROM events"
                " WHERE payload @> '{\"n\": 250000}'"
            )
        )
    with db.session() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        session.execute(text("VACUUM ANALYZE events"))
    with db.begin() as uow:
        reader = uow.events.get_consumer("c")
        assert reader is not None
        found = uow.events.peek("c", limit=50)
        assert [event.payload["n"] for event in found][:3] == [250_001, 250_003, 250_004]
        for since in (reader.since, None):
            statement = event_consumers.batch(
                reader.topics, tx=reader.tx, event_id=reader.event_id, since=since, horizon=1 << 60, limit=50
            )
            (plan,) = uow.session.scalars(Measured(statement)).one()
            scans = [node for node in nodes(plan["Plan"]) if "Relation Name" in node and node["Actual Loops"]]
            assert {node["Index Name"].endswith("topic_tx_id_idx") for node in scans} == {True}
            buffers = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
            read_rows = sum(
                (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
                for node in scans
            )
            parts = {node["Relation Name"] for node in scans}
            assert read_rows <= 2 * (50 + 20), "little more than the limit of each topic"
            if since is None:
                assert buffers < 400, "a way down the index of each partition for each topic"
            else:
                assert buffers < 120
                assert {part for part in parts if "2023" in part} == {
                    f"events_2023_{number:02}" for number in (10, 11, 12)
                }
