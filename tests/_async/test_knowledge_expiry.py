from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select, update

from alfred_db.errors import InvalidInputError
from alfred_db.queries.shapes.knowledge import POINTS
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.knowledge import AsyncKnowledgeRepository
from alfred_db.search import SearchParams

NAME, COUNT = "legal-knowledge", 60
ROWS = np.random.default_rng(3).normal(size=(COUNT, 1536)).astype(np.float32)


@pytest.fixture
def knowledge(uow: AsyncUnitOfWork) -> AsyncKnowledgeRepository:
    return AsyncKnowledgeRepository(uow.session)


async def expire(uow: AsyncUnitOfWork, *collections: str) -> None:
    """Let time pass for the points with a time to live."""
    await uow.session.execute(
        update(POINTS)
        .where(POINTS.c.expires_at.is_not(None), POINTS.c.collection.in_(collections or [NAME]))
        .values(expires_at=func.statement_timestamp() - timedelta(seconds=1))
    )


@pytest.fixture
async def filled(uow: AsyncUnitOfWork, knowledge: AsyncKnowledgeRepository) -> AsyncKnowledgeRepository:
    """Sixty points, of which the first fifty have expired."""
    await knowledge.upsert(
        NAME,
        [{"id": f"p{n:02}", "vector": ROWS[n], "payload": {"n": n}} for n in range(50)],
        ttl=timedelta(days=1),
    )
    await knowledge.upsert(
        NAME, [{"id": f"p{n:02}", "vector": ROWS[n], "payload": {"n": n}} for n in range(50, COUNT)]
    )
    assert await knowledge.count(NAME) == COUNT
    await expire(uow)
    return knowledge


async def test_expired_points_are_not_found(filled: AsyncKnowledgeRepository) -> None:
    left = [f"p{n}" for n in range(50, COUNT)]
    asked = ROWS[7]
    for params in (SearchParams(), SearchParams(exact=True)):
        found = await filled.query(NAME, asked, params=params)
        assert sorted(hit.row.id for hit in found) == left
        assert not found.truncated
    many = await filled.query_many(NAME, ROWS[:3])
    assert [sorted(hit.row.id for hit in hits) for hits in many] == [left] * 3
    assert len(await filled.hybrid_search(NAME, "x", asked, limit=COUNT)) == 10
    assert (
        sum(len(group) for group in await filled.query_groups(NAME, asked, group_by="n", groups=COUNT)) == 10
    )
    assert await filled.retrieve(NAME, ["p07"]) == []
    assert [point.id for point in (await filled.scroll(NAME)).items] == left
    assert await filled.count(NAME) == 10
    assert len(await filled.facet(NAME, "n", limit=COUNT)) == 10
    assert (await filled.describe_collection(NAME)).points == 10
    assert await filled.set_payload(NAME, {"n": 0}, ids=["p07"]) == 0
    assert await filled.delete(NAME, ids=["p07"]) == 0


async def test_expired_points_are_replaced(filled: AsyncKnowledgeRepository) -> None:
    await filled.upsert(NAME, [{"id": "p01", "vector": ROWS[1]}])
    await filled.upsert(NAME, [{"id": "p02", "vector": ROWS[2]}], on_conflict="ignore")
    await filled.upsert(NAME, [{"id": "p51", "vector": ROWS[2]}], on_conflict="ignore")
    assert [point.id for point in await filled.retrieve(NAME, ["p01", "p02", "p03"])] == ["p01", "p02"]
    (kept,) = await filled.retrieve(NAME, ["p51"])
    assert (kept.payload, kept.expires_at) == ({"n": 51}, None)


async def test_a_sweep_deletes_what_has_expired(
    uow: AsyncUnitOfWork, filled: AsyncKnowledgeRepository
) -> None:
    await filled.upsert("social-knowledge", [{"id": 1}, {"id": 2}], ttl=timedelta(hours=1))
    await expire(uow, "social-knowledge")
    assert await filled.purgeable() == 52
    assert [await filled.sweep(limit=30), await filled.sweep(limit=30), await filled.sweep()] == [30, 22, 0]
    assert (await filled.purgeable(), await filled.count(NAME)) == (0, 10)


@pytest.mark.parametrize("points", [1, 300])
async def test_the_time_to_live_is_that_of_the_last_call(
    uow: AsyncUnitOfWork, knowledge: AsyncKnowledgeRepository, points: int
) -> None:
    rows = [{"id": n} for n in range(points)]
    left = select(func.max(POINTS.c.expires_at) - func.statement_timestamp())
    await knowledge.upsert(NAME, rows, ttl=timedelta(hours=2))  # type: ignore[arg-type]
    lasting = await uow.session.scalar(left)
    assert lasting is not None
    assert timedelta(hours=1) < lasting <= timedelta(hours=2)
    assert await knowledge.upsert(NAME, rows) == points  # type: ignore[arg-type]
    assert await uow.session.scalar(left) is None
    for wrong in (timedelta(0), timedelta(days=-1)):
        with pytest.raises(InvalidInputError, match="ttl in seconds"):
            await knowledge.upsert(NAME, rows, ttl=wrong)  # type: ignore[arg-type]


async def test_an_export_keeps_the_expiry(
    uow: AsyncUnitOfWork, filled: AsyncKnowledgeRepository, tmp_path: Path
) -> None:
    await filled.upsert(NAME, [{"id": "soon", "vector": ROWS[0]}], ttl=timedelta(hours=2))
    (stored,) = await filled.retrieve(NAME, ["soon"])
    assert await filled.export_to(NAME, tmp_path) == 11
    await filled.delete(NAME, ids=["soon"])
    await filled.upsert(NAME, [{"id": "p50"}], ttl=timedelta(hours=1))
    for collection in (NAME, "copy"):
        assert await filled.import_from(tmp_path, collection=collection) == 11
        restored = await filled.retrieve(collection, ["soon", "p50", "p51"])
        assert [point.expires_at for point in restored] == [stored.expires_at, None, None]


@pytest.mark.parametrize("wrong", ["tomorrow", "2030-01-01T00:00:00", 7, True])
async def test_a_wrong_expiry_of_an_export_is_one_clear_error(
    knowledge: AsyncKnowledgeRepository, tmp_path: Path, wrong: object
) -> None:
    await knowledge.upsert(NAME, [{"id": "p", "vector": ROWS[0]}])
    await knowledge.export_to(NAME, tmp_path)
    line = {"id": "p", "payload": {}, "vector": 0, "expires_at": wrong}
    (tmp_path / "points.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InvalidInputError, match="line 1: expires_at: expected a time with its zone"):
        await knowledge.import_from(tmp_path)
