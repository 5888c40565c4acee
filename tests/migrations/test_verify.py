"""A live schema that is not what its revision says: the message names what, expected, found, and the revision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import URL

from alfred_db import AsyncDatabase, Database, migrate
from alfred_db.config import command
from alfred_db.errors import SchemaDriftError, SchemaOutdatedError
from alfred_db.migrate.verify import problems, verify

from .catalog import HEAD, REVISIONS, engine_of, run

HNSW = "idx_documents_embedding"

# What is done to the database, and the problems that are then listed: what, expected, found, revision.
DRIFTS: dict[str, tuple[list[str], str, str, str, str]] = {
    "a dropped table": (
        ["DROP TABLE rag_query_documents"],
        "table rag_query_documents",
        "it to exist",
        "nothing",
        "alfred_0014_rag",
    ),
    "a dropped table of a shared catalog": (
        ["DROP TABLE brk_registry.hosted_model_price"],
        "table brk_registry.hosted_model_price",
        "it to exist",
        "nothing",
        "alfred_0007_broker_catalog",
    ),
    "a dropped column": (
        ["ALTER TABLE tasks DROP COLUMN error_code"],
        "column tasks.error_code",
        "text",
        "nothing",
        "alfred_0008_tasks",
    ),
    "a changed type": (
        ["ALTER TABLE tasks ALTER COLUMN retry_count TYPE bigint"],
        "column tasks.retry_count",
        "integer",
        "bigint",
        "alfred_0008_tasks",
    ),
    "a changed collation": (
        ['ALTER TABLE cache ALTER COLUMN key TYPE text COLLATE "default"'],
        "column cache.key",
        "text collate c",
        "text",
        "alfred_0033_cache_bounds",
    ),
    "an added collation": (
        ['ALTER TABLE tasks ALTER COLUMN error_code TYPE text COLLATE "C"'],
        "column tasks.error_code",
        "text",
        "text collate C",
        "alfred_0008_tasks",
    ),
    "a vector of another dimension": (
        [
            "DROP INDEX wm.embedding_idx",
            "ALTER TABLE wm.working_memory ALTER COLUMN embedding TYPE vector(3)",
            "CREATE INDEX embedding_idx ON wm.working_memory USING hnsw (embedding vector_cosine_ops)"
            " WITH (m = 16, ef_construction = 64)",
        ],
        "column wm.working_memory.embedding",
        "vector(1536)",
        "vector(3)",
        "alfred_0016_working_memory",
    ),
    "a dropped NOT NULL": (
        ["ALTER TABLE conversations ALTER COLUMN created_at DROP NOT NULL"],
        "column conversations.created_at",
        "NOT NULL",
        "NULL allowed",
        "alfred_0013_conversations",
    ),
    "an added NOT NULL": (
        ["ALTER TABLE tasks ALTER COLUMN created_by SET NOT NULL"],
        "column tasks.created_by",
        "NULL allowed",
        "NOT NULL",
        "alfred_0008_tasks",
    ),
    "a dropped index": (
        ["DROP INDEX idx_tasks_ready"],
        "index idx_tasks_ready on tasks",
        "it to exist",
        "nothing",
        "alfred_0008_tasks",
    ),
    "an invalid index": (
        ["UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_tasks_ready'::regclass"],
        "index idx_tasks_ready on tasks",
        "a valid index",
        "an invalid one: REINDEX",
        "alfred_0008_tasks",
    ),
    "an index that is not unique": (
        ["DROP INDEX uq_tasks_dedupe_key", "CREATE INDEX uq_tasks_dedupe_key ON tasks (dedupe_key)"],
        "index uq_tasks_dedupe_key on tasks",
        "UNIQUE",
        "CREATE INDEX uq_tasks_dedupe_key",
        "alfred_0026_task_dedupe",
    ),
    "an index of another kind": (
        ["DROP INDEX idx_tasks_failed", "CREATE INDEX idx_tasks_failed ON tasks USING brin (failed_at)"],
        "index idx_tasks_failed on tasks",
        "USING btree",
        "USING brin",
        "alfred_0008_tasks",
    ),
    "an HNSW index of another distance": (
        [
            "DROP INDEX {hnsw}",
            "CREATE INDEX {hnsw} ON documents USING hnsw (embedding vector_l2_ops) WITH (m = 16, ef_construction = 64)",
        ],
        "index {hnsw} on documents",
        "vector_cosine_ops",
        "vector_l2_ops",
        "alfred_0011_documents",
    ),
    "an HNSW index of another m": (
        [
            "DROP INDEX {hnsw}",
            "CREATE INDEX {hnsw} ON documents USING hnsw (embedding vector_cosine_ops) WITH (m = 8, ef_construction = 64)",
        ],
        "index {hnsw} on documents",
        "m='16'",
        "m='8'",
        "alfred_0011_documents",
    ),
    "a dropped check": (
        ["ALTER TABLE tasks DROP CONSTRAINT ck_tasks_priority"],
        "constraint ck_tasks_priority on tasks",
        "it to exist",
        "nothing",
        "alfred_0008_tasks",
    ),
    "a dropped foreign key": (
        ["ALTER TABLE task_results DROP CONSTRAINT fk_task_results_task_id"],
        "constraint fk_task_results_task_id on task_results",
        "it to exist",
        "nothing",
        "alfred_0008_tasks",
    ),
    "a dropped primary key": (
        ["ALTER TABLE task_results DROP CONSTRAINT pk_task_results"],
        "constraint pk_task_results on task_results",
        "it to exist",
        "nothing",
        "alfred_0008_tasks",
    ),
    "a constraint that was never validated": (
        [
            "ALTER TABLE tasks DROP CONSTRAINT ck_tasks_priority",
            "ALTER TABLE tasks ADD CONSTRAINT ck_tasks_priority CHECK (priority BETWEEN 1 AND 5) NOT VALID",
        ],
        "constraint ck_tasks_priority on tasks",
        "a valid constraint",
        "one that is not validated",
        "alfred_0008_tasks",
    ),
    "a dropped trigger": (
        ["DROP TRIGGER set_updated_at ON tasks"],
        "trigger set_updated_at on tasks",
        "it to exist",
        "nothing",
        "alfred_0008_tasks",
    ),
    "a disabled trigger": (
        ["ALTER TABLE wm.working_memory DISABLE TRIGGER set_updated_at"],
        "trigger set_updated_at on wm.working_memory",
        "it to exist",
        "a disabled one",
        "alfred_0016_working_memory",
    ),
    "a function with another body": (
        [
            "CREATE OR REPLACE FUNCTION extensions.set_updated_at() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NEW; END'"
        ],
        "function extensions.set_updated_at()",
        "the body of the revision",
        "another body",
        "alfred_0001_extensions",
    ),
    "a dropped function": (
        ["DROP FUNCTION extensions.make_month_partitions(regclass, integer)"],
        "function extensions.make_month_partitions(regclass, integer)",
        "it to exist",
        "nothing",
        "alfred_0001_extensions",
    ),
    "a dropped fallback": (
        ["DROP FUNCTION extensions.verify(text, text, text)"],
        "function extensions.verify(text, text, text)",
        "it to exist",
        "nothing",
        "alfred_0024_shared_functions",
    ),
}


def test_a_migrated_database_has_no_problem(any_server: Callable[[], URL]) -> None:
    url = any_server()
    migrate.upgrade(url)
    migrate.upgrade(url, schema="acme")
    with engine_of(url).connect() as connection:
        for schema in (None, "acme"):
            assert problems(connection, schema) == []
            verify(connection, schema)


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_is_named_with_the_revision_that_made_it(migrated_url: URL, drift: str) -> None:
    statements, *texts = DRIFTS[drift]
    what, expected, found, revision = (text.format(hnsw=HNSW) for text in texts)
    with engine_of(migrated_url).connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.format(hnsw=HNSW))
        (problem,) = problems(connection)
        assert (problem.what, problem.expected, problem.revision) == (what, expected, revision)
        assert found in problem.found
        with pytest.raises(SchemaDriftError) as caught:
            verify(connection)
        for text in (
            f"the database is at {HEAD}",
            what,
            f"expected {expected}",
            f"found {problem.found}",
            f"made by {revision}",
        ):
            assert text in str(caught.value)
        connection.rollback()
        verify(connection)


def test_a_drift_of_a_tenant_is_its_own(migrated_url: URL) -> None:
    with engine_of(migrated_url).connect() as connection:
        connection.exec_driver_sql("DROP INDEX acme.idx_tasks_ready")
        verify(connection)
        with pytest.raises(SchemaDriftError, match="index idx_tasks_ready"):
            verify(connection, "acme")
        connection.rollback()


def test_a_drift_of_the_shared_catalogs_is_every_tenants(migrated_url: URL) -> None:
    with engine_of(migrated_url).connect() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE brk_registry.model_maker ALTER COLUMN created_at DROP NOT NULL"
        )
        for schema in (None, "acme"):
            with pytest.raises(SchemaDriftError, match=r"brk_registry\.model_maker\.created_at"):
                verify(connection, schema)
        connection.rollback()


def test_many_drifts_are_counted_and_not_all_listed(migrated_url: URL) -> None:
    with engine_of(migrated_url).connect() as connection:
        connection.exec_driver_sql(
            "DROP TABLE workflow_events, workflow_steps, workflow_executions, workflows"
        )
        connection.exec_driver_sql(
            "DROP TABLE test_results, test_runs, test_cases, test_suites, rag_query_documents"
        )
        connection.exec_driver_sql(
            "DROP TABLE rag_queries, rag_sessions, processed_messages, event_consumers"
        )
        with pytest.raises(SchemaDriftError, match="; and 3 more"):
            verify(connection)
        connection.rollback()


@pytest.mark.parametrize("schema", [None, "acme"])
def test_a_database_that_is_behind_gets_the_command(database_url: URL, schema: str | None) -> None:
    migrate.downgrade(database_url, REVISIONS[-3], schema=schema)
    with engine_of(database_url).connect() as connection, pytest.raises(SchemaOutdatedError) as caught:
        verify(connection, schema)
    assert str(caught.value) == (
        f"the database is at {REVISIONS[-3]}, this version of alfred-db needs {HEAD}: run {command('upgrade', database_url, schema)}"
    )


def test_a_database_that_is_behind_only_in_its_number_gets_it_too(database_url: URL) -> None:
    run(database_url, f"UPDATE alfred_db_version SET version_num = '{REVISIONS[-2]}'")
    with engine_of(database_url).connect() as connection, pytest.raises(SchemaOutdatedError, match=HEAD):
        verify(connection)


async def test_an_empty_database_gets_the_command(empty_url: URL) -> None:
    migrate.upgrade(empty_url)
    migrate.downgrade(empty_url, "base")
    with Database(empty_url) as db, pytest.raises(SchemaOutdatedError, match="run `alfred-db upgrade --url"):
        db.verify()
    async with AsyncDatabase(empty_url) as other:
        with pytest.raises(SchemaOutdatedError, match="no schema of alfred-db"):
            await other.verify()
    with Database(empty_url, schema="acme") as db, pytest.raises(SchemaOutdatedError, match="--schema acme`"):
        db.verify()


def test_an_empty_server_database_gets_the_command(empty_url: URL) -> None:
    """Not even the extension is there: the upgrade would make it."""
    with Database(empty_url) as db, pytest.raises(SchemaOutdatedError, match="run `alfred-db upgrade --url"):
        db.verify()
