from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from plans import Explain
from sqlalchemy import func, select, text, update

from alfred_db import AsyncDatabase, WorkingMemory, WorkingMemoryStatus
from alfred_db.errors import (
    ConflictError,
    DimensionMismatch,
    InvalidInputError,
    InvalidVector,
    NotFoundError,
)
from alfred_db.execution._async.bulk import add_many
from alfred_db.queries import working_memory as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.working_memory import AsyncWorkingMemoryRepository
from alfred_db.search import SearchParams, SearchPath
from alfred_db.values.working_memory import SweptWorkingMemory

UNIT = [1.0, *[0.0] * 1535]
OTHER = [0.0, 1.0, *[0.0] * 1534]
HOUR = timedelta(hours=1)
HOSTILE = (
    """'); DROP TABLE wm.working_memory; -- " \\' $$ $1 %s %(x)s :name ::text {0}""",
    "żółć 日本語 🦉 \u202e\u200b ﷽ \U0010ffff",
    "word " * 200_000,
)


@pytest.fixture
def memory(uow: AsyncUnitOfWork) -> AsyncWorkingMemoryRepository:
    return AsyncWorkingMemoryRepository(uow.session)


async def names(memory: AsyncWorkingMemoryRepository, **chosen: Any) -> list[str]:
    return sorted(record.name for record in await memory.list(**chosen))


async def expire(memory: AsyncWorkingMemoryRepository, *ids: uuid.UUID) -> None:
    past = update(WorkingMemory).where(WorkingMemory.id.in_(ids))
    await memory._session.execute(past.values(expires_at=func.statement_timestamp() - HOUR))


async def test_a_record_is_stored_and_found(memory: AsyncWorkingMemoryRepository) -> None:
    record = await memory.store(
        "plan",
        "note",
        content="First the owl.",
        embedding=UNIT,
        embedding_model="m",
        session_id="s",
        agent="planner",
        metadata={"step": 1},
        ttl=HOUR,
    )
    assert await memory.get(record.id) is record
    assert (record.name, record.memory_type, record.content) == ("plan", "note", "First the owl.")
    assert (record.session_id, record.agent, record.embedding_model) == ("s", "planner", "m")
    assert (record.metadata_, record.status) == ({"step": 1}, WorkingMemoryStatus.ACTIVE)
    assert (record.provider, record.blob_key) == (None, None)
    assert record.expires_at == record.created_at + HOUR
    (hit,) = await memory.search(UNIT)
    assert (hit.row.id, hit.row.content, hit.distance) == (record.id, "First the owl.", 0)
    again = await memory.store("plan", "note")
    assert again.id != record.id
    assert (again.expires_at, again.metadata_) == (None, {})
    assert await memory.get(uuid.uuid4()) is None


async def test_a_search_finds_what_is_active_and_has_a_vector(memory: AsyncWorkingMemoryRepository) -> None:
    near = await memory.store("near", "note", embedding=UNIT, session_id="s", agent="a")
    far = await memory.store("far", "tool", embedding=OTHER, session_id="s", agent="b")
    late = await memory.store("late", "note", embedding=UNIT, session_id="t")
    await memory.store("none", "note", session_id="s")
    gone = [await memory.store("gone", "note", embedding=UNIT, session_id="s") for _ in range(4)]
    await memory.set_status(gone[0].id, "archived")
    await memory.set_status(gone[1].id, "pending")
    await memory.set_status(gone[2].id, "deleted")
    await expire(memory, gone[3].id)

    async def found(**chosen: Any) -> list[uuid.UUID]:
        return [hit.row.id for hit in await memory.search(UNIT, **chosen)]

    assert await found(session_id="s") == [near.id, far.id]
    assert await found(session_id="s", limit=1) == [near.id]
    assert await found(session_id="s", agent="b") == [far.id]
    assert await found(memory_type="tool") == [far.id]
    assert set(await found()) == {near.id, far.id, late.id}
    assert await found(agent="nobody") == []
    assert await found(where=WorkingMemory.name == "late") == [late.id]
    assert await found(session_id="s", params=SearchParams(max_distance=0.5)) == [near.id]
    await memory.update(near.id, {"embedding": OTHER})
    await memory.update(far.id, {"embedding": UNIT})
    assert await found(session_id="s") == [far.id, near.id]


async def test_a_change_names_attributes(memory: AsyncWorkingMemoryRepository) -> None:
    record = await memory.store("plan", "note", content="old")
    until = datetime.now(UTC) + HOUR
    changed = await memory.update(
        record.id, {"content": "new", "metadata": {"x": 1}, "expires_at": until, "status": "archived"}
    )
    assert changed is record
    assert (changed.content, changed.metadata_, changed.expires_at) == ("new", {"x": 1}, until)
    assert (changed.name, changed.status) == ("plan", WorkingMemoryStatus.ARCHIVED)
    wrong: dict[str, Any]
    for wrong, message in (
        ({"nope": 1}, "WorkingMemory: 'nope': no such attribute"),
        ({"id": uuid.uuid4()}, "WorkingMemory: 'id': no such attribute"),
        ({"expires_at": datetime.now()}, "expires_at: a time without time zone"),
        ({"status": "asleep"}, "expected one of pending, active, archived, deleted"),
        ({"content": "a\0b"}, "NUL"),
        ({"name": None}, "null value"),
        ({"embedding": [0.0] * 1536}, "zero vector"),
    ):
        savepoint = await memory._session.begin_nested()
        with pytest.raises(InvalidInputError, match=message):
            await memory.update(record.id, wrong)  # type: ignore[arg-type]
        await savepoint.rollback()
    unknown = uuid.uuid4()
    with pytest.raises(NotFoundError, match=f"working memory {unknown}: does not exist"):
        await memory.update(unknown, {"content": "x"})


async def test_what_is_deleted_is_gone_and_awaits_the_sweep(memory: AsyncWorkingMemoryRepository) -> None:
    kept = await memory.store("kept", "note")
    first = await memory.store("first", "note", ttl=HOUR)
    second = await memory.store("second", "note")
    assert (await memory.set_status(kept.id, WorkingMemoryStatus.ARCHIVED)).status == "archived"
    await memory.set_status(first.id, WorkingMemoryStatus.DELETED)
    await memory.update(second.id, {"status": "deleted", "expires_at": datetime.now(UTC) + HOUR})
    assert await names(memory) == ["kept"]
    assert await names(memory, status="archived") == ["kept"]
    assert await names(memory, status="deleted") == ["first", "second"]
    assert await memory.get(first.id) is None
    for again in ("active", "deleted"):
        with pytest.raises(NotFoundError, match="is deleted, or has expired"):
            await memory.set_status(first.id, again)
    with pytest.raises(InvalidInputError, match="WorkingMemoryStatus: expected one of pending, active"):
        await memory.set_status(kept.id, "asleep")
    assert {swept.id for swept in await memory.sweep()} == {first.id, second.id}
    assert await names(memory, status="deleted") == []
    assert await memory.get(kept.id) is kept


async def test_what_has_expired_is_not_there(memory: AsyncWorkingMemoryRepository) -> None:
    record = await memory.store("x", "note", embedding=UNIT, ttl=HOUR)
    await expire(memory, record.id)
    assert await memory.get(record.id) is None
    assert await names(memory) == []
    assert await names(memory, status="active") == []
    assert len(await memory.search(UNIT, where=WorkingMemory.id == record.id)) == 0
    with pytest.raises(NotFoundError, match="has expired"):
        await memory.update(record.id, {"expires_at": None})
    with pytest.raises(NotFoundError, match="has expired"):
        await memory.set_status(record.id, "active")
    with pytest.raises(NotFoundError, match="has expired"):
        await memory.set_blob(record.id, provider="s3", blob_key="k")
    assert [swept.id for swept in await memory.sweep()] == [record.id]
    for wrong in (timedelta(0), timedelta(days=-1), timedelta(days=999_999_999)):
        with pytest.raises(InvalidInputError, match="ttl in seconds"):
            await memory.store("x", "note", ttl=wrong)


async def test_a_sweep_returns_where_the_blobs_are(memory: AsyncWorkingMemoryRepository) -> None:
    blob = await memory.store("blob", "file", provider="s3", blob_key="a/1")
    plain = [await memory.store(f"plain {number}", "note") for number in range(4)]
    stays = await memory.store("stays", "note", ttl=HOUR)
    await expire(memory, *(record.id for record in plain))
    await memory.set_status(blob.id, "deleted")
    batches = [await memory.sweep(3) for _ in range(3)]
    assert [len(batch) for batch in batches] == [3, 2, 0]
    assert batches[1][1] == SweptWorkingMemory(blob.id, "s3", "a/1")  # the last that expired
    assert {(swept.provider, swept.blob_key) for swept in batches[0]} == {(None, None)}
    assert await names(memory) == [stays.name]
    for wrong in (0, 100_001):
        with pytest.raises(InvalidInputError, match="limit: expected 1 to 100,000"):
            await memory.sweep(wrong)


async def test_a_blob_makes_a_pending_record_active(memory: AsyncWorkingMemoryRepository) -> None:
    pending = await memory.store("pending", "file", status="pending")
    archived = await memory.store("archived", "file", provider="s3", blob_key="a/2", status="archived")
    await memory.store("plain", "note")
    assert await names(memory, status="pending") == ["pending"]
    stored = await memory.set_blob(pending.id, provider="gcs", blob_key="a/1")
    assert stored is pending
    assert (stored.provider, stored.blob_key, stored.status) == ("gcs", "a/1", "active")
    moved = await memory.set_blob(archived.id, provider="gcs", blob_key="a/3")
    assert (moved.blob_key, moved.status) == ("a/3", "archived")
    assert await names(memory, with_blob=True) == ["archived", "pending"]
    with pytest.raises(InvalidInputError, match="provider: name the store that has the blob"):
        await memory.store("x", "file", blob_key="a/4")
    for provider, key in (("", "a"), ("s3", ""), ("s3", "a\0b")):
        with pytest.raises(InvalidInputError, match="provider: expected|blob_key: (expected|holds)"):  # noqa: RUF043
            await memory.set_blob(pending.id, provider=provider, blob_key=key)
    with pytest.raises(NotFoundError, match="does not exist"):
        await memory.set_blob(uuid.uuid4(), provider="s3", blob_key="a")


async def test_records_are_listed_newest_first(memory: AsyncWorkingMemoryRepository) -> None:
    records = [
        await memory.store(
            f"n{number}",
            "tool" if number % 3 else "note",
            session_id="odd" if number % 2 else "even",
            agent="a" if number < 4 else "b",
        )
        for number in range(7)
    ]
    for number, record in enumerate(records[:5]):  # two of the same time
        await memory.update(record.id, {"created_at": datetime(2026, 1, 1 + number, tzinfo=UTC)})
    assert await names(memory, session_id="odd") == ["n1", "n3", "n5"]
    assert await names(memory, agent="b", memory_type="tool") == ["n4", "n5"]
    assert await names(memory, agent="nobody") == []
    seen: list[uuid.UUID] = []
    after: str | None = None
    while True:
        page = await memory.list(after=after, limit=3)
        seen += [record.id for record in page]
        after = page.next
        if after is None:
            break
    assert seen[2:] == [record.id for record in records[4::-1]]
    assert set(seen[:2]) == {record.id for record in records[5:]}
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
        await memory.list(limit=0)
    with pytest.raises(InvalidInputError, match="WorkingMemoryStatus: expected one of"):
        await memory.list(status="asleep")
    with pytest.raises(InvalidInputError, match="is not a cursor"):
        await memory.list(after="x")


@pytest.mark.parametrize(
    ("embedding", "error", "message"),
    [
        ([1.0] * 384, DimensionMismatch, "expected 1536 dimensions, got 384"),
        ([0.0] * 1536, InvalidVector, "zero vector"),
        ([float("nan")] * 1536, InvalidVector, "NaN"),
        ("x", InvalidVector, "working_memory.embedding"),
    ],
)
async def test_a_wrong_vector_is_one_clear_error(
    memory: AsyncWorkingMemoryRepository, embedding: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await memory.store("x", "note", embedding=embedding)
    with pytest.raises(error, match=message):
        await memory.search(embedding)
    with pytest.raises(InvalidInputError, match="WorkingMemoryStatus: expected one of"):
        await memory.store("x", "note", status="asleep")


@pytest.mark.parametrize("value", HOSTILE, ids=["sql", "unicode", "megabyte"])
async def test_hostile_text_is_data(memory: AsyncWorkingMemoryRepository, value: str) -> None:
    short = value[:500]
    record = await memory.store(
        short,
        value,
        content=value,
        embedding_model=value,
        provider=value,
        blob_key=short,
        session_id=short,
        agent=short,
        metadata={value: [value]},
        embedding=UNIT,
    )
    assert (record.name, record.memory_type, record.content) == (short, value, value)
    assert (record.provider, record.blob_key, record.metadata_) == (value, short, {value: [value]})
    chosen: dict[str, Any] = {"session_id": short, "agent": short, "memory_type": value}
    assert [found.id for found in await memory.list(**chosen)] == [record.id]
    assert [hit.row.id for hit in await memory.search(UNIT, **chosen)] == [record.id]
    changed = await memory.update(record.id, {"content": value * 2, "metadata": {"v": value}})
    assert (changed.content, changed.metadata_) == (value * 2, {"v": value})
    await memory.set_blob(record.id, provider=short, blob_key=short)
    await memory.set_status(record.id, "deleted")
    assert await memory.sweep() == [SweptWorkingMemory(record.id, short, short)]


async def test_the_vector_index_serves_a_search_in_use(committed: AsyncDatabase) -> None:
    vectors = np.random.default_rng(11).normal(size=(1000, 1536))
    rows = [{"name": f"record {number}", "memory_type": "note"} for number in range(len(vectors))]
    async with committed.session() as session:
        await add_many(session, WorkingMemory, rows, vectors={"embedding": list(vectors)})
        await session.execute(text("ANALYZE"))
        memory = AsyncWorkingMemoryRepository(session)
        for number in range(12):  # the driver prepares what it has run five times
            found = await memory.search(
                vectors[number], memory_type="note", limit=1, params=SearchParams(exact=False), explain=True
            )
            assert found.hits[0].row.name == f"record {number}"
            assert found.path is SearchPath.HNSW_ITERATIVE
            assert "embedding_idx" in (found.plan or "")


async def test_the_indexes_serve_the_questions(committed: AsyncDatabase) -> None:
    async with committed.session() as session:
        memory = AsyncWorkingMemoryRepository(session)
        kinds = ("note", "tool", "file")
        await memory._session.execute(
            WorkingMemory.__table__.insert(),  # type: ignore[attr-defined]
            [
                {
                    "name": f"{number}",
                    "memory_type": kinds[number % 3],
                    "session_id": f"s{number % 50}",
                    "agent": f"a{number % 40}",
                    "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
                    "expires_at": None if number % 100 else datetime(2026, 1, 1, tzinfo=UTC),
                }
                for number in range(8000)
            ],
        )
        await memory._session.execute(text("ANALYZE"))
        chosen: dict[str, Any] = {"session_id": None, "agent": None, "memory_type": None, "status": None}
        chosen |= {"with_blob": False, "limit": 10}
        after = (await memory.list(limit=10)).next
        for statement, index in (
            (queries.list_(**chosen, after=None), "idx_working_memory_created_at"),
            (queries.list_(**chosen, after=after), "idx_working_memory_created_at"),
            (
                queries.list_(**{**chosen, "session_id": "s7"}, after=None),
                "idx_working_memory_session_id_created_at",
            ),
            (queries.list_(**{**chosen, "agent": "a7"}, after=after), "idx_working_memory_agent_created_at"),
            (queries.sweep(10), "idx_working_memory_expires_at"),
        ):
            plan = "\n".join(await memory._session.scalars(Explain(statement)))
            assert index in plan
            assert "Seq Scan" not in plan


async def test_two_sweeps_at_once_share_the_work(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        memory = AsyncWorkingMemoryRepository(uow.session)
        ids = {(await memory.store("x", "note")).id for _ in range(10)}
        await expire(memory, *ids)
    async with committed.session() as one, committed.session() as other:
        await other.execute(text("SET LOCAL lock_timeout = '1s'"))
        first = {swept.id for swept in await AsyncWorkingMemoryRepository(one).sweep(4)}
        second = {swept.id for swept in await AsyncWorkingMemoryRepository(other).sweep()}
        assert (len(first), first | second) == (4, ids)
        await other.commit()
        await one.rollback()
        assert {swept.id for swept in await AsyncWorkingMemoryRepository(one).sweep()} == first
        await one.commit()


async def test_what_another_deletes_cannot_be_changed(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        record = (await AsyncWorkingMemoryRepository(uow.session).store("x", "note")).id
    async with committed.session() as one, committed.session() as other:
        await AsyncWorkingMemoryRepository(one).set_status(record, "deleted")
        await other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError, match="lock") as refused:
            await AsyncWorkingMemoryRepository(other).update(record, {"content": "late"})
        assert refused.value.retryable
        await other.rollback()
        await one.commit()
        with pytest.raises(NotFoundError, match="is deleted"):
            await AsyncWorkingMemoryRepository(other).update(record, {"content": "late"})
    async with committed.begin() as uow:
        assert len(await AsyncWorkingMemoryRepository(uow.session).sweep()) == 1
        assert await uow.session.scalar(select(func.count()).select_from(WorkingMemory)) == 0


async def test_a_change_of_status_stays_on_its_page(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        record = (await AsyncWorkingMemoryRepository(uow.session).store("x", "note", embedding=UNIT)).id
    for _ in range(10):
        for status in ("archived", "active"):
            async with committed.begin() as uow:
                await AsyncWorkingMemoryRepository(uow.session).set_status(record, status)
    name = "wm.working_memory" if committed.schema is None else f"{committed.schema}.working_memory"
    async with committed.session() as session:
        await session.execute(text("SELECT pg_stat_force_next_flush()"))
        await session.commit()
    await committed.close()  # a session reports its statistics at its end at the latest
    async with committed.session() as session:
        updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass(:name)"
        written, hot = (await session.execute(text(updates), {"name": name})).one()
    assert written == 20
    assert hot >= 16
