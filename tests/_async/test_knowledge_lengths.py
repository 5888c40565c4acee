from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plans import Explain
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from alfred_db import AsyncDatabase, KnowledgeDistance, KnowledgePoint
from alfred_db.errors import ConflictError, DimensionMismatch, InvalidInputError
from alfred_db.queries.shapes.knowledge import POINTS, partition
from alfred_db.queries.shapes.vector_search import nearest
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.knowledge import AsyncKnowledgeRepository
from alfred_db.search import SearchParams, SearchPath
from alfred_db.search.filters import Filter, range_

LENGTHS = [1, 3, 384, 1536, 2000, 3072, 4001, 16_000]
COUNT = 40


def vectors(dimensions: int) -> Any:
    return np.random.default_rng(dimensions).normal(size=(COUNT, dimensions)).astype(np.float32)


def distances(rows: Any, asked: Any, distance: KnowledgeDistance) -> Any:
    """The distances by their definitions."""
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(asked)
    return {
        KnowledgeDistance.COSINE: 1 - rows @ asked / norms,
        KnowledgeDistance.DOT: -(rows @ asked),
        KnowledgeDistance.EUCLID: np.linalg.norm(rows - asked, axis=1),
        KnowledgeDistance.MANHATTAN: np.abs(rows - asked).sum(axis=1),
    }[distance]


@pytest.fixture
def knowledge(uow: AsyncUnitOfWork) -> AsyncKnowledgeRepository:
    return AsyncKnowledgeRepository(uow.session)


@pytest.mark.parametrize("dimensions", LENGTHS)
@pytest.mark.parametrize("distance", list(KnowledgeDistance))
async def test_a_collection_has_vectors_of_its_length_and_distance(
    knowledge: AsyncKnowledgeRepository, dimensions: int, distance: KnowledgeDistance
) -> None:
    rows = vectors(dimensions)
    made = await knowledge.create_collection("own", dimensions=dimensions, distance=distance)
    assert (made.dimensions, made.distance) == (dimensions, distance)
    few = [{"id": n, "vector": rows[n], "payload": {"n": n}} for n in range(5)]
    assert await knowledge.upsert("own", few) == 5  # type: ignore[arg-type]
    many = [{"id": n, "vector": rows[n], "payload": {"n": n}} for n in range(COUNT)]
    assert await knowledge.upsert("own", many * 3) == COUNT - 5  # type: ignore[arg-type]
    wanted = distances(rows.astype(float), rows[7].astype(float), distance)
    expected = np.sort(wanted)[:10]
    close: dict[str, Any] = (
        {"rel": 2e-2, "abs": 2e-2} if 2000 < dimensions <= 4000 else {"rel": 1e-3, "abs": 1e-3}
    )
    for _ in range(2):  # the second search knows the collection
        found = await knowledge.query("own", rows[7])
        assert [hit.distance for hit in found] == pytest.approx(expected.tolist(), **close)
        assert found.path is (SearchPath.EXACT if dimensions > 4000 else SearchPath.HNSW)
    within = Filter(must=[range_("payload.n", gte=20)])
    filtered = await knowledge.query("own", rows[7], where=within, limit=COUNT)
    assert sorted(hit.row.payload["n"] for hit in filtered) == list(range(20, COUNT))
    (near, other) = await knowledge.query_many("own", rows[:2], limit=3)
    assert [hit.distance for hit in near] == pytest.approx(
        np.sort(distances(rows.astype(float), rows[0].astype(float), distance))[:3].tolist(), **close
    )
    assert len(other) == 3
    (point,) = await knowledge.retrieve("own", [7], with_vectors=True)
    assert point.embedding is not None
    assert np.array_equal(point.embedding, rows[7])
    page = await knowledge.scroll("own", limit=COUNT, with_vectors=True)
    assert all(np.array_equal(one.embedding, rows[int(one.id)]) for one in page.items)  # type: ignore[arg-type]
    assert len(await knowledge.recommend("own", [7], [9], limit=3)) == 3
    groups = await knowledge.query_groups("own", rows[7], group_by="n", groups=3, size=1)
    assert len(groups) == 3
    mixed = await knowledge.hybrid_search("own", "nothing", rows[7], limit=3)
    assert len(mixed) == 3


@pytest.mark.parametrize("dimensions", LENGTHS)
async def test_vectors_of_another_length_are_refused(
    uow: AsyncUnitOfWork, knowledge: AsyncKnowledgeRepository, dimensions: int
) -> None:
    await knowledge.create_collection("own", dimensions=dimensions)
    wrong = np.ones(dimensions + 1)
    message = f"expected {dimensions} dimensions, got {dimensions + 1}"
    for calls in (1, 200):
        with pytest.raises(DimensionMismatch, match=message):
            await knowledge.upsert("own", [{"id": n, "vector": wrong} for n in range(calls)])
    with pytest.raises(DimensionMismatch, match=message):
        await knowledge.query("own", wrong)
    with pytest.raises(DimensionMismatch, match=message):
        await knowledge.query_many("own", [wrong])
    with pytest.raises(ConflictError, match=f"exists for vectors of {dimensions} dimensions, not 5"):
        await knowledge.create_collection("own", dimensions=5)
    assert await knowledge.count("own") == 0
    if dimensions != 1536:  # not by plain SQL either
        raw = insert(POINTS).values(collection="own", id="x", other_embedding=np.ones(2), payload={})
        with pytest.raises(IntegrityError, match="violates check constraint"):
            await uow.session.execute(raw)


@pytest.mark.parametrize("dimensions", [0, -1, 16_001])
async def test_a_length_that_no_vector_has_is_refused(
    knowledge: AsyncKnowledgeRepository, dimensions: int
) -> None:
    with pytest.raises(InvalidInputError, match="dimensions: expected 1 to 16,000"):
        await knowledge.create_collection("own", dimensions=dimensions)


async def test_a_collection_made_anew_with_another_length_is_searched_as_it_is_now(
    knowledge: AsyncKnowledgeRepository,
) -> None:
    for dimensions in (3, 1536, 4, 3):
        await knowledge.create_collection("own", dimensions=dimensions)
        rows = vectors(dimensions)
        await knowledge.upsert("own", [{"id": n, "vector": rows[n]} for n in range(3)])
        for _ in range(2):
            assert (await knowledge.query("own", rows[1])).hits[0].row.id == "1"
        await knowledge.drop_collection("own")


@pytest.mark.parametrize(("dimensions", "distance"), [(384, "cosine"), (3072, "euclid"), (1536, "dot")])
async def test_the_index_of_the_collection_serves_its_searches(
    uow: AsyncUnitOfWork, knowledge: AsyncKnowledgeRepository, dimensions: int, distance: str
) -> None:
    compared = KnowledgeDistance(distance)
    await knowledge.create_collection("own", dimensions=dimensions, distance=compared)
    rows = vectors(dimensions)
    await knowledge.upsert("own", [{"id": n, "vector": rows[n]} for n in range(COUNT)])
    found = partition("own", compared, dimensions)
    statement = nearest(KnowledgePoint, 3, found.where, found.operator, found.stored)
    await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
    await uow.session.execute(text("SET LOCAL enable_sort = off"))
    parameters = {"embedding": rows[7], **found.parameters}
    plan = "\n".join(await uow.session.scalars(Explain(statement.built), parameters))
    assert "Index Scan using knowledge_points_own" in plan
    assert "Sort" not in plan


async def test_an_export_keeps_length_and_vectors(
    knowledge: AsyncKnowledgeRepository, tmp_path: Path
) -> None:
    rows = vectors(5)
    await knowledge.create_collection("own", dimensions=5, distance=KnowledgeDistance.MANHATTAN)
    await knowledge.upsert("own", [{"id": n, "vector": rows[n]} for n in range(COUNT)])
    assert await knowledge.export_to("own", tmp_path / "own") == COUNT
    assert np.load(tmp_path / "own" / "vectors.npy").shape == (COUNT, 5)
    assert await knowledge.import_from(tmp_path / "own", collection="copy") == COUNT
    described = (await knowledge.describe_collection("copy")).collection
    assert (described.dimensions, described.distance) == (5, KnowledgeDistance.MANHATTAN)
    page = await knowledge.scroll("copy", limit=COUNT, with_vectors=True)
    assert all(np.array_equal(one.embedding, rows[int(one.id)]) for one in page.items)  # type: ignore[arg-type]
    await knowledge.create_collection("other", distance=KnowledgeDistance.MANHATTAN)
    with pytest.raises(ConflictError, match="exists for vectors of 1536 dimensions, not 5"):
        await knowledge.import_from(tmp_path / "own", collection="other")


async def test_exact_search_compares_all(knowledge: AsyncKnowledgeRepository) -> None:
    rows = vectors(8)
    await knowledge.create_collection("own", dimensions=8, distance=KnowledgeDistance.EUCLID)
    await knowledge.upsert("own", [{"id": n, "vector": rows[n]} for n in range(COUNT)])
    found = await knowledge.query("own", rows[3], params=SearchParams(exact=True))
    assert (found.path, found.hits[0].row.id) == (SearchPath.EXACT, "3")


async def test_an_update_replaces_and_removes_vectors(committed: AsyncDatabase) -> None:
    rows = vectors(6)
    async with committed.begin() as uow:
        await uow.knowledge.create_collection("own", dimensions=6)
        await uow.knowledge.upsert("own", [{"id": 1, "vector": rows[0]}, {"id": 2, "vector": rows[1]}])
    async with committed.begin() as uow:
        assert await uow.knowledge.upsert("own", [{"id": 1, "vector": rows[0]}]) == 0
        assert await uow.knowledge.upsert("own", [{"id": 1, "vector": rows[2]}, {"id": 2}]) == 2
        assert await uow.knowledge.upsert("own", [{"id": 1, "vector": rows[3]}], on_conflict="ignore") == 0
    async with committed.begin() as uow:
        first, second = await uow.knowledge.retrieve("own", [1, 2], with_vectors=True)
        assert np.array_equal(first.embedding, rows[2])  # type: ignore[arg-type]
        assert second.embedding is None
        assert [hit.row.id for hit in await uow.knowledge.query("own", rows[0])] == ["1"]
