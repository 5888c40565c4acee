"""Every search reads its index and no table from end to end, at 20,000 rows, also when it has long been prepared.

What was read is counted by the server itself, for statements that ran: the plan that EXPLAIN shows is made anew
each time, and so is not the one of a prepared statement.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import corpus
import large
import pytest
from sqlalchemy import URL, text

from alfred_db import (
    AsyncDatabase,
    Document,
    KnowledgePoint,
    Memory,
    MemoryEntry,
    SearchParams,
    SearchPath,
    WorkingMemory,
)
from alfred_db.models.base import table_of
from alfred_db.queries.shapes.vector_search import vector_index
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.search.filters import Filter, eq

pytestmark = pytest.mark.not_on_citus("EXPLAIN shows the plan of the coordinator")

TIMES = 15
"""The driver prepares what it has run five times, and the server then makes five plans before it settles for one."""

INDEXED = SearchParams(exact=False)


@pytest.fixture
async def library(library_url: URL) -> AsyncIterator[AsyncUnitOfWork]:
    async with AsyncDatabase(library_url) as database, database.session() as session:
        yield AsyncUnitOfWork(session)


@pytest.fixture
async def filled(large_url: URL) -> AsyncIterator[AsyncUnitOfWork]:
    async with AsyncDatabase(large_url) as database, database.session() as session:
        yield AsyncUnitOfWork(session)


async def read(uow: AsyncUnitOfWork, table: str, *indexes: str) -> list[int]:
    """How often this transaction read the table from end to end, and each of the indexes."""
    schema = table.partition(".")[0] if "." in table else "public"
    counts: list[int] = []
    for name in (table, *(f"{schema}.{index}" for index in indexes)):
        count = text("SELECT pg_stat_get_xact_numscans(CAST(:name AS regclass))")
        counts.append(await uow.session.scalar(count, {"name": name}) or 0)
    return counts


async def check(
    uow: AsyncUnitOfWork, table: str, *indexes: str, search: Callable[[int], Awaitable[Any]]
) -> None:
    """Each time the search runs, it reads each of the indexes, and never the whole table.

    It reads each once, and that of the words also for each word, to count its rows.
    """
    await search(0)  # estimates how many rows match, which it does once
    before = await read(uow, table, *indexes)
    for number in range(TIMES):
        found = await search(number)
        assert len(found) == 10
    after = await read(uow, table, *indexes)
    counted = [late - early for early, late in zip(before, after, strict=True)]
    words = [name.endswith("_search") for name in indexes]
    assert counted == [
        0,
        *(max(TIMES, number) if often else TIMES for often, number in zip(words, counted[1:], strict=True)),
    ]


def name_of(model: Any) -> str:
    return vector_index(model).name


async def test_documents(library: AsyncUnitOfWork) -> None:
    asked = corpus.vectors()[1]
    await check(
        library, "documents", name_of(Document), search=lambda number: library.documents.search(asked[number])
    )


async def test_documents_that_match(library: AsyncUnitOfWork) -> None:
    asked, half = corpus.vectors()[1], Document.metadata_.contains({"half": 0})
    assert (await library.documents.search(asked[0], where=half)).path is SearchPath.HNSW_ITERATIVE
    await check(
        library,
        "documents",
        name_of(Document),
        search=lambda number: library.documents.search(asked[number], where=half),
    )


async def test_documents_by_id_and_distance_only(library: AsyncUnitOfWork) -> None:
    asked = corpus.vectors()[1]
    await check(
        library,
        "documents",
        name_of(Document),
        search=lambda number: library.documents.candidates(asked[number], limit=10),
    )
    candidates = await library.documents.candidates(asked[0])
    tables, index = await read(library, "documents", "pk_documents")
    for _ in range(TIMES):
        assert len(await library.documents.page(candidates)) == 10
    after = await read(library, "documents", "pk_documents")
    assert (after[0], after[1] > index) == (tables, True)


async def test_the_legs_of_a_hybrid_search(library: AsyncUnitOfWork) -> None:
    asked, queries = corpus.vectors()[1], corpus.queries()
    spelling = await library.session.scalar(
        text("SELECT to_regclass('idx_documents_title_trgm') IS NOT NULL")
    )
    indexes = [name_of(Document), "idx_documents_search", *(["idx_documents_title_trgm"] if spelling else [])]

    async def search(number: int) -> Any:
        return await library.documents.hybrid_search(
            queries[number]["text"], asked[number], by_spelling=bool(spelling)
        )

    await check(library, "documents", *indexes, search=search)


async def test_memories(filled: AsyncUnitOfWork) -> None:
    bank = (await filled.memory_banks.get_or_create(large.BANK)).id
    asked = large.vectors(384)[:: large.ROWS // 20]
    await check(
        filled,
        "memories",
        name_of(Memory),
        search=lambda number: filled.memories.search(bank, asked[number], params=INDEXED),
    )
    await check(
        filled,
        "memories",
        name_of(Memory),
        search=lambda number: filled.memories.recall(bank, asked[number], exact=False),
    )


async def test_memories_by_meaning_and_by_word(filled: AsyncUnitOfWork) -> None:
    bank = (await filled.memory_banks.get_or_create(large.BANK)).id
    asked = large.vectors(384)[:: large.ROWS // 20]
    await check(
        filled,
        "memories",
        name_of(Memory),
        "idx_memories_search",
        search=lambda number: filled.memories.hybrid_search(
            bank, f"number {number}", asked[number], match="all"
        ),
    )


async def test_memory_entries(filled: AsyncUnitOfWork) -> None:
    asked = large.vectors(768)[:: large.ROWS // 20]
    await check(
        filled,
        "memory_entries",
        name_of(MemoryEntry),
        search=lambda number: filled.memory_entries.search(large.NAMESPACE, asked[number], params=INDEXED),
    )


async def test_working_memory(filled: AsyncUnitOfWork) -> None:
    asked = large.vectors(1536)[:: large.ROWS // 20]
    await check(
        filled,
        "wm.working_memory",
        name_of(WorkingMemory),
        search=lambda number: filled.working_memory.search(asked[number], memory_type="note", params=INDEXED),
    )


@pytest.mark.parametrize("where", [None, Filter(must=[eq("payload.half", 0)])], ids=["all", "half"])
async def test_knowledge(filled: AsyncUnitOfWork, where: Filter | None) -> None:
    asked = large.vectors(1536)[:: large.ROWS // 20]
    own = f"knowledge_points_{large.COLLECTION}"
    assert name_of(KnowledgePoint) == f"idx_{table_of(KnowledgePoint).name}_embedding"
    await check(
        filled,
        own,
        f"{own}_embedding_idx",
        search=lambda number: filled.knowledge.query(large.COLLECTION, asked[number], where=where),
    )
