from __future__ import annotations

import uuid
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import func, update

from alfred_db import MemoryEntry
from alfred_db.errors import DimensionMismatch, InvalidInputError, InvalidVector, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.memory_entries import AsyncMemoryEntryRepository
from alfred_db.search import SearchParams, SearchPath

UNIT = [1.0, *[0.0] * 767]
OTHER = [0.0, 1.0, *[0.0] * 766]
HOUR = timedelta(hours=1)


@pytest.fixture
def entries(uow: AsyncUnitOfWork) -> AsyncMemoryEntryRepository:
    return AsyncMemoryEntryRepository(uow.session)


async def test_an_entry_is_stored_and_found(entries: AsyncMemoryEntryRepository) -> None:
    entry = await entries.remember(
        "project",
        "Water boils at 100 °C",
        embedding=UNIT,
        agent="knowledge",
        source="https://example.org",
        metadata={"page": 3},
        embedding_model="m",
    )
    assert await entries.get(entry.id) is entry
    assert (entry.namespace, entry.agent, entry.source) == ("project", "knowledge", "https://example.org")
    assert (entry.metadata_, entry.embedding_model, entry.expires_at) == ({"page": 3}, "m", None)
    (hit,) = await entries.search("project", UNIT)
    assert (hit.row.id, hit.row.source, hit.distance) == (entry.id, "https://example.org", 0)
    assert (await entries.hybrid_search("project", "boiling water", UNIT)).hits[0].ranks == {
        "vector": 1,
        "text": 1,
    }
    (by_word,) = await entries.hybrid_search("project", "boiling water", None)
    assert (by_word.row.id, by_word.distance, dict(by_word.ranks)) == (entry.id, None, {"text": 1})
    assert await entries.get(uuid.uuid4()) is None


async def test_a_text_that_is_known_is_brought_up_to_date(entries: AsyncMemoryEntryRepository) -> None:
    first = await entries.remember("n", "The  text", embedding=UNIT, source="a", metadata={"x": 1})
    known = first.id
    again = await entries.remember("n", "the TEXT", agent="writer")
    assert again.id == known
    assert (again.content, again.source, again.agent, again.metadata_) == ("the TEXT", "a", "writer", {})
    assert len(await entries.search("n", UNIT)) == 1
    assert (await entries.remember("other", "the text")).id != known


async def test_each_search_is_within_a_namespace(entries: AsyncMemoryEntryRepository) -> None:
    await entries.remember("a", "first", embedding=UNIT, source="x")
    await entries.remember("a", "second", embedding=OTHER, source="y")
    await entries.remember("b", "third", embedding=UNIT)
    assert [hit.row.content for hit in await entries.search("a", UNIT)] == ["first", "second"]
    found = await entries.search("a", UNIT, where=MemoryEntry.source == "y")
    assert [hit.row.content for hit in found] == ["second"]
    near = await entries.search("a", UNIT, params=SearchParams(max_distance=0.5))
    assert [hit.row.content for hit in near] == ["first"]
    assert [entry.content for entry in await entries.list("b")] == ["third"]
    assert list(await entries.list()) == []
    assert await entries.forget_all("a") == 2
    assert len(await entries.search("a", UNIT)) == 0
    assert len(await entries.search("b", UNIT)) == 1


async def test_what_has_expired_is_not_there(entries: AsyncMemoryEntryRepository) -> None:
    entry = await entries.remember("n", "x", embedding=UNIT, ttl=HOUR)
    assert entry.expires_at == entry.created_at + HOUR
    past = func.statement_timestamp() - HOUR
    await entries._session.execute(update(MemoryEntry).values(expires_at=past))
    assert await entries.get(entry.id) is None
    assert list(await entries.list("n")) == []
    assert len(await entries.search("n", UNIT)) == 0
    assert len(await entries.hybrid_search("n", "x", UNIT)) == 0
    assert [await entries.sweep(), await entries.sweep()] == [1, 0]


async def test_pages_cover_everything_once(entries: AsyncMemoryEntryRepository) -> None:
    stored = {(await entries.remember("n", str(number))).id for number in range(7)}
    seen: list[uuid.UUID] = []
    after: str | None = None
    while True:
        page = await entries.list("n", after=after, limit=3)
        seen += [entry.id for entry in page]
        after = page.next
        if after is None:
            break
    assert len(seen) == 7
    assert set(seen) == stored


async def test_forgetting_removes(entries: AsyncMemoryEntryRepository) -> None:
    entry = await entries.remember("n", "x")
    await entries.forget(entry.id)
    with pytest.raises(NotFoundError, match=f"memory entry {entry.id}: does not exist"):
        await entries.forget(entry.id)


async def test_the_vector_index_serves_a_large_namespace(entries: AsyncMemoryEntryRepository) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(300, 768))
    for number, vector in enumerate(vectors):
        await entries.remember("large", f"entry {number}", embedding=vector)
    for number in range(12):  # the driver prepares what it has run five times
        found = await entries.search(
            "large", vectors[number], limit=1, params=SearchParams(exact=False), explain=number == 11
        )
        assert found.hits[0].row.content == f"entry {number}"
    assert found.path is SearchPath.HNSW_ITERATIVE
    assert found.plan is not None


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        ([1.0] * 384, DimensionMismatch),
        ([float("inf")] * 768, InvalidVector),
        ([0.0] * 768, InvalidVector),
    ],
    ids=["dimensions", "infinite", "zero"],
)
async def test_vectors_are_checked(
    entries: AsyncMemoryEntryRepository, vector: list[float], error: type[InvalidInputError]
) -> None:
    with pytest.raises(error, match=r"memory_entries\.embedding"):
        await entries.remember("n", "x", embedding=vector)
    with pytest.raises(error, match=r"memory_entries\.embedding"):
        await entries.search("n", vector)


@pytest.mark.parametrize("content", ["", " ", "a\x00b", "\udfff"])
async def test_a_text_is_checked(entries: AsyncMemoryEntryRepository, content: str) -> None:
    with pytest.raises(InvalidInputError):
        await entries.remember("n", content)


async def test_bad_input_is_one_clear_error(entries: AsyncMemoryEntryRepository) -> None:
    with pytest.raises(InvalidInputError, match="ttl in seconds: expected"):
        await entries.remember("n", "x", ttl=timedelta(0))
    with pytest.raises(InvalidInputError, match="limit: expected 1 to"):
        await entries.sweep(limit=0)
    for cursor in ("x", "WyJ4IiwgInkiXQ=="):
        with pytest.raises(InvalidInputError):
            await entries.list("n", after=cursor)
