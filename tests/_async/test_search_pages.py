"""Search results page by page."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import corpus
import numpy as np
import pytest
from sqlalchemy import URL, delete, event, func, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, Document, Memory, SearchCandidates, WorkingMemory
from alfred_db.errors import InvalidInputError, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.documents import AsyncDocumentRepository
from alfred_db.search import Hit, SearchParams, SearchPath


@pytest.fixture
async def session(library_url: URL) -> AsyncIterator[AsyncSession]:
    async with AsyncDatabase(library_url) as database, database.session() as session:
        yield session


@pytest.fixture
def library(session: AsyncSession) -> AsyncDocumentRepository:
    return AsyncDocumentRepository(session)


async def read(repository: Any, candidates: SearchCandidates, limit: int) -> list[list[Hit]]:
    """All pages."""
    pages: list[list[Hit]] = []
    after = None
    while True:
        page = await repository.page(candidates, after=after, limit=limit)
        pages.append(list(page))
        if (after := page.next) is None:
            return pages


async def test_pages_return_what_one_search_would(library: AsyncDocumentRepository) -> None:
    vector = corpus.vectors()[1][0]
    candidates = await library.candidates(vector, limit=95)
    assert (len(candidates), candidates.path, candidates.truncated) == (95, SearchPath.HNSW, False)
    pages = await read(library, candidates, 20)
    assert [len(page) for page in pages] == [20, 20, 20, 20, 15]
    hits = [hit for page in pages for hit in page]
    whole = await library.search(vector, limit=95, params=SearchParams(exact=True))
    assert [hit.distance for hit in hits] == sorted(hit.distance or 0 for hit in hits)
    assert len({hit.row.id for hit in hits} & {hit.row.id for hit in whole}) >= 93
    first = hits[0]
    assert first.row.external_id == whole.hits[0].row.external_id
    assert first.score == pytest.approx(whole.hits[0].score)
    assert not hasattr(first.row, "embedding")


async def test_a_page_costs_one_statement_and_reads_only_its_rows(
    library: AsyncDocumentRepository, session: AsyncSession
) -> None:
    candidates = await library.candidates(corpus.vectors()[1][0], limit=1000)
    statements: list[str] = []
    engine = session.get_bind().engine
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    page = await library.page(candidates, limit=10)
    await library.page(candidates, after=page.next, limit=10)
    assert len(statements) == 2
    assert not re.findall(r"OFFSET|<=>|\bembedding\b", "\n".join(statements))


async def test_every_way_of_searching_can_be_paged(library: AsyncDocumentRepository) -> None:
    vector = corpus.vectors()[1][0]
    for name, path in (("half", SearchPath.HNSW_ITERATIVE), ("thousandth", SearchPath.EXACT)):
        where = Document.metadata_.contains({name: 0})
        candidates = await library.candidates(vector, limit=50, where=where)
        assert candidates.path is path
        exact = await library.search(vector, limit=50, where=where, params=SearchParams(exact=True))
        hits = [hit for page in await read(library, candidates, 7) for hit in page]
        assert len(hits) == len(exact)
        assert len({hit.row.id for hit in hits} & {hit.row.id for hit in exact}) >= 0.96 * len(exact)
    near = await library.candidates(corpus.grown()[5], params=SearchParams(max_distance=0.3))
    assert 0 < len(near) < 1000
    assert max(near.distances) <= 0.3
    given_up = SearchParams(max_scan_tuples=1, ef_search=1)
    again = await library.candidates(
        vector, limit=1000, where=Document.metadata_.contains({"half": 0}), params=given_up
    )
    assert (len(again), again.path, again.truncated) == (1000, SearchPath.EXACT, False)
    forced = dataclasses.replace(given_up, exact=False)
    short = await library.candidates(
        vector, limit=1000, where=Document.metadata_.contains({"half": 0}), params=forced
    )
    assert (len(short) < 1000, short.truncated) == (True, True)


async def test_equally_near_rows_come_by_id_and_none_twice(uow: AsyncUnitOfWork) -> None:
    vector = [1.0, *[0.0] * 383]
    ids = await uow.documents.add_many(
        [{"content": str(number)} for number in range(9)], embeddings=[vector] * 9
    )
    candidates = await uow.documents.candidates(vector)
    pages = await read(uow.documents, candidates, 2)
    assert [hit.row.id for page in pages for hit in page] == ids
    assert [len(page) for page in pages] == [2, 2, 2, 2, 1]


async def test_rows_that_are_gone_or_no_longer_match_are_left_out(uow: AsyncUnitOfWork) -> None:
    vectors = np.eye(9, 384, dtype=np.float32) + 0.5
    ids = await uow.documents.add_many(
        [{"content": str(number), "title": "t"} for number in range(9)], embeddings=list(vectors)
    )
    candidates = await uow.documents.candidates(vectors[0], where=Document.title == "t")
    assert candidates.ids[0] == ids[0]
    first = await uow.documents.page(candidates, limit=3)
    await uow.session.execute(delete(Document).where(Document.id == candidates.ids[3]))
    await uow.session.execute(update(Document).where(Document.id == candidates.ids[4]).values(title="u"))
    second = await uow.documents.page(candidates, after=first.next, limit=3)
    assert [hit.row.id for hit in second] == [candidates.ids[5]]
    third = await uow.documents.page(candidates, after=second.next, limit=3)
    assert [hit.row.id for hit in third] == list(candidates.ids[6:9])
    assert third.next is None


async def test_a_cursor_fits_later_candidates_of_the_same_question(uow: AsyncUnitOfWork) -> None:
    vectors = np.eye(9, 384, dtype=np.float32) + np.arange(9, dtype=np.float32)[:, None] / 100 + 0.5
    await uow.documents.add_many([{"content": str(number)} for number in range(9)], embeddings=list(vectors))
    candidates = await uow.documents.candidates(vectors[0])
    first = await uow.documents.page(candidates, limit=4)
    await uow.documents.delete(candidates.ids[3])
    again = await uow.documents.candidates(vectors[0])
    second = await uow.documents.page(again, after=first.next, limit=4)
    assert [hit.row.id for hit in second] == list(candidates.ids[4:8])


async def test_memories_entries_and_working_memory_are_paged_too(uow: AsyncUnitOfWork) -> None:
    bank = await uow.memory_banks.get_or_create("pages")
    entry = await uow.memory_entries.remember("pages", "text", embedding=[1.0] * 768)
    record = await uow.working_memory.store("name", "note", embedding=[1.0] * 1536, agent="a")
    memory = await uow.memories.remember(bank, "text", embedding=[1.0] * 384)
    for repository, candidates, key in (
        (uow.memories, await uow.memories.candidates(bank, [1.0] * 384), memory.id),
        (uow.memory_entries, await uow.memory_entries.candidates("pages", [1.0] * 768), entry.id),
        (uow.working_memory, await uow.working_memory.candidates([1.0] * 1536, agent="a"), record.id),
    ):
        page = await repository.page(candidates)  # type: ignore[arg-type]
        assert [hit.row.id for hit in page] == [key]
        assert page.next is None
    # What has expired or was deleted since is no hit.
    of_bank = await uow.memories.candidates(bank, [1.0] * 384)
    past = func.statement_timestamp() - timedelta(days=1)
    await uow.session.execute(update(Memory).where(Memory.id == memory.id).values(expires_at=past))
    of_agent = await uow.working_memory.candidates([1.0] * 1536, where=WorkingMemory.agent == "a")
    await uow.working_memory.set_status(record.id, "deleted")
    assert [len(await uow.memories.page(of_bank)), len(await uow.working_memory.page(of_agent))] == [0, 0]
    with pytest.raises(NotFoundError, match="bank"):
        await uow.memories.candidates(10**9, [1.0] * 384)


async def test_no_candidates_are_one_empty_page(uow: AsyncUnitOfWork) -> None:
    candidates = await uow.documents.candidates([1.0] * 384)
    assert (len(candidates), candidates.path) == (0, SearchPath.HNSW)
    assert await read(uow.documents, candidates, 10) == [[]]


@pytest.mark.parametrize(
    "after", ["", "x", "WzFd", "WyJhIiwgImIiXQ==", "WzAuMSwgIngiXQ==", "WzAsIEluZmluaXR5XQ=="]
)
async def test_a_wrong_cursor_or_limit_is_one_clear_error(uow: AsyncUnitOfWork, after: str) -> None:
    await uow.documents.add("x", embedding=[1.0] * 384)
    candidates = await uow.documents.candidates([1.0] * 384)
    with pytest.raises(InvalidInputError, match="after: "):
        await uow.documents.page(candidates, after=after)
    for limit in (0, 1001):
        with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
            await uow.documents.page(candidates, limit=limit)
        with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
            await uow.documents.candidates([1.0] * 384, limit=limit)
