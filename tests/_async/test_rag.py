from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import corpus
import pytest
from plans import Explain
from sqlalchemy import event, func, insert, select, text

from alfred_db import AsyncDatabase, Document, RagQuery, RagQueryDocument, RagSession
from alfred_db.errors import ConflictError, DimensionMismatch, InvalidInputError, NotFoundError
from alfred_db.execution._async.bulk import add_many
from alfred_db.queries import rag as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.documents import AsyncDocumentRepository
from alfred_db.repositories._async.rag import AsyncRagRepository
from alfred_db.search import Hit
from alfred_db.values.rag import RagContext, RagSource, packed

UNIT = [*[0.0] * 383, 1.0]
OTHER = [*[0.0] * 382, 0.6, 0.8]
BETWEEN = [*[0.0] * 382, 0.28, 0.96]
HOSTILE = (
    """'); DROP TABLE rag_queries; -- " \\' $$ $1 %s %(x)s :name ::text {0}""",
    "żółć 日本語 🦉 \u202e\u200b ﷽ \U0010ffff",
    "word " * 200_000,
)


@pytest.fixture
def rag(uow: AsyncUnitOfWork) -> AsyncRagRepository:
    return AsyncRagRepository(uow.session)


@pytest.fixture
def documents(uow: AsyncUnitOfWork) -> AsyncDocumentRepository:
    return AsyncDocumentRepository(uow.session)


async def library(documents: AsyncDocumentRepository) -> list[int]:
    """Ids of 400 real glosses."""
    rows = [{"title": row["synset"], "content": row["text"]} for row in corpus.documents()[:400]]
    return await documents.add_many(rows, embeddings=corpus.vectors()[0][:400])  # type: ignore[arg-type]


def made_up(*texts: tuple[str | None, str | None]) -> list[Hit]:
    return [
        Hit(cast("Any", SimpleNamespace(id=number, title=title, content=content)), 0.5, 0.5)
        for number, (title, content) in enumerate(texts, start=1)
    ]


@contextmanager
def statements(rag: AsyncRagRepository) -> Iterator[list[str]]:
    """What is sent to the server meanwhile."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    engine = rag._session.get_bind().engine
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


async def test_opening_again_resumes(rag: AsyncRagRepository) -> None:
    first = await rag.open("s", context="birds")
    known = first.id
    assert (first.session_id, first.context) == ("s", "birds")
    with statements(rag) as sent:
        again = await rag.open("s")
    assert (again.id, again.context) == (known, "birds")
    assert [statement.split()[0] for statement in sent] == ["SELECT"]
    assert (await rag.open("s", context="owls")).context == "owls"
    assert (await rag.open("s")).context == "owls"
    assert (await rag.open("t")).id != known
    assert await rag._session.scalar(select(func.count()).select_from(RagSession)) == 2
    with pytest.raises(InvalidInputError, match="session_id: expected 1 to"):
        await rag.open("")
    with pytest.raises(InvalidInputError, match="session_id: holds a NUL"):
        await rag.open("a\0b")


async def test_a_context_is_built_from_the_nearest_documents(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository
) -> None:
    near = await documents.add("Owls hunt by night.", title="Owls", embedding=UNIT, metadata={"kind": "bird"})
    blank = await documents.add("  ", embedding=BETWEEN)
    far = await documents.add("  A barn is a building.\n", embedding=OTHER)
    context = await rag.build_context(UNIT)
    assert context.text == "[1] Owls\nOwls hunt by night.\n\n[3] A barn is a building."
    assert not context.truncated
    assert [(source.document_id, source.rank, source.title) for source in context.sources] == [
        (near.id, 1, "Owls"),
        (far.id, 3, None),
    ]
    assert [source.distance for source in context.sources] == pytest.approx([0, 0.2], abs=1e-6)
    assert [source.chars for source in context.sources] == [24, 21]
    assert blank.id not in {source.document_id for source in context.sources}
    by_word = await rag.build_context(UNIT, "barn building", limit=1)
    assert by_word.text == "[1] A barn is a building."
    of_birds = await rag.build_context(OTHER, where=Document.metadata_.contains({"kind": "bird"}))
    assert of_birds.text == "[1] Owls\nOwls hunt by night."
    assert (await rag.build_context(UNIT, " ", limit=1)).text == of_birds.text
    short = await rag.build_context(UNIT, max_chars=20)
    assert (short.text, short.truncated) == ("[1] Owls\nOwls hunt", True)
    assert [(source.document_id, source.chars) for source in short.sources] == [(near.id, 14)]


async def test_a_document_without_a_vector_is_found_by_word(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository
) -> None:
    stored = await documents.add("An owl.")
    context = await rag.build_context(UNIT, "owls")
    assert context.sources == (RagSource(stored.id, None, None, 1, 7),)
    query = await rag.record(await rag.open("s"), "owls?", context=context)
    (recorded,) = await rag.history(query.session_id or 0)
    assert [document.distance for document in recorded.documents] == [None]


async def test_no_context_is_too_long_or_ends_within_a_word(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository
) -> None:
    await library(documents)
    _, asked = corpus.vectors()
    for query, vector in itertools.islice(zip(corpus.queries(), asked, strict=True), 3):
        whole = await rag.build_context(vector, query["text"], limit=4)
        assert not whole.truncated
        assert len(whole.sources) == 4
        hits = (await documents.hybrid_search(query["text"], vector, limit=4)).hits
        for most in range(1, len(whole.text) + 2):
            context = packed(hits, most)
            assert len(context.text) <= most
            assert whole.text.startswith(context.text)
            assert context.truncated == (context.text != whole.text)
            assert context.text == context.text.rstrip()
            assert not context.truncated or whole.text[len(context.text)].isspace() or not context.text
            assert [source.rank for source in context.sources] == list(range(1, len(context.sources) + 1))
            assert all(f"[{source.rank}] {source.title}" in whole.text for source in context.sources)
            starts = sum(len(f"[{source.rank}] ") for source in context.sources)
            parted = 2 * max(len(context.sources) - 1, 0)
            assert sum(source.chars for source in context.sources) + starts + parted == len(context.text)


@pytest.mark.parametrize(
    ("texts", "most", "expected"),
    [
        ([], 10, ""),
        ([(None, None), ("", " ")], 10, ""),
        ([("Title", None)], 100, "[1] Title"),
        ([("a b", "c d")], 9, "[1] a b\nc"),
        ([("a b", "c d")], 8, "[1] a b"),
        ([(None, "ab cd"), (None, "e")], 8, "[1] ab"),
        ([(None, "ab cd"), (None, "e")], 5, ""),
        ([(None, "ab"), (None, "toolong"), (None, "c")], 16, "[1] ab"),
        ([(None, "ab   cd")], 8, "[1] ab"),
        ([(None, "日" * 100)], 54, "[1] " + "日" * 50),
        ([(None, "日" * 100)], 24, ""),
        ([(None, "x" * 30 + " " + "y" * 100)], 60, "[1] " + "x" * 30),
        ([(None, "a" * 10)], 1, ""),
    ],
)
def test_documents_are_packed(texts: list[tuple[str | None, str | None]], most: int, expected: str) -> None:
    context = packed(made_up(*texts), most)
    assert context.text == expected
    bodies = ["\n".join(part.strip() for part in parts if part and part.strip()) for parts in texts]
    assert context.truncated == (sum(source.chars for source in context.sources) < sum(map(len, bodies)))


@pytest.mark.parametrize("most", [0, -1, 10_000_001])
async def test_wrong_input_is_one_clear_error(rag: AsyncRagRepository, most: int) -> None:
    with pytest.raises(InvalidInputError, match="max_chars: expected 1 to"):
        await rag.build_context(UNIT, max_chars=most)
    with pytest.raises(InvalidInputError, match="limit: expected 1 to"):
        await rag.build_context(UNIT, limit=0)
    with pytest.raises(DimensionMismatch, match="expected 384 dimensions, got 3"):
        await rag.build_context([1, 2, 3], "text")
    session = await rag.open("s")
    for query, response in (("a\0b", None), ("x", "a\0b"), ("a\ud800b", None)):
        with pytest.raises(InvalidInputError, match=r"NUL|surrogate"):
            await rag.record(session, query, response=response)


async def test_a_context_of_the_callers_own_is_checked(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository
) -> None:
    session, document = await rag.open("s"), (await documents.add("x")).id
    good = RagSource(document, None, None, 1, 1)
    for sources, error in (
        ((good, good), ConflictError),
        ((RagSource(document, None, None, 0, 1),), InvalidInputError),
        ((RagSource(document, None, None, 2**40, 1),), InvalidInputError),
    ):
        savepoint = await rag._session.begin_nested()
        with pytest.raises(error):
            await rag.record(session, "?", context=RagContext("x", sources, False))
        await savepoint.rollback()
    unknown = RagSource(document + 1, None, None, 2, 1)
    await rag.record(session, "?", context=RagContext("x", (good, unknown), False))
    (query,) = await rag.history(session)
    assert [used.document_id for used in query.documents] == [document]


async def test_a_question_is_recorded_with_its_sources_in_one_round_trip(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository
) -> None:
    await library(documents)
    vector, question = corpus.vectors()[1][0], corpus.queries()[0]["text"]
    session = await rag.open("s")
    context = await rag.build_context(vector, question)
    with statements(rag) as sent:
        query = await rag.record(
            session, question, context=context, response="An owl.", metadata={"model": "m"}
        )
    assert len(sent) == 1
    assert (query.session_id, query.query_text, query.response) == (session.id, question, "An owl.")
    assert (query.context_used, query.metadata_) == (context.text, {"model": "m"})
    assert query.created_at == await rag._session.scalar(select(func.now()))
    assert await rag._session.get(RagQuery, query.id) is query
    (found,) = await rag.history(session)
    assert found is query
    assert [(used.document_id, used.rank, used.distance) for used in found.documents] == [
        (source.document_id, source.rank, source.distance) for source in context.sources
    ]
    plain = await rag.record(session.id, "And then?")
    assert (plain.context_used, plain.response, plain.metadata_) == (None, None, None)
    assert await rag._session.scalar(select(func.count()).select_from(RagQueryDocument)) == 5


async def test_an_answer_may_come_later(rag: AsyncRagRepository) -> None:
    query = await rag.record(await rag.open("s"), "Who?", metadata={"a": 1})
    answered = await rag.answer(query.id, "Me.")
    assert answered is query
    assert (answered.response, answered.metadata_) == ("Me.", {"a": 1})
    assert (await rag.answer(query.id, "You.", metadata={"b": 2})).metadata_ == {"b": 2}
    with pytest.raises(NotFoundError, match=f"RAG query {query.id + 1}: does not exist"):
        await rag.answer(query.id + 1, "x")


async def test_an_unknown_session_is_one_clear_error(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository
) -> None:
    await documents.add("x", embedding=UNIT)
    session = await rag.open("s")
    context = await rag.build_context(UNIT)
    with pytest.raises(NotFoundError, match=f"RAG session {session.id + 1}: does not exist"):
        await rag.record(session.id + 1, "Who?", context=context)
    assert await rag._session.scalar(select(func.count()).select_from(RagQueryDocument)) == 0
    assert list(await rag.history(session.id + 1)) == []


async def test_a_source_that_is_gone_is_left_out_and_a_cited_one_may_go(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository
) -> None:
    gone, kept = await documents.add_many(
        [{"content": "gone"}, {"content": "kept"}], embeddings=[UNIT, OTHER]
    )
    session, context = await rag.open("s"), await rag.build_context(UNIT)
    assert len(context.sources) == 2
    await documents.delete(gone)
    await rag.record(session, "Who?", context=context)
    (query,) = await rag.history(session)
    assert [(used.document_id, used.rank) for used in query.documents] == [(kept, 2)]
    await documents.delete(kept)
    (query,) = await rag.history(session)
    assert query.documents == []
    assert query.context_used == "[1] gone\n\n[2] kept"


async def test_which_questions_used_a_document(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository
) -> None:
    near, far = await documents.add_many([{"content": "a"}, {"content": "b"}], embeddings=[UNIT, OTHER])
    one, two = await rag.open("one"), await rag.open("two")
    both = await rag.build_context(UNIT)
    only_near = await rag.build_context(UNIT, limit=1)
    asked = [
        (await rag.record(session, "?", context=context)).id
        for session, context in ((one, both), (two, only_near), (one, None), (two, both), (one, only_near))
    ]
    first = await rag.queries_using(near, limit=3)
    assert [query.id for query in first] == [asked[4], asked[3], asked[1]]
    assert [len(query.documents) for query in first] == [1, 2, 1]
    assert [query.id for query in await rag.queries_using(near, after=first.next, limit=3)] == [asked[0]]
    assert [query.id for query in await rag.queries_using(far)] == [asked[3], asked[0]]
    assert list(await rag.queries_using(far + 1)) == []
    head = await rag.history(one, limit=2)
    rest = await rag.history(one, after=head.next, limit=2)
    assert [query.id for query in (*head, *rest)] == [asked[0], asked[2], asked[4]]
    assert rest.next is None


@pytest.mark.parametrize("value", HOSTILE, ids=["sql", "unicode", "megabyte"])
async def test_hostile_text_is_data(
    rag: AsyncRagRepository, documents: AsyncDocumentRepository, value: str
) -> None:
    stored = await documents.add(value, title=value[:100], embedding=UNIT)
    session = await rag.open(value[:500], context=value)
    assert (await rag.open(value[:500])).id == session.id
    context = await rag.build_context(UNIT, value, max_chars=2_000_000)
    assert context.text == f"[1] {value[:100].strip()}\n{value.strip()}"
    await rag.record(session, value, context=context, response=value, metadata={value: value})
    (query,) = await rag.history(session)
    assert (query.query_text, query.response, query.metadata_) == (value, value, {value: value})
    assert [used.document_id for used in query.documents] == [stored.id]
    assert (await rag.answer(query.id, value, metadata={"v": value})).metadata_ == {"v": value}


async def test_the_indexes_serve_the_questions(committed: AsyncDatabase) -> None:
    async with committed.session() as session:
        rag, documents = AsyncRagRepository(session), AsyncDocumentRepository(session)
        ids = await library(documents)
        sessions = [(await rag.open(f"s{number}")).id for number in range(20)]
        questions = [{"session_id": sessions[number % 20], "query_text": "?"} for number in range(2000)]
        asked = await add_many(session, RagQuery, questions)
        sources = [{"query_id": one, "document_id": ids[one % 400], "rank": 1} for one in asked]
        await session.execute(insert(RagQueryDocument), sources)
        await rag._session.execute(text("ANALYZE"))
        plans = [
            "\n".join(await rag._session.scalars(Explain(statement)))
            for statement in (
                queries.history(sessions[7], after="WzEwMF0=", limit=20),
                queries.queries_using(ids[7], after=None, limit=20),
                queries.get_session("s7"),
            )
        ]
        assert "idx_rag_queries_session_id" in plans[0]
        assert "Sort" not in plans[0]
        assert "idx_rag_query_documents_document_id" in plans[1]
        assert "pk_rag_queries" in plans[1]
        assert "Seq Scan" not in plans[0] + plans[1]


async def test_two_who_open_a_session_at_once_get_one(committed: AsyncDatabase) -> None:
    async with committed.session() as one, committed.session() as other:
        made = (await AsyncRagRepository(one).open("s")).id
        await other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError, match="lock") as refused:
            await AsyncRagRepository(other).open("s", context="late")
        assert refused.value.retryable
        await other.rollback()
        await one.commit()
        assert (await AsyncRagRepository(other).open("s", context="late")).id == made
        await other.commit()
    async with committed.begin() as uow:
        assert (await AsyncRagRepository(uow.session).open("s")).context == "late"


async def test_an_open_session_makes_nobody_wait(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        session = (await AsyncRagRepository(uow.session).open("s")).id
        document = (await AsyncDocumentRepository(uow.session).add("x", embedding=UNIT)).id
    context = RagContext("x", (RagSource(document, None, 0.0, 1, 1),), False)
    async with committed.session() as one, committed.session() as other:
        for caller in (one, other):
            await caller.execute(text("SET LOCAL lock_timeout = '1s'"))
        await AsyncRagRepository(one).open("s", context="changed")
        for caller in (one, other):
            assert (await AsyncRagRepository(caller).open("s")).id == session
            await AsyncRagRepository(caller).record(session, "?", context=context)
        await one.commit()
        await other.commit()
    async with committed.begin() as uow:
        found = await AsyncRagRepository(uow.session).queries_using(document)
        assert [len(query.documents) for query in found] == [1, 1]


async def test_a_source_that_is_being_deleted_is_waited_for(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        session = (await AsyncRagRepository(uow.session).open("s")).id
        document = (await AsyncDocumentRepository(uow.session).add("x", embedding=UNIT)).id
    context = RagContext("x", (RagSource(document, None, 0.0, 1, 1),), False)
    async with committed.session() as one, committed.session() as other:
        await AsyncDocumentRepository(one).delete(document)
        await other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError, match="lock"):
            await AsyncRagRepository(other).record(session, "?", context=context)
        await other.rollback()
        await one.commit()
        await AsyncRagRepository(other).record(session, "?", context=context)
        (query,) = await AsyncRagRepository(other).history(session)
        assert query.documents == []
        await other.rollback()
    async with committed.begin() as uow:
        assert list(await AsyncRagRepository(uow.session).history(session)) == []
