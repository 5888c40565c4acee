"""The recall of an index, measured."""

from __future__ import annotations

from typing import Any

import corpus
import numpy as np
import pytest
from sqlalchemy import NullPool, create_engine, event, text

from alfred_db import Agent, Database, Document, KnowledgePoint, Memory
from alfred_db.errors import (
    InvalidInputError,
    NotFoundError,
    SchemaDriftError,
)
from alfred_db.indexes import rebuild, recall
from alfred_db.models import KnowledgeDistance
from alfred_db.repositories._sync.documents import DocumentRepository
from alfred_db.repositories._sync.knowledge import KnowledgeRepository

from .care import DOCUMENTS, PARTITIONS, POINTS, home, indexes, invalidate, sql


def test_more_candidates_find_more(library: Database) -> None:
    report = recall(library.engine, Document, samples=60, ef=[320, 10, 80, 10])
    assert (report.table, report.index, report.samples, report.k) == ("documents", DOCUMENTS, 60, 10)
    assert [one.ef for one in report.measured] == [10, 80, 320]
    few, some, many = report.measured
    assert few.recall <= some.recall <= many.recall
    assert many.recall > 0.97
    assert few.worst <= few.recall
    assert 0 < few.milliseconds < report.exact_milliseconds
    assert report.ef == next(one.ef for one in report.measured if one.recall >= 0.95)
    again = recall(library.engine, "documents", samples=60, ef=[10, 80, 320])
    assert [one.recall for one in again.measured] == [one.recall for one in report.measured]


def test_the_recall_is_that_of_a_count_in_numpy(library: Database) -> None:
    (measured,) = recall(library.engine, Document, samples=40, ef=[20]).measured
    vectors, parts = corpus.grown().astype(np.float64), []
    with library.session() as session:
        session.execute(text("SET LOCAL enable_seqscan = off; SET LOCAL hnsw.ef_search = 20"))
        chosen = session.scalars(
            text("SELECT external_id FROM documents ORDER BY hashtextextended(id::text, 0) LIMIT 40")
        )
        for number in map(int, chosen):
            nearest = np.argsort(-(vectors @ vectors[number]))[:10]
            found = session.scalars(
                text("SELECT external_id FROM documents ORDER BY embedding <=> :v LIMIT 10"),
                {"v": str(corpus.grown()[number].tolist())},
            )
            true = {*nearest.tolist()} - {number}
            parts.append(len(true & {*map(int, found)}) / 9)
    assert measured.recall == pytest.approx(np.mean(parts), abs=0.01)
    assert measured.worst == pytest.approx(min(parts), abs=0.12)


def test_a_target_that_none_meets(poor: Database) -> None:
    report = recall(poor.engine, Document, samples=60, ef=[10, 20])
    assert report.ef is None
    few, some = report.measured
    assert few.worst < few.recall < 0.9
    assert few.recall < some.recall < 0.95
    assert "no ef_search up to 20 meets 0.95" in report.as_text()
    assert f"rebuild --index {DOCUMENTS}" in report.as_text()
    assert report.as_dict()["ef"] is None


def test_rows_of_one_distance_are_equally_good(database: Database) -> None:
    with database.begin() as uow:
        one = corpus.vectors()[0][0]
        uow.session.execute(text("TRUNCATE documents CASCADE"))
        rows = [{"title": str(number), "content": "…"} for number in range(50)]
        DocumentRepository(uow.session).add_many(rows, embeddings=np.tile(one, (50, 1)))  # type: ignore[arg-type]
    report = recall(database.engine, Document, samples=20, ef=[40], target=1)
    assert report.ef == 40
    assert report.samples == 20


def test_a_few_rows_are_measured_by_the_index_too(reader: Database) -> None:
    report = recall(reader.engine, "knowledge_points_legal_knowledge", k=5, samples=1000, ef=[100])
    assert report.samples == POINTS
    assert report.index == "knowledge_points_legal_knowledge_embedding_idx"
    assert report.measured[0].recall > 0.98


def test_tenants_are_measured_apart(tenant: Database) -> None:
    other = "public" if tenant.schema else "acme"
    sql(tenant, f"TRUNCATE {other}.documents CASCADE")
    for engine, schema in ((tenant.engine, None), (tenant.engine, tenant.schema)):
        assert recall(engine, Document, schema=schema, samples=5, ef=[40]).samples == 5


def test_nothing_stays_behind(library: Database) -> None:
    engine = create_engine(library.url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=0)
    recall(engine, Document, samples=3, ef=[300])
    with engine.connect() as connection:
        settings = ("hnsw.ef_search", "enable_seqscan", "transaction_read_only", "transaction_isolation")
        connection.execute(text("SELECT CAST('[1]' AS vector)"))
        found = [connection.scalar(text(f"SHOW {name}")) for name in settings]
        assert found == ["40", "on", "off", "read committed"]
    engine.dispose()


def test_it_only_reads(library: Database) -> None:
    engine = create_engine(library.url, poolclass=NullPool)
    seen: list[str] = []

    def note(connection: Any, cursor: Any, *rest: Any) -> None:
        with cursor.connection.cursor() as other:
            other.execute(
                "SELECT current_setting('transaction_read_only'), current_setting('transaction_isolation')"
            )
            seen.append("/".join(other.fetchone()))

    event.listen(engine, "after_cursor_execute", note)
    recall(engine, Document, samples=2, ef=[40])
    assert set(seen) == {"on/repeatable read"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"table": "nobody"}, "'nobody': has no vector index; expected one of documents, memories, .*legal"),
        ({"table": 'documents"; DROP TABLE documents; --'}, "has no vector index"),
        ({"table": "agents"}, "has no vector index"),
        ({"table": Agent}, "'agent_registry': has no vector index"),
        ({"table": KnowledgePoint}, f"one collection at a time; name one of {', '.join(PARTITIONS)}"),
        ({"target": 0}, "target: expected"),
        ({"target": 1.5}, "target: expected"),
        ({"target": float("nan")}, "target: expected"),
        ({"k": 1}, "k: expected"),
        ({"k": 1001}, "k: expected"),
        ({"samples": 0}, "samples: expected"),
        ({"ef": []}, "ef: expected"),
        ({"ef": [40, 1001]}, "ef: expected"),
        ({"ef": [0]}, "ef: expected"),
    ],
)
def test_wrong_arguments_of_a_recall(library: Database, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        recall(library.engine, **{"table": Document, **arguments})


def test_too_few_vectors_cannot_be_measured(tenant: Database) -> None:
    with pytest.raises(NotFoundError, match="table memories: holds fewer than two vectors"):
        recall(tenant.engine, Memory)
    vector = corpus.vectors()[0][0]
    sql(tenant, f"DELETE FROM {home(tenant)}.documents")
    with tenant.begin() as uow:
        DocumentRepository(uow.session).add(title="one", content="…", embedding=vector)
        DocumentRepository(uow.session).add(title="without", content="…")
    with pytest.raises(NotFoundError, match="table documents: holds fewer than two vectors"):
        recall(tenant.engine, Document)
    with tenant.begin() as uow:
        DocumentRepository(uow.session).add(title="two", content="…", embedding=-vector)
    # What was deleted still fills the index, until VACUUM or a rebuild.
    rebuild(tenant.engine, DOCUMENTS)
    assert recall(tenant.engine, Document, samples=1).ef == 10


def test_an_invalid_index_is_not_measured(tenant: Database) -> None:
    invalidate(tenant, DOCUMENTS)
    with pytest.raises(
        SchemaDriftError, match="invalid, so that no search uses it: `alfred-db vectors rebuild"
    ):
        recall(tenant.engine, Document)


def test_a_collection_without_an_index_of_its_distance_is_refused(tenant: Database) -> None:
    with tenant.begin() as uow:
        KnowledgeRepository(uow.session).create_collection("by-dot", distance=KnowledgeDistance.DOT)
        KnowledgeRepository(uow.session).create_collection("Ünï code")
    added = [one.table for one in indexes(tenant) if one.parent and one.table not in PARTITIONS]
    assert len(added) == 2
    with pytest.raises(InvalidInputError, match="compares by dot"):
        recall(tenant.engine, "knowledge_points_by_dot")
    (other,) = (name for name in added if name != "knowledge_points_by_dot")
    with pytest.raises(NotFoundError, match="fewer than two"):
        recall(tenant.engine, other)
