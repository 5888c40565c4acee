"""The broker's catalog in a separate database, on a server that asks for passwords, linked to the database of the suite."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner
from servers import running
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from alfred_db import (
    AlfredDBError,
    AsyncDatabase,
    ConfigurationError,
    ConflictError,
    Database,
    DatabaseUnavailable,
    InvalidTransition,
    SchemaOutdatedError,
    migrate,
)
from alfred_db.cli import main
from alfred_db.config import parse_url
from alfred_db.embedded import system
from alfred_db.models import Base
from alfred_db.repositories import AsyncBrokerCatalogRepository, BrokerCatalogRepository
from alfred_db.sql import literal

PASSWORD = "geheim%'s Wort"
READER = "catalog_reader"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def broker_server() -> Iterator[URL]:
    with running(system.binaries(), password=PASSWORD) as url:
        yield parse_url(url)


@pytest.fixture(scope="module")
def filled(broker_server: URL) -> URL:
    """A database with the catalog alone, and a row of each kind, that nobody connects to."""
    execute(
        broker_server, "CREATE DATABASE filled", f"CREATE ROLE {READER} LOGIN PASSWORD {literal(PASSWORD)}"
    )
    url = broker_server.set(database="filled")
    migrate.upgrade(url, target="broker")
    execute(
        url,
        f"GRANT USAGE ON SCHEMA brk_registry TO {READER}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA brk_registry TO {READER}",
    )
    with Database(url) as database, database.begin() as uow:
        fill(BrokerCatalogRepository(uow.session))
    return url


@pytest.fixture
def broker_url(broker_server: URL, filled: URL) -> URL:
    """A superuser's URL of a database with the catalog alone."""
    name = f"catalog_{next(_numbers)}"
    execute(broker_server, f"CREATE DATABASE {name} TEMPLATE filled STRATEGY FILE_COPY")
    return broker_server.set(database=name)


@pytest.fixture
def reader_url(broker_url: URL) -> URL:
    return broker_url.set(username=READER, password=PASSWORD)


@pytest.fixture
def linked(database_url: URL, reader_url: URL) -> Iterator[URL]:
    link(database_url, reader_url)
    yield database_url
    execute(database_url, "DROP SERVER IF EXISTS alfred_catalog CASCADE")


def fill(catalog: BrokerCatalogRepository) -> int:
    catalog.put_provider("azure", name="Azure")
    catalog.put_maker("openai", name="OpenAI")
    catalog.put_family("gpt-4", maker="openai", name="GPT-4")
    catalog.put_model("gpt-4o", family="gpt-4", name="GPT-4o", capabilities={"vision": True})
    hosted = catalog.put_hosted_model("azure", "deployment-1", model="gpt-4o")
    catalog.put_price("azure", "deployment-1", input_price=Decimal(2), output_price=Decimal(8))
    return hosted.id


def link(url: URL, catalog_url: URL) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        migrate.link_catalog(connection, catalog_url)


def execute(url: URL, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        for statement in statements:
            driver.execute(statement)


def refused(url: URL, statement: str) -> str:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection, pytest.raises(SQLAlchemyError) as caught:
        connection.execute(text(statement))
    return str(caught.value)


def assert_refused(said: str) -> None:
    assert any(word in said for word in ("cannot", "does not allow", "is not a table")), said


def cut(broker_url: URL) -> None:
    """Make the catalog's database unreachable, and end the connections to it."""
    name = broker_url.database
    execute(
        broker_url.set(database="postgres"),
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
    )


def test_the_target_has_the_catalog_and_nothing_else(broker_url: URL) -> None:
    with create_engine(broker_url, poolclass=NullPool).connect() as connection:
        tables = set(
            connection.scalars(
                text(
                    "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE relkind = 'r'"
                    " AND nspname NOT IN ('pg_catalog', 'information_schema')"
                )
            )
        )
        assert tables == {
            *(table.name for table in Base.metadata.tables.values() if table.schema == "brk_registry"),
            migrate.VERSION_TABLE,
        }
        assert migrate.current(connection, "brk_registry") == migrate.head()
    migrate.upgrade(broker_url, target="broker")
    migrate.downgrade(broker_url, "base", target="broker", allow_data_loss=True)
    with create_engine(broker_url, poolclass=NullPool).connect() as connection:
        assert connection.scalar(text("SELECT to_regnamespace('brk_registry')")) is None


def test_the_target_has_no_tenants(broker_url: URL) -> None:
    with pytest.raises(ConfigurationError, match="has no tenants"):
        migrate.upgrade(broker_url, schema="acme", target="broker")


@pytest.mark.parametrize("schema", [None, "acme"])
def test_the_catalog_is_read_and_priced_through_the_link(linked: URL, schema: str | None) -> None:
    with Database(linked, schema=schema) as database:
        database.verify()
        with database.begin() as uow:
            catalog = BrokerCatalogRepository(uow.session)
            (offer,) = catalog.find_offers(capability="vision")
            assert (offer.model.code, offer.provider.code) == ("gpt-4o", "azure")
            started = uow.broker_requests.start("r-1", hosted_model_id=offer.hosted_model.id)
            assert (started.model, started.provider) == ("gpt-4o", "azure")
            finished = uow.broker_requests.finish(
                started.id, started.created_at, prompt_tokens=1_000_000, completion_tokens=0
            )
            assert finished.cost == 2
            assert (
                uow.broker_requests.log_many(
                    [{"request_id": "r-2", "hosted_model_id": offer.hosted_model.id}]
                )
                == 1
            )
            assert catalog.export_catalog()["providers"] == [
                {"code": "azure", "name": "Azure", "is_active": True, "metadata": {}}
            ]


async def test_the_catalog_is_read_by_async_repositories(linked: URL) -> None:
    async with AsyncDatabase(linked) as database, database.begin() as uow:
        catalog = AsyncBrokerCatalogRepository(uow.session)
        assert len(await catalog.find_offers()) == 1
        assert len(await catalog.last_known.find_offers()) == 1


def test_what_is_written_in_the_other_database_is_seen_here(linked: URL, broker_url: URL) -> None:
    with Database(broker_url) as database, database.begin() as uow:
        BrokerCatalogRepository(uow.session).put_provider("mistral", name="Mistral")
    with Database(linked) as database, database.begin() as uow:
        assert BrokerCatalogRepository(uow.session).get_provider("mistral") is not None


def test_nothing_is_written_through_the_link(linked: URL) -> None:
    with (
        Database(linked) as database,
        pytest.raises(AlfredDBError, match="write it there"),
        database.begin() as uow,
    ):
        BrokerCatalogRepository(uow.session).put_provider("evil", name="Evil")
    # Neither by a superuser of this database, through the views or the foreign tables.
    for schema in ("brk_registry", "brk_registry_link"):
        for table in ("hosting_provider", "hosted_model_price"):
            assert_refused(refused(linked, f"INSERT INTO {schema}.{table} DEFAULT VALUES"))
            assert_refused(refused(linked, f"UPDATE {schema}.{table} SET created_at = now()"))
            assert_refused(refused(linked, f"DELETE FROM {schema}.{table}"))


def test_a_role_that_may_write_the_catalog_is_refused(database_url: URL, broker_url: URL) -> None:
    with pytest.raises(ConfigurationError, match="may write the catalog"):
        link(database_url, broker_url)
    with Database(database_url) as database:
        database.verify()


def test_an_application_cannot_read_the_password_or_make_another_link(linked: URL) -> None:
    role = f"app_{linked.database}"
    execute(
        linked,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA brk_registry, brk_registry_link TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA brk_registry TO {role}",
    )
    app = linked.set(username=role)
    try:
        with create_engine(app, poolclass=NullPool).connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM brk_registry.hosted_model")) == 1
            assert connection.scalars(text("SELECT umoptions FROM pg_user_mappings")).all() == [None]
            described = connection.scalars(
                text("EXPLAIN (VERBOSE, SETTINGS) SELECT * FROM brk_registry.hosted_model")
            ).all()
            assert PASSWORD not in str(described)
        for statement in (
            "SELECT umoptions FROM pg_catalog.pg_user_mapping",
            "SELECT * FROM brk_registry_link.hosted_model",
            "SET ROLE alfred_catalog_link",
            f"CREATE USER MAPPING FOR {role} SERVER alfred_catalog OPTIONS (user 'postgres')",
            "ALTER USER MAPPING FOR alfred_catalog_link SERVER alfred_catalog OPTIONS (SET user 'postgres')",
            "ALTER SERVER alfred_catalog OPTIONS (SET host 'evil')",
            "ALTER VIEW brk_registry.hosted_model OWNER TO CURRENT_USER",
            "CREATE FOREIGN TABLE pg_temp.f (id bigint) SERVER alfred_catalog",
        ):
            assert any(word in refused(app, statement) for word in ("permission denied", "must be owner")), (
                statement
            )
        for statement in (
            "INSERT INTO brk_registry.hosting_provider (code, name) VALUES ('e', 'e')",
            "UPDATE brk_registry.hosted_model_price SET input_price = 0",
            "DELETE FROM brk_registry.hosted_model",
            "TRUNCATE brk_registry.hosted_model",
        ):
            assert_refused(refused(app, statement))
        with create_engine(linked, poolclass=NullPool).connect() as connection:
            assert migrate.check_catalog(connection).problems == ()
    finally:
        execute(linked, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_who_may_read_the_password_is_named(linked: URL) -> None:
    role = f"friend_{linked.database}"
    execute(linked, f"CREATE ROLE {role}", f"GRANT alfred_catalog_link TO {role}")
    execute(linked, f"GRANT USAGE ON FOREIGN SERVER alfred_catalog TO {role}")
    try:
        with create_engine(linked, poolclass=NullPool).connect() as connection:
            problems = migrate.check_catalog(connection).problems
        assert [role in problem for problem in problems] == [True, True]
    finally:
        execute(linked, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_without_the_catalog_all_else_goes_on(linked: URL, broker_url: URL) -> None:
    with Database(linked) as database:
        with database.begin() as uow:
            hosted = BrokerCatalogRepository(uow.session).find_offers()[0].hosted_model.id
            started = uow.broker_requests.start("r-1", hosted_model_id=hosted)
        cut(broker_url)
        with database.begin() as uow:
            uow.tasks.enqueue("SUMMARISE", {})
            uow.broker_requests.start("r-2", model="gpt-4o", provider="azure")
        with pytest.raises(DatabaseUnavailable, match="catalog"), database.begin() as uow:
            BrokerCatalogRepository(uow.session).find_offers()
        with pytest.raises(DatabaseUnavailable), database.begin() as uow:
            uow.broker_requests.finish(started.id, started.created_at, prompt_tokens=1, completion_tokens=0)
        with database.begin() as uow:  # of the last known state, where the caller allows it
            assert len(BrokerCatalogRepository(uow.session).last_known.find_offers()) == 1
            requests = uow.broker_requests.last_known
            second = requests.start("r-3", hosted_model_id=hosted)
            assert second.provider == "azure"
            finished = requests.finish(
                started.id, started.created_at, prompt_tokens=1_000_000, completion_tokens=0
            )
            assert finished.cost == 2
            assert requests.log_many([{"request_id": "r-4", "hosted_model_id": hosted}]) == 1
        with create_engine(linked, poolclass=NullPool).connect() as connection:
            state = migrate.check_catalog(connection)
        assert (state.linked, state.reachable) == (True, False)
        assert PASSWORD not in str(state)


def test_the_last_known_state_is_that_of_the_last_refresh(linked: URL, broker_url: URL) -> None:
    with Database(broker_url) as database, database.begin() as uow:
        BrokerCatalogRepository(uow.session).put_provider("mistral", name="Mistral")
    result = CliRunner().invoke(
        main, ["catalog", "refresh", "--url", linked.render_as_string(hide_password=False)]
    )
    assert result.output == "copied 7 rows\n"
    cut(broker_url)
    with Database(linked) as database, database.begin() as uow:
        assert BrokerCatalogRepository(uow.session).last_known.get_provider("mistral") is not None


def test_the_link_is_undone_with_the_rows_of_the_other_database(linked: URL, broker_url: URL) -> None:
    with create_engine(linked, poolclass=NullPool).begin() as connection:
        migrate.unlink_catalog(connection)
    with Database(linked) as database:
        database.verify()
        with database.begin() as uow:
            catalog = BrokerCatalogRepository(uow.session)
            assert len(catalog.find_offers()) == 1
            assert catalog.put_provider("own", name="Own").id > 1
    with create_engine(linked, poolclass=NullPool).begin() as connection, pytest.raises(InvalidTransition):
        migrate.unlink_catalog(connection)


def test_a_link_is_undone_without_the_other_database_only_where_that_is_asked_for(
    linked: URL, broker_url: URL
) -> None:
    cut(broker_url)
    url = linked.render_as_string(hide_password=False)
    failed = CliRunner().invoke(main, ["catalog", "unlink", "--url", url])
    assert (failed.exit_code, "alfred_catalog" in failed.output) == (2, True)
    done = CliRunner().invoke(main, ["catalog", "unlink", "--stale", "--url", url])
    assert (done.exit_code, done.output) == (0, "the catalog is in this database again\n")
    with Database(linked) as database, database.begin() as uow:
        assert len(BrokerCatalogRepository(uow.session).find_offers()) == 1


def test_a_link_is_made_again(linked: URL, reader_url: URL) -> None:
    link(linked, reader_url)
    url = linked.render_as_string(hide_password=False)
    result = CliRunner().invoke(main, ["catalog", "check", "--url", url])
    assert result.exit_code == 0
    assert "hosted models 1" in result.output


def test_tenants_are_made_beside_a_link_and_the_catalog_stays(linked: URL) -> None:
    migrate.upgrade(linked, schema="late")
    with Database(linked, schema="late") as database:
        database.verify()
    with pytest.raises(ConflictError, match="unlink"):
        migrate.downgrade(linked, "alfred_0006_model_registry", allow_data_loss=True)


def test_a_database_of_another_revision_is_refused(database_url: URL, broker_server: URL) -> None:
    name = f"catalog_{next(_numbers)}"
    execute(broker_server, f"CREATE DATABASE {name}")
    with pytest.raises(SchemaOutdatedError, match="--target broker"):
        link(database_url, broker_server.set(database=name))


def test_a_database_with_the_catalog_alone_is_loaded_and_exported(broker_url: URL) -> None:
    url = broker_url.render_as_string(hide_password=False)
    for _ in range(2):
        done = CliRunner().invoke(main, ["catalog", "load", "--url", url])
        assert done.exit_code == 0, done.output
        assert done.output.startswith("loaded providers ")
        assert "model registry were skipped" in done.output
    with Database(broker_url) as database, database.begin() as uow:
        assert BrokerCatalogRepository(uow.session).get_family("claude") is not None
    exported = CliRunner().invoke(main, ["catalog", "export", "--url", url])
    assert exported.exit_code == 0, exported.output
    assert "registry" not in json.loads(exported.output)
    again = CliRunner().invoke(main, ["catalog", "load", "-", "--url", url], input=exported.output)
    assert again.exit_code == 0, again.output
