from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, select, text, update

from alfred_db import AsyncDatabase, Memory
from alfred_db.errors import (
    ConflictError,
    DimensionMismatch,
    InvalidInputError,
    InvalidVector,
    NotFoundError,
)
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.memories import AsyncMemoryRepository
from alfred_db.repositories._async.memory_banks import AsyncMemoryBankRepository
from alfred_db.values.memories import MemoryOutcome, NewMemory

UNIT = [1.0, *[0.0] * 383]
OTHER = [0.0, 1.0, *[0.0] * 382]
NEARLY = [1.0, 0.2, *[0.0] * 382]
"""0.0194 from UNIT, by cosine distance."""
HOUR = timedelta(hours=1)


@pytest.fixture
def memories(uow: AsyncUnitOfWork) -> AsyncMemoryRepository:
    return AsyncMemoryRepository(uow.session)


@pytest.fixture
async def bank(uow: AsyncUnitOfWork) -> int:
    return (await AsyncMemoryBankRepository(uow.session).get_or_create("bank")).id


async def expire(memories: AsyncMemoryRepository, *ids: int) -> None:
    past = func.statement_timestamp() - HOUR
    await memories._session.execute(update(Memory).where(Memory.id.in_(ids)).values(expires_at=past))


async def texts(memories: AsyncMemoryRepository, bank: int) -> list[str]:
    return [memory.content for memory in await memories.list(bank)]


async def test_a_memory_is_stored_and_found(memories: AsyncMemoryRepository, bank: int) -> None:
    stored = await memories.remember(
        bank, "It's 5 o'clock", embedding=UNIT, importance=3, metadata={"a": 1}, embedding_model="m"
    )
    memory = await memories.get(stored.id)
    assert stored.outcome is MemoryOutcome.STORED
    assert memory is not None
    assert (
        memory.content,
        memory.importance,
        memory.metadata_,
        memory.embedding_model,
        memory.seen_count,
    ) == (
        "It's 5 o'clock",
        3,
        {"a": 1},
        "m",
        1,
    )
    assert memory.expires_at is None
    vector = await memories._session.scalar(select(Memory.embedding).where(Memory.id == stored.id))
    assert vector is not None
    assert vector.tolist() == UNIT
    (hit,) = await memories.search(bank, UNIT)
    assert (hit.row.id, hit.row.content, hit.distance) == (stored.id, "It's 5 o'clock", 0)
    assert await memories.get(stored.id + 1) is None


async def test_a_text_that_is_known_is_counted(memories: AsyncMemoryRepository, bank: int) -> None:
    first = await memories.remember(
        bank, "The  user likes Tea", embedding=UNIT, importance=3, metadata={"a": 1}
    )
    again = await memories.remember(bank, " the user\nlikes tea ", importance=2)
    assert (again.id, again.outcome) == (first.id, MemoryOutcome.SEEN)
    memory = await memories.get(first.id)
    assert memory is not None
    assert (memory.content, memory.importance, memory.seen_count) == (" the user\nlikes tea ", 3, 2)
    assert memory.metadata_ == {"a": 1}
    await memories.remember(bank, "the user likes tea", importance=7, embedding=OTHER, metadata={})
    memory = await memories.get(first.id)
    assert memory is not None
    assert (memory.importance, memory.seen_count, memory.metadata_) == (7, 3, {})
    assert [hit.distance for hit in await memories.search(bank, OTHER)] == [0]
    assert (await memories.remember(bank, "The user likes coffee")).outcome is MemoryOutcome.STORED


async def test_another_bank_may_hold_the_same_text(memories: AsyncMemoryRepository, bank: int) -> None:
    other = await AsyncMemoryBankRepository(memories._session).get_or_create("other")
    first, second = await memories.remember(bank, "same"), await memories.remember(other, "same")
    assert first.id != second.id
    assert second.outcome is MemoryOutcome.STORED
    assert [memory.id for memory in await memories.list(other)] == [second.id]


async def test_a_memory_lasts_as_long_as_its_ttl(memories: AsyncMemoryRepository, bank: int) -> None:
    now = await memories._session.scalar(select(func.now()))
    stored = await memories.remember(bank, "x", ttl=HOUR)
    memory = await memories.get(stored.id)
    assert now is not None
    assert memory is not None
    assert memory.expires_at == now + HOUR
    await memories.remember(bank, "x", ttl=HOUR / 2)
    memory = await memories.get(stored.id)
    assert memory is not None
    assert memory.expires_at == now + HOUR
    await memories.remember(bank, "x")
    memory = await memories.get(stored.id)
    assert memory is not None
    assert memory.expires_at is None


async def test_what_has_expired_is_not_there(memories: AsyncMemoryRepository, bank: int) -> None:
    gone = await memories.remember(bank, "gone", embedding=UNIT, ttl=HOUR)
    kept = await memories.remember(bank, "kept", embedding=NEARLY, ttl=HOUR)
    await expire(memories, gone.id)
    assert await memories.get(gone.id) is None
    assert await texts(memories, bank) == ["kept"]
    for exact in (True, False):
        recalled = await memories.recall(bank, UNIT, exact=exact)
        assert [hit.row.id for hit in recalled] == [kept.id]
    assert [hit.row.id for hit in await memories.search(bank, UNIT)] == [kept.id]
    assert [hit.row.id for hit in await memories.duplicates(bank, UNIT)] == [kept.id]
    assert (await memories.hybrid_search(bank, "gone", UNIT)).hits[0].row.id == kept.id
    assert (await AsyncMemoryBankRepository(memories._session).list()).items[0].memories == 1
    with pytest.raises(NotFoundError, match=f"memory {gone.id}: does not exist, or has expired"):
        await memories.update(gone.id, {"importance": 2})
    (remembered,) = await memories.remember_many(bank, [{"content": "near", "embedding": UNIT}], near=0.001)
    assert remembered.outcome is MemoryOutcome.STORED
    assert await memories.sweep() == 1
    assert await memories.sweep() == 0
    assert await texts(memories, bank) == ["kept", "near"]


async def test_sweeping_goes_in_batches(memories: AsyncMemoryRepository, bank: int) -> None:
    ids = [
        remembered.id
        for remembered in await memories.remember_many(bank, [{"content": str(n)} for n in range(5)])
    ]
    await expire(memories, *ids)
    assert [await memories.sweep(limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_what_expired_comes_back_when_it_is_remembered_again(
    memories: AsyncMemoryRepository, bank: int
) -> None:
    stored = await memories.remember(bank, "x", ttl=HOUR)
    await expire(memories, stored.id)
    assert (await memories.remember(bank, "x", ttl=HOUR)).id == stored.id
    assert await texts(memories, bank) == ["x"]


async def test_many_are_remembered_in_order(memories: AsyncMemoryRepository, bank: int) -> None:
    known = await memories.remember(bank, "known", importance=5)
    remembered: list[NewMemory] = [
        {"content": "a", "importance": 2, "ttl": HOUR},
        {"content": "KNOWN", "importance": 2},
        {"content": "b", "metadata": {"x": None}, "embedding_model": "m"},
        {"content": "A "},
    ]
    outcomes = await memories.remember_many(bank, remembered, embeddings=[UNIT, OTHER, NEARLY, OTHER])
    assert [one.outcome for one in outcomes] == [
        MemoryOutcome.STORED,
        MemoryOutcome.SEEN,
        MemoryOutcome.STORED,
        MemoryOutcome.SEEN,
    ]
    assert outcomes[1].id == known.id
    assert outcomes[0].id == outcomes[3].id
    stored = {memory.id: memory for memory in await memories.list(bank)}
    assert [(m.content, m.importance, m.seen_count, m.expires_at) for m in stored.values()] == [
        ("KNOWN", 5, 2, None),
        *[(m.content, m.importance, m.seen_count, m.expires_at) for m in list(stored.values())[1:]],
    ]
    both = stored[outcomes[0].id]
    assert (both.content, both.importance, both.seen_count, both.expires_at) == ("A ", 2, 2, None)
    assert (stored[outcomes[2].id].metadata_, stored[outcomes[2].id].embedding_model) == ({"x": None}, "m")
    assert [hit.row.id for hit in await memories.search(bank, OTHER, limit=2)] in (
        [known.id, both.id],
        [both.id, known.id],
    )
    assert await memories.remember_many(bank, []) == []


async def test_near_duplicates_are_merged(memories: AsyncMemoryRepository, bank: int) -> None:
    known = await memories.remember(bank, "known", embedding=UNIT, importance=2)
    third = [*[0.0] * 382, 1.0, 0.0]
    thirdly = [*[0.0] * 382, 1.0, 0.1]
    remembered: list[NewMemory] = [
        {"content": "about the same", "embedding": NEARLY, "importance": 9},
        {"content": "new", "embedding": third},
        {"content": "new in other words", "embedding": thirdly, "importance": 4},
        {"content": "without a vector"},
        {"content": "known", "embedding": UNIT},
    ]
    outcomes = await memories.remember_many(bank, remembered, near=0.08)
    assert [one.outcome for one in outcomes] == [
        MemoryOutcome.MERGED,
        MemoryOutcome.STORED,
        MemoryOutcome.MERGED,
        MemoryOutcome.STORED,
        MemoryOutcome.SEEN,
    ]
    assert [outcomes[0].id, outcomes[2].id, outcomes[4].id] == [known.id, outcomes[1].id, known.id]
    stored = {memory.id: memory for memory in await memories.list(bank)}
    assert {(m.content, m.importance, m.seen_count) for m in stored.values()} == {
        ("known", 9, 3),
        ("new", 4, 2),
        ("without a vector", 1, 1),
    }
    apart = await memories.remember_many(bank, [{"content": "near", "embedding": NEARLY}], near=0.01)
    assert apart[0].outcome is MemoryOutcome.STORED


async def test_a_change_names_attributes(memories: AsyncMemoryRepository, bank: int) -> None:
    stored = await memories.remember(bank, "old", embedding=UNIT)
    changed = await memories.update(stored.id, {"importance": 8, "metadata": {"b": 2}})
    assert (changed.content, changed.importance, changed.metadata_) == ("old", 8, {"b": 2})
    assert len(await memories.search(bank, UNIT)) == 1
    changed = await memories.update(stored.id, {"content": "new"})
    assert changed.content == "new"
    assert len(await memories.search(bank, UNIT)) == 0
    await memories.update(stored.id, {"content": "newer", "embedding": OTHER})
    assert len(await memories.search(bank, UNIT)) == 1
    assert (await memories.remember(bank, "old")).outcome is MemoryOutcome.STORED
    assert (await memories.remember(bank, "NEWER")).id == stored.id


async def test_a_change_to_a_text_that_is_known_is_a_conflict(
    memories: AsyncMemoryRepository, bank: int
) -> None:
    await memories.remember(bank, "a")
    second = await memories.remember(bank, "b")
    with pytest.raises(ConflictError, match="uq_memories_memory_bank_id_content_hash"):
        await memories.update(second.id, {"content": "A"})


async def test_forgetting_removes(memories: AsyncMemoryRepository, bank: int) -> None:
    stored = await memories.remember(bank, "x")
    await memories.forget(stored.id)
    assert await memories.get(stored.id) is None
    with pytest.raises(NotFoundError, match=f"memory {stored.id}: does not exist"):
        await memories.forget(stored.id)


async def test_search_stays_in_its_bank_and_takes_a_filter(
    memories: AsyncMemoryRepository, bank: int
) -> None:
    other = await AsyncMemoryBankRepository(memories._session).get_or_create("other")
    await memories.remember(other, "other", embedding=UNIT)
    await memories.remember(bank, "low", embedding=UNIT)
    await memories.remember(bank, "high", embedding=NEARLY, importance=5)
    assert [hit.row.content for hit in await memories.search(bank, UNIT)] == ["low", "high"]
    found = await memories.search(bank, UNIT, where=Memory.importance >= 5)
    assert [hit.row.content for hit in found] == ["high"]
    assert [hit.row.content for hit in (await memories.hybrid_search(bank, "highest", UNIT)).hits][:1] == [
        "low"
    ]
    assert [hit.row.content for hit in await memories.duplicates(bank, UNIT, within=0.01)] == ["low"]
    assert [hit.row.content for hit in await memories.recall(bank, UNIT)] == ["high", "low"]


async def test_touching_counts_and_dates(memories: AsyncMemoryRepository, bank: int) -> None:
    first, second = await memories.remember(bank, "a"), await memories.remember(bank, "b")
    assert await memories.touch([second.id, first.id, second.id]) == 2
    assert await memories.touch([second.id, second.id + 999]) == 1
    assert await memories.touch([]) == 0
    counts = {memory.content: memory.access_count for memory in await memories.list(bank)}
    assert counts == {"a": 1, "b": 2}
    memory = await memories.get(first.id)
    assert memory is not None
    assert memory.last_accessed is not None
    assert memory.last_accessed >= memory.created_at


async def test_the_least_alive_are_pruned(memories: AsyncMemoryRepository, bank: int) -> None:
    # Lives in units of importance, after 0, 1, 2 and 3 half-lives: 1, 4, 0.5, 1.25.
    for age, importance in enumerate((1, 8, 2, 10)):
        stored = await memories.remember(bank, f"{age}", importance=importance)
        used = func.statement_timestamp() - age * HOUR
        await memories._session.execute(
            update(Memory).where(Memory.id == stored.id).values(last_accessed=used)
        )
    expired = await memories.remember(bank, "expired", importance=10)
    await expire(memories, expired.id)
    assert await memories.prune(bank, below=0.4, half_life=HOUR) == 0
    assert await memories.prune(bank, below=0.6, half_life=HOUR) == 1
    assert await texts(memories, bank) == ["0", "1", "3"]
    assert await memories.prune(bank, keep=2, half_life=HOUR) == 1
    assert await texts(memories, bank) == ["1", "3"]
    assert await memories.prune(bank, keep=0) == 2
    assert await memories.sweep() == 1


async def test_near_duplicates_are_consolidated(memories: AsyncMemoryRepository, bank: int) -> None:
    # A chain: each is near to the next one, the first and the last are apart.
    chain = [[np.cos(step * 0.3), np.sin(step * 0.3), *[0.0] * 382] for step in range(3)]
    ids = [
        (await memories.remember(bank, f"step {number}", embedding=vector, importance=5 - number)).id
        for number, vector in enumerate(chain)
    ]
    alone = await memories.remember(bank, "alone", embedding=[0.0] * 383 + [1.0])
    await memories.touch(ids)
    assert await memories.consolidate(bank, within=0.08) == 1
    rows = {memory.id: memory for memory in await memories.list(bank)}
    assert sorted(rows) == [ids[0], ids[2], alone.id]
    newest = rows[ids[2]]
    assert (newest.content, newest.importance, newest.seen_count, newest.access_count) == ("step 2", 4, 2, 2)
    assert await memories.consolidate(bank, within=0.08) == 0
    given: list[list[str]] = []

    def merge(group: object) -> str:
        assert isinstance(group, list)
        given.append([memory.content for memory in group])
        return "both"

    assert await memories.consolidate(bank, within=0.9, merge=merge) == 1
    assert given == [["step 2", "step 0"]]
    assert await texts(memories, bank) == ["both", "alone"]
    assert (await memories.remember(bank, "Both")).id == ids[2]


async def test_pages_cover_everything_once(memories: AsyncMemoryRepository, bank: int) -> None:
    await memories.remember_many(bank, [{"content": str(number)} for number in range(7)])
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await memories.list(bank, after=after, limit=3)
        seen += [memory.content for memory in page]
        after = page.next
        if after is None:
            break
    assert sorted(seen) == [str(number) for number in range(7)]


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        ([1.0] * 383, DimensionMismatch),
        ([float("nan")] * 384, InvalidVector),
        ([0.0] * 384, InvalidVector),
        ([[1.0] * 384], InvalidVector),
    ],
    ids=["dimensions", "nan", "zero", "matrix"],
)
async def test_vectors_are_checked(
    memories: AsyncMemoryRepository, bank: int, vector: list[float], error: type[InvalidInputError]
) -> None:
    with pytest.raises(error, match=r"memories\.embedding"):
        await memories.remember(bank, "x", embedding=vector)
    with pytest.raises(error, match=r"memory 1: .*memories\.embedding"):
        await memories.remember_many(bank, [{"content": "x"}, {"content": "y", "embedding": vector}])
    with pytest.raises(error, match=r"memories\.embedding"):
        await memories.search(bank, vector)
    with pytest.raises(error, match=r"memories\.embedding"):
        await memories.recall(bank, vector)
    assert await texts(memories, bank) == []


@pytest.mark.parametrize("content", ["", "  \n", "\x00", "a\x00b", "\ud800"])
async def test_a_text_is_checked(memories: AsyncMemoryRepository, bank: int, content: str) -> None:
    with pytest.raises(InvalidInputError):
        await memories.remember(bank, content)


@pytest.mark.parametrize(
    "content", ["'; DROP TABLE memories; --", "100% :x %s %(x)s", "\U0001f419 ß İ", "x" * 1_000_000]
)
async def test_hostile_text_is_stored(memories: AsyncMemoryRepository, bank: int, content: str) -> None:
    (remembered,) = await memories.remember_many(bank, [{"content": content}])
    stored = await memories.remember(bank, content)
    memory = await memories.get(stored.id)
    assert memory is not None
    assert (stored.id, memory.content) == (remembered.id, content)


async def test_bad_input_is_one_clear_error(memories: AsyncMemoryRepository, bank: int) -> None:
    unknown = bank + 999
    remembered: list[NewMemory] = [{"content": "x"}]
    with pytest.raises(NotFoundError, match=f"memory bank {unknown}: does not exist; create it"):
        await memories.remember(unknown, "x")
    with pytest.raises(NotFoundError, match=f"memory bank {unknown}"):
        await memories.remember_many(unknown, remembered)
    with pytest.raises(NotFoundError, match=f"memory bank {unknown}"):
        await memories.search(unknown, UNIT)
    with pytest.raises(NotFoundError, match=f"memory bank {unknown}"):
        await memories.recall(unknown, UNIT)
    with pytest.raises(NotFoundError, match=f"memory bank {unknown}"):
        await memories.consolidate(unknown)
    for importance in (0, -1, 2**31):
        with pytest.raises(InvalidInputError, match="importance: expected 1 to"):
            await memories.remember(bank, "x", importance=importance)
    for ttl in (timedelta(0), timedelta(days=-1), timedelta.max):
        with pytest.raises(InvalidInputError, match="ttl in seconds: expected"):
            await memories.remember(bank, "x", ttl=ttl)
    with pytest.raises(InvalidInputError, match="half_life in seconds: expected"):
        await memories.recall(bank, UNIT, half_life=timedelta(0))
    with pytest.raises(InvalidInputError, match="pass either `keep` or `below`"):
        await memories.prune(bank)
    with pytest.raises(InvalidInputError, match="keep: expected 0"):
        await memories.prune(bank, keep=-1)
    with pytest.raises(InvalidInputError, match="embeddings: expected 1, one a memory, got 2"):
        await memories.remember_many(bank, remembered, embeddings=[UNIT, UNIT])
    with pytest.raises(InvalidInputError, match="memory 0: expected `content` and some of"):
        await memories.remember_many(bank, [{"text": "x"}])  # type: ignore[typeddict-unknown-key]
    with pytest.raises(InvalidInputError, match="near: expected 0 to 2"):
        await memories.remember_many(bank, remembered, near=-1)
    with pytest.raises(InvalidInputError, match="Memory: 'nope': no such attribute"):
        await memories.update(1, {"nope": 1})  # type: ignore[typeddict-unknown-key]
    assert await texts(memories, bank) == []


async def test_a_refused_memory_leaves_the_transaction_usable(
    memories: AsyncMemoryRepository, bank: int
) -> None:
    with pytest.raises(NotFoundError):
        await memories.remember(bank + 999, "x")
    assert (await memories.remember(bank, "x")).outcome is MemoryOutcome.STORED


async def test_touches_stay_on_their_pages(committed: AsyncDatabase) -> None:
    rng = np.random.default_rng(3)
    async with committed.begin() as uow:
        bank = await AsyncMemoryBankRepository(uow.session).get_or_create("bank")
        rows: list[NewMemory] = [{"content": f"memory {number}"} for number in range(600)]
        remembered = await AsyncMemoryRepository(uow.session).remember_many(
            bank, rows, embeddings=list(rng.normal(size=(600, 384)))
        )
    for _ in range(40):
        async with committed.begin() as uow:
            chosen = rng.choice(len(remembered), size=10, replace=False)
            await AsyncMemoryRepository(uow.session).touch([remembered[place].id for place in chosen])
    await committed.close()  # a session reports its statistics at its end at the latest
    updates = hot = 0
    deadline = time.monotonic() + 10
    table = "memories" if committed.schema is None else f"{committed.schema}.memories"
    while updates < 400 and time.monotonic() < deadline:
        async with committed.session() as session:
            updates, hot = (await session.execute(_UPDATES, {"table": table})).one()
    assert updates == 400
    assert hot / updates >= 0.9


_UPDATES = text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass(:table)")


async def test_a_moment_counts_as_it_is_passed(memories: AsyncMemoryRepository, bank: int) -> None:
    stored = await memories.remember(bank, "x", embedding=UNIT, importance=10)
    used = datetime(2026, 1, 1, tzinfo=UTC)
    await memories._session.execute(update(Memory).where(Memory.id == stored.id).values(last_accessed=used))
    scores = [
        (await memories.recall(bank, UNIT, half_life=HOUR, now=used + age)).hits[0].score
        for age in (-HOUR, timedelta(0), HOUR, timedelta(days=365_000))
    ]
    assert scores == pytest.approx([1, 1, 0.9, 0.8])
