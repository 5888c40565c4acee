"""Indexes made anew, beside what reads and writes."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import corpus
import pytest
from servers import pgbouncer
from sqlalchemy import NullPool, create_engine, event, text

from alfred_db import Database, Document
from alfred_db.config import command
from alfred_db.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    SchemaDriftError,
)
from alfred_db.indexes import IndexState, Progress, rebuild, rebuilding, recall, status
from alfred_db.repositories._sync.documents import DocumentRepository

from .care import DOCUMENTS, KNOWLEDGE, PARTITIONS, TABLES, files, home, indexes, invalidate, reported, sql


def test_what_is_invalid_is_rebuilt_and_nothing_else(tenant: Database) -> None:
    assert rebuild(tenant.engine, schema=tenant.schema) == []
    invalidate(tenant, DOCUMENTS)
    invalidate(tenant, f"{PARTITIONS[2]}_embedding_idx")
    broken = [one for one in indexes(tenant) if not one.valid]
    assert [one.state for one in broken] == [IndexState.INVALID] * 2
    run = command(f"vectors rebuild --index {DOCUMENTS}", tenant.url, tenant.schema)
    assert reported(broken[0]) == [f"invalid, so that no search uses it: {run}"]
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


def test_progress_is_reported_while_it_runs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "drops it" in reported(left)[0]
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


def test_waiting_too_long_for_another_rebuild_is_an_error(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "POLLED_EVERY", 0.002)
    reported: list[str] = []

    def second(progress: Progress) -> None:
        if not reported:
            with pytest.raises(ConflictError, match="another rebuild has been running") as refused:
                rebuild(database.engine, DOCUMENTS, lock_timeout=0.001)
            assert refused.value.retryable
            reported.append(progress.phase)

    rebuild(database.engine, DOCUMENTS, progress=second)
    assert reported


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
