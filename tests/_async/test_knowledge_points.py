from __future__ import annotations

import json
import uuid
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Text, literal_column, select

from alfred_db import AsyncDatabase, KnowledgePoint, NewKnowledgePoint, qdrant_filter
from alfred_db.errors import InvalidFilter, InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.knowledge import AsyncKnowledgeRepository
from alfred_db.search.filters import Filter, contains, eq, exists, in_, range_, size
from alfred_db.values.knowledge import KnowledgeFacetCount

LEGAL, SOCIAL = "legal-knowledge", "social-knowledge"
VECTORS = np.random.default_rng(5).normal(size=(60, 1536)).astype(np.float32)
EVERY = Filter()


@pytest.fixture
def knowledge(uow: AsyncUnitOfWork) -> AsyncKnowledgeRepository:
    return AsyncKnowledgeRepository(uow.session)


@pytest.fixture
async def filled(knowledge: AsyncKnowledgeRepository) -> AsyncKnowledgeRepository:
    """Points 0 to 11 without vectors, and one of another collection that no call may touch."""
    await knowledge.upsert(LEGAL, [{"id": number, "payload": PAYLOADS[number]} for number in range(12)])
    await knowledge.upsert(SOCIAL, [{"id": 1, "payload": {"kept": True}}])
    return knowledge


PAYLOADS: list[dict[str, Any]] = [
    {
        "number": number,
        "lang": ("en", "de", "fr")[number % 3],
        "tags": [f"t{number % 4}", "all", "all"],
        "doc": {"name": f"d{number // 5}", "parts": [{"part": number}]},
        "even": number % 2 == 0,
        "at": f"2026-01-{number + 1:02}T00:00:00Z",
        **(
            {"note": None}
            if number < 2
            else {"note": []}
            if number < 4
            else {"note": "x"}
            if number < 6
            else {}
        ),
    }
    for number in range(12)
]


def random_text(length: int) -> str:
    """Text that does not compress."""
    return np.random.default_rng(1).bytes(length).hex()


async def payload(knowledge: AsyncKnowledgeRepository, id_: Any, collection: str = LEGAL) -> Any:
    (point,) = await knowledge.retrieve(collection, [id_])
    return point.payload


async def versions(knowledge: AsyncKnowledgeRepository) -> dict[str, str]:
    """The server's own mark of each row's version."""
    marks = select(KnowledgePoint.id, literal_column("ctid::text", Text)).where(
        KnowledgePoint.collection == LEGAL
    )
    return {row[0]: row[1] for row in await knowledge._session.execute(marks)}


async def test_points_are_returned_as_they_were_stored(knowledge: AsyncKnowledgeRepository) -> None:
    key = uuid.uuid4()
    stored: list[NewKnowledgePoint] = [
        {"id": 42, "vector": VECTORS[0], "payload": {"a": [1, None, {"b": "é\n\"'%s::;"}]}},
        {"id": key, "vector": list(map(float, VECTORS[1]))},
        {"id": "x'; DROP TABLE knowledge_points; --", "payload": {"big": "y" * 1_000_000}},
    ]
    assert await knowledge.upsert(LEGAL, stored) == 3
    found = await knowledge.retrieve(
        LEGAL, [stored[2]["id"], "none", str(key), 42, "42", key], with_vectors=True
    )
    assert [point.id for point in found] == [stored[2]["id"], str(key), "42"]
    assert [point.payload for point in found] == [stored[2]["payload"], {}, stored[0]["payload"]]
    assert found[0].embedding is None
    assert found[1].embedding is not None
    assert np.array_equal(found[1].embedding, VECTORS[1])
    assert await knowledge.retrieve(LEGAL, []) == []
    assert await knowledge.upsert(LEGAL, []) == 0


async def test_an_upsert_rewrites_only_what_differs(knowledge: AsyncKnowledgeRepository) -> None:
    rows: list[NewKnowledgePoint] = [{"id": n, "vector": VECTORS[n], "payload": {"n": n}} for n in range(20)]
    await knowledge.upsert(LEGAL, rows)
    before = await versions(knowledge)
    rows[3] = {**rows[3], "payload": {"n": "new"}}
    rows[5] = {**rows[5], "vector": VECTORS[50]}
    assert await knowledge.upsert(LEGAL, [*rows, {"id": "more"}]) == 3
    after = await versions(knowledge)
    assert {key for key in after if before.get(key) != after[key]} == {"3", "5", "more"}
    assert await payload(knowledge, 3) == {"n": "new"}
    assert (await knowledge.query(LEGAL, VECTORS[50], limit=1)).hits[0].row.id == "5"
    assert await knowledge.count(LEGAL) == 21


async def test_of_points_that_share_an_id_the_last_one_counts(knowledge: AsyncKnowledgeRepository) -> None:
    ids: list[int | str] = [7, "7", 8, 7]
    many: list[NewKnowledgePoint] = [{"id": key, "payload": {"n": n}} for n, key in enumerate(ids)]
    assert await knowledge.upsert(LEGAL, many) == 2
    assert await payload(knowledge, 7) == {"n": 3}


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"vector": VECTORS[0]}, "point 1: expected a mapping with id"),
        ({"id": 1, "text": "x"}, "point 1: expected a mapping with id"),
        ("x", "point 1: expected a mapping with id"),
        ({"id": ""}, "point id: expected an integer"),
        ({"id": None}, "point id: expected an integer"),
        ({"id": True}, "point id: expected an integer"),
        ({"id": 1.5}, "point id: expected an integer"),
        ({"id": "a\0b"}, "NUL"),
        ({"id": random_text(5000)}, "shorten"),
        ({"id": "x", "payload": [1]}, "payload: expected a mapping"),
        ({"id": "x", "payload": {"a": float("nan")}}, "point 'x': payload"),
        ({"id": "x", "payload": {"a": "b\0"}}, "point 'x': payload: .*NUL"),
        ({"id": "x", "payload": {"a": {1, 2}}}, "point 'x': payload"),
        ({"id": "x", "payload": {"a": "\ud800"}}, "use a value|surrogate"),
    ],
)
async def test_a_wrong_point_is_one_clear_error(
    knowledge: AsyncKnowledgeRepository, point: Any, message: str
) -> None:
    async with knowledge._session.begin_nested():
        with pytest.raises(InvalidInputError, match=message):
            async with knowledge._session.begin_nested():
                await knowledge.upsert(LEGAL, [{"id": "good"}, point])
    assert await knowledge.count(LEGAL) == 0


async def test_a_thousand_points_are_one_upsert(knowledge: AsyncKnowledgeRepository) -> None:
    rows: list[NewKnowledgePoint] = [{"id": n, "payload": {"n": n}} for n in range(1500)]
    assert await knowledge.upsert(LEGAL, rows) == 1500
    assert await knowledge.count(LEGAL) == 1500


async def test_points_are_removed_by_id_or_filter(filled: AsyncKnowledgeRepository) -> None:
    assert await filled.delete(LEGAL, ids=[1, "2", "none"]) == 2
    assert await filled.delete(LEGAL, where=Filter(must=[eq("payload.lang", "de")])) == 3
    assert await filled.delete(LEGAL, where=KnowledgePoint.id == "3") == 1
    assert await filled.count(LEGAL) == 6
    assert await filled.delete(LEGAL, ids=[]) == 0
    assert await filled.delete(LEGAL, where=EVERY) == 6
    assert await filled.count(SOCIAL) == 1


async def test_a_payload_is_set_overwritten_and_pruned(filled: AsyncKnowledgeRepository) -> None:
    assert await filled.set_payload(LEGAL, {"lang": "it", "new'; --": [1]}, ids=[0, 1, "none"]) == 2
    assert await payload(filled, 1) == {**PAYLOADS[1], "lang": "it", "new'; --": [1]}
    before = await versions(filled)
    assert await filled.set_payload(LEGAL, {"lang": "it"}, ids=[0, 1]) == 0
    assert await versions(filled) == before
    assert (
        await filled.overwrite_payload(LEGAL, {"only": 1}, where=Filter(must=[eq("payload.lang", "it")])) == 2
    )
    assert await payload(filled, 0) == {"only": 1}
    assert await filled.delete_payload(LEGAL, ["lang", "number", "nope", "x'y"], ids=[0, 5]) == 1
    assert await payload(filled, 5) == {k: v for k, v in PAYLOADS[5].items() if k not in ("lang", "number")}
    assert await filled.overwrite_payload(LEGAL, {}, where=EVERY) == 12
    assert await filled.facet(LEGAL, "lang") == []
    assert await payload(filled, 1, SOCIAL) == {"kept": True}


async def test_a_change_of_payload_keeps_the_vector_and_the_time(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await AsyncKnowledgeRepository(uow.session).upsert(LEGAL, [{"id": 1, "vector": VECTORS[0]}])
    async with committed.begin() as uow:
        knowledge = AsyncKnowledgeRepository(uow.session)
        await knowledge.set_payload(LEGAL, {"a": 1}, ids=[1])
        (point,) = await knowledge.retrieve(LEGAL, [1], with_vectors=True)
        assert point.updated_at > point.created_at
        assert point.embedding is not None
        assert np.array_equal(point.embedding, VECTORS[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda one: one.delete(LEGAL),
        lambda one: one.delete(LEGAL, ids=[1], where=EVERY),
        lambda one: one.set_payload(LEGAL, {"a": 1}),
        lambda one: one.overwrite_payload(LEGAL, {"a": 1}, ids=[1], where=EVERY),
        lambda one: one.delete_payload(LEGAL, ["a"]),
        lambda one: one.delete(LEGAL, ids="12"),
        lambda one: one.delete_payload(LEGAL, "lang", ids=[1]),
        lambda one: one.set_payload(LEGAL, [1], ids=[1]),
        lambda one: one.set_payload(LEGAL, {"a": float("inf")}, ids=[1]),
        lambda one: one.set_payload(LEGAL, {"a": "\0"}, ids=[1]),
        lambda one: one.set_payload(LEGAL, {"a": object()}, ids=[1]),
        lambda one: one.retrieve(LEGAL, [None]),
        lambda one: one.facet(LEGAL, ""),
        lambda one: one.facet(LEGAL, "lang", limit=0),
        lambda one: one.scroll(LEGAL, limit=0),
        lambda one: one.scroll(LEGAL, after="x"),
        lambda one: one.count(LEGAL, where=Filter(must=[eq("nope", 1)])),
    ],
)
async def test_a_wrong_call_changes_nothing(filled: AsyncKnowledgeRepository, call: Any) -> None:
    before = await versions(filled)
    with pytest.raises(InvalidInputError):
        await call(filled)
    assert await versions(filled) == before


async def test_pages_cover_everything_once(filled: AsyncKnowledgeRepository) -> None:
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await filled.scroll(LEGAL, after=after, limit=5)
        seen += [point.id for point in page]
        after = page.next
        if after is None:
            break
    assert sorted(seen, key=int) == [str(number) for number in range(12)]
    german = await filled.scroll(LEGAL, where=Filter(must=[eq("payload.lang", "de")]), with_vectors=True)
    assert sorted(point.payload["number"] for point in german) == [1, 4, 7, 10]
    assert {point.embedding is None for point in german} == {True}


async def test_a_facet_counts_the_values(filled: AsyncKnowledgeRepository) -> None:
    assert await filled.facet(LEGAL, "lang") == [KnowledgeFacetCount(name, 4) for name in ("de", "en", "fr")]
    assert await filled.facet(LEGAL, "doc.name", limit=2) == [
        KnowledgeFacetCount("d0", 5),
        KnowledgeFacetCount("d1", 5),
    ]
    assert (await filled.facet(LEGAL, "tags"))[0] == KnowledgeFacetCount("all", 12)
    assert await filled.facet(LEGAL, "even") == [KnowledgeFacetCount(False, 6), KnowledgeFacetCount(True, 6)]
    assert await filled.facet(LEGAL, "number", where=Filter(must=[range_("payload.number", gte=11)])) == [
        KnowledgeFacetCount(11, 1)
    ]
    assert await filled.facet(LEGAL, "note") == [KnowledgeFacetCount("x", 2)]
    assert await filled.facet(LEGAL, "doc") == []
    assert await filled.facet(LEGAL, '"\'; --"."%s"') == []
    assert await filled.facet(LEGAL, "doc.parts[].part", limit=1) == [KnowledgeFacetCount(0, 1)]
    await filled.upsert(
        LEGAL, [{"id": "mixed", "payload": {"even": [1, 1.0, True, "b", "B", "b", None, {}]}}]
    )
    assert await filled.facet(LEGAL, "even") == [
        KnowledgeFacetCount(True, 7),
        KnowledgeFacetCount(False, 6),
        KnowledgeFacetCount(1, 1),
        KnowledgeFacetCount(1.0, 1),
        KnowledgeFacetCount("B", 1),
        KnowledgeFacetCount("b", 1),
    ]


async def test_a_uuid_is_one_point_however_it_is_spelled(knowledge: AsyncKnowledgeRepository) -> None:
    one = uuid.uuid4()
    spelled = [str(one), str(one).upper(), one.hex, one.hex.upper(), one.urn, f"{{{one}}}", one]
    assert await knowledge.upsert(LEGAL, [{"id": id_, "payload": {"n": 1}} for id_ in spelled]) == 1  # type: ignore[typeddict-item]
    await knowledge.upsert(LEGAL, [{"id": one.hex, "payload": {"n": 2}}])
    await knowledge.upsert(LEGAL, [{"id": "other"}])
    assert await knowledge.count(LEGAL) == 2
    for id_ in spelled:
        (found,) = await knowledge.retrieve(LEGAL, [id_])  # type: ignore[list-item]
        assert (found.id, found.payload) == (str(one), {"n": 2})
        assert await knowledge.set_payload(LEGAL, {"seen": str(id_)}, ids=[id_]) == 1  # type: ignore[list-item]
        where = qdrant_filter({"must_not": [{"has_id": [str(id_)]}]})
        assert [point.id for point in await knowledge.scroll(LEGAL, where=where)] == ["other"]
        async with knowledge._session.begin_nested() as undone:
            assert await knowledge.delete(LEGAL, ids=[id_]) == 1  # type: ignore[list-item]
            await undone.rollback()
        await knowledge.overwrite_payload(LEGAL, {"n": 2}, ids=[id_])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"must": [{"key": "lang", "match": {"value": "de"}}]}, {1, 4, 7, 10}),
        ({"must": {"key": "lang", "match": {"value": "de"}}, "should": None}, {1, 4, 7, 10}),
        ({"must": [{"key": "tags", "match": {"value": "t3"}}]}, {3, 7, 11}),
        ({"must": [{"key": "tags[]", "match": {"value": "t3"}}]}, {3, 7, 11}),
        ({"must": [{"key": "doc.name", "match": {"any": ["d1", "d2"]}}]}, set(range(5, 12))),
        ({"must": [{"key": "doc.parts[].part", "match": {"value": 9}}]}, {9}),
        ({"must": [{"key": "lang", "match": {"except": ["de", "fr"]}}]}, {0, 3, 6, 9}),
        ({"must": [{"key": "note", "match": {"except": ["x"]}}]}, set()),
        ({"must": [{"key": "lang", "match": {"any": []}}]}, set()),
        ({"must": [{"key": "even", "match": {"value": True}}]}, {0, 2, 4, 6, 8, 10}),
        ({"must": [{"key": "number", "range": {"gte": 3, "lt": 5, "gt": None}}]}, {3, 4}),
        ({"must": [{"key": "at", "range": {"gte": "2026-01-11T00:00:00Z"}, "match": None}]}, {10, 11}),
        ({"must": [{"has_id": [1, "2", 99]}]}, {1, 2}),
        ({"must": [{"is_null": {"key": "note"}}]}, {0, 1}),
        ({"must": [{"is_empty": {"key": "note"}}]}, {0, 1, 2, 3, 6, 7, 8, 9, 10, 11}),
        ({"must_not": [{"is_empty": {"key": "note"}}]}, {4, 5}),
        ({"must": [{"key": "tags", "values_count": {"gt": 2}}]}, set(range(12))),
        ({"must": [{"key": "note", "values_count": {"gte": 1}}]}, {4, 5}),
        (
            {
                "should": [{"has_id": [0]}, {"must": [{"key": "lang", "match": {"value": "fr"}}]}],
                "must_not": [{"key": "number", "range": {"gt": 5}}],
            },
            {0, 2, 5},
        ),
        ({"must": [{"key": '"lang\'; --"', "match": {"value": "%s :a $1"}}]}, set()),
        ({}, set(range(12))),
    ],
)
async def test_filters_of_qdrant_select_what_they_describe(
    filled: AsyncKnowledgeRepository, given: dict[str, Any], expected: set[int]
) -> None:
    where = qdrant_filter(given)
    assert {int(point.id) for point in await filled.scroll(LEGAL, where=where)} == expected
    assert await filled.count(LEGAL, where=Filter.from_dict(where.as_dict())) == len(expected)
    assert await filled.delete(LEGAL, where=where) == len(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_should": {}}, "filter.min_should: expected conditions, and min_count from 1"),
        ({"min_should": {"conditions": [], "min_count": 0}}, "min_count from 1"),
        ({"must": [{"nested": {}}]}, r"filter.must\[0\].nested: expected key and filter"),
        (
            {"must": [{"nested": {"key": "a", "filter": {"must": [{"has_id": [1]}]}}}]},
            "has_id is about points",
        ),
        ({"must": [{"key": "a", "geo_radius": {}}]}, "expected center and radius"),
        ({"must": [{"key": "a", "geo_radius": {"center": {"lat": 91, "lon": 0}, "radius": 1}}]}, "-90 to 90"),
        (
            {"must": [{"key": "a", "geo_bounding_box": {"top_left": {}}}]},
            "expected top_left and bottom_right",
        ),
        ({"must": [{"key": "a", "geo_polygon": {}}]}, "'geo_polygon' is not supported"),
        ({"must": [{"key": "a", "match": {"text": 1}}]}, "match.text: expected a text, got int"),
        ({"must": [{"key": "a", "match": {"text": "a\0"}}]}, "NUL"),
        ({"must": [{"key": "a", "match": {"value": "\ud800"}}]}, "surrogate"),
        ({"must": [{"key": "a", "match": {"value": 1.5}}]}, "use `range` for other numbers"),
        ({"must": [{"key": "a", "match": {"value": 1}, "range": {"gt": 1}}]}, "'match, range' is not supp"),
        ({"must": [{"key": "a", "match": {"value": {"b": 1}}}]}, "expected a text, a whole number"),
        ({"must": [{"key": "a", "match": {"any": "x"}}]}, "expected an array"),
        ({"must": [{"key": "a", "is_empty": 1}]}, "expected true or false"),
        ({"must": [{"key": "a", "range": {"gt": "x"}}]}, "all numbers, or all times"),
        ({"must": [{"key": "a", "range": {"gt": 1, "lt": "2024-01-01"}}]}, "all numbers, or all times"),
        ({"must": [{"key": "a", "range": {"gt": float("nan")}}]}, "all numbers, or all times"),
        ({"must": [{"key": "a", "range": {"about": 1}}]}, "expected some of gt, gte, lt, lte"),
        ({"must": [{"key": "a", "values_count": {"gt": 1.5}}]}, "whole numbers"),
        ({"must": [{"has_id": [1.5]}]}, r"filter.must\[0\].has_id: point id"),
        ({"must": [{"has_vector": ""}]}, "'has_vector' is not supported"),
        *(
            ({"must": [{"key": key, "match": {"value": 1}}]}, "expected a path")
            for key in ("", ".a", "a.", "a..b", "[]", "a[b]", "a[", 'a"b"', "a b", "a\0", "\ud800", '"a', 5)
        ),
        ({"must": [{"is_null": {}}]}, "expected a path"),
        ({"must": "x"}, "expected an array"),
        ({"must": ["x"]}, "expected an object"),
        ([], "expected an object"),
    ],
)
def test_what_a_filter_of_qdrant_cannot_express_is_named(given: Any, message: str) -> None:
    with pytest.raises(InvalidFilter, match=message):
        qdrant_filter(given)


def test_a_filter_of_qdrant_has_a_sane_depth() -> None:
    given: dict[str, Any] = {}
    for _ in range(20):
        given = {"must": [given]}
    with pytest.raises(InvalidFilter, match="more than 8 filters"):
        qdrant_filter(given)


async def test_the_size_of_a_field_is_how_many_elements_it_has(filled: AsyncKnowledgeRepository) -> None:
    assert await filled.count(LEGAL, where=Filter(must=[size("payload.tags", gte=3, lte=3)])) == 12
    assert await filled.count(LEGAL, where=Filter(must=[size("payload.none", gt=0)])) == 0
    both = Filter(must=[exists("payload.note")], must_not=[size("payload.note", gt=0)])
    assert await filled.count(LEGAL, where=both) == 2
    for wrong in ({"gt": "x"}, {"gt": True}, {}):
        with pytest.raises(InvalidFilter, match="size"):
            await filled.count(
                LEGAL, where=Filter.from_dict({"must": [{"field": "payload.a", "size": wrong}]})
            )


VALUES: list[Any] = [
    [], ["a"], ["a", "b"], ["b", "a"], [["a"]], [None], {}, {"x": 1}, {"x": 1, "y": 2}, {"x": {"y": 1}}, {"x": None},
    "a", "", 1, 0, True, False, None, 1.5, [1, "1", True],
]  # fmt: skip


async def test_equal_is_equal_and_not_contained(knowledge: AsyncKnowledgeRepository) -> None:
    stored = {str(number): {"v": value, "deep": {"er": value}} for number, value in enumerate(VALUES)}
    await knowledge.upsert(LEGAL, [{"id": id_, "payload": payload} for id_, payload in stored.items()])
    await knowledge.upsert(LEGAL, [{"id": "without"}])

    async def found(where: Filter) -> set[str]:
        assert Filter.from_dict(json.loads(json.dumps(where.as_dict()))) == where
        return {point.id for point in await knowledge.scroll(LEGAL, where=where)}

    for number, value in enumerate(VALUES):
        for key in ("payload.v", "payload.deep.er"):
            assert await found(Filter(must=[eq(key, value)])) == {str(number)}
            assert await found(Filter(must_not=[eq(key, value)])) == {*stored, "without"} - {str(number)}
            assert await found(Filter(must=[in_(key, [value, "none"])])) == {str(number)}
    assert await found(Filter(must=[contains("payload.v", ["a"])])) == {"1", "2", "3"}
    assert await found(Filter(must=[contains("payload.v", {"x": 1})])) == {"7", "8"}
    twice = Filter(should=[eq("payload.v", 1), exists("payload.v"), contains("payload.v", {})], min_should=2)
    assert await found(twice) == {"6", "7", "8", "9", "10", "13"}


@pytest.mark.parametrize("count", [3, 150])
async def test_points_that_exist_can_stay_as_they_are(filled: AsyncKnowledgeRepository, count: int) -> None:
    """Few points are stored by one statement, many by COPY."""
    before = {point.id: point.payload for point in await filled.scroll(LEGAL)}
    points: list[NewKnowledgePoint] = [
        {"id": number, "payload": {"other": number}} for number in range(11, 11 + count)
    ]
    assert await filled.upsert(LEGAL, points, on_conflict="ignore") == count - 1
    assert {point.id: point.payload for point in await filled.scroll(LEGAL, limit=1000)} == {
        **{str(number): {"other": number} for number in range(12, 11 + count)},
        **before,
    }
    assert await filled.upsert(LEGAL, points, on_conflict="ignore") == 0
    assert await filled.upsert(LEGAL, points) == 1
    with pytest.raises(InvalidInputError, match="on_conflict"):
        await filled.upsert(LEGAL, points, on_conflict="error")  # type: ignore[arg-type]


async def test_points_are_scrolled_from_the_greatest_id(filled: AsyncKnowledgeRepository) -> None:
    everything = [point.id for point in await filled.scroll(LEGAL)]
    for where in (None, Filter(must=[eq("payload.even", True)])):
        expected = [one for one in everything if where is None or int(one) % 2 == 0][::-1]
        found: list[str] = []
        after = None
        while True:
            page = await filled.scroll(LEGAL, where=where, after=after, limit=4, descending=True)
            found += [point.id for point in page]
            if (after := page.next) is None:
                break
        assert found == expected
