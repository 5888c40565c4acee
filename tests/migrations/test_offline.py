"""The SQL for those who run it by hand: it needs no database, and makes what an upgrade makes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from sqlalchemy import URL

from alfred_db import migrate
from alfred_db.errors import ConfigurationError
from alfred_db.migrate.verify import verify

from .catalog import (
    HEAD,
    REVISIONS,
    alembic,
    differences,
    dump,
    engine_of,
    prepare,
    psql,
    run,
    snapshot,
    unlike,
    version,
)

Databases = Callable[[], URL]


@pytest.fixture(scope="module")
def script() -> str:
    return migrate.sql()


def test_the_script_makes_what_an_upgrade_makes(any_server: Databases, script: str) -> None:
    online, offline = any_server(), any_server()
    migrate.upgrade(online)
    psql(offline, script)
    assert unlike(dump(online), dump(offline)) == []
    assert differences(snapshot(online), snapshot(offline)) == []
    assert version(offline) == HEAD
    migrate.check(offline)


def test_the_script_of_a_tenant_makes_what_its_upgrade_makes(
    template: URL, migrated_to: Callable[..., URL]
) -> None:
    url = migrated_to("head")
    psql(url, migrate.sql(schema="acme"))
    assert unlike(dump(template), dump(url)) == []
    assert version(url, "acme") == HEAD
    migrate.check(url, schema="acme")


@pytest.mark.parametrize("schema", [None, "acme"])
def test_the_script_finds_vector_where_an_administrator_put_it(empty_url: URL, schema: str | None) -> None:
    run(empty_url, "CREATE SCHEMA elsewhere", "CREATE EXTENSION vector SCHEMA elsewhere")
    psql(empty_url, migrate.sql())
    if schema is not None:
        psql(empty_url, migrate.sql(schema=schema))
    with engine_of(empty_url).connect() as connection:
        verify(connection, schema)


def test_scripts_of_ranges_make_together_what_one_makes(template: URL, empty_url: URL) -> None:
    steps = ["base", REVISIONS[2], REVISIONS[9], HEAD]
    for start, end in pairwise(steps):
        if start == "base":
            psql(empty_url, migrate.sql(end))
        else:
            psql(empty_url, migrate.sql(f"{start}:{end}"))
        assert version(empty_url) == end
    migrate.upgrade(empty_url, schema="acme")
    assert unlike(dump(template), dump(empty_url)) == []


def test_a_range_holds_its_revisions_alone() -> None:
    script = migrate.sql(f"{REVISIONS[7]}:{REVISIONS[8]}")
    assert "processed_messages" in script
    assert "CREATE TABLE tasks" not in script
    assert "CREATE TABLE alfred_db_version" not in script


def test_the_script_needs_no_database() -> None:
    done = alembic("upgrade", "head", "--sql", ALFRED_DB_HOME="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert done.stdout == migrate.sql()


def test_the_script_without_triggers_has_none() -> None:
    assert "CREATE TRIGGER" in migrate.sql()
    assert "CREATE TRIGGER" not in migrate.sql(triggers=False)


@pytest.mark.parametrize("tenant", [(), ("-x", "schema=acme")], ids=["default tenant", "acme"])
def test_the_script_of_a_downgrade_undoes_all(empty_url: URL, tenant: tuple[str, ...]) -> None:
    prepare(empty_url)
    if tenant:
        migrate.upgrade(empty_url)
    before = snapshot(empty_url)
    migrate.upgrade(empty_url, schema="acme" if tenant else None)
    done = alembic(*tenant, "downgrade", "head:base", "--sql", ALFRED_DB_HOME="/nonexistent")
    assert done.returncode == 0, done.stderr
    psql(empty_url, done.stdout)
    assert differences(before, snapshot(empty_url)) == []


def test_the_script_of_a_downgrade_keeps_rows(database_url: URL) -> None:
    with engine_of(database_url).begin() as connection:
        connection.exec_driver_sql("INSERT INTO tasks (task_id, intent) VALUES ('t', 'x')")
    before = snapshot(database_url)
    script = alembic("downgrade", f"{REVISIONS[7]}:{REVISIONS[6]}", "--sql").stdout
    with pytest.raises(AssertionError, match="table tasks holds rows"):
        psql(database_url, script)
    assert differences(before, snapshot(database_url)) == []
    allowed = alembic(
        "-x", "allow_data_loss=1", "downgrade", f"{REVISIONS[7]}:{REVISIONS[6]}", "--sql"
    ).stdout
    assert "DROP TABLE tasks" in allowed
    assert "holds rows" not in allowed


def test_a_script_with_a_hostile_schema_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        migrate.sql(schema='x"; DROP TABLE tasks; --')
