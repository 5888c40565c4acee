"""Care of the vector indexes: `alfred_db.vectors` and `alfred-db vectors`."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import corpus
import numpy as np
import pytest
from click.testing import CliRunner, Result
from servers import pgbouncer
from sqlalchemy import URL, NullPool, create_engine, event, text

from alfred_db import Agent, Database, Document, KnowledgePoint, Memory, extensions
from alfred_db.cli import Commands
from alfred_db.cli.vectors import vectors
from alfred_db.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SchemaDriftError,
    SchemaOutdatedError,
)
from alfred_db.models import KnowledgeDistance
from alfred_db.repositories._sync.documents import DocumentRepository
from alfred_db.repositories._sync.knowledge import KnowledgeRepository
from alfred_db.vectors import IndexState, IndexStatus, Progress, rebuild, rebuilding, recall, status

DOCUMENTS, KNOWLEDGE = "idx_documents_embedding", "idx_knowledge_points_embedding"
PARTITIONS = [f"knowledge_points_{name}_knowledge" for name in ("financial", "general", "legal", "social")]
TABLES = ["documents", *PARTITIONS, "memories", "memory_entries", "working_memory"]
LOADED, POINTS = 1_000, 60


@pytest.fixture(scope="module")
def loaded(template: URL, new_database: Callable[..., URL]) -> URL:
    """A migrated database with documents and points in both tenants, to be copied."""
    url = new_database(template.database)
    real, _ = corpus.vectors()
    for schema in (None, "acme"):
        with Database(url, schema=schema) as database, database.begin() as uow:
            rows = [{"title": str(number), "content": "…"} for number in range(LOADED)]
            DocumentRepository(uow.session).add_many(rows, embeddings=real[:LOADED])
            for collection in ("legal-knowledge", "social-knowledge"):
                points = [{"id": number, "vector": np.tile(real[number], 4)} for number in range(POINTS)]
                KnowledgeRepository(uow.session).upsert(collection, points)
        with Database(url) as database, database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    return url


@contextmanager
def copied(url: URL) -> Iterator[URL]:
    """A database, dropped at once when the test is over: many that are left make the server's stop slow."""
    yield url
    with Database(url.set(database="postgres")) as server:
        sql(server, f"DROP DATABASE {url.database} WITH (FORCE)")


@pytest.fixture(params=[None, "acme"], ids=["public", "acme"])
def tenant(
    request: pytest.FixtureRequest, loaded: URL, new_database: Callable[..., URL]
) -> Iterator[Database]:
    """A tenant of a copy of `loaded`."""
    with copied(new_database(loaded.database)) as url, Database(url, schema=request.param) as database:
        yield database


@pytest.fixture(scope="module")
def read_url(loaded: URL, new_database: Callable[..., URL]) -> URL:
    """A copy of `loaded` for tests that only read."""
    return new_database(loaded.database)


@pytest.fixture(params=[None, "acme"], ids=["public", "acme"])
def reader(request: pytest.FixtureRequest, read_url: URL) -> Iterator[Database]:
    """A tenant, only to read."""
    with Database(read_url, schema=request.param) as database:
        yield database


@pytest.fixture
def database(loaded: URL, new_database: Callable[..., URL]) -> Iterator[Database]:
    """The default tenant of a copy of `loaded`."""
    with copied(new_database(loaded.database)) as url, Database(url) as database:
        yield database


@pytest.fixture
def poor(database: Database) -> Database:
    """One whose index was built to find little."""
    sql(
        database,
        f"DROP INDEX {DOCUMENTS}",
        f"CREATE INDEX {DOCUMENTS} ON documents USING hnsw (embedding vector_cosine_ops) WITH (m = 2, ef_construction = 4)",
    )
    return database


@pytest.fixture
def library(library_url: URL) -> Iterator[Database]:
    with Database(library_url) as database:
        yield database


def sql(database: Database, *statements: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            done = connection.exec_driver_sql(statement)
            rows = [tuple(row) for row in done] if done.returns_rows else []
    return rows


def indexes(database: Database, table: str | None = None) -> list[IndexStatus]:
    with database.engine.connect() as connection:
        return [one for one in status(connection, database.schema) if table in (None, one.table)]


def told(one: IndexStatus) -> list[str]:
    """Its warnings, but those of an old pgvector."""
    return [line for line in one.warnings if not line.startswith("vector ")]


def home(database: Database, schema: str = "public") -> str:
    return database.schema or schema


def invalidate(database: Database, name: str) -> None:
    sql(
        database,
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{home(database)}.{name}'::regclass",
    )


def files(database: Database, table: str) -> dict[str, int]:
    """The files of a table's indexes: a rebuild gives another."""
    found = sql(
        database,
        "SELECT c.relname, c.relfilenode FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid"
        f" WHERE indrelid = '{home(database)}.{table}'::regclass",
    )
    return dict(found)  # type: ignore[arg-type]


# status


def test_every_vector_index_of_the_models_is_listed(reader: Database) -> None:
    found = indexes(reader)
    assert [one.table for one in found] == TABLES
    for one in found:
        assert one.state is IndexState.VALID
        assert one.valid
        assert one.schema == home(reader, "wm" if one.table == "working_memory" else "public")
        assert one.parent == (KNOWLEDGE if one.table in PARTITIONS else None)
        assert not told(one)
        assert one.size
    rows = {one.table: one.rows for one in found}
    assert rows["documents"] == LOADED
    assert rows["knowledge_points_legal_knowledge"] == POINTS
    assert rows["memories"] in (None, 0)


def test_the_tenant_of_an_engine_is_its_own(reader: Database) -> None:
    with reader.engine.connect() as connection:
        assert status(connection) == status(connection, reader.schema)


def test_sizes_and_rows_of_a_large_table(library: Database) -> None:
    (found,) = indexes(library, "documents")
    assert found.rows == corpus.GROWN
    assert found.size is not None
    assert found.size > corpus.GROWN * 384 * 4


def test_an_index_is_unused_until_a_search_reads_it(tenant: Database) -> None:
    (before,) = indexes(tenant, "documents")
    sql(tenant, "SELECT pg_stat_reset()")
    (fresh,) = indexes(tenant, "documents")
    assert fresh.unused
    assert fresh.scans == 0
    assert fresh.since is not None
    assert before.since is None or fresh.since > before.since
    recall(tenant.engine, Document, samples=5, ef=[40])
    for _ in range(50):
        (used,) = indexes(tenant, "documents")
        if not used.unused:
            break
        time.sleep(0.1)
    assert used.scans == 6
    assert not used.unused


def test_an_old_pgvector_is_warned_of(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = extensions.probe

    def old(connection: Any) -> extensions.Facts:
        facts = real(connection)
        others = [
            one if one.name != "vector" else replace(one, installed="0.8.2") for one in facts.extensions
        ]
        return replace(facts, extensions=tuple(others))

    monkeypatch.setattr(extensions, "probe", old)
    for one in indexes(database):
        (warning,) = one.warnings
        assert "can corrupt indexes" in warning
        assert "REINDEX" in warning


def test_what_the_coordinator_of_citus_cannot_know_is_unknown(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = extensions.probe
    monkeypatch.setattr(extensions, "probe", lambda connection: replace(real(connection), citus=True))
    found = {one.table: one for one in indexes(database)}
    empty, full = found["memories"], found["documents"]
    assert (empty.size, empty.rows, empty.scans, empty.unused) == (None, None, None, False)
    assert full.rows == LOADED


def test_a_missing_index_is_listed_with_what_makes_it(tenant: Database) -> None:
    sql(tenant, f"DROP INDEX {home(tenant)}.{DOCUMENTS}", f"DROP INDEX {home(tenant)}.{KNOWLEDGE}")
    missing = [one for one in indexes(tenant) if one.state is IndexState.MISSING]
    assert [one.table for one in missing] == ["documents", *PARTITIONS]
    for one in missing:
        (warning,) = told(one)
        assert one.size is None
        sql(tenant, *warning.partition(": ")[2].split("; "))
    assert {one.state for one in indexes(tenant)} == {IndexState.VALID}
    assert [one.table for one in indexes(tenant)] == TABLES
    with tenant.engine.connect() as connection:
        (valid,) = connection.exec_driver_sql(
            f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{home(tenant)}.{KNOWLEDGE}'::regclass"
        ).one()
    assert valid
    with tenant.begin():
        tenant.verify()


def test_a_database_without_the_tables_is_told_what_to_run(empty_url: URL, database: Database) -> None:
    with Database(empty_url) as empty:
        sql(empty, "CREATE EXTENSION vector")
        with pytest.raises(SchemaOutdatedError, match="documents does not exist: run `alembic upgrade head`"):
            indexes(empty)
    with database.engine.connect() as connection:
        with pytest.raises(SchemaOutdatedError, match="alembic -x schema=nobody upgrade head"):
            status(connection, "nobody")
        with pytest.raises(ConfigurationError, match="the name of a tenant"):
            status(connection, 'a"; DROP TABLE documents; --')


# rebuild


def test_what_is_invalid_is_rebuilt_and_nothing_else(tenant: Database) -> None:
    assert rebuild(tenant.engine, schema=tenant.schema) == []
    invalidate(tenant, DOCUMENTS)
    invalidate(tenant, f"{PARTITIONS[2]}_embedding_idx")
    broken = [one for one in indexes(tenant) if not one.valid]
    assert [one.state for one in broken] == [IndexState.INVALID] * 2
    named = "" if tenant.schema is None else " --schema acme"
    assert told(broken[0]) == [
        f"invalid, so that no search uses it: `alfred-db vectors rebuild{named} --index {DOCUMENTS}`"
    ]
    before = {table: files(tenant, table) for table in TABLES[:-1]}
    done = rebuild(tenant.engine)
    assert [(one.schema, one.table, one.dropped) for one in done] == [
        (home(tenant), "documents", False),
        (home(tenant), PARTITIONS[2], False),
    ]
    assert all(one.valid for one in indexes(tenant))
    for one in done:
        assert one.size
        assert one.size_before
        assert 0 < one.seconds < 60
    changed = {
        name
        for table in TABLES[:-1]
        for name, file in files(tenant, table).items()
        if before[table].get(name) != file
    }
    assert changed == {DOCUMENTS, f"{PARTITIONS[2]}_embedding_idx"}
    report = recall(tenant.engine, Document, samples=20, ef=[100])
    assert report.measured[0].recall > 0.95


def test_a_partitioned_index_is_rebuilt_in_each_partition(tenant: Database) -> None:
    before = {table: files(tenant, table) for table in PARTITIONS}
    done = rebuild(tenant.engine, KNOWLEDGE)
    assert [one.table for one in done] == PARTITIONS
    for table in PARTITIONS:
        name = f"{table}_embedding_idx"
        after = files(tenant, table)
        assert after.pop(name) != before[table].pop(name)
        assert after == before[table]
    (one,) = rebuild(tenant.engine, f"{home(tenant)}.{PARTITIONS[0]}_embedding_idx")
    assert one.table == PARTITIONS[0]
    assert [one.parent for one in indexes(tenant) if one.table in PARTITIONS] == [KNOWLEDGE] * 4


def test_progress_is_told_while_it_runs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "POLLED_EVERY", 0.002)
    seen: list[Progress] = []
    rebuild(database.engine, DOCUMENTS, progress=seen.append)
    assert {one.index for one in seen} == {DOCUMENTS}
    assert any(one.phase.startswith("building index") for one in seen)
    counted = [one.fraction for one in seen if one.fraction is not None]
    assert counted
    assert all(0 <= part <= 1 for part in counted)


def test_an_error_of_the_listener_reaches_the_caller_and_the_index_is_built(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "POLLED_EVERY", 0.002)
    invalidate(database, DOCUMENTS)

    def fail(progress: Progress) -> None:
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        rebuild(database.engine, progress=fail)
    assert all(one.valid for one in indexes(database))


def test_what_a_failed_rebuild_leaves_is_listed_and_dropped(tenant: Database) -> None:
    with tenant.engine.connect() as writer:
        writer.exec_driver_sql(f"LOCK TABLE {home(tenant)}.documents IN ROW EXCLUSIVE MODE")
        with pytest.raises(ConflictError, match=f"index {DOCUMENTS}: .*lock timeout") as failed:
            rebuild(tenant.engine, DOCUMENTS, lock_timeout=0.2)
        assert failed.value.retryable
    own, left = indexes(tenant, "documents")
    assert (own.name, own.state) == (DOCUMENTS, IndexState.VALID)
    assert (left.name, left.state) == (f"{DOCUMENTS}_ccnew", IndexState.LEFTOVER)
    assert "drops it" in told(left)[0]
    report = recall(tenant.engine, Document, samples=3, ef=[40])
    assert report.index == DOCUMENTS
    dropped, built = rebuild(tenant.engine, DOCUMENTS)
    assert (dropped.name, dropped.dropped, dropped.size) == (left.name, True, None)
    assert (built.name, built.dropped) == (DOCUMENTS, False)
    assert len(indexes(tenant, "documents")) == 1


def test_leftovers_are_dropped_by_themselves_too(database: Database) -> None:
    for name in (f"{DOCUMENTS}_ccnew", "x_ccold1"):
        sql(database, f"CREATE INDEX {name} ON documents USING hnsw (embedding vector_cosine_ops)")
        invalidate(database, name)
    (one,) = rebuild(database.engine, "x_ccold1")[:1]
    assert one.dropped
    assert rebuild(database.engine) == []
    assert [one.name for one in indexes(database, "documents")] == [DOCUMENTS]


def test_its_settings_are_its_own(database: Database) -> None:
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    rebuild(database.engine, KNOWLEDGE, maintenance_work_mem="99MB", lock_timeout=12.5)
    assert "SET maintenance_work_mem = '99MB'" in sent
    assert "SET lock_timeout = '12500ms'" in sent
    assert "SET statement_timeout = '0'" in sent
    with database.session() as session:
        assert session.scalar(text("SHOW maintenance_work_mem")) != "99MB"
        assert session.scalar(text("SHOW lock_timeout")) == "0"


def test_two_rebuilds_of_one_index_at_once_both_end_well(tenant: Database) -> None:
    invalidate(tenant, DOCUMENTS)
    start = threading.Barrier(2)

    def run() -> Sequence[Any]:
        start.wait()
        return rebuild(tenant.engine, DOCUMENTS)

    with ThreadPoolExecutor(2) as threads:
        done = [future.result() for future in [threads.submit(run), threads.submit(run)]]
    assert [[one.name for one in each if not one.dropped] for each in done] == [[DOCUMENTS]] * 2
    assert [(one.name, one.state) for one in indexes(tenant, "documents")] == [(DOCUMENTS, IndexState.VALID)]


def test_of_two_that_find_it_invalid_one_rebuilds_it(tenant: Database) -> None:
    invalidate(tenant, DOCUMENTS)
    with ThreadPoolExecutor(2) as threads:
        done = [future.result() for future in [threads.submit(rebuild, tenant.engine) for _ in range(2)]]
    assert sorted(len(each) for each in done) == [0, 1]


def test_who_waits_too_long_for_another_rebuild_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "POLLED_EVERY", 0.002)
    told: list[str] = []

    def second(progress: Progress) -> None:
        if not told:
            with pytest.raises(ConflictError, match="another rebuild has been running") as refused:
                rebuild(database.engine, DOCUMENTS, lock_timeout=0.001)
            assert refused.value.retryable
            told.append(progress.phase)

    rebuild(database.engine, DOCUMENTS, progress=second)
    assert told


def test_writers_and_searches_go_on_meanwhile(database: Database) -> None:
    vector, over, written = corpus.vectors()[0][0], threading.Event(), 0
    with ThreadPoolExecutor(1) as thread:
        building = thread.submit(rebuild, database.engine, DOCUMENTS)
        building.add_done_callback(lambda _: over.set())
        while not over.is_set():
            with database.begin() as uow:
                DocumentRepository(uow.session).add(title="new", content="…", embedding=vector)
                written += 1
        building.result()
    assert written > 0
    with database.session() as session:
        session.execute(text("SET LOCAL enable_seqscan = off; SET LOCAL hnsw.ef_search = 1000"))
        statement = (
            "SELECT count(*) FROM (SELECT title FROM documents ORDER BY embedding <=> :v LIMIT 900) AS d"
        )
        found = session.scalar(
            text(statement.replace("count(*)", "count(*) FILTER (WHERE title = 'new')")),
            {"v": str(vector.tolist())},
        )
    assert found == min(written, 900)


def test_an_index_of_any_name_is_rebuilt(database: Database) -> None:
    name = 'w"e:i %s; --'
    with database.engine.begin() as connection:
        quoted = name.replace('"', '""').replace(":", r"\:")
        connection.execute(text(f'CREATE INDEX "{quoted}" ON documents USING hnsw (embedding vector_l2_ops)'))
    (one,) = rebuild(database.engine, name)
    assert (one.name, one.table) == (name, "documents")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"index": "nobody"}, f"'nobody': no vector index .* one of {DOCUMENTS}, {KNOWLEDGE}, "),
        ({"index": "pk_documents"}, "no vector index"),
        ({"index": 'x"; DROP TABLE documents; --'}, "no vector index"),
        ({"index": ""}, "no vector index"),
        ({"lock_timeout": 0}, "lock_timeout: expected"),
        ({"lock_timeout": float("nan")}, "lock_timeout: expected"),
        ({"maintenance_work_mem": "1GB'; DROP TABLE documents; --"}, "maintenance_work_mem: expected a size"),
        ({"maintenance_work_mem": "much"}, "maintenance_work_mem: expected a size"),
        ({"maintenance_work_mem": "999999999TB"}, "use a value"),
        ({"schema": "no such"}, "the name of a tenant"),
    ],
)
def test_wrong_arguments_of_a_rebuild(library: Database, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises((InvalidInputError, ConfigurationError), match=says):
        rebuild(library.engine, **arguments)


def test_a_missing_index_cannot_be_rebuilt(database: Database) -> None:
    sql(database, f"DROP INDEX {DOCUMENTS}")
    with pytest.raises(SchemaDriftError, match=r"missing.*CREATE INDEX CONCURRENTLY"):
        rebuild(database.engine, DOCUMENTS)
    with pytest.raises(SchemaDriftError, match=r"missing.*CREATE INDEX CONCURRENTLY"):
        recall(database.engine, Document)


def test_only_the_owner_rebuilds(database: Database) -> None:
    role = f"alfred_reader_{os.getpid()}"
    sql(database, f"CREATE ROLE {role}", f"GRANT USAGE ON SCHEMA wm TO {role}")
    engine = create_engine(database.url.update_query_dict({"options": f"-c role={role}"}), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            assert len(status(connection)) == len(TABLES)
        with pytest.raises(ConfigurationError, match=r"must be owner|permission denied"):
            rebuild(engine, DOCUMENTS)
    finally:
        sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_transaction_pooler_is_refused(database: Database) -> None:
    with pgbouncer(database.url) as url:
        engine = create_engine(url, poolclass=NullPool, connect_args={"prepare_threshold": None})
        with pytest.raises(ConfigurationError, match="transaction pooler"):
            rebuild(engine, DOCUMENTS)


# recall


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
        DocumentRepository(uow.session).add_many(rows, embeddings=np.tile(one, (50, 1)))
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


# the command


Run = Callable[..., Result]


def command(database: Database) -> Run:
    commands = Commands("alfred-db", commands=[vectors])
    address = database.url.render_as_string(hide_password=False)
    of = [] if database.schema is None else ["--schema", database.schema]

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(commands, ["vectors", *arguments, "--url", address, *of])

    return run


def test_the_command_shows_the_state(tenant: Database) -> None:
    run = command(tenant)
    well = run("status")
    assert well.exit_code == (1 if "can corrupt" in well.output else 0), well.output
    lines = well.output.splitlines()
    assert len([line for line in lines if "idx" in line]) == len(TABLES)
    assert f"{home(tenant)}.documents" in lines[1]
    assert f"{LOADED:,}" in lines[1]
    invalidate(tenant, DOCUMENTS)
    broken = run("status")
    assert broken.exit_code == 1
    assert f"warning  {home(tenant)}.{DOCUMENTS}: invalid" in broken.output
    done = run("status", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert [one["table"] for one in found] == TABLES
    assert found[0]["state"] == "invalid"
    assert found[0]["valid"] is False
    assert found[0]["rows"] == LOADED


def test_the_command_rebuilds(tenant: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "POLLED_EVERY", 0.002)
    run = command(tenant)
    assert run("rebuild").output == "nothing to rebuild\n"
    invalidate(tenant, DOCUMENTS)
    done = run("rebuild", "--maintenance-work-mem", "128MB")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"rebuilt {home(tenant)}.{DOCUMENTS} in ")
    assert done.stdout.count("\n") == 1
    assert f"{DOCUMENTS}: building index" in done.stderr
    done = run("rebuild", "--index", KNOWLEDGE, "--json")
    assert [one["table"] for one in json.loads(done.stdout)] == PARTITIONS
    assert all(one.valid for one in indexes(tenant))


def test_the_command_measures(library: Database) -> None:
    run = command(library)
    done = run(
        "recall", "--table", "documents", "--target", "0.9", "--samples", "20", "--ef", "40", "--ef", "200"
    )
    assert done.exit_code == 0, done.output
    assert "recall@10 of 20 stored vectors" in done.output
    assert "is the smallest that meets 0.9" in done.output


def test_the_command_says_when_none_meets_the_target(poor: Database) -> None:
    done = command(poor)("recall", "--table", "documents", "--samples", "60", "--ef", "10", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["ef"] is None
    assert found["target"] == 0.95
    assert found["measured"][0]["ef"] == 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rebuild", "--index", "nobody"], "no vector index has this name"),
        (["recall", "--table", "nobody"], "has no vector index"),
        (["recall", "--table", "memories"], "fewer than two vectors"),
        (["recall", "--table", "documents", "--target", "2"], "target: expected"),
        (["status", "--schema", "no such"], "the name of a tenant"),
    ],
)
def test_a_mistake_is_one_line(library: Database, arguments: list[str], says: str) -> None:
    done = command(library)(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("alfred-db: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_wants_a_table(library: Database) -> None:
    done = command(library)("recall")
    assert done.exit_code == 2
    assert "Missing option '--table'" in done.stderr
