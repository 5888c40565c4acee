from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import corpus
import numpy as np
import pytest
from plans import Explain
from psycopg import AsyncCursor
from sqlalchemy import URL, ColumnElement, event, func, literal, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, Document
from alfred_db.errors import ConfigurationError, DatabaseUnavailable, InvalidFilter, InvalidInputError
from alfred_db.execution._async import citus
from alfred_db.execution._async.search import estimate
from alfred_db.queries.shapes import vector_search as queries
from alfred_db.queries.shapes.filters import compile_filter
from alfred_db.queries.shapes.payload import matching
from alfred_db.queries.shapes.vector_search import extension
from alfred_db.repositories._async.documents import AsyncDocumentRepository
from alfred_db.search import SearchParams, SearchPath
from alfred_db.search.filters import Filter, contains, eq, exists, in_, range_

INDEX = "idx_documents_embedding"
SELECTIVE = {"half": 0.5, "tenth": 0.1, "hundredth": 0.01, "thousandth": 0.001}


@pytest.fixture
async def session(library_url: URL) -> AsyncIterator[AsyncSession]:
    async with AsyncDatabase(library_url) as database, database.session() as session:
        yield session


@pytest.fixture
def library(session: AsyncSession) -> AsyncDocumentRepository:
    return AsyncDocumentRepository(session)


def part(name: str) -> ColumnElement[bool]:
    return Document.metadata_.contains({name: 0})


async def recall(
    library: AsyncDocumentRepository, where: ColumnElement[bool] | None, queries: int = 40
) -> float:
    """The part of the exact ten nearest that the library's own way finds; it must always find ten."""
    _, asked = corpus.vectors()
    shared = 0
    for vector in asked[:queries]:
        exact = await library.search(vector, where=where, params=SearchParams(exact=True))
        found = await library.search(vector, where=where)
        assert len(found) == len(exact) == 10
        shared += len({hit.row.id for hit in found} & {hit.row.id for hit in exact})
    return shared / (10 * queries)


async def test_the_nearest_come_first_with_their_rows(library: AsyncDocumentRepository) -> None:
    vectors = corpus.grown()
    found = await library.search(vectors[5], limit=3)
    assert found.path is SearchPath.HNSW
    assert not found.truncated
    first = found.hits[0]
    assert first.row.external_id == "5"
    assert (first.row.metadata_ or {})["lexname"] == corpus.documents()[5]["lexname"]
    assert first.distance == pytest.approx(0, abs=1e-5)
    assert first.score == pytest.approx(1, abs=1e-5)
    assert [hit.distance for hit in found] == sorted(hit.distance or 0 for hit in found)
    assert not hasattr(first.row, "embedding")


async def test_an_exact_search_returns_the_true_order(library: AsyncDocumentRepository) -> None:
    vectors, asked = corpus.grown(), corpus.vectors()[1]
    found = await library.search(asked[0], limit=20, params=SearchParams(exact=True))
    nearest = np.argsort(1 - vectors @ asked[0], kind="stable")[:20]
    assert found.path is SearchPath.EXACT
    assert [hit.row.external_id for hit in found] == [str(number) for number in nearest]


@pytest.mark.parametrize("name", SELECTIVE)
async def test_a_filtered_search_is_full_and_near_the_truth(
    library: AsyncDocumentRepository, name: str
) -> None:
    assert await recall(library, part(name)) >= 0.98


async def test_a_filter_against_the_grain_is_full_and_near_the_truth(
    library: AsyncDocumentRepository,
) -> None:
    _, asked = corpus.vectors()
    away = min(
        {row["lexname"] for row in corpus.documents()},
        key=lambda name: max(
            float(corpus.vectors()[0][number] @ asked[0])
            for number, row in enumerate(corpus.documents())
            if row["lexname"] == name
        ),
    )
    assert await recall(library, Document.metadata_["lexname"].astext == away) >= 0.98


async def test_the_way_follows_the_matches(library: AsyncDocumentRepository) -> None:
    vector = corpus.vectors()[1][0]
    ways = {name: (await library.search(vector, where=part(name))).path for name in SELECTIVE}
    assert ways["half"] is SearchPath.HNSW_ITERATIVE
    assert ways["hundredth"] is ways["thousandth"] is SearchPath.EXACT
    forced = await library.search(vector, where=part("hundredth"), params=SearchParams(exact=False))
    assert forced.path is SearchPath.HNSW_ITERATIVE


async def test_an_estimate_reads_a_hundred_pages(session: AsyncSession) -> None:
    pages = await session.scalar(text("SELECT relpages FROM pg_class WHERE relname = 'documents'"))
    assert pages is not None
    assert pages > 200
    read: list[str] = []
    listener = session.get_bind().engine
    event.listen(listener, "before_cursor_execute", lambda *args: read.append(args[2]))
    _, total = await estimate(session, Document, Document.title == "estimated once")
    (percent,) = [
        found for statement in read for found in re.findall(r"TABLESAMPLE \w+\(([\d.]+)\)", statement)
    ]
    assert 100 / pages * 100 == pytest.approx(float(percent), rel=0.01)
    assert total == pytest.approx(corpus.GROWN, rel=0.05)


async def test_a_search_that_stops_early_reports_it_or_is_repeated(library: AsyncDocumentRepository) -> None:
    vector = corpus.vectors()[1][0]
    # What was visited on the way to the first one is given too: some hundreds, as the graph happens to be.
    short = SearchParams(exact=False, max_scan_tuples=1, ef_search=1)
    given_up = await library.search(vector, limit=1000, where=part("half"), params=short)
    assert given_up.truncated == (len(given_up) < 1000)
    assert given_up.truncated
    again = await library.search(
        vector, limit=1000, where=part("half"), params=SearchParams(max_scan_tuples=1, ef_search=1)
    )
    assert (len(again), again.path, again.truncated) == (1000, SearchPath.EXACT, False)


async def test_fewer_matches_than_asked_for_are_all_found(library: AsyncDocumentRepository) -> None:
    found = await library.search(corpus.vectors()[1][0], limit=100, where=part("thousandth"))
    assert (len(found), found.truncated) == (20, False)
    nothing = await library.search(corpus.vectors()[1][0], where=Document.metadata_.contains({"no": "such"}))
    assert (len(nothing), nothing.truncated) == (0, False)


async def test_a_threshold_leaves_out_what_is_farther(library: AsyncDocumentRepository) -> None:
    vector = corpus.grown()[5]
    found = await library.search(vector, limit=50, params=SearchParams(max_distance=0.3))
    assert 0 < len(found) < 50
    assert all(hit.distance is not None and hit.distance <= 0.3 for hit in found)
    assert not found.truncated
    assert len(await library.search(-vector, params=SearchParams(max_distance=1e-9))) == 0


async def test_a_threshold_below_the_hits_of_the_index_compares_nothing_else(
    library: AsyncDocumentRepository,
) -> None:
    """The index returned `limit` rows and the last is too far: all others are farther."""
    vector, where = corpus.grown()[5], part("half")
    nearest = await library.search(vector, where=where)
    distances = [hit.distance for hit in nearest]
    assert (nearest.path, len(distances)) == (SearchPath.HNSW_ITERATIVE, 10)
    for kept in (0, 1, 5):
        params = SearchParams(max_distance=(distances[kept] or 0) - 1e-9)
        found = await library.search(vector, where=where, params=params)
        assert found.path is SearchPath.HNSW_ITERATIVE
        assert [hit.distance for hit in found] == distances[:kept]
        some = await library.candidates(vector, limit=10, where=where, params=params)
        assert (some.path, list(some.distances)) == (SearchPath.HNSW_ITERATIVE, distances[:kept])
        assert not found.truncated
        assert not some.truncated


async def test_more_than_the_index_keeps_by_default_are_returned(library: AsyncDocumentRepository) -> None:
    found = await library.search(corpus.vectors()[1][0], limit=500)
    assert len(found) == 500


async def test_many_vectors_are_searched_in_one_round_trip(library: AsyncDocumentRepository) -> None:
    asked = list(corpus.vectors()[1][:5])
    together = await library.search_many(asked, limit=4)
    alone = [[hit.row.id for hit in await library.search(vector, limit=4)] for vector in asked]
    assert [[hit.row.id for hit in hits] for hits in together] == alone
    assert await library.search_many([]) == []


async def test_settings_do_not_outlive_their_search(
    library: AsyncDocumentRepository, session: AsyncSession
) -> None:
    vector = corpus.vectors()[1][0]
    await library.search(vector, where=part("half"))
    assert await session.scalar(text("SHOW hnsw.iterative_scan")) == "relaxed_order"
    await library.search(vector)
    assert await session.scalar(text("SHOW hnsw.iterative_scan")) == "off"
    async with session.begin_nested() as savepoint:
        await library.search(vector, where=part("half"))
        await savepoint.rollback()
    assert (await library.search(vector, where=part("half"))).path is SearchPath.HNSW_ITERATIVE
    assert await session.scalar(text("SHOW hnsw.iterative_scan")) == "relaxed_order"
    await session.commit()
    assert await session.scalar(text("SHOW hnsw.ef_search")) == "40"


async def test_every_search_uses_the_index_also_when_prepared(
    library: AsyncDocumentRepository, session: AsyncSession
) -> None:
    vector = corpus.vectors()[1][0]
    for _ in range(12):
        plan = (await library.search(vector, explain=True)).plan or ""
        assert INDEX in plan
        assert "Seq Scan" not in plan
        plan = (await library.search(vector, where=part("half"), explain=True)).plan or ""
        assert INDEX in plan
        assert "Seq Scan" not in plan
    each = await session.scalars(Explain(queries.nearest_each(Document, [vector, vector], 10, None)))
    assert INDEX in "\n".join(each)


async def test_a_plan_shows_no_vector(library: AsyncDocumentRepository) -> None:
    plan = (await library.search(corpus.vectors()[1][0], explain=True)).plan or ""
    assert "$1" in plan
    assert "[" not in plan


async def test_autocommit_is_refused_where_settings_are_needed(library_url: URL) -> None:
    async with AsyncDatabase(library_url) as database:
        engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with AsyncSession(engine) as session:
            library = AsyncDocumentRepository(session)
            with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
                await library.search(corpus.vectors()[1][0], where=part("half"))


async def test_a_search_can_run_out_of_time(library: AsyncDocumentRepository) -> None:
    with pytest.raises(DatabaseUnavailable, match="timeout"):
        await library.search(
            corpus.vectors()[1][0], limit=1000, params=SearchParams(exact=True, timeout=0.001)
        )


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_is_checked(library: AsyncDocumentRepository, limit: int) -> None:
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
        await library.search(corpus.vectors()[1][0], limit=limit)


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        (Filter(must=[eq("metadata.tenth", 0)]), 2000),
        (Filter(must=[in_("metadata.tenth", [1, 2])]), 4000),
        (Filter(must=[range_("metadata.hundredth", gte=10, lt=20)]), 2000),
        (Filter(must_not=[eq("metadata.half", 0)]), 10000),
        (Filter(should=[eq("metadata.tenth", 1), eq("metadata.tenth", 2)]), 4000),
        (Filter(must=[exists("metadata.lexname")], must_not=[exists("metadata.nothing")]), 20000),
        (Filter(must=[contains("metadata", {"half": 1})]), 10000),
        (Filter(must=[range_("created_at", gte="2020-01-01T00:00:00+00:00")]), 20000),
        (Filter(must=[in_("external_id", ["1", "2", "none"])]), 2),
        (Filter(must=[Filter(should=[eq("external_id", "1"), eq("external_id", "2")])]), 2),
        (Filter(must=[eq("metadata.x'; DROP TABLE documents; --", "%s $1 :a")]), 0),
        (Filter(), 20000),
    ],
)
async def test_filters_as_data_select_what_they_describe(
    library: AsyncDocumentRepository, session: AsyncSession, where: Filter, matches: int
) -> None:
    condition = compile_filter(Document, where)
    assert await session.scalar(select(func.count()).select_from(Document).where(condition)) == matches
    assert len(await library.search(corpus.vectors()[1][0], where=Filter.from_dict(where.as_dict()))) == min(
        matches, 10
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"most": []}, "expected an object with must"),
        ({"must": "x"}, "expected an array"),
        ({"must": [{"field": "id"}]}, r"filter.must\[0\]: expected a field and one of"),
        ({"must": [{"field": "id", "like": "x"}]}, r"filter.must\[0\]"),
        ({"must": [{"field": "embedding", "eq": 1}]}, "no field 'embedding'"),
        ({"must": [{"field": "nope", "eq": 1}]}, "no field 'nope'"),
        ({"must": [{"field": "id", "eq": "a"}]}, "cannot be compared with"),
        ({"must": [{"field": "title.x", "eq": "a"}]}, "is not JSON"),
        ({"must": [{"field": "metadata", "eq": 1}]}, "name a key"),
        ({"must": [{"field": "metadata.a", "range": {"gte": 1, "lt": "b"}}]}, "all numbers or all texts"),
        ({"must": [{"field": "metadata.a", "range": {"about": 1}}]}, "expects some of gt, gte, lt, lte"),
        ({"must": [{"field": "metadata.a", "in": 1}]}, "expects an array"),
        ({"must": [{"field": "created_at", "range": {"gte": "yesterday"}}]}, "cannot be compared with"),
    ],
)
async def test_a_wrong_filter_is_one_clear_error(
    library: AsyncDocumentRepository, data: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidFilter, match=message):
        await library.search(corpus.vectors()[1][0], where=Filter.from_dict(data))


async def test_words_and_spelling_find_too(library: AsyncDocumentRepository) -> None:
    vector = corpus.vectors()[1][0]
    found = await library.hybrid_search("brother", vector)
    assert any("text" in hit.ranks for hit in found)
    assert all(hit.ranks for hit in found)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    spelled = await library.hybrid_search(corpus.documents()[0]["synset"], vector, by_spelling=True)
    assert any("trigram" in hit.ranks for hit in spelled)
    nothing = await library.hybrid_search("", vector)
    assert {tuple(hit.ranks) for hit in nothing} == {("vector",)}
    among = await library.hybrid_search("brother", vector, where=part("half"))
    assert {(hit.row.metadata_ or {})["half"] for hit in among} == {0}


async def sent(session: AsyncSession, library: AsyncDocumentRepository) -> list[str]:
    """The statements of two transactions with two filtered searches each, without the searches themselves."""
    statements: list[str] = []

    def noted(self: AsyncCursor[Any], statement: str, *arguments: Any, **options: Any) -> Any:
        statements.append(statement)
        return execute(self, statement, *arguments, **options)

    execute: Any = AsyncCursor.execute
    await session.connection()  # what sets up a connection is not counted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncCursor, "execute", noted)
        for _ in range(2):
            for _ in range(2):
                await library.search(
                    corpus.vectors()[1][0], where=part("half"), params=SearchParams(exact=False)
                )
            await session.rollback()
    # The catalog of spaces is read when the copy of it is old, whichever search comes then.
    other = ("candidates", "embedding_spaces")
    return [statement for statement in statements if not any(word in statement for word in other)]


async def test_without_citus_its_settings_are_left_alone(
    library: AsyncDocumentRepository, session: AsyncSession
) -> None:
    first, second = await sent(session, library), await sent(session, library)
    assert sum("pg_extension" in statement for statement in first) == 1
    assert second == [statement for statement in first if "pg_extension" not in statement]
    assert len(second) == 2
    assert not any("citus" in statement for statement in second)


async def test_on_citus_the_settings_are_passed_on_to_its_workers(
    library: AsyncDocumentRepository, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any server has the extension that is looked for here, and takes a setting of a prefix that it does not know.
    monkeypatch.setattr(citus, "extension", lambda name: extension("plpgsql" if name == "citus" else name))
    first = await sent(session, library)
    settings = [statement for statement in first if statement.startswith("SET LOCAL")]
    assert len(settings) == 2
    assert len(first) == 3
    for statement in settings:
        assert statement.startswith("SET LOCAL citus.propagate_set_commands = 'local'; SET LOCAL hnsw.")
        assert statement.count("citus") == 1
    await library.search(corpus.vectors()[1][0], where=part("half"), params=SearchParams(exact=False))
    await library.search(corpus.vectors()[1][0])
    assert await session.scalar(text("SHOW citus.propagate_set_commands")) == "local"


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("text", "brown QUICK", True),
        ("text", "ick br", False),
        ("text_any", "cat fox", True),
        ("text_any", "cat dog", False),
        ("phrase", "quick brown", True),
        ("phrase", "brown quick", False),
        ("prefix", "The q", True),
        ("prefix", "quick", False),
        ("substring", "ick, br", True),
        ("substring", "Quick", False),
        ("substring", "brown quick", False),
    ],
)
async def test_each_kind_of_match_has_its_own_meaning(
    session: AsyncSession, kind: str, text: str, found: bool
) -> None:
    document = literal({"t": "The quick, brown fox"}, JSONB)
    condition = matching(document, {"key": "t", "match": {kind: text}})
    assert await session.scalar(select(condition)) is found
