from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import corpus
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Text, event, func, literal_column, select, text

from alfred_db import AsyncDatabase, Document, NewDocument
from alfred_db.errors import ConflictError, DimensionMismatch, InvalidInputError, InvalidVector, NotFoundError
from alfred_db.execution._async.search import estimate
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.documents import AsyncDocumentRepository
from alfred_db.search import SearchParams
from alfred_db.search.filters import Filter, contains, eq

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
KEYS = st.sampled_from(["a", "b", "'; --", "%s"])
UNIT = [1.0, *[0.0] * 383]


@pytest.fixture
def documents(uow: AsyncUnitOfWork) -> AsyncDocumentRepository:
    return AsyncDocumentRepository(uow.session)


async def count(repository: AsyncDocumentRepository) -> int:
    found = await repository._session.scalar(select(func.count()).select_from(Document))
    assert found is not None
    return found


async def test_a_document_is_stored_and_found_by_either_key(documents: AsyncDocumentRepository) -> None:
    stored = await documents.add("text", title="title", embedding=UNIT, metadata={"a": 1}, external_id="x")
    by_id, by_key = await documents.get(stored.id), await documents.get_by_external_id("x")
    assert by_id is by_key is stored
    assert (stored.content, stored.title, stored.metadata_) == ("text", "title", {"a": 1})
    vector = await documents._session.scalar(select(Document.embedding).where(Document.id == stored.id))
    assert vector is not None
    assert vector.tolist() == UNIT
    assert await documents.get(stored.id + 1) is None


async def test_storing_again_replaces_what_the_key_names(documents: AsyncDocumentRepository) -> None:
    first = await documents.add("old", title="t", external_id="x")
    second = await documents.add("new", external_id="x", metadata={"b": 2})
    assert second.id == first.id
    assert (second.content, second.title, second.metadata_) == ("new", None, {"b": 2})
    assert await documents.add("old") is not await documents.add("old")
    assert await count(documents) == 3


async def test_a_change_names_attributes(documents: AsyncDocumentRepository) -> None:
    stored = await documents.add("old", external_id="x")
    changed = await documents.update(stored.id, {"content": "new", "metadata": {"c": 3}})
    assert (changed.content, changed.metadata_, changed.external_id) == ("new", {"c": 3}, "x")
    with pytest.raises(InvalidInputError, match="nope"):
        await documents.update(stored.id, {"nope": 1})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(NotFoundError, match="does not exist"):
        await documents.update(stored.id + 1, {"content": "x"})


async def test_metadata_is_named_as_an_argument_or_as_an_attribute(
    documents: AsyncDocumentRepository,
) -> None:
    rows: list[Any] = [{"content": "a", "metadata": {"n": 1}}, {"content": "b", "metadata_": {"n": 2}}]
    rows += [Document(content="c", metadata_={"n": 3}), {"content": "d"}]
    for some in (rows, rows[:1], rows[1:3]):
        found = [await documents.get(one) for one in await documents.add_many(some)]
        wanted = [{"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}}.get(one and one.content) for one in found]  # type: ignore[arg-type]
        assert [one and one.metadata_ for one in found] == wanted
    twice: Any = {"content": "x", "metadata": {}, "metadata_": {}}
    with pytest.raises(InvalidInputError, match="metadata: passed twice"):
        await documents.add_many([twice])
    with pytest.raises(InvalidInputError, match="metadata: passed twice"):
        await documents.update(1, twice)


async def test_a_deleted_document_is_gone(documents: AsyncDocumentRepository) -> None:
    stored = await documents.add("text")
    await documents.delete(stored.id)
    with pytest.raises(NotFoundError, match=f"document {stored.id}: does not exist"):
        await documents.delete(stored.id)


async def test_many_are_stored_in_order(documents: AsyncDocumentRepository) -> None:
    seen: list[tuple[int, int]] = []
    rows: list[NewDocument] = [
        {"content": f"text {number}", "external_id": str(number)} for number in range(1100)
    ]
    vectors = np.random.default_rng(1).normal(size=(1100, 384))
    ids = await documents.add_many(
        rows,
        embeddings=list(vectors),
        progress=lambda done, total: seen.append((done, total)),
    )
    stored = (await documents._session.execute(select(Document.id, Document.external_id))).all()
    assert {row.external_id: row.id for row in stored} == {str(number): ids[number] for number in range(1100)}
    assert seen == [(1000, 1100), (1100, 1100)]
    assert await documents.add_many([]) == []


async def test_models_can_be_stored_in_bulk_too(documents: AsyncDocumentRepository) -> None:
    ids = await documents.add_many([Document(content="a", metadata_={"x": None}), Document(content=None)])
    found = [await documents.get(number) for number in ids]
    assert [document.content for document in found if document is not None] == ["a", None]


async def test_an_update_in_bulk_rewrites_only_what_differs(documents: AsyncDocumentRepository) -> None:
    rows: list[NewDocument] = [
        {"content": f"text {number}", "external_id": str(number)} for number in range(10)
    ]
    ids = await documents.add_many(rows, embeddings=[UNIT] * 10)
    before = await versions(documents)
    rows[3] = {"content": "changed", "external_id": "3"}
    again = await documents.add_many(
        [*rows, {"content": "new", "external_id": "new"}, {"content": "no key", "external_id": None}],
        embeddings=[UNIT] * 12,
        on_conflict="update",
    )
    after = await versions(documents)
    assert again[:10] == ids
    assert [key for key, version in before.items() if after[key] != version] == ["3"]
    assert await count(documents) == 12
    changed = await documents.get(ids[3])
    assert changed is not None
    assert changed.content == "changed"


async def versions(documents: AsyncDocumentRepository) -> dict[str | None, str]:
    """The server's own mark of each row's version."""
    marks = select(Document.external_id, literal_column("ctid::text", Text)).select_from(Document)
    return {row[0]: row[1] for row in await documents._session.execute(marks)}


async def test_known_rows_can_be_passed_over(documents: AsyncDocumentRepository) -> None:
    (known,) = await documents.add_many([{"content": "old", "external_id": "x"}])
    ids = await documents.add_many(
        [{"content": "new", "external_id": "x"}, {"content": "y", "external_id": "y"}], on_conflict="ignore"
    )
    assert ids[0] == known
    kept = await documents.get(known)
    assert kept is not None
    assert kept.content == "old"


async def test_of_rows_that_share_a_key_the_last_one_counts(documents: AsyncDocumentRepository) -> None:
    rows: list[NewDocument] = [{"content": letter, "external_id": "x"} for letter in ("a", "b", "c")]
    ids = await documents.add_many(rows, on_conflict="update")
    assert len(set(ids)) == 1
    stored = await documents.get(ids[0])
    assert stored is not None
    assert stored.content == "c"


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"content": "x", "nope": 1}, InvalidInputError, "Document: 'nope': no such attribute"),
        ({"content": 3}, InvalidInputError, "row 1: documents.content: expected a value for Text"),
        ({"content": "a\0b"}, InvalidInputError, "holds no NUL"),
        ({"content": "x", "metadata_": {"a": float("nan")}}, InvalidInputError, "row 1: documents.metadata"),
        ({"content": "x", "embedding": [1.0]}, DimensionMismatch, "expected 384 dimensions, got 1"),
        ({"content": "x", "embedding": [float("nan")] * 384}, InvalidVector, "NaN, infinite"),
        ({"content": "x", "embedding": [0.0] * 384}, InvalidVector, "zero vector"),
        ({"content": "x", "external_id": "known"}, ConflictError, "uq_documents_external_id"),
    ],
)
async def test_a_wrong_row_is_one_clear_error_and_costs_nothing_else(
    documents: AsyncDocumentRepository, row: dict[str, object], error: type[Exception], message: str
) -> None:
    await documents.add("kept", external_id="known")
    with pytest.raises(error, match=message):
        await documents.add_many([{"content": "good"}, row])  # type: ignore[list-item]
    assert await count(documents) == 1


async def test_there_is_a_vector_for_each_row(documents: AsyncDocumentRepository) -> None:
    with pytest.raises(InvalidInputError, match="expected 2 values, one a row, got 1"):
        await documents.add_many([{"content": "a"}, {"content": "b"}], embeddings=[UNIT])


async def test_pages_cover_everything_once(documents: AsyncDocumentRepository) -> None:
    ids = await documents.add_many([{"content": str(number)} for number in range(5)])
    first = await documents.list(limit=3)
    second = await documents.list(after=first.next, limit=3)
    assert [document.id for document in (*first, *second)] == ids
    assert second.next is None


async def test_two_writers_of_one_key_leave_one_document(committed: AsyncDatabase) -> None:
    async with committed.begin() as one:
        first = await AsyncDocumentRepository(one.session).add("a", external_id="x")
    async with committed.begin() as one, committed.session() as session:
        await AsyncDocumentRepository(one.session).add("b", external_id="other")
        second = await AsyncDocumentRepository(session).add("c", external_id="x")
        assert second.id == first.id


async def test_hybrid_search_finds_what_meaning_alone_does_not(documents: AsyncDocumentRepository) -> None:
    vectors, _ = corpus.vectors()
    real = corpus.documents()
    ids = await documents.add_many(
        [{"title": row["synset"], "content": row["text"]} for row in real], embeddings=list(vectors)
    )
    _, asked = corpus.vectors()
    by_meaning = by_both = 0
    for query, vector in list(zip(corpus.queries(), asked, strict=True))[::3]:
        gold = ids[query["gold"]]
        by_meaning += gold in {hit.row.id for hit in await documents.search(vector)}
        by_both += gold in {hit.row.id for hit in await documents.hybrid_search(query["text"], vector)}
    assert by_both > by_meaning


async def test_words_alone_find_documents_without_any_vector(documents: AsyncDocumentRepository) -> None:
    once = (await documents.add("a kettle", title="tea", metadata={"kind": "x"})).id
    other = (await documents.add("a long text about a kettle and other things", embedding=UNIT)).id
    await documents.add("a dog", embedding=UNIT)
    found = await documents.hybrid_search("kettle", None)
    assert [hit.row.id for hit in found] == [once, other]
    assert [(hit.distance, dict(hit.ranks)) for hit in found] == [(None, {"text": 1}), (None, {"text": 2})]
    assert [
        hit.row.id
        for hit in await documents.hybrid_search(
            "kettle", None, where=Filter(must=[eq("metadata.kind", "x")])
        )
    ] == [once]
    assert len(await documents.hybrid_search("", None)) == 0


async def test_documents_without_a_vector_are_not_found_by_meaning(
    documents: AsyncDocumentRepository,
) -> None:
    with_vector = await documents.add("brother", embedding=UNIT)
    without = await documents.add("brother")
    await documents._session.execute(text("SET LOCAL enable_indexscan = off"))
    assert [hit.row.id for hit in await documents.search(UNIT)] == [with_vector.id]
    assert [[hit.row.id for hit in hits] for hits in await documents.search_many([UNIT])] == [
        [with_vector.id]
    ]
    both = {hit.row.id: dict(hit.ranks) for hit in await documents.hybrid_search("brother", UNIT)}
    assert set(both) == {with_vector.id, without.id}
    assert "vector" not in both[without.id]


async def test_a_wrong_vector_in_an_update_names_its_column(documents: AsyncDocumentRepository) -> None:
    with pytest.raises(DimensionMismatch, match=r"row 0: documents\.embedding: expected 384"):
        await documents.add_many([{"external_id": "x"}], embeddings=[[1.0]], on_conflict="update")  # type: ignore[list-item]


CHARACTERS = "".join(map(chr, range(1, 256))) + "\u2028\ufeff\uffff😀\U0010ffff"
"""Every value of a byte but NUL, which PostgreSQL text cannot hold, as a character and in UTF-8."""


async def test_texts_of_every_character_round_trip(documents: AsyncDocumentRepository) -> None:
    row = {"content": CHARACTERS, "title": CHARACTERS[::-1], "metadata_": {CHARACTERS: [CHARACTERS]}}
    (copied,) = await documents.add_many([{**row, "external_id": CHARACTERS}], embeddings=[UNIT])  # type: ignore[list-item]
    bound = (await documents.add(CHARACTERS, title=CHARACTERS[::-1], metadata=row["metadata_"])).id  # type: ignore[arg-type]
    for number in (copied, bound):
        found = await documents.get(number)
        assert found is not None
        assert (found.content, found.title, found.metadata_) == tuple(row.values())
    known = await documents.get_by_external_id(CHARACTERS)
    assert known is not None
    assert known.id == copied
    where = Filter(must=[eq("external_id", CHARACTERS), contains("metadata", {CHARACTERS: [CHARACTERS]})])
    assert [hit.row.id for hit in await documents.search(UNIT, where=where)] == [copied]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS, st.none() | KEYS), max_size=8))
async def test_any_rows_with_nulls_and_duplicates_are_stored(
    documents: AsyncDocumentRepository, rows: list[tuple[str | None, str | None, str | None]]
) -> None:
    async with documents._session.begin_nested() as savepoint:
        mappings = [{"content": content, "title": title, "external_id": key} for content, title, key in rows]
        ids = await documents.add_many(mappings, on_conflict="update")  # type: ignore[arg-type]
        again = await documents.add_many(mappings, on_conflict="ignore")  # type: ignore[arg-type]
        last = {key: place for place, (_, _, key) in enumerate(rows)}
        for place, (content, title, key) in enumerate(rows):
            stored = await documents.get(ids[place])
            assert stored is not None
            if key is None or last[key] == place:
                assert (stored.content, stored.title, stored.external_id) == (content, title, key)
            if key is not None:
                assert ids[place] == ids[last[key]] == again[place]
        await savepoint.rollback()


async def test_fifty_thousand_rows_are_one_batch(documents: AsyncDocumentRepository) -> None:
    rows: list[NewDocument] = [
        {"content": str(number), "external_id": str(number % 49_999)} for number in range(50_000)
    ]
    ids = await documents.add_many(rows, on_conflict="update")
    assert (len(ids), ids[0] == ids[-1], len(set(ids))) == (50_000, True, 49_999)
    assert await count(documents) == 49_999
    stored = await documents.get(ids[-1])
    assert stored is not None
    assert stored.content == "49999"


async def test_a_limit_above_the_number_of_rows_returns_all(documents: AsyncDocumentRepository) -> None:
    for params in (SearchParams(), SearchParams(exact=True), SearchParams(exact=False)):
        assert len(await documents.search(UNIT, limit=1000, params=params)) == 0
    ids = set(await documents.add_many([{"content": "a"}, {"content": "b"}], embeddings=[UNIT] * 2))
    for params in (SearchParams(), SearchParams(exact=True), SearchParams(exact=False)):
        found = await documents.search(UNIT, limit=1000, params=params)
        assert {hit.row.id for hit in found} == ids
    assert [len(hits) for hits in await documents.search_many([UNIT] * 2, limit=1000)] == [2, 2]
    assert len(await documents.hybrid_search("a", UNIT, limit=50)) == 2


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        ([1.0] * 383, DimensionMismatch),
        ([float("nan")] * 384, InvalidVector),
        ([float("inf")] * 384, InvalidVector),
        ([0.0] * 384, InvalidVector),
        ([1e39] * 384, InvalidVector),
        ("[1,2]", InvalidVector),
        ([[1.0] * 384], InvalidVector),
    ],
    ids=["dimensions", "NaN", "infinite", "zero", "large", "text", "matrix"],
)
async def test_a_wrong_vector_is_one_clear_error_and_costs_nothing_else(
    documents: AsyncDocumentRepository, vector: Any, error: type[Exception]
) -> None:
    kept = await documents.add("kept", embedding=UNIT)
    for call in (
        lambda: documents.search(vector),
        lambda: documents.search_many([UNIT, vector]),
        lambda: documents.hybrid_search("kept", vector),
        lambda: documents.candidates(vector),
        lambda: documents.add("x", embedding=vector),
        lambda: documents.update(kept.id, {"embedding": vector}),
        lambda: documents.add_many([{"content": "x"}], embeddings=[vector]),
    ):
        with pytest.raises(error, match=r"documents\.embedding"):
            await call()
    assert [hit.row.id for hit in await documents.search(UNIT)] == [kept.id]


async def test_a_search_sees_what_the_session_has_not_written_yet(uow: AsyncUnitOfWork) -> None:
    vector = corpus.vectors()[0][0]
    uow.session.add(Document(content="pending", external_id="pending", embedding=vector))
    found = await uow.documents.search(vector, limit=1)
    assert [hit.row.external_id for hit in found] == ["pending"]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32])
async def test_a_matrix_is_stored_row_by_row(uow: AsyncUnitOfWork, kind: type[Any]) -> None:
    matrix = np.random.default_rng(5).integers(1, 1000, (600, 384)).astype(kind)
    ids = await uow.documents.add_many([{"content": str(n)} for n in range(600)], embeddings=matrix)
    statement = select(Document.id, Document.embedding).where(Document.id.in_(ids)).order_by(Document.id)
    found, stored = await uow.fetch_matrix(statement)
    assert found == ids
    assert (stored == matrix).all()


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN, infinite"), (np.inf, "NaN, infinite"), (0.0, "zero")]
)
@pytest.mark.parametrize("place", [0, 255, 256, 599])
async def test_the_row_of_a_matrix_that_is_wrong_is_named(
    uow: AsyncUnitOfWork, value: float, said: str, place: int
) -> None:
    matrix = np.random.default_rng(5).normal(size=(600, 384)).astype(np.float32)
    matrix[place] = value
    with pytest.raises(InvalidVector, match=rf"row {place}: documents\.embedding: .*{said}"):
        await uow.documents.add_many([{"content": "x"}] * 600, embeddings=matrix)


async def test_what_was_found_can_be_copied_and_pickled(documents: AsyncDocumentRepository) -> None:
    await documents.add("brother", embedding=UNIT, metadata={"a": [1]})
    where = Filter(must=[eq("metadata.a", [1])])
    for found in (
        # The index may hold nothing but what other tests have rolled back.
        await documents.search(UNIT, params=SearchParams(exact=True)),
        await documents.search(UNIT, where=where, params=SearchParams(exact=True)),
        await documents.hybrid_search("brother", UNIT),
        await documents.hybrid_search("brother", UNIT, where=where),
    ):
        for again in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert again == found
            ((hit,), (known,)) = again, found
            assert (hit.row.content, hit.row.metadata_, hit.ranks) == ("brother", {"a": [1]}, known.ranks)


async def test_an_estimate_is_kept_for_a_minute(
    documents: AsyncDocumentRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    module = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("alfred_db.execution._async.search.time", module)
    session, samples = documents._session, [0]

    def count(*args: Any) -> None:
        samples[-1] += "TABLESAMPLE" in args[2]

    engine = session.get_bind().engine
    event.listen(engine, "before_cursor_execute", count)
    try:
        for clock[0] in (1000.0, 1059.9, 1060.1):
            await estimate(session, Document, Document.external_id == "estimated once")
            samples.append(samples[-1])
    finally:
        event.remove(engine, "before_cursor_execute", count)
    assert samples == [1, 1, 2, 2]
