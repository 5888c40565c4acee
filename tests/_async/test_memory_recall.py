from __future__ import annotations

from collections.abc import AsyncIterator

import corpus
import numpy as np
import pytest
from plans import Explain
from sqlalchemy import URL, text

from alfred_db import AsyncDatabase
from alfred_db.errors import InvalidInputError
from alfred_db.queries import memory_recall as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async import memory_recall
from alfred_db.repositories._async.memories import AsyncMemoryRepository
from alfred_db.repositories._async.memory_banks import AsyncMemoryBankRepository
from alfred_db.search import SearchPath
from alfred_db.values.memories import MemoryRecallWeights

NOW, HALF_LIFE = corpus.NOW, corpus.HALF_LIFE
TOP = 10


def blend(similarities: np.ndarray, weights: MemoryRecallWeights) -> np.ndarray:
    """The score of each memory, written down a second time."""
    importance = 1 - weights.importance * (1 - corpus.importances() / 10)
    recency = 1 - weights.recency * (1 - 2.0 ** -corpus.ages())
    blended: np.ndarray = np.maximum(similarities, 0) * importance * recency
    return blended


@pytest.fixture
async def uow(glosses_url: URL, schema: str | None) -> AsyncIterator[AsyncUnitOfWork]:
    """A unit of work on the glosses, rolled back at the end."""
    async with AsyncDatabase(glosses_url, schema=schema) as database, database.session() as session:
        yield AsyncUnitOfWork(session)


@pytest.fixture
async def bank(uow: AsyncUnitOfWork) -> int:
    """The only bank."""
    return (await AsyncMemoryBankRepository(uow.session).get_or_create("glosses")).id


def similarities(question: np.ndarray) -> np.ndarray:
    vectors, _ = corpus.vectors()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray = unit @ (question / np.linalg.norm(question))
    return found


@pytest.mark.parametrize("way", ["default", "few of the index", "none of the index", "by the index"])
async def test_recall_is_the_exact_blend_on_real_data(
    uow: AsyncUnitOfWork, bank: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories, by_index = AsyncMemoryRepository(uow.session), way == "by the index"
    if way in ("few of the index", "none of the index"):
        # The index misses near memories, and so does each index, as its levels are random.
        monkeypatch.setattr(memory_recall, "COMPARED", 0)
        monkeypatch.setattr(memory_recall, "MAX_EF_SEARCH", 12 if way == "few of the index" else 1)
    # The exact ways are right for each question; of the index so many have to be.
    _, questions = corpus.vectors()
    questions = questions if by_index else questions[::3]
    first = (await memories.list(bank, limit=1)).items[0].id
    equal = certified = 0
    for question in questions:
        scores = blend(similarities(question), MemoryRecallWeights())
        expected = np.sort(scores)[::-1][:TOP]
        found = await memories.recall(
            bank, question, half_life=HALF_LIFE, now=NOW, exact=False if by_index else None
        )
        given = [hit.score for hit in found]
        assert given == pytest.approx([scores[hit.row.id - first] for hit in found], abs=1e-4)
        assert found.path is (SearchPath.HNSW_ITERATIVE if by_index else SearchPath.EXACT)
        equal += bool(np.allclose(given, expected, atol=1e-5))
        certified += found.certified
    print(f"\nequal to the exact blend: {equal} of {len(questions)}; certified: {certified}")
    assert len(questions) == (300 if by_index else 100)
    if by_index:
        assert (equal / len(questions) >= 0.97, certified) == (True, 0)
    else:
        assert (equal, certified) == (100, 100)


async def test_a_small_bank_is_compared_whole(uow: AsyncUnitOfWork, bank: int) -> None:
    memories = AsyncMemoryRepository(uow.session)
    vectors, questions = corpus.vectors()
    found = await memories.recall(bank, questions[0], half_life=HALF_LIFE, now=NOW)
    assert (found.path, found.certified, found.candidates) == (SearchPath.EXACT, True, len(vectors))
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


@pytest.mark.parametrize(
    "weights",
    [
        MemoryRecallWeights(1, 1),
        MemoryRecallWeights(0, 1),
        MemoryRecallWeights(1, 0),
        MemoryRecallWeights(0, 0),
    ],
)
async def test_few_memories_are_scored_whatever_the_weights(
    uow: AsyncUnitOfWork, bank: int, weights: MemoryRecallWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_recall, "COMPARED", 0)
    memories = AsyncMemoryRepository(uow.session)
    _, questions = corpus.vectors()
    scored = []
    for question in questions[:40]:
        scores = blend(similarities(question), weights)
        found = await memories.recall(bank, question, half_life=HALF_LIFE, now=NOW, weights=weights)
        assert [hit.score for hit in found] == pytest.approx(np.sort(scores)[::-1][:TOP].tolist(), abs=1e-4)
        assert found.certified
        scored.append(found.candidates)
    assert min(scored) >= TOP
    assert sorted(scored)[20] < 1000


@pytest.mark.parametrize("limit", [1, 10, 400, 1000])
async def test_memories_without_similarity_are_recalled_last(
    uow: AsyncUnitOfWork, bank: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_recall, "COMPARED", 0)
    memories = AsyncMemoryRepository(uow.session)
    vectors, questions = corpus.vectors()
    first = (await memories.list(bank, limit=1)).items[0].id
    for question in (questions[0], -vectors.mean(axis=0), -vectors[7]):
        scores = blend(similarities(question), MemoryRecallWeights())
        found = await memories.recall(bank, question, limit=limit, half_life=HALF_LIFE, now=NOW)
        assert [hit.score for hit in found] == pytest.approx(np.sort(scores)[::-1][:limit].tolist(), abs=1e-4)
        without = [hit.row.id - first for hit in found if hit.score == 0]
        assert without == sorted(without)


async def test_more_candidates_are_taken_until_they_suffice(
    uow: AsyncUnitOfWork, bank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_recall, "FIRST", 25)
    memories = AsyncMemoryRepository(uow.session)
    _, questions = corpus.vectors()
    wanted = {
        (
            await memories.recall(
                bank, question, limit=1, now=NOW, weights=MemoryRecallWeights(1, 1), exact=False
            )
        ).candidates
        for question in questions[:60]
    }
    assert len(wanted) > 1
    assert wanted <= {25, 100, 400, 1000}


async def test_the_size_of_a_bank_decides(
    uow: AsyncUnitOfWork, bank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_recall, "MOST", 10)
    memories = AsyncMemoryRepository(uow.session)
    _, questions = corpus.vectors()
    found = await memories.recall(bank, questions[0], now=NOW)
    assert (found.path, found.certified, found.candidates) == (SearchPath.EXACT, True, 2000)
    never = await memories.recall(bank, questions[0], now=NOW, exact=False)
    assert (never.path, never.certified, never.candidates) == (SearchPath.HNSW_ITERATIVE, False, 10)
    monkeypatch.setattr(memory_recall, "COMPARED", 0)
    monkeypatch.setattr(memory_recall, "WHOLE", 100)
    at_last = await memories.recall(bank, questions[0], now=NOW)
    assert (at_last.path, at_last.certified) == (SearchPath.EXACT, True)
    monkeypatch.setattr(memory_recall, "AT_LAST", 100)
    large = await memories.recall(bank, questions[0], now=NOW)
    assert (large.path, large.certified) == (SearchPath.HNSW_ITERATIVE, False)
    always = await memories.recall(bank, questions[0], now=NOW, exact=True)
    assert (always.path, always.certified) == (SearchPath.EXACT, True)


async def test_a_large_bank_is_compared_without_a_transaction(
    uow: AsyncUnitOfWork, glosses_url: URL, schema: str | None, bank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_recall, "COMPARED", 0)
    _, questions = corpus.vectors()
    wanted = await AsyncMemoryRepository(uow.session).recall(bank, questions[0], now=NOW)
    async with AsyncDatabase(glosses_url, schema=schema) as database, database.autocommit() as alone:
        found = await alone.memories.recall(bank, questions[0], now=NOW)
    assert found.certified
    assert [hit.row.id for hit in found] == [hit.row.id for hit in wanted]


async def test_a_bank_with_fewer_memories_than_wanted_returns_them_all(
    uow: AsyncUnitOfWork, bank: int
) -> None:
    memories = AsyncMemoryRepository(uow.session)
    few = await AsyncMemoryBankRepository(uow.session).get_or_create("few")
    _, questions = corpus.vectors()
    for number in range(3):
        await memories.remember(few, f"{number}", embedding=questions[number])
    found = await memories.recall(few, questions[0])
    assert (len(found), found.certified, found.candidates) == (3, True, 3)
    forced = await memories.recall(few, questions[0], exact=False)
    assert not forced.certified
    empty = await AsyncMemoryBankRepository(uow.session).get_or_create("empty")
    nothing = await memories.recall(empty, questions[0])
    assert (len(nothing), nothing.certified, nothing.candidates) == (0, True, 0)


async def test_the_vector_index_serves_the_recall(uow: AsyncUnitOfWork, bank: int) -> None:
    memories = AsyncMemoryRepository(uow.session)
    _, questions = corpus.vectors()
    for question in questions[:12]:  # the driver prepares what it has run five times
        found = await memories.recall(bank, question, now=NOW, exact=False)
        assert len(found) == TOP
    parameters = {
        "bank": bank,
        "embedding": questions[0],
        "importance_weight": 0.3,
        "recency_weight": 0.3,
        "half_life": 86400.0,
        "now": None,
    }
    plan = "\n".join(await uow.session.scalars(Explain(queries.recall(TOP, 200)), parameters))
    assert "Index Scan using idx_memories_embedding" in plan
    assert "Seq Scan" not in plan
    plan = "\n".join(await uow.session.scalars(Explain(queries.recall_exactly(TOP, None, 50)), parameters))
    assert plan.count("Index Scan using idx_memories_embedding") == 1


async def test_a_weight_is_a_part_of_the_score() -> None:
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInputError, match=r"weights\.importance: expected 0 to 1"):
            MemoryRecallWeights(importance=wrong)
        with pytest.raises(InvalidInputError, match=r"weights\.recency: expected 0 to 1"):
            MemoryRecallWeights(recency=wrong)


async def test_a_failed_recall_leaves_no_setting_behind(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        memories = AsyncMemoryRepository(uow.session)
        bank = await AsyncMemoryBankRepository(uow.session).get_or_create("bank")
        await memories.remember(bank, "x", embedding=[1.0] * 384)
        await memories.recall(bank, [1.0] * 384, exact=False)
    async with committed.session() as session:
        assert await session.scalar(text("SHOW plan_cache_mode")) == "auto"
