"""What is said of each vector index."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import corpus
import pytest
from sqlalchemy import URL

from alfred_db import Database, Document
from alfred_db.errors import (
    ConfigurationError,
    SchemaOutdatedError,
)
from alfred_db.indexes import IndexState, recall, status
from alfred_db.server import requirements

from .care import DOCUMENTS, KNOWLEDGE, LOADED, PARTITIONS, POINTS, TABLES, home, indexes, reported, sql


def test_every_vector_index_of_the_models_is_listed(reader: Database) -> None:
    found = indexes(reader)
    assert [one.table for one in found] == TABLES
    for one in found:
        assert one.state is IndexState.VALID
        assert one.valid
        assert one.schema == home(reader, "wm" if one.table == "working_memory" else "public")
        assert one.parent == (KNOWLEDGE if one.table in PARTITIONS else None)
        assert not reported(one)
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
    for _ in range(300):
        (used,) = indexes(tenant, "documents")
        if not used.unused:
            break
        time.sleep(0.1)
    assert used.scans == 6
    assert not used.unused


def test_an_old_pgvector_is_warned_of(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = requirements.probe

    def old(connection: Any) -> requirements.Facts:
        facts = real(connection)
        others = [
            one if one.name != "vector" else replace(one, installed="0.8.2") for one in facts.extensions
        ]
        return replace(facts, extensions=tuple(others))

    monkeypatch.setattr(requirements, "probe", old)
    for one in indexes(database):
        (warning,) = one.warnings
        assert "can corrupt indexes" in warning
        assert "REINDEX" in warning


def test_what_the_coordinator_of_citus_cannot_know_is_unknown(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = requirements.probe
    monkeypatch.setattr(requirements, "probe", lambda connection: replace(real(connection), citus=True))
    found = {one.table: one for one in indexes(database)}
    empty, full = found["memories"], found["documents"]
    assert (empty.size, empty.rows, empty.scans, empty.unused) == (None, None, None, False)
    assert full.rows == LOADED


def test_a_missing_index_is_listed_with_what_makes_it(tenant: Database) -> None:
    sql(tenant, f"DROP INDEX {home(tenant)}.{DOCUMENTS}", f"DROP INDEX {home(tenant)}.{KNOWLEDGE}")
    missing = [one for one in indexes(tenant) if one.state is IndexState.MISSING]
    assert [one.table for one in missing] == ["documents", *PARTITIONS]
    for one in missing:
        (warning,) = reported(one)
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


def test_the_error_for_a_database_without_the_tables_names_what_to_run(
    empty_url: URL, database: Database
) -> None:
    with Database(empty_url) as empty:
        sql(empty, "CREATE EXTENSION vector")
        with pytest.raises(
            SchemaOutdatedError, match="documents does not exist: run `alfred-db upgrade --url "
        ):
            indexes(empty)
    with database.engine.connect() as connection:
        with pytest.raises(SchemaOutdatedError, match=r"alfred-db upgrade --url .* --schema nobody`"):
            status(connection, "nobody")
        with pytest.raises(ConfigurationError, match="the name of a tenant"):
            status(connection, 'a"; DROP TABLE documents; --')
