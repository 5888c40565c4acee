"""Embedding spaces: their catalog, and documents stored and searched in them."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from alfred_db import AsyncDatabase, Document, KnowledgePoint, SpaceIndex, SpaceKind, SpaceState
from alfred_db.errors import ConflictError, DimensionMismatch, InvalidInputError, NotFoundError
from alfred_db.indexes.catalog import models
from alfred_db.queries.shapes.spaces import KINDS
from alfred_db.repositories import (
    AsyncDocumentRepository,
    AsyncMemoryEntryRepository,
    AsyncMemoryRepository,
    AsyncUnitOfWork,
    AsyncWorkingMemoryRepository,
)
from alfred_db.search import SearchParams, SearchPath
from alfred_db.search.filters import Filter, eq

REPOSITORIES = [
    AsyncDocumentRepository,
    AsyncMemoryRepository,
    AsyncMemoryEntryRepository,
    AsyncWorkingMemoryRepository,
]


def vectors(count: int, dimensions: int, seed: int = 1) -> Any:
    """Vectors with a direction that grows with their number."""
    made = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


async def test_the_built_in_spaces_are_in_the_list(uow: AsyncUnitOfWork) -> None:
    found = await uow.spaces.list()
    assert [(one.name, one.kind, one.dimensions) for one in found] == [
        ("builtin", "documents", 384),
        ("builtin", "memories", 384),
        ("builtin", "memory_entries", 768),
        ("builtin", "working_memory", 1536),
    ]
    assert (await uow.spaces.default("memories")).id == found[1].id
    await uow.documents.add("text", embedding=vectors(1, 384)[0])
    info = await uow.spaces.describe("builtin", kind="documents")
    assert (info.default, info.vectors, info.table) == (True, 1, "documents")


async def test_a_space_is_created_once(uow: AsyncUnitOfWork) -> None:
    made = await uow.spaces.create("new", kind="documents", model="m", dimensions=3072)
    assert (made.index, made.state) == (SpaceIndex.HNSW_HALFVEC, SpaceState.ACTIVE)
    again = await uow.spaces.create("new", kind=SpaceKind.DOCUMENTS, model="m", dimensions=3072)
    assert again.id == made.id
    other: dict[str, Any]
    for other in ({"dimensions": 3}, {"model": "other"}, {"kind": "memories"}, {"storage": "halfvec"}):
        arguments: dict[str, Any] = {"kind": "documents", "model": "m", "dimensions": 3072, **other}
        with pytest.raises(ConflictError, match="space 'new': exists with the"):
            await uow.spaces.create("new", **arguments)
    with pytest.raises(InvalidInputError, match="at most 2000 dimensions stored as vector, got 3072"):
        await uow.spaces.create("x", kind="documents", model="m", dimensions=3072, index="hnsw")


@pytest.mark.parametrize(
    ("dimensions", "storage", "index"),
    [
        (3, "vector", "hnsw"),
        (3, "halfvec", "hnsw"),
        (3072, "vector", "hnsw-halfvec"),
        (4000, "halfvec", "hnsw"),
        (64, "vector", "hnsw-bit"),
        (64, "halfvec", "hnsw-bit"),
        (16000, "vector", "none"),
    ],
)
async def test_a_document_is_stored_and_found_in_a_space(
    uow: AsyncUnitOfWork, dimensions: int, storage: str, index: str
) -> None:
    await uow.spaces.create(
        "s", kind="documents", model="m", dimensions=dimensions, storage=storage, index=index
    )
    given = vectors(20, dimensions)
    ids = [
        (
            await uow.documents.add(f"text {place}", embedding=given[place], space="s", metadata={"n": place})
        ).id
        for place in range(20)
    ]
    found = await uow.documents.search(given[7], limit=5, space="s")
    assert len(found) == 5
    assert (found.hits[0].row.id, found.hits[0].row.content) == (ids[7], "text 7")
    assert found.hits[0].distance == pytest.approx(0, abs=1e-2)
    near = np.argsort(-(given @ given[7]))[:5]
    if index != "hnsw-bit":
        assert [hit.row.id for hit in found] == [ids[place] for place in near]
    only = await uow.documents.search(given[7], space="s", where=Filter(must=[eq("metadata.n", 3)]))
    assert [hit.row.id for hit in only] == [ids[3]]
    every = await uow.documents.search_many(given[:3], limit=2, space="s")
    assert [hits[0].row.id for hits in every] == ids[:3]
    some = await uow.documents.candidates(given[7], limit=10, space="s")
    assert some.ids[0] == ids[7]
    page = await uow.documents.page(some, limit=3)
    assert [hit.row.id for hit in page] == list(some.ids[:3])
    assert not len(await uow.documents.search(vectors(1, 384)[0], space="builtin"))
    assert (await uow.spaces.describe("s")).vectors == 20


async def test_what_does_not_fit_is_refused_by_name_before_anything_is_sent(uow: AsyncUnitOfWork) -> None:
    await uow.spaces.create("small", kind="documents", model="m-3", dimensions=3)
    await uow.spaces.create("other", kind="memories", model="m-3", dimensions=3)
    said = r"embedding for space 'small' of documents \(model m-3\): expected 3 dimensions, got 4"
    with pytest.raises(DimensionMismatch, match=said):
        await uow.documents.add("t", embedding=[1, 2, 3, 4], space="small")
    with pytest.raises(DimensionMismatch, match=said):
        await uow.documents.search([1, 2, 3, 4], space="small")
    with pytest.raises(DimensionMismatch, match=said):
        await uow.documents.search_many([[1, 2, 3], [1, 2, 3, 4]], space="small")
    with pytest.raises(DimensionMismatch, match=said):
        await uow.documents.add_many([{"content": "t"}], embeddings=[[1, 2, 3, 4]], space="small")
    with pytest.raises(
        InvalidInputError, match=r"space 'small' of documents .*expected vectors of 'm-3', got those of 'm-4'"
    ):
        await uow.documents.add("t", embedding=[1, 2, 3], embedding_model="m-4", space="small")
    with pytest.raises(InvalidInputError, match=r"space 'other' of memories .*has no vectors of documents"):
        await uow.documents.search([1, 2, 3], space="other")
    with pytest.raises(NotFoundError, match="space 'nowhere': does not exist"):
        await uow.documents.search([1, 2, 3], space="nowhere")
    assert not len(await uow.documents.list())


async def test_the_nearest_of_several_vectors_of_a_row_counts(uow: AsyncUnitOfWork) -> None:
    await uow.spaces.create("chunks", kind="documents", model="m", dimensions=8)
    given = vectors(40, 8)
    long = await uow.documents.add("long", embedding=given[:30], space="chunks")
    others = [
        await uow.documents.add(f"o{place}", embedding=given[place], space="chunks")
        for place in range(30, 36)
    ]
    found = await uow.documents.search(given[5], limit=4, space="chunks")
    assert found.hits[0].row.id == long.id
    assert len({hit.row.id for hit in found}) == len(found) == 4
    assert {hit.row.id for hit in found} <= {long.id, *(one.id for one in others)}
    many = await uow.documents.search_many([given[5]], limit=4, space="chunks")
    assert [hit.row.id for hit in many[0]] == [hit.row.id for hit in found]
    await uow.documents.update(long.id, {"embedding": given[36]}, space="chunks")
    assert (await uow.spaces.describe("chunks")).vectors == 7
    await uow.documents.update(long.id, {"embedding": None}, space="chunks")
    assert (await uow.spaces.describe("chunks")).vectors == 6
    await uow.documents.delete(others[0].id)
    assert (await uow.spaces.describe("chunks")).vectors == 5


async def test_a_default_is_followed(uow: AsyncUnitOfWork) -> None:
    stored = await uow.documents.add("old", embedding=vectors(1, 384)[0], external_id="x")
    await uow.spaces.create("new", kind="documents", model="m", dimensions=3)
    with pytest.raises(
        ConflictError, match="space 'new': 1 of 1 rows have no vector in it, and 0 have one of another"
    ):
        await uow.spaces.switch("documents", "new")
    (pending,) = await uow.spaces.pending("new", 10)
    assert (pending.id, pending.content) == (stored.id, "old")
    assert await uow.spaces.store("new", [pending.id], [[1, 0, 0]], [pending.hash]) == [stored.id]
    assert (await uow.spaces.coverage("new")).complete
    await uow.spaces.switch("documents", "new")
    assert [hit.row.id for hit in await uow.documents.search([1, 0, 0])] == [stored.id]
    await uow.documents.add("second", embedding=[0, 1, 0])
    assert (await uow.spaces.describe("new")).vectors == 2
    for refused in (uow.spaces.drop, uow.spaces.retire):
        with pytest.raises(ConflictError, match="space 'new': is the default of documents"):
            await refused("new")
    await uow.spaces.default("documents", "builtin")
    assert len(await uow.documents.search(vectors(1, 384)[0])) == 1
    await uow.spaces.retire("new")
    with pytest.raises(ConflictError, match="is retired"):
        await uow.documents.add("third", embedding=[0, 1, 0], space="new")
    assert len(await uow.documents.search([1, 0, 0], space="new")) == 2
    await uow.spaces.drop("new")
    with pytest.raises(NotFoundError):
        await uow.documents.search([1, 0, 0], space="new")


async def test_an_edit_during_the_fill_is_embedded_again(uow: AsyncUnitOfWork) -> None:
    await uow.spaces.create("new", kind="documents", model="m", dimensions=3, building=True)
    rows = [await uow.documents.add(f"text {place}") for place in range(5)]
    pending = await uow.spaces.pending("new", 3)
    assert [one.id for one in pending] == [row.id for row in rows[:3]]
    await uow.documents.update(rows[1].id, {"content": "edited"})
    matrix, hashes = np.eye(3, dtype=np.float32), [one.hash for one in pending]
    assert await uow.spaces.store("new", [one.id for one in pending], matrix, hashes) == [
        rows[0].id,
        rows[2].id,
    ]
    again = await uow.spaces.pending("new", 10)
    assert [(one.id, one.content) for one in again] == [
        (rows[1].id, "edited"),
        (rows[3].id, "text 3"),
        (rows[4].id, "text 4"),
    ]
    await uow.spaces.store("new", [one.id for one in again], matrix, [one.hash for one in again])
    await uow.documents.update(rows[0].id, {"content": "changed after it was embedded"})
    coverage = await uow.spaces.coverage("new")
    assert (coverage.rows, coverage.missing, coverage.stale) == (5, 0, 1)
    assert [one.id for one in await uow.spaces.pending("new", 10)] == [rows[0].id]
    assert (await uow.documents.search([1, 0, 0], space="new")).path is SearchPath.EXACT
    assert (await uow.spaces.activate("new")).state is SpaceState.ACTIVE
    assert (await uow.documents.search([1, 0, 0], limit=3, space="new")).path is SearchPath.HNSW


async def test_the_plans_of_a_space(committed: AsyncDatabase) -> None:
    """The index orders the vectors, filtered or not, and a filter of few rows compares these."""
    given = vectors(3000, 16)
    async with committed.begin() as uow:
        await uow.spaces.create("s", kind="documents", model="m", dimensions=16)
        rows: list[Any] = [
            {"content": f"t{n}", "metadata": {"half": n % 2 == 0, "n": n}} for n in range(3000)
        ]
        await uow.documents.add_many(rows, embeddings=given, space="s")
        home = (await uow.spaces.describe("s")).table
    async with committed.begin() as uow:
        await uow.session.execute(text("ANALYZE"))
    async with committed.begin() as uow:
        by_index = SearchParams(exact=False)
        plain = await uow.documents.search(given[0], space="s", explain=True)
        half = Filter(must=[eq("metadata.half", True)])
        filtered = await uow.documents.search(given[0], space="s", where=half, params=by_index, explain=True)
        few = await uow.documents.search(
            given[0], space="s", where=Filter(must=[eq("metadata.n", 5)]), explain=True
        )
    assert plain.path is SearchPath.HNSW
    assert f"Index Scan using idx_{home}" in (plain.plan or "")
    assert f"Index Scan using idx_{home}" in (filtered.plan or "")
    assert "SubPlan" in (filtered.plan or "")
    assert len(plain) == len(filtered) == 10
    assert few.path is SearchPath.EXACT
    assert f"idx_{home}" not in (few.plan or "")
    assert [hit.row.content for hit in few] == ["t5"]


async def test_documents_are_added_by_copy(uow: AsyncUnitOfWork) -> None:
    await uow.spaces.create("s", kind="documents", model="m", dimensions=3)
    rows: list[Any] = [{"content": f"t{n}", "external_id": f"k{n}"} for n in range(60)]
    ids = await uow.documents.add_many(rows, embeddings=vectors(60, 3), space="s")
    assert (await uow.spaces.coverage("s")).complete
    changed: list[Any] = [{"content": "other", "external_id": "k0"}, {"content": "t1", "external_id": "k1"}]
    await uow.documents.add_many(changed, embeddings=np.eye(3)[:2], on_conflict="ignore", space="s")
    found = await uow.documents.search([0, 1, 0], limit=1, space="s")
    assert found.hits[0].row.id == ids[1]
    assert (await uow.spaces.coverage("s")).complete
    mixed: list[Any] = [{"content": "a", "embedding": [1, 0, 0]}, {"content": "b"}]
    await uow.documents.add_many(mixed, space="s")
    assert (await uow.spaces.coverage("s")).missing == 1
    assert (await uow.session.scalar(text("SELECT 1"))) == 1
    assert Document.__tablename__ == "documents"


async def store(uow: AsyncUnitOfWork, kind: SpaceKind, content: str, vector: Any, **options: Any) -> Any:
    """Store a row of a kind, and return its key."""
    match kind:
        case SpaceKind.DOCUMENTS:
            return (await uow.documents.add(content, embedding=vector, **options)).id
        case SpaceKind.MEMORIES:
            bank = (await uow.memory_banks.get_or_create("bank")).id
            return (await uow.memories.remember(bank, content, embedding=vector, **options)).id
        case SpaceKind.MEMORY_ENTRIES:
            return (await uow.memory_entries.remember("space", content, embedding=vector, **options)).id
        case SpaceKind.WORKING_MEMORY:
            stored = await uow.working_memory.store("n", "t", content=content, embedding=vector, **options)
            return stored.id


async def find(uow: AsyncUnitOfWork, kind: SpaceKind, vector: Any, **options: Any) -> list[Any]:
    """Return the keys of the nearest rows of a kind."""
    found: Any
    match kind:
        case SpaceKind.DOCUMENTS:
            found = await uow.documents.search(vector, **options)
        case SpaceKind.MEMORIES:
            found = await uow.memories.search(await uow.memory_banks.get_or_create("bank"), vector, **options)
        case SpaceKind.MEMORY_ENTRIES:
            found = await uow.memory_entries.search("space", vector, **options)
        case SpaceKind.WORKING_MEMORY:
            found = await uow.working_memory.search(vector, **options)
    return [hit.row.id for hit in found]


async def forget(uow: AsyncUnitOfWork, kind: SpaceKind, key: Any) -> None:
    """Delete a row of a kind."""
    match kind:
        case SpaceKind.DOCUMENTS:
            await uow.documents.delete(key)
        case SpaceKind.MEMORIES:
            await uow.memories.forget(key)
        case SpaceKind.MEMORY_ENTRIES:
            await uow.memory_entries.forget(key)
        case SpaceKind.WORKING_MEMORY:
            await uow.working_memory.set_status(key, "deleted")
            await uow.working_memory.sweep()


@pytest.mark.parametrize("kind", SpaceKind)
async def test_each_kind_has_spaces(uow: AsyncUnitOfWork, kind: SpaceKind) -> None:
    await uow.spaces.create("s", kind=kind, model="m", dimensions=5)
    given = vectors(40, 5)
    keys = [await store(uow, kind, f"text {n}", given[n], space="s") for n in range(40)]
    near = np.argsort(-(given @ given[7]))[:4]
    assert await find(uow, kind, given[7], limit=4, space="s") == [keys[place] for place in near]
    assert not await find(uow, kind, vectors(1, BUILTIN_DIMENSIONS[kind])[0], space="builtin")
    with pytest.raises(DimensionMismatch, match="space 's' of"):
        await find(uow, kind, given[7][:4], space="s")
    with pytest.raises(
        InvalidInputError, match=r"space 's' of .*expected vectors of 'm', got those of 'other'"
    ):
        await store(uow, kind, "x", given[0], space="s", embedding_model="other")
    with pytest.raises(NotFoundError, match="space 'nowhere'"):
        await store(uow, kind, "x", given[0], space="nowhere")
    with pytest.raises(NotFoundError, match="space 'nowhere'"):
        await find(uow, kind, given[0], space="nowhere")
    coverage = await uow.spaces.coverage("s")
    assert (coverage.rows, coverage.missing, coverage.stale) == (40, 0, 0)
    await uow.spaces.default(kind, "s")
    fresh = await store(uow, kind, "fresh", -given[7])
    assert await find(uow, kind, -given[7], limit=1) == [fresh]
    await forget(uow, kind, keys[7])
    assert keys[7] not in await find(uow, kind, given[7], limit=50)
    assert (await uow.spaces.describe("s")).vectors == 40
    await uow.spaces.default(kind, "builtin")
    pending = await uow.spaces.pending("builtin", 100, kind=kind)
    wide = vectors(40, BUILTIN_DIMENSIONS[kind])
    await uow.spaces.store(
        "builtin", [one.id for one in pending], wide, [one.hash for one in pending], kind=kind
    )
    assert (await uow.spaces.coverage("builtin", kind=kind)).complete
    assert await find(uow, kind, wide[3], limit=1) == [pending[3].id]


BUILTIN_DIMENSIONS = {
    SpaceKind.DOCUMENTS: 384,
    SpaceKind.MEMORIES: 384,
    SpaceKind.MEMORY_ENTRIES: 768,
    SpaceKind.WORKING_MEMORY: 1536,
}


async def test_memories_use_a_space_in_all_their_methods(uow: AsyncUnitOfWork) -> None:
    await uow.spaces.create("s", kind="memories", model="m", dimensions=4)
    bank = (await uow.memory_banks.get_or_create("bank")).id
    axes = np.eye(4, dtype=np.float32)
    remembered: list[Any] = [{"content": f"m {n}", "importance": 1 + n} for n in range(3)]
    stored = await uow.memories.remember_many(bank, remembered, embeddings=axes[:3], space="s")
    near = axes[1] + 0.01
    again = await uow.memories.remember_many(
        bank,
        [{"content": "nearly", "embedding": near}, {"content": "far", "embedding": axes[3]}],
        near=0.1,
        space="s",
    )
    assert [one.outcome for one in again] == ["merged", "stored"]
    assert again[0].id == stored[1].id
    recalled = await uow.memories.recall(bank, axes[2], limit=2, space="s")
    assert recalled.hits[0].row.id == stored[2].id
    twice = await uow.memories.duplicates(bank, axes[0], space="s")
    assert [hit.row.id for hit in twice] == [stored[0].id]
    await uow.memories.update(stored[0].id, {"content": "another text"})
    assert (await uow.spaces.coverage("s")).missing == 1
    await uow.memories.update(stored[0].id, {"content": "and another", "embedding": axes[0]}, space="s")
    assert (await uow.spaces.coverage("s")).complete


async def test_a_hybrid_search_compares_the_vectors_of_a_space(committed: AsyncDatabase) -> None:
    given = vectors(400, 6)
    async with committed.begin() as uow:
        await uow.spaces.create("s", kind="documents", model="m", dimensions=6)
        rows: list[Any] = [
            {"content": f"word{n} common", "metadata": {"half": n % 2 == 0}} for n in range(400)
        ]
        ids = await uow.documents.add_many(rows, embeddings=given, space="s")
        found = await uow.documents.hybrid_search("word7", given[9], space="s", limit=5)
        assert {ids[7], ids[9]} <= {hit.row.id for hit in found}
        assert {hit.row.id: hit.distance for hit in found}[ids[9]] == pytest.approx(0, abs=1e-5)
        half = Filter(must=[eq("metadata.half", True)])
        some = await uow.documents.hybrid_search("word8", given[10], space="s", where=half, limit=5)
        assert {ids[8], ids[10]} <= {hit.row.id for hit in some}
        assert all((hit.row.metadata_ or {})["half"] for hit in some)
        bank = (await uow.memory_banks.get_or_create("bank")).id
        await uow.spaces.create("t", kind="memories", model="m", dimensions=6)
        await uow.spaces.default("memories", "t")
        for n in range(20):
            await uow.memories.remember(bank, f"word{n} common", embedding=given[n])
        best = await uow.memories.hybrid_search(bank, "word3", given[4], limit=4)
        assert {"word3 common", "word4 common"} <= {hit.row.content for hit in best}
        with pytest.raises(DimensionMismatch, match="space 't' of memories"):
            await uow.memories.hybrid_search(bank, "word3", given[4][:3])


def test_each_method_that_takes_a_vector_takes_a_space() -> None:
    """Whoever adds a method, or a kind, is reminded of the spaces."""
    without: set[str] = set()
    for repository in REPOSITORIES:
        for name, method in inspect.getmembers(repository, inspect.isfunction):
            parameters = inspect.signature(method).parameters
            takes_vectors = not name.startswith("_") and {"embedding", "embeddings"} & parameters.keys()
            if takes_vectors and "space" not in parameters:
                without.add(f"{repository.__name__}.{name}")
    assert not without


def test_each_table_with_a_vector_index_is_a_kind() -> None:
    indexed = {model for model in models().values() if model is not KnowledgePoint}
    assert indexed == {rows for rows, _ in KINDS.values()}
    assert KINDS.keys() == set(SpaceKind)
