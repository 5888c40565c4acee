from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from plans import Explain
from sqlalchemy import MetaData, Table, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import (
    AsyncDatabase,
    KnowledgeAlias,
    KnowledgeCollection,
    KnowledgeDistance,
    KnowledgePoint,
    NewKnowledgePoint,
    qdrant_filter,
)
from alfred_db.errors import (
    DimensionMismatch,
    InvalidFilter,
    InvalidInputError,
    InvalidVector,
    NotFoundError,
)
from alfred_db.execution._async.copy import copy_rows
from alfred_db.models.base import table_of
from alfred_db.queries.shapes.knowledge import partition
from alfred_db.queries.shapes.vector_search import nearest_each
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.knowledge import AsyncKnowledgeRepository
from alfred_db.search import SearchParams, SearchPath
from alfred_db.search.filters import Filter, eq, range_

LEGAL = "legal-knowledge"
LANGUAGES = ("en", "de", "fr")


def vectors(count: int, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors in clusters of ten."""
    random = np.random.default_rng(seed)
    centres = np.repeat(random.normal(size=(-(-count // 10), 1536)), 10, axis=0)[:count]
    rows = centres + 0.5 * random.normal(size=(count, 1536))
    unit: np.ndarray[Any, np.dtype[np.float32]] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(
        np.float32
    )
    return unit


VECTORS = vectors(100)


def points(count: int = 100) -> list[NewKnowledgePoint]:
    return [
        {
            "id": number,
            "vector": VECTORS[number],
            "payload": {
                "number": number,
                "lang": LANGUAGES[number % 3],
                "doc": {"name": f"d{number // 10}"},
                "tags": [f"t{number % 5}", "all"],
                **({"draft": None} if number % 4 == 0 else {}),
            },
        }
        for number in range(count)
    ]


@pytest.fixture
def knowledge(uow: AsyncUnitOfWork) -> AsyncKnowledgeRepository:
    return AsyncKnowledgeRepository(uow.session)


@pytest.fixture
async def filled(knowledge: AsyncKnowledgeRepository) -> AsyncKnowledgeRepository:
    """A hundred points in ten clusters, and a few of another collection that would be nearer."""
    assert await knowledge.upsert(LEGAL, points()) == 100
    await knowledge.upsert("social-knowledge", points(3))
    return knowledge


def ids(hits: Sequence[Any]) -> list[str]:
    return [hit.row.id for hit in hits]


def nearest(vector: Any, among: Any, limit: int) -> list[str]:
    return [str(number) for number in np.argsort(-(among @ vector), kind="stable")[:limit]]


async def test_the_nearest_of_the_collection_come_first(filled: AsyncKnowledgeRepository) -> None:
    found = await filled.query(LEGAL, VECTORS[7])
    assert found.path is SearchPath.HNSW
    assert ids(found.hits) == nearest(VECTORS[7], VECTORS, 10)
    first = found.hits[0]
    assert first.row.collection == LEGAL
    assert first.row.payload["doc"] == {"name": "d0"}
    assert first.score == pytest.approx(1, abs=1e-5)
    assert not hasattr(first.row, "embedding")
    assert ids((await filled.query("social-knowledge", VECTORS[7], limit=100)).hits) == nearest(
        VECTORS[7], VECTORS[:3], 3
    )


async def test_a_threshold_leaves_out_what_is_farther(filled: AsyncKnowledgeRepository) -> None:
    found = await filled.query(LEGAL, VECTORS[7], limit=50, params=SearchParams(max_distance=0.5))
    assert sorted(map(int, ids(found.hits))) == list(range(10))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Filter(must=[eq("payload.lang", "de")]), [n for n in range(100) if n % 3 == 1]),
        (Filter(must=[range_("payload.number", gte=90)]), list(range(90, 100))),
        (KnowledgePoint.payload["doc"]["name"].astext == "d4", list(range(40, 50))),
        (KnowledgePoint.id == "5", [5]),
        (Filter(must=[eq("payload.lang", "none")]), []),
    ],
)
async def test_a_filtered_search_finds_all_that_match(
    filled: AsyncKnowledgeRepository, where: Any, expected: list[int]
) -> None:
    found = await filled.query(LEGAL, VECTORS[7], where=where, limit=100)
    assert sorted(map(int, ids(found.hits))) == expected
    assert await filled.count(LEGAL, where=where) == len(expected)
    assert not found.truncated


async def test_several_vectors_are_searched_at_once(filled: AsyncKnowledgeRepository) -> None:
    asked = [VECTORS[3], VECTORS[55]]
    expected = [nearest(vector, VECTORS, 5) for vector in asked]
    assert [ids(hits) for hits in await filled.query_many(LEGAL, asked, limit=5)] == expected
    german = Filter(must=[eq("payload.lang", "de")])
    many = await filled.query_many(LEGAL, asked, limit=100, where=german)
    assert [len(hits) for hits in many] == [33, 33]
    assert list(await filled.query_many(LEGAL, [])) == []


@pytest.mark.parametrize("distance", list(KnowledgeDistance))
async def test_each_distance_orders_by_its_definition(
    knowledge: AsyncKnowledgeRepository, distance: KnowledgeDistance
) -> None:
    await knowledge.create_collection("measured", distance=distance)
    long = VECTORS * np.linspace(0.5, 2, 100, dtype=np.float32)[:, None]
    await knowledge.upsert("measured", [{"id": n, "vector": long[n]} for n in range(100)])
    asked = long[7]
    distances = {
        KnowledgeDistance.COSINE: 1 - VECTORS @ VECTORS[7],
        KnowledgeDistance.DOT: -(long @ asked),
        KnowledgeDistance.EUCLID: np.linalg.norm(long - asked, axis=1),
        KnowledgeDistance.MANHATTAN: np.abs(long - asked).sum(axis=1),
    }[distance]
    found = await knowledge.query("measured", asked)
    assert found.path is SearchPath.HNSW
    expected = np.argsort(distances, kind="stable")[:10]
    assert ids(found.hits) == [str(number) for number in expected]
    assert [hit.distance for hit in found] == pytest.approx(list(distances[expected]), abs=1e-3)
    assert [hit.score for hit in found] == pytest.approx(
        [(1 if distance is KnowledgeDistance.COSINE else 0) - distances[number] for number in expected],
        abs=1e-3,
    )
    (many,) = await knowledge.query_many("measured", [asked])
    assert ids(many) == ids(found.hits)
    assert [hit.score for hit in many] == [hit.score for hit in found]


async def test_groups_are_the_nearest_with_their_nearest(filled: AsyncKnowledgeRepository) -> None:
    asked = VECTORS[7]
    found = await filled.query_groups(LEGAL, asked, group_by="doc.name", groups=4, size=2)
    assert [len(group) for group in found] == [2, 2, 2, 2]
    order = [int(one) for one in nearest(asked, VECTORS, 100)]
    documents = list(dict.fromkeys(number // 10 for number in order))[:4]
    assert [group.value for group in found] == [f"d{document}" for document in documents]
    assert [ids(group.hits) for group in found] == [
        [str(number) for number in order if number // 10 == document][:2] for document in documents
    ]


async def test_groups_are_filled_from_beyond_what_was_fetched(filled: AsyncKnowledgeRepository) -> None:
    found = await filled.query_groups(LEGAL, VECTORS[7], group_by="doc.name", groups=10, size=10)
    assert sorted(group.value for group in found) == [f"d{number}" for number in range(10)]
    assert [len(group) for group in found] == [10] * 10
    few = await filled.query_groups(LEGAL, VECTORS[7], group_by="doc.name", groups=1, size=13)
    assert [len(group) for group in few] == [10]
    everything = await filled.query_groups(LEGAL, VECTORS[7], group_by="lang", groups=50, size=2)
    assert sorted(group.value for group in everything) == ["de", "en", "fr"]
    near = await filled.query_groups(
        LEGAL,
        VECTORS[7],
        group_by="number",
        groups=50,
        size=2,
        where=qdrant_filter({"must": [{"key": "lang", "match": {"value": "de"}}]}),
        params=SearchParams(max_distance=0.5),
    )
    assert sorted(group.value for group in near) == [1, 4, 7]
    tags = await filled.query_groups(LEGAL, VECTORS[7], group_by="tags", groups=50, size=30)
    assert {group.value: len(group) for group in tags} == {
        "all": 30,
        **{f"t{number}": 20 for number in range(5)},
    }
    for group in tags:
        distances = [hit.distance or 0.0 for hit in group]
        assert distances == sorted(distances)
        assert [hit.score for hit in group] == [1 - distance for distance in distances]
        assert all(group.value in hit.row.payload["tags"] for hit in group)
    assert len(await filled.query_groups(LEGAL, VECTORS[7], group_by="tags[0].x")) == 0


async def test_all_groups_are_compared_where_the_nearest_hide_them(
    knowledge: AsyncKnowledgeRepository,
) -> None:
    rows = [
        {"id": n, "vector": VECTORS[n % 10], "payload": {"doc": "crowd" if n < 60 else n}} for n in range(80)
    ]
    await knowledge.upsert(LEGAL, rows)  # type: ignore[arg-type]
    found = await knowledge.query_groups(LEGAL, VECTORS[0], group_by="doc", groups=3, size=1)
    assert len(found) == 3
    assert "crowd" in {group.value for group in found}


async def test_recommended_is_what_is_like_the_positive_points(filled: AsyncKnowledgeRepository) -> None:
    found = await filled.recommend(LEGAL, [1, "2"], limit=5)
    target = VECTORS[1] + VECTORS[2]
    assert ids(found.hits) == [one for one in nearest(target, VECTORS, 7) if one not in "12"][:5]
    away = await filled.recommend(LEGAL, [1, 15], [2], limit=98)
    target = VECTORS[1] + VECTORS[15] - VECTORS[2]
    expected = [one for one in nearest(target, VECTORS, 100) if one not in ("1", "15", "2")]
    assert ids(away.hits)[:20] == expected[:20]
    filtered = await filled.recommend(LEGAL, [1], where=Filter(must=[eq("payload.lang", "fr")]), limit=50)
    assert {hit.row.payload["lang"] for hit in filtered} == {"fr"}
    assert len(filtered) == 33


@pytest.mark.parametrize(
    ("positive", "negative", "error", "message"),
    [
        ([], [], InvalidInputError, "at least one id"),
        ([1, 999], [], NotFoundError, "points .999.: do not exist"),
        ([1], ["x' OR 1=1 --"], NotFoundError, "do not exist"),
        ([1], ["bare"], InvalidInputError, "has no vector"),
        ("12", [], InvalidInputError, "put it into a list"),
        ([True], [], InvalidInputError, "point id"),
    ],
)
async def test_a_wrong_recommendation_is_one_clear_error(
    filled: AsyncKnowledgeRepository, positive: Any, negative: Any, error: type[Exception], message: str
) -> None:
    await filled.upsert(LEGAL, [{"id": "bare"}])
    with pytest.raises(error, match=message):
        await filled.recommend(LEGAL, positive, negative)


async def test_a_recommendation_has_a_sane_size(knowledge: AsyncKnowledgeRepository) -> None:
    with pytest.raises(InvalidInputError, match="at most 1000 ids and hits together"):
        await knowledge.recommend(LEGAL, [1], limit=1000)
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
        await knowledge.recommend(LEGAL, [1], limit=0)


async def test_points_that_cancel_out_are_an_error(knowledge: AsyncKnowledgeRepository) -> None:
    await knowledge.upsert(LEGAL, [{"id": "a", "vector": VECTORS[0]}, {"id": "b", "vector": -VECTORS[0]}])
    with pytest.raises(InvalidVector, match="cancel out"):
        await knowledge.recommend(LEGAL, ["a", "b"])


async def test_a_limit_above_the_number_of_rows_returns_all(filled: AsyncKnowledgeRepository) -> None:
    assert len(await filled.query(LEGAL, VECTORS[0], limit=1000)) == 100
    assert len(await filled.query("general-knowledge", VECTORS[0], limit=1000)) == 0
    assert await filled.query_groups("general-knowledge", VECTORS[0], group_by="lang") == []
    (none,) = await filled.query_many("general-knowledge", [VECTORS[0]])
    assert list(none) == []


@pytest.mark.parametrize(
    ("vector", "error", "message"),
    [
        ([1.0], DimensionMismatch, "expected 1536 dimensions, got 1"),
        ([0.0] * 1536, InvalidVector, "zero vector"),
        ([float("nan")] * 1536, InvalidVector, "NaN"),
        (["x"] * 1536, InvalidVector, "flat sequence of numbers"),
    ],
)
async def test_a_wrong_vector_is_one_clear_error(
    knowledge: AsyncKnowledgeRepository, vector: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await knowledge.query(LEGAL, vector)
    with pytest.raises(error, match=message):
        await knowledge.query_many(LEGAL, [vector])
    with pytest.raises(error, match=message):
        await knowledge.query_groups(LEGAL, vector, group_by="lang")
    with pytest.raises(error, match=f"point 'x': .*{message}"):
        await knowledge.upsert(LEGAL, [{"id": "good", "vector": VECTORS[0]}, {"id": "x", "vector": vector}])
    assert await knowledge.count(LEGAL) == 0


async def test_wrong_arguments_are_clear_errors(knowledge: AsyncKnowledgeRepository) -> None:
    for limit in (0, -1, 1001):
        with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
            await knowledge.query(LEGAL, VECTORS[0], limit=limit)
        with pytest.raises(InvalidInputError, match="groups: expected 1 to"):
            await knowledge.query_groups(LEGAL, VECTORS[0], group_by="a", groups=limit)
    with pytest.raises(InvalidInputError, match="key: expected a path such as"):
        await knowledge.query_groups(LEGAL, VECTORS[0], group_by="a..b")
    with pytest.raises(InvalidFilter, match="no field 'lang'"):
        await knowledge.query(LEGAL, VECTORS[0], where=Filter(must=[eq("lang", "de")]))


UNKNOWN = [
    lambda one: one.query("nope", VECTORS[0]),
    lambda one: one.query_many("nope", [VECTORS[0]]),
    lambda one: one.query_groups("nope", VECTORS[0], group_by="a"),
    lambda one: one.recommend("nope", [1]),
    lambda one: one.upsert("nope", []),
    lambda one: one.retrieve("nope", [1]),
    lambda one: one.delete("nope", ids=[1]),
    lambda one: one.set_payload("nope", {}, ids=[1]),
    lambda one: one.overwrite_payload("nope", {}, ids=[1]),
    lambda one: one.delete_payload("nope", [], ids=[1]),
    lambda one: one.scroll("nope"),
    lambda one: one.count("nope"),
    lambda one: one.facet("nope", "a"),
    lambda one: one.import_qdrant("nope", []),
    lambda one: one.export_to("nope", "/nonexistent"),
    lambda one: one.describe_collection("nope"),
    lambda one: one.drop_collection("nope"),
    lambda one: one.query("'; DROP TABLE knowledge_points; --", VECTORS[0]),
    lambda one: one.count("%s $1 :a"),
]


@pytest.mark.parametrize("call", UNKNOWN)
async def test_an_unknown_collection_is_one_clear_error(
    knowledge: AsyncKnowledgeRepository, call: Any
) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        await call(knowledge)


async def test_only_the_collections_index_is_read_also_when_prepared(committed: AsyncDatabase) -> None:
    # Of eight directions: an index of those takes half the time to build.
    chance = np.random.default_rng(3)
    rows = (chance.normal(size=(5000, 8)) @ chance.normal(size=(8, 1536))).astype(np.float32)
    async with committed.begin() as uow:
        await load_unindexed(uow.session, committed.schema or "public", rows)
    async with committed.begin() as uow:
        # One more point: that also tells the planner what it must know of the many that were not upserted.
        await AsyncKnowledgeRepository(uow.session).upsert("plan", [{"id": "last", "vector": rows[0]}])
    half = Filter(must=[eq("payload.half", 0)])
    async with committed.session() as session:
        knowledge = AsyncKnowledgeRepository(session)
        for _ in range(12):
            for where in (None, half):
                found = await knowledge.query("plan", rows[0], where=where, explain=True)
                assert found.path is (SearchPath.HNSW if where is None else SearchPath.HNSW_ITERATIVE)
                assert found.hits[0].row.id in ("0", "last")
                scans = re.findall(
                    r"(Seq|Index|Bitmap \w+) Scan (?:using (\w+) )?on (knowledge_points\w*)", found.plan or ""
                )
                assert scans == [("Index", "knowledge_points_plan_embedding_idx", "knowledge_points_plan")]
                assert ("Sort Key: ((candidates.distance" in (found.plan or "")) == (where is not None)
        many = nearest_each(
            KnowledgePoint, list(rows[:3]), 10, None, partition("plan", KnowledgeDistance.COSINE)
        )
        plan = "\n".join(await session.scalars(Explain(many), {"collection": "plan"}))
        assert "knowledge_points_plan_embedding_idx" in plan
        assert "Seq Scan" not in plan
        assert (
            await knowledge.query("plan", rows[0], where=KnowledgePoint.id == "7")
        ).path is SearchPath.EXACT


async def load_unindexed(session: AsyncSession, schema: str, rows: Any) -> None:
    """The collection `plan`: built after the load, its index takes a fraction of the time."""
    await AsyncKnowledgeRepository(session).create_collection("plan")
    await session.execute(text(f"SET LOCAL search_path = {schema}, public, extensions"))
    await session.execute(text("SET LOCAL maintenance_work_mem = '256MB'"))
    own = "knowledge_points_plan"
    await session.execute(text(f"ALTER TABLE knowledge_points DETACH PARTITION {own}"))
    definition = await session.scalar(text(f"SELECT pg_get_indexdef('{own}_embedding_idx'::regclass)"))
    await session.execute(text(f"DROP INDEX {own}_embedding_idx"))
    columns = [table_of(KnowledgePoint).c[name] for name in ("collection", "id", "embedding", "payload")]
    values = (("plan", str(number), row, {"half": number % 2}) for number, row in enumerate(rows))
    await copy_rows(session, Table(own, MetaData()), columns, values)
    await session.execute(text(definition or ""))
    await session.execute(text(f"ALTER TABLE knowledge_points ATTACH PARTITION {own} FOR VALUES IN ('plan')"))
    await session.execute(text("RESET search_path"))


@pytest.mark.parametrize("change", ["switched", "moved by others", "made anew", "gone"])
async def test_a_name_is_taken_for_what_it_stands_for_now(
    uow: AsyncUnitOfWork, knowledge: AsyncKnowledgeRepository, change: str
) -> None:
    for name in ("first", "second"):
        await knowledge.create_collection(name)
        await knowledge.upsert(name, [{"id": name, "vector": VECTORS[0], "payload": {}}])
    await knowledge.set_aliases({"live": "first"})

    async def found() -> list[str]:
        return [hit.row.id for hit in await knowledge.query("live", VECTORS[0])]

    for _ in range(2):
        assert await found() == ["first"]
    if change == "switched":
        await knowledge.set_aliases({"live": "second"})
    elif change == "moved by others":  # by a statement that the library knows nothing of
        await uow.session.execute(update(KnowledgeAlias).values(collection="second"))
    else:
        await knowledge.drop_collection("first")
    if change == "gone":
        with pytest.raises(NotFoundError, match="live"):
            await found()
        return
    if change == "made anew":
        await knowledge.create_collection("live", distance=KnowledgeDistance.EUCLID)
        assert await found() == []
        await knowledge.upsert("live", [{"id": "new", "vector": 2 * VECTORS[0], "payload": {}}])
        (hit,) = await knowledge.query("live", VECTORS[0])
        assert hit.distance == pytest.approx(1.0, abs=1e-5)
        return
    for _ in range(2):
        assert await found() == ["second"]


async def test_a_collection_that_others_made_anew_is_compared_as_it_is_now(
    uow: AsyncUnitOfWork, knowledge: AsyncKnowledgeRepository
) -> None:
    await knowledge.create_collection("own")
    await knowledge.upsert("own", [{"id": "one", "vector": 2 * VECTORS[0], "payload": {}}])
    for distance, expected in ((KnowledgeDistance.COSINE, 0.0), (KnowledgeDistance.EUCLID, 1.0)):
        # By a statement that the library knows nothing of.
        await uow.session.execute(
            update(KnowledgeCollection).where(KnowledgeCollection.name == "own").values(distance=distance)
        )
        for _ in range(2):
            (hit,) = await knowledge.query("own", VECTORS[0])
            assert hit.distance == pytest.approx(expected, abs=1e-5)


async def test_a_search_is_planned_once_however_many_collections_there_are(
    committed: AsyncDatabase,
) -> None:
    async with committed.begin() as uow:
        await uow.knowledge.upsert(LEGAL, points())
    planned = text(
        "SELECT sum(custom_plans) FROM pg_prepared_statements WHERE statement LIKE '%knowledge_points.embedding <=>%'"
    )
    async with committed.begin() as uow:
        for _ in range(20):
            assert (await uow.knowledge.query(LEGAL, VECTORS[0])).hits
        assert await uow.session.scalar(planned) == 5  # as many as PostgreSQL makes before it keeps one
