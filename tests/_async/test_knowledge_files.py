"""Dumps of Qdrant that are imported, and exports of collections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from alfred_db import AsyncDatabase, KnowledgeDistance, KnowledgePoint, NewKnowledgePoint
from alfred_db.errors import ConflictError, InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async import knowledge_points
from alfred_db.repositories._async.knowledge import AsyncKnowledgeRepository

LEGAL, SOCIAL = "legal-knowledge", "social-knowledge"
VECTORS = np.random.default_rng(5).normal(size=(60, 1536)).astype(np.float32)


@pytest.fixture
def knowledge(uow: AsyncUnitOfWork) -> AsyncKnowledgeRepository:
    return AsyncKnowledgeRepository(uow.session)


QDRANT = [
    {"id": 42, "payload": {"text": "one", "n": 1.5}, "vector": VECTORS[0].tolist()},
    {"id": "5c56c793-69f3-4fbf-87e6-c4bf54c28c26", "payload": None, "vector": VECTORS[1].tolist()},
]
PAGE = {
    "result": {
        "points": [{"id": 43, "payload": {"b": 2}, "vector": None, "shard_key": "x"}],
        "next_page_offset": 44,
    },
    "status": "ok",
}


async def test_a_dump_of_qdrant_is_imported(knowledge: AsyncKnowledgeRepository, tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    dump.write_text("\n".join(map(json.dumps, [*QDRANT, PAGE])) + "\n\n")
    reported: list[int] = []
    assert await knowledge.import_qdrant(LEGAL, dump, progress=reported.append) == 3
    assert reported == [3]
    found = await knowledge.retrieve(LEGAL, [42, QDRANT[1]["id"], 43], with_vectors=True)
    assert [(point.id, point.payload) for point in found] == [
        ("42", {"text": "one", "n": 1.5}),
        (QDRANT[1]["id"], {}),
        ("43", {"b": 2}),
    ]
    assert np.array_equal(found[0].embedding, VECTORS[0])  # type: ignore[arg-type]
    assert found[2].embedding is None
    assert (await knowledge.query(LEGAL, VECTORS[1], limit=1)).hits[0].score == pytest.approx(1, abs=1e-5)
    assert await knowledge.import_qdrant(LEGAL, (json.dumps(point).encode() for point in QDRANT)) == 2
    assert await knowledge.count(LEGAL) == 3


async def test_a_dump_comes_in_batches_and_with_named_vectors(
    knowledge: AsyncKnowledgeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge_points, "BATCH", 3)
    reported: list[int] = []
    vector = {"text": VECTORS[0].tolist(), "image": [1.0]}
    lines = [json.dumps({"id": n, "vector": vector}) for n in range(7)]
    assert await knowledge.import_qdrant(LEGAL, lines, vector_name="text", progress=reported.append) == 7
    assert reported == [3, 6, 7]
    assert len(await knowledge.query(LEGAL, VECTORS[0])) == 7
    only = json.dumps({"id": 1, "vector": {"": VECTORS[1].tolist()}})
    assert await knowledge.import_qdrant(LEGAL, [only]) == 1
    with pytest.raises(InvalidInputError, match="vector_name, of: 'image', 'text'"):
        await knowledge.import_qdrant(LEGAL, lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2: not JSON"),
        ("[1]", "line 2: expected an object, got list"),
        ('{"payload": {}}', "line 2: expected a point"),
        ('{"result": {"points": 3}}', "line 2: expected a point, or a page"),
        ('{"result": {"points": [3]}}', "line 2: expected a point with id"),
        (b"\xff\xfe", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"id": 2, "vector": [1.0]}', "point '2': .*expected 1536 dimensions, got 1"),
        ('{"id": 2, "payload": {"a": NaN}}', "point '2': payload"),
        ('{"id": 2, "payload": {"a": "\\u0000"}}', "point '2': payload"),
    ],
)
async def test_a_wrong_dump_is_one_clear_error(
    knowledge: AsyncKnowledgeRepository, line: str | bytes, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        await knowledge.import_qdrant(LEGAL, ['{"id": 1}', line])
    with pytest.raises(InvalidInputError, match="no such file"):
        await knowledge.import_qdrant(LEGAL, "/nonexistent/dump.jsonl")


async def test_an_export_restores_exactly_what_was_stored(
    knowledge: AsyncKnowledgeRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knowledge_points, "BATCH", 7)
    await knowledge.create_collection(
        "notes", distance=KnowledgeDistance.EUCLID, description="d", embedding_model="m", metadata={"ü": 1}
    )
    stored: list[NewKnowledgePoint] = [
        {"id": n, "vector": VECTORS[n] * 1e-30, "payload": {"n": n / 7, "t": 'ü\n\u2028"', "big": 2**60}}
        for n in range(25)
    ]
    stored += [{"id": "bare", "payload": {"a": None}}, {"id": "é'/..", "vector": VECTORS[30]}]
    await knowledge.upsert("notes", stored)
    folder = tmp_path / "a" / "export"
    reported: list[int] = []
    assert await knowledge.export_to("notes", folder, progress=reported.append) == 27
    assert reported == [7, 14, 21, 27]
    assert np.load(folder / "vectors.npy").shape == (26, 1536)
    before = await contents(knowledge, "notes")
    await knowledge.drop_collection("notes")
    assert await knowledge.import_from(folder) == 27
    assert await contents(knowledge, "notes") == before
    described = (await knowledge.describe_collection("notes")).collection
    assert (described.distance, described.description) == (KnowledgeDistance.EUCLID, "d")
    assert (described.embedding_model, described.metadata_) == ("m", {"ü": 1})
    assert await knowledge.import_from(folder, collection="copy") == 27
    await knowledge.set_aliases({"twin": "copy"})
    assert await knowledge.import_from(folder, collection="twin") == 27
    assert await contents(knowledge, "copy") == before
    with pytest.raises(ConflictError, match="exists with the distance cosine"):
        await knowledge.import_from(folder, collection=LEGAL)
    again = tmp_path / "again"
    await knowledge.export_to("copy", again)
    for name in ("points.jsonl", "vectors.npy"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


async def contents(knowledge: AsyncKnowledgeRepository, name: str) -> list[Any]:
    page = await knowledge.scroll(name, limit=1000, with_vectors=True)
    return [
        (point.id, point.payload, None if point.embedding is None else point.embedding.tobytes())
        for point in page
    ]


async def test_an_empty_collection_is_exported_too(
    knowledge: AsyncKnowledgeRepository, tmp_path: Path
) -> None:
    assert await knowledge.export_to(SOCIAL, tmp_path) == 0
    assert await knowledge.import_from(tmp_path) == 0
    await knowledge.upsert(SOCIAL, [{"id": 1}])
    assert await knowledge.export_to(SOCIAL, tmp_path) == 1
    assert await knowledge.import_from(tmp_path) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("collection.json", None, "no complete export, collection.json missing"),
        ("points.jsonl", None, "points.jsonl missing"),
        ("collection.json", "{}", "expected format 1"),
        ("collection.json", "x", "not JSON"),
        ("collection.json", '{"format": 1, "name": "x", "distance": "far"}', "needs a name and a distance"),
        ("points.jsonl", "", "0 points of 2"),
        ("points.jsonl", '{"id": "1", "vector": 9}\n', "line 1: vector 9 does not exist"),
        ("points.jsonl", "x\n", "line 1: not JSON"),
        ("vectors.npy", "x", "no array of vectors"),
    ],
)
async def test_a_wrong_export_is_one_clear_error(
    knowledge: AsyncKnowledgeRepository, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    await knowledge.upsert(LEGAL, [{"id": n, "vector": VECTORS[n]} for n in range(2)])
    await knowledge.export_to(LEGAL, tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        await knowledge.import_from(tmp_path)


async def test_a_failed_import_leaves_nothing(committed: AsyncDatabase) -> None:
    async def fail() -> None:
        async with committed.begin() as uow:
            await AsyncKnowledgeRepository(uow.session).import_qdrant(LEGAL, ['{"id": 1}', "x"])

    with pytest.raises(InvalidInputError, match="line 2"):
        await fail()
    async with committed.session() as session:
        assert await session.scalar(select(func.count()).select_from(KnowledgePoint)) == 0
