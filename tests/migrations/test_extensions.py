"""Extensions and rights as real servers have them. Most tests work in a transaction that is rolled back."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text

from alfred_db import Database, migrate
from alfred_db.errors import ConfigurationError, ExtensionMissingError, ExtensionTooOldError
from alfred_db.models.base import Base
from alfred_db.server import requirements
from alfred_db.server.requirements import Platform
from alfred_db.sql import SHARED_SCHEMAS, TENANT_SCHEMAS

SCHEMAS = (*SHARED_SCHEMAS, *TENANT_SCHEMAS)
ROLE = f"alfred_app_{os.getpid()}"

NewDatabase = Callable[..., URL]
EVERYTHING = text("""
    SELECT 'schema', nspname::text FROM pg_namespace
    UNION ALL SELECT 'relation', oid::regclass::text FROM pg_class
    UNION ALL SELECT 'extension', extname FROM pg_extension
    UNION ALL SELECT 'function', oid::regprocedure::text FROM pg_proc
""")


@contextmanager
def engine_on(url: URL) -> Iterator[Engine]:
    engine = create_engine(url, poolclass=NullPool)
    yield engine
    engine.dispose()


def run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


@contextmanager
def acting_as(role: str, connection: Connection) -> Iterator[None]:
    run(connection, f"SET LOCAL ROLE {role}")
    yield
    run(connection, "RESET ROLE")


@pytest.fixture
def connection(server: Engine) -> Iterator[Connection]:
    """A superuser's connection; nothing that is done on it stays."""
    with server.connect() as connection:
        yield connection


@pytest.fixture
def app(connection: Connection) -> str:
    """A role with no rights but those that everybody has."""
    run(connection, f"CREATE ROLE {ROLE}")
    return ROLE


def sql_in(error: pytest.ExceptionInfo[ConfigurationError]) -> list[str]:
    return re.findall(r"(?:ALTER|CREATE|GRANT) .*?;", str(error.value))


# The probe


def test_one_query_that_changes_nothing(connection: Connection) -> None:
    statements: list[str] = []
    run(connection, "SET TRANSACTION READ ONLY")

    def count(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    event.listen(connection, "before_cursor_execute", count)
    facts = requirements.probe(connection)
    assert len(statements) == 1
    assert facts.read_only
    assert connection.in_transaction()


def test_a_superuser_of_an_empty_database(connection: Connection) -> None:
    facts = requirements.probe(connection)
    assert facts.major == facts.server_version // 10000 >= requirements.MINIMUM_SERVER
    assert facts.version.startswith(f"PostgreSQL {facts.major}")
    assert facts.superuser
    assert facts.can_create_schema
    assert facts.home == "public"
    assert not facts.read_only
    vector = facts.extension("vector")
    assert (vector.installed, vector.creatable) == (None, True)
    requirements.require(facts)
    requirements.require_rights(facts, SCHEMAS)


def test_any_role_may_ask(connection: Connection, app: str) -> None:
    with acting_as(app, connection):
        facts = requirements.probe(connection)
    assert facts.role == app
    assert not facts.superuser
    assert facts.platform is not None


# vector is missing or too old: nothing has changed


def before_and_after(url: URL, error: type[Exception], *mentioned: str) -> None:
    def everything() -> list[tuple[str, str]]:
        with engine_on(url) as engine, engine.connect() as connection:
            return sorted((kind, name) for kind, name in connection.execute(EVERYTHING))

    before = everything()
    with Database(url) as database:
        for attempt in (database.upgrade, database.verify):
            with pytest.raises(error) as caught:
                attempt()
            for words in mentioned:
                assert words in str(caught.value)
    assert everything() == before


def test_no_vector(new_database: NewDatabase) -> None:
    url = new_database(on="debian15")
    before_and_after(
        url,
        ExtensionMissingError,
        "'vector' is missing",
        "(Debian or Ubuntu)",
        "`sudo apt install postgresql-15-pgvector`",
        f'as a superuser in database "{url.database}": `CREATE EXTENSION vector;`',
    )


def test_only_an_old_vector_at_hand(new_database: NewDatabase) -> None:
    url = new_database(on="pgserver16")
    before_and_after(
        url, ExtensionTooOldError, "'vector' 0.6.2", "PostgreSQL 16.2", "0.8.0 or newer", "pgvector_16"
    )


def test_an_old_vector_installed(new_database: NewDatabase) -> None:
    url = new_database(on="pgserver16")
    with engine_on(url) as engine, engine.begin() as connection:
        run(connection, "CREATE EXTENSION vector")
    before_and_after(
        url, ExtensionTooOldError, "'vector' 0.6.2", "`ALTER EXTENSION vector UPDATE;`", "pgvector_16"
    )


def test_an_old_vector_with_a_new_one_at_hand(connection: Connection) -> None:
    run(
        connection,
        "CREATE EXTENSION vector",
        "UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'",
    )
    with pytest.raises(ExtensionTooOldError, match=r"'vector' 0\.7\.4 .* `ALTER EXTENSION vector UPDATE;`$"):
        requirements.require(requirements.probe(connection))


# A role without rights


def test_a_role_that_may_not_create_vector(connection: Connection, app: str) -> None:
    with acting_as(app, connection):
        facts = requirements.probe(connection)
    with pytest.raises(ExtensionMissingError) as error:
        requirements.require(facts)
    assert f'the role "{app}" may not create it' in str(error.value)
    run(connection, "CREATE EXTENSION vector")
    with acting_as(app, connection):
        requirements.require(requirements.probe(connection))


def test_the_rights_of_a_database_do_for_trusted_extensions_only(connection: Connection, app: str) -> None:
    run(connection, f"GRANT CREATE ON DATABASE {connection.engine.url.database} TO {app}")
    with acting_as(app, connection):
        facts = requirements.probe(connection)
    assert facts.extension("pg_trgm").creatable == (facts.extension("pg_trgm").available is not None)
    assert not facts.extension("vector").creatable


def test_an_admin_runs_what_the_error_names(connection: Connection, app: str) -> None:
    run(connection, "CREATE SCHEMA extensions", "CREATE SCHEMA wm", f"GRANT USAGE ON SCHEMA wm TO {app}")
    with acting_as(app, connection):
        facts = requirements.probe(connection)
    with pytest.raises(ConfigurationError) as error:
        requirements.require_rights(facts, SCHEMAS)
    commands = sql_in(error)
    assert len(commands) == len(SCHEMAS) + 1
    run(connection, *commands)
    with acting_as(app, connection):
        facts = requirements.probe(connection)
        requirements.require_rights(facts, SCHEMAS)
        for name in (*SCHEMAS, "public"):
            run(connection, f"CREATE TABLE {name}.probe (id int)")
    assert not requirements.external(facts, "auth")


def test_no_place_for_tables(connection: Connection, app: str) -> None:
    run(connection, "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    with acting_as(app, connection):
        facts = requirements.probe(connection)
    assert facts.home is None
    with pytest.raises(ConfigurationError) as error:
        requirements.require_rights(facts, SCHEMAS)
    run(connection, *sql_in(error))


def test_names_that_need_quotes(connection: Connection) -> None:
    role = '"o\'hara ""x"" y"'
    run(connection, f"CREATE ROLE {role}")
    with acting_as(role, connection):
        facts = requirements.probe(connection)
    with pytest.raises(ConfigurationError) as error:
        requirements.require_rights(facts, SCHEMAS)
    run(connection, *sql_in(error))


@pytest.mark.parametrize("on", ["embedded", "full"])
def test_a_plain_role_migrates_what_an_admin_has_prepared(new_database: NewDatabase, on: str) -> None:
    url = new_database(on=on)
    with engine_on(url) as engine:
        try:
            with engine.begin() as connection:
                run(
                    connection,
                    "CREATE EXTENSION vector",
                    f"CREATE ROLE {ROLE} LOGIN",
                    f"GRANT USAGE, CREATE ON SCHEMA public TO {ROLE}",
                    *(f"CREATE SCHEMA {name} AUTHORIZATION {ROLE}" for name in SCHEMAS),
                )
                made = connection.execute(text("SELECT extname FROM pg_extension")).all()
            with Database(url.set(username=ROLE)) as database:
                database.upgrade()
                database.verify()
            with engine.connect() as connection:
                facts = requirements.probe(connection)
                assert set(made) <= set(connection.execute(text("SELECT extname FROM pg_extension")).all())
            assert all(schema.owner == ROLE for schema in facts.schemas if schema.name in SCHEMAS)
        finally:
            with engine.begin() as connection:
                run(connection, f"DROP OWNED BY {ROLE} CASCADE", f"DROP ROLE {ROLE}")


def test_extensions_that_an_admin_made_stay_where_they_are(new_database: NewDatabase) -> None:
    url = new_database(on="full")
    with engine_on(url) as engine:
        with engine.begin() as connection:
            run(
                connection,
                "CREATE SCHEMA elsewhere",
                'CREATE EXTENSION "uuid-ossp" SCHEMA elsewhere',
                "CREATE EXTENSION pgcrypto SCHEMA elsewhere",
                "CREATE EXTENSION vector SCHEMA elsewhere",
            )
            before = requirements.probe(connection)
            requirements.require(before)
        migrate.upgrade(url)
        with engine.connect() as connection:
            after = requirements.probe(connection)
        for name in ("vector", "uuid-ossp", "pgcrypto"):
            assert after.extension(name) == before.extension(name)
            assert after.extension(name).schema == "elsewhere"


# vector outside the search_path


def test_vector_outside_the_search_path(server: Engine) -> None:
    with server.begin() as connection:
        run(connection, "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA extensions")
        facts = requirements.probe(connection)
        requirements.require(facts)
        assert not facts.extension("vector").visible
        (line,) = (line for line in requirements.warnings(facts) if "search_path" in line)
        (command,) = re.findall(r"ALTER ROLE .*;", line)
        run(connection, command)
    with server.connect() as connection:
        facts = requirements.probe(connection)
        assert facts.extension("vector").visible
        assert not [line for line in requirements.warnings(facts) if "search_path" in line]
        assert connection.scalar(text("SELECT '[1]'::vector <-> '[2]'")) == 1


def test_vector_in_a_schema_that_the_role_may_not_use(connection: Connection, app: str) -> None:
    run(connection, "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA extensions")
    with acting_as(app, connection):
        facts = requirements.probe(connection)
    with pytest.raises(ConfigurationError) as error:
        requirements.require(facts)
    run(connection, *sql_in(error))
    with acting_as(app, connection):
        requirements.require(requirements.probe(connection))
        run(connection, "SELECT '[1]'::extensions.vector")


# Preloading


def test_preloaded_or_not(connection: Connection, app: str) -> None:
    preloaded = "pg_stat_statements" in str(connection.scalar(text("SHOW shared_preload_libraries")))
    if requirements.probe(connection).extension("pg_stat_statements").available is None:
        pytest.skip("the server does not have pg_stat_statements")
    run(connection, "CREATE EXTENSION pg_stat_statements")
    for role in (None, app):
        if role is not None:
            run(connection, f"SET LOCAL ROLE {role}")
        facts = requirements.probe(connection)
        assert facts.extension("pg_stat_statements").preloaded is preloaded
        assert bool([line for line in requirements.warnings(facts) if "preloaded" in line]) is not preloaded


def test_created_but_not_preloaded(new_database: NewDatabase) -> None:
    with engine_on(new_database(on="debian15")) as engine, engine.connect() as connection:
        run(connection, "CREATE EXTENSION pg_stat_statements")
        facts = requirements.probe(connection)
        assert facts.extension("pg_stat_statements").preloaded is False
        assert [
            line for line in requirements.warnings(facts) if "pg_stat_statements is installed but not" in line
        ]


def test_pg_cron_belongs_to_one_database(new_database: NewDatabase) -> None:
    with engine_on(new_database(on="full")) as engine, engine.connect() as connection:
        facts = requirements.probe(connection)
        assert facts.extension("pg_cron").preloaded is True
        assert facts.extension("pg_cron").available
        assert not facts.extension("pg_cron").creatable


# Platforms, by what they leave in the catalog


@pytest.mark.parametrize(
    ("marks", "platform", "admin"),
    [
        (["CREATE ROLE rds_superuser"], Platform.RDS, "rds_superuser"),
        (["CREATE ROLE azure_pg_admin"], Platform.AZURE, "azure_pg_admin"),
        (["CREATE ROLE cloudsqlsuperuser"], Platform.CLOUD_SQL, "cloudsqlsuperuser"),
        (["CREATE ROLE supabase_admin"], Platform.SUPABASE, None),
        (["CREATE ROLE neon_superuser"], Platform.NEON, None),
        (["CREATE SCHEMA heroku_ext"], Platform.HEROKU, None),
    ],
)
def test_a_provider(
    connection: Connection, app: str, marks: list[str], platform: Platform, admin: str | None
) -> None:
    run(connection, *marks)
    with acting_as(app, connection):
        facts = requirements.probe(connection)
    assert facts.platform is platform
    assert facts.extension("vector").creatable is (admin is None)
    if admin is not None:
        run(connection, f"GRANT {admin} TO {app}")
        with acting_as(app, connection):
            assert requirements.probe(connection).extension("vector").creatable


def test_azure_lets_only_its_admins_create_even_what_is_trusted(connection: Connection, app: str) -> None:
    run(connection, f"GRANT CREATE ON DATABASE {connection.engine.url.database} TO {app}")
    run(connection, "CREATE ROLE azure_pg_admin")
    with acting_as(app, connection):
        assert not requirements.probe(connection).extension("pg_trgm").creatable


@pytest.mark.parametrize(("on", "platform"), [("embedded", Platform.EMBEDDED), ("full", Platform.DEBIAN)])
def test_a_server_of_ones_own(new_database: NewDatabase, on: str, platform: Platform) -> None:
    if on == "embedded" and "ALFRED_DB_TEST_URL" in os.environ:
        pytest.skip("the default server is not the embedded one")
    with engine_on(new_database(on=on)) as engine, engine.connect() as connection:
        assert requirements.probe(connection).platform is platform


def test_schemas_of_another_owner_as_on_supabase(connection: Connection, app: str) -> None:
    run(
        connection,
        "CREATE ROLE supabase_admin",
        "CREATE ROLE supabase_auth_admin",
        "CREATE ROLE supabase_storage_admin",
        "CREATE SCHEMA auth AUTHORIZATION supabase_auth_admin",
        "CREATE SCHEMA storage AUTHORIZATION supabase_storage_admin",
        f"CREATE SCHEMA extensions AUTHORIZATION {app}",
        "CREATE EXTENSION vector SCHEMA extensions",
        f"GRANT USAGE ON SCHEMA auth, storage TO {app}",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {app}",
        f"GRANT CREATE ON DATABASE {connection.engine.url.database} TO {app}",
    )
    with acting_as(app, connection):
        facts = requirements.probe(connection)
    assert facts.platform is Platform.SUPABASE
    requirements.require(facts)
    requirements.require_rights(facts, SCHEMAS)
    assert [name for name in SCHEMAS if requirements.external(facts, name)] == ["auth", "storage"]
    auth = facts.schema("auth")
    assert auth is not None
    assert (auth.owner, auth.owned, auth.may_create) == ("supabase_auth_admin", False, False)
    run(connection, f"GRANT supabase_auth_admin TO {app}")
    with acting_as(app, connection):
        assert not requirements.external(requirements.probe(connection), "auth")


@pytest.mark.parametrize("on", ["embedded", "full"])
def test_tables_of_another_owner_are_used_as_they_are(new_database: NewDatabase, on: str) -> None:
    url, owner = new_database(on=on), f"{ROLE}_owner"
    others = [table for table in Base.metadata.sorted_tables if table.schema in requirements.OTHERS]

    def their_things(connection: Connection) -> list[tuple[str, str]]:
        return sorted(
            (kind, name) for kind, name in connection.execute(EVERYTHING) if re.match("auth|storage", name)
        )

    with engine_on(url) as engine:
        try:
            with engine.begin() as connection:
                run(
                    connection,
                    f"CREATE ROLE {ROLE} LOGIN",
                    f"CREATE ROLE {owner}",
                    "CREATE SCHEMA extensions",
                    "CREATE EXTENSION vector SCHEMA extensions",
                    *(f"CREATE SCHEMA {name} AUTHORIZATION {owner}" for name in requirements.OTHERS),
                    *(
                        f"CREATE TABLE {table} ({', '.join(f'{c.name} text' for c in table.c)})"
                        for table in others
                    ),
                    *(f"ALTER TABLE {table} OWNER TO {owner}" for table in others),
                    f"GRANT USAGE ON SCHEMA {', '.join(requirements.OTHERS)} TO {ROLE}",
                    f"GRANT USAGE, CREATE ON SCHEMA public, extensions TO {ROLE}",
                    f"GRANT CREATE ON DATABASE {url.database} TO {ROLE}",
                )
                before = their_things(connection)
            with Database(url.set(username=ROLE)) as database:
                database.upgrade()
                database.verify()
                with engine.connect() as connection:
                    assert their_things(connection) == before
                migrate.downgrade(url.set(username=ROLE), "base", allow_data_loss=True)
            with engine.connect() as connection:
                assert their_things(connection) == before
        finally:
            with engine.begin() as connection:
                run(connection, f"DROP OWNED BY {ROLE}, {owner} CASCADE", f"DROP ROLE {ROLE}, {owner}")
