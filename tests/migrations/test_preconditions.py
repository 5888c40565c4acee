"""Databases that are not what an upgrade expects: refused with the next step, and left as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import URL

from alfred_db import migrate
from alfred_db.errors import (
    ConflictError,
    ExtensionMissingError,
    ExtensionTooOldError,
    SchemaDriftError,
    SchemaError,
    SchemaTooNewError,
)
from alfred_db.migrate.verify import verify

from .catalog import (
    HEAD,
    REVISIONS,
    alembic,
    differences,
    engine_of,
    prepare,
    run,
    scalar,
    snapshot,
    version,
)


@pytest.fixture
def future_url(database_url: URL) -> URL:
    """A database that a newer version of the library has upgraded, the tenant too."""
    for table in ("alfred_db_version", "acme.alfred_db_version"):
        run(database_url, f"UPDATE {table} SET version_num = 'alfred_9999_future'")
    return database_url


@pytest.mark.parametrize("schema", [None, "acme"])
def test_a_newer_database_is_refused(future_url: URL, schema: str | None) -> None:
    before = snapshot(future_url)
    with pytest.raises(SchemaTooNewError, match=r"'alfred_9999_future'.*upgrade alfred-db"):
        migrate.upgrade(future_url, schema=schema)
    with pytest.raises(SchemaTooNewError, match="'alfred_9999_future'"):
        migrate.downgrade(future_url, "base", schema=schema, allow_data_loss=True)
    with (
        pytest.raises(SchemaTooNewError, match=r"'alfred_9999_future'.*upgrade alfred-db"),
        engine_of(future_url).connect() as connection,
    ):
        verify(connection, schema)
    assert differences(before, snapshot(future_url)) == []
    assert version(future_url, schema) == "alfred_9999_future"


@pytest.mark.parametrize(
    "command",
    [("upgrade", "head"), ("downgrade", "base"), ("downgrade", "-1"), ("upgrade", "+1"), ("check",)],
    ids=" ".join,
)
def test_plain_alembic_reports_in_one_line_that_the_database_is_newer(
    future_url: URL, command: tuple[str, ...]
) -> None:
    done = alembic(*command, url=future_url)
    output = (done.stdout + done.stderr).strip()
    assert done.returncode != 0
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("FAILED: ")
    assert "alfred_9999_future" in output
    assert len(output.splitlines()) == 1
    assert version(future_url) == "alfred_9999_future"


def test_another_applications_version_table_is_untouched(empty_url: URL) -> None:
    run(
        empty_url,
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('theirs')",
        "CREATE TABLE alfred_db_versions (id int)",
    )
    prepare(empty_url)
    before = snapshot(empty_url)
    row = "SELECT string_agg(version_num || xmin, ',') FROM alembic_version"
    written = scalar(empty_url, row)
    migrate.upgrade(empty_url)
    assert scalar(empty_url, row) == written
    migrate.downgrade(empty_url, "base")
    assert scalar(empty_url, row) == written
    assert differences(before, snapshot(empty_url)) == []


@pytest.mark.parametrize(
    ("statements", "names"),
    [
        (["CREATE TABLE tasks (id int)", "CREATE TABLE workflows (id int)"], ["tasks", "workflows"]),
        (["CREATE VIEW documents AS SELECT 1 AS id"], ["documents"]),
        (["CREATE SCHEMA wm", "CREATE TABLE wm.working_memory (id int)"], ["working_memory"]),
        (
            ["CREATE SCHEMA brk_registry", "CREATE TABLE brk_registry.model (id int)"],
            ["brk_registry", "model"],
        ),
    ],
    ids=["tables", "a view", "in a tenant's schema", "in a shared schema"],
)
def test_tables_of_ours_that_something_else_made_are_named(
    empty_url: URL, statements: list[str], names: list[str]
) -> None:
    run(empty_url, *statements)
    before = snapshot(empty_url)
    with pytest.raises(SchemaDriftError) as caught:
        migrate.upgrade(empty_url)
    for name in names:
        assert name in str(caught.value)
    assert "move them aside" in str(caught.value)
    assert differences(before, snapshot(empty_url)) == []


@pytest.mark.parametrize("table", ["tasks", "entity_node", "working_memory"])
def test_a_tenants_tables_that_something_else_made_are_named(database_url: URL, table: str) -> None:
    run(database_url, "CREATE SCHEMA beta", f"CREATE TABLE beta.{table} (id int)")
    before = snapshot(database_url)
    with pytest.raises(SchemaDriftError, match=rf"beta\W+{table}"):
        migrate.upgrade(database_url, schema="beta")
    assert differences(before, snapshot(database_url)) == []


def test_an_upgrade_that_fails_keeps_what_was_done_and_goes_on_later(empty_url: URL) -> None:
    prepare(empty_url)
    migrate.upgrade(empty_url, "alfred_0018_broker_requests")
    run(empty_url, "CREATE TABLE scheduler_tasks (id int)")
    before = snapshot(empty_url)
    with pytest.raises(Exception, match="already exists"):
        migrate.upgrade(empty_url)
    assert version(empty_url) == "alfred_0018_broker_requests"
    assert differences(before, snapshot(empty_url)) == []
    run(empty_url, "DROP TABLE scheduler_tasks")
    migrate.upgrade(empty_url)
    assert version(empty_url) == HEAD
    migrate.check(empty_url)


@pytest.mark.parametrize(
    ("insert", "table", "below"),
    [
        ("INSERT INTO tasks (task_id, intent) VALUES ('t', 'x')", "tasks", "alfred_0007_broker_catalog"),
        (
            "INSERT INTO knowledge_collections (name) VALUES ('mine')",
            "knowledge_collections",
            "alfred_0014_rag",
        ),
        (
            "INSERT INTO knowledge_points (collection, id) VALUES ('legal-knowledge', 'p')",
            "knowledge_points",
            "alfred_0014_rag",
        ),
        (
            "INSERT INTO wm.working_memory (name, memory_type) VALUES ('n', 't')",
            "wm.working_memory",
            "alfred_0015_knowledge",
        ),
        (
            "INSERT INTO brk_tracking.broker_request (request_id) VALUES ('r')",
            "brk_tracking.broker_request",
            "alfred_0017_entities",
        ),
        ("INSERT INTO events (topic) VALUES ('t')", "events", "alfred_0021_validation"),
        (
            "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'a@b')",
            "auth.users",
            "alfred_0003_tenant_schemas",
        ),
    ],
    ids=["tasks", "a collection", "a partition", "wm", "broker_request", "events", "auth.users"],
)
def test_a_downgrade_destroys_no_rows_unless_allowed(
    migrated_to: Callable[..., URL], insert: str, table: str, below: str
) -> None:
    url = migrated_to("head")
    run(url, insert)
    revision = REVISIONS[REVISIONS.index(below) + 1]
    migrate.downgrade(url, revision)
    before = snapshot(url)
    with pytest.raises(ConflictError, match=rf"table {table} holds rows.*allow.data.loss") as caught:
        migrate.downgrade(url, below)
    assert not caught.value.retryable
    assert version(url) == revision
    assert differences(before, snapshot(url)) == []
    assert scalar(url, f"SELECT count(*) FROM {table}") >= 1
    migrate.downgrade(url, below, allow_data_loss=True)
    assert version(url) == below
    assert scalar(url, f"SELECT to_regclass('{table}') IS NULL")


def test_plain_alembic_refuses_and_allows_to_destroy_rows(database_url: URL) -> None:
    run(database_url, "INSERT INTO tasks (task_id, intent) VALUES ('t', 'x')")
    done = alembic("downgrade", REVISIONS[6], url=database_url)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "FAILED: table tasks holds rows" in done.stdout + done.stderr
    assert "-x allow_data_loss=1" in done.stdout + done.stderr
    done = alembic("-x", "allow_data_loss=1", "downgrade", REVISIONS[6], url=database_url)
    assert done.returncode == 0, done.stderr
    assert version(database_url) == REVISIONS[6]


def test_the_built_in_collections_are_no_data(database_url: URL) -> None:
    assert scalar(database_url, "SELECT count(*) FROM knowledge_collections") == 4
    migrate.downgrade(database_url, "alfred_0014_rag")
    assert version(database_url) == "alfred_0014_rag"


@pytest.mark.parametrize(
    ("server", "error"), [("pgserver16", ExtensionTooOldError), ("debian15", ExtensionMissingError)]
)
def test_a_server_without_a_usable_vector_is_left_unchanged(
    server: str, error: type[SchemaError], new_database: Callable[..., URL]
) -> None:
    url = new_database(on=server)
    before = snapshot(url)
    with pytest.raises(error, match="'vector'"):
        migrate.upgrade(url)
    with pytest.raises(error, match="'vector'"), engine_of(url).connect() as connection:
        verify(connection)
    assert differences(before, snapshot(url)) == []
