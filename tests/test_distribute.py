"""`alfred-db distribute` and upgrades on the coordinator that tests/fake_citus.py makes: the plan, not a cluster."""

from __future__ import annotations

import json
from typing import Any

import fake_citus
import pytest
from click.testing import CliRunner
from sqlalchemy import URL, NullPool, create_engine, text

from alfred_db import AlfredDBError, ConfigurationError, Database, SchemaOutdatedError, migrate
from alfred_db.cli import main
from alfred_db.server.citus import CATALOGS, cluster

pytestmark = pytest.mark.not_on_citus("a stand-in for Citus is installed")

BROKEN = "ALTER TABLE brk_tracking.broker_request ADD CONSTRAINT own_key FOREIGN KEY (hosted_model_id) REFERENCES brk_registry.hosted_model"


@pytest.fixture
def url(database_url: URL) -> URL:
    fake_citus.install(database_url)
    return database_url


def ask(url: URL, sql: str) -> Any:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return connection.scalar(text(sql))


def run(url: URL, *words: str) -> Any:
    return CliRunner().invoke(main, [*words, "--url", url.render_as_string(hide_password=False)])


def test_what_is_local_is_distributed_once_and_the_rest_stays(url: URL) -> None:
    fake_citus.execute(url, BROKEN)
    with Database(url) as database, database.begin() as uow:
        uow.storage.create_bucket("a")
    comments = "SELECT string_agg(concat(oid::regclass, obj_description(oid)), ' ' ORDER BY oid::regclass::text) FROM pg_class WHERE obj_description(oid, 'pg_class') IS NOT NULL"
    before = ask(url, comments)
    planned = migrate.distribute(url, dry_run=True)
    assert fake_citus.calls(url) == []
    assert migrate.distribute(url) == planned
    assert [stage.name for stage in planned] == ["shared catalogs", "tenant acme"]
    assert fake_citus.calls(url) == [
        *(f"create_reference_table {table.fullname}" for table in CATALOGS),
        "citus_schema_distribute acme",
    ]
    assert ask(url, comments) == before
    assert ask(url, "SELECT count(*) FROM pg_constraint WHERE conname = 'own_key' AND conparentid = 0") == 1
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = 'set_updated_at' AND tgrelid::regclass::text LIKE '{}.%'"
    assert [ask(url, triggers.format(schema)) for schema in ("acme", "brk_registry", "model_registry")] == [
        0,
        0,
        0,
    ]
    assert (
        ask(
            url,
            "SELECT count(*) FROM pg_trigger WHERE tgname = 'set_updated_at' AND tgrelid = 'documents'::regclass",
        )
        == 1
    )
    assert migrate.distribute(url) == []
    for schema in (None, "acme"):
        with Database(url, schema=schema) as database:
            database.verify()
            with database.begin() as uow:  # whose tables these are is known by the comments that Citus drops
                uow.storage.create_bucket(f"of {schema}")


@pytest.mark.parametrize("stopped_after", [1, 13, 14])
def test_a_stopped_run_leaves_whole_stages_and_is_continued(url: URL, stopped_after: int) -> None:
    migrate.upgrade(url, schema="second")
    fake_citus.execute(
        url,
        "CREATE FUNCTION pg_catalog.fake_stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.number > {stopped_after} THEN RAISE EXCEPTION 'the node is gone' USING ERRCODE = '08006'; END IF; RETURN NEW; END $$",
        "SET allow_system_table_mods = on",
        "CREATE TRIGGER stop BEFORE INSERT ON pg_catalog.fake_calls FOR EACH ROW EXECUTE FUNCTION pg_catalog.fake_stop()",
    )
    with pytest.raises(AlfredDBError, match="the node is gone"):
        migrate.distribute(url)
    fake_citus.execute(url, "SET allow_system_table_mods = on", "DROP TRIGGER stop ON pg_catalog.fake_calls")
    migrate.distribute(url)
    calls = fake_citus.calls(url)
    assert sorted(calls) == sorted(set(calls))
    assert len(calls) == len(CATALOGS) + 2
    assert migrate.distribute(url) == []


def test_a_tenant_that_is_created_on_citus_has_no_trigger_and_no_key_to_the_catalog(url: URL) -> None:
    migrate.upgrade(url, schema="late")
    assert (
        ask(
            url,
            "SELECT count(*) FROM pg_trigger WHERE tgrelid::regclass::text LIKE 'late.%' AND NOT tgisinternal",
        )
        == 0
    )
    with Database(url, schema="late") as database:
        database.verify()


def test_a_database_that_is_new_on_citus_has_no_trigger(empty_url: URL) -> None:
    fake_citus.install(empty_url)
    migrate.upgrade(empty_url)
    assert ask(empty_url, "SELECT count(*) FROM pg_trigger WHERE tgname = 'set_updated_at'") == 0
    with Database(empty_url) as database:
        database.verify()


def test_a_schema_of_a_tenant_is_created_with_sharding_on(url: URL) -> None:
    fake_citus.execute(
        url,
        "CREATE TABLE public.seen (value text)",
        "CREATE FUNCTION public.look() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO public.seen VALUES (current_setting('citus.enable_schema_based_sharding', true)); END $$",
        "CREATE EVENT TRIGGER look ON ddl_command_end WHEN TAG IN ('CREATE SCHEMA') EXECUTE FUNCTION public.look()",
    )
    migrate.upgrade(url, schema="late")
    assert ask(url, "SELECT string_agg(value, ' ') FROM public.seen") == "on"


def test_the_list_of_tenants_shows_where_each_is_and_what_it_takes_there(url: URL) -> None:
    migrate.upgrade(url, schema="second")
    with Database(url) as database:
        assert [tenant.node for tenant in database.tenants.list()] == [None, None]
        migrate.distribute(url)
        migrate.upgrade(url, schema="local")
        fake_citus.execute(
            url,
            "CREATE OR REPLACE FUNCTION pg_catalog.citus_total_relation_size(logicalrelid regclass, fail_on_error boolean DEFAULT true)"
            " RETURNS bigint LANGUAGE sql AS 'SELECT 1000::bigint'",
        )
        found = {tenant.name: tenant for tenant in database.tenants.list()}
    assert {name: tenant.node for name, tenant in found.items()} == {
        "acme": "worker-1:5432",
        "local": None,
        "second": "worker-2:5432",
    }
    assert found["acme"].size == found["second"].size
    assert found["acme"].size is not None
    assert found["local"].size is not None
    assert found["acme"].size % 1000 == 0, "the coordinator holds nothing of them"
    assert 0 < found["acme"].size < 1_000_000 < found["local"].size
    assert found["acme"].at_head
    listed = run(url, "tenants", "list").output.splitlines()
    assert [line.split()[-1] for line in listed[:3]] == [
        "worker-1:5432",
        found["local"].owner,
        "worker-2:5432",
    ]


def test_a_worker_is_refused_in_words(url: URL) -> None:
    fake_citus.become_worker(url)
    for call in (
        lambda: migrate.upgrade(url, schema="late"),
        lambda: migrate.downgrade(url, "base"),
        lambda: migrate.distribute(url),
    ):
        with pytest.raises(ConfigurationError, match="is a worker of Citus"):
            call()
    with create_engine(url, poolclass=NullPool).connect() as connection:
        found = cluster(connection)
    assert found is not None
    assert "this server is a worker" in found.warnings[0]


def test_without_citus_there_is_nothing_to_distribute(database_url: URL) -> None:
    result = run(database_url, "distribute")
    assert (result.exit_code, "the database has no Citus" in result.output) == (2, True)
    with create_engine(database_url, poolclass=NullPool).connect() as connection:
        assert cluster(connection) is None


def test_an_older_database_is_upgraded_first(url: URL) -> None:
    migrate.downgrade(url, "alfred_0035_spaces", schema="acme")
    with pytest.raises(SchemaOutdatedError, match="tenant acme is at alfred_0035_spaces"):
        migrate.distribute(url)
    assert fake_citus.calls(url) == []


def test_the_commands_show_the_plan_and_the_cluster(url: URL) -> None:
    report = json.loads(run(url, "doctor", "--json").output)
    assert report["citus"][0] == "coordinator:5432, coordinator"
    assert any("not distributed" in warning and "tenant acme" in warning for warning in report["warnings"])
    planned = run(url, "distribute", "--dry-run").output.splitlines()
    assert "SELECT pg_catalog.citus_schema_distribute('\"acme\"');" in planned
    assert run(url, "distribute").stdout == "-- shared catalogs\n-- tenant acme\n"
    assert run(url, "distribute").output == "nothing to do\n"
    shown = run(url, "doctor").output
    assert "not distributed" not in shown
    assert "worker with 1 tenants" in shown
