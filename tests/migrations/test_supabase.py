"""On Supabase, or where its services run beside the library: their tables are mapped, and every door leaves them alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import URL, MetaData, Table

from alfred_db import Database, migrate
from alfred_db.cli.doctor import examine
from alfred_db.errors import ConfigurationError, SchemaDriftError
from alfred_db.migrate.verify import problems
from alfred_db.models import Base
from alfred_db.server import requirements

from . import supabase
from .catalog import HEAD, alembic, connected, differences, engine_of, run, scalar, snapshot, version

ROLE = f"alfred_supabase_{os.getpid()}"


@dataclass
class Platform:
    """A database with Supabase's tables in it, as the library's role sees it."""

    url: URL
    admin: URL

    def theirs(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that the catalog says of their schemas."""
        return {
            what: [row for row in rows if str(row[0]).startswith(("auth", "storage"))]
            for what, rows in snapshot(self.admin).items()
        }


@pytest.fixture(params=["another role's", "the same role's"])
def platform(request: pytest.FixtureRequest, new_database: Callable[..., URL]) -> Iterator[Platform]:
    admin = new_database()
    service, app = f"{ROLE}_service", f"{ROLE}_app"
    same = request.param == "the same role's"
    owner = app if same else service
    run(
        admin,
        f"CREATE ROLE {service}",
        f"CREATE ROLE {app} LOGIN",
        f"GRANT CREATE ON DATABASE {admin.database} TO {app}",
        f"CREATE SCHEMA auth AUTHORIZATION {owner}",
        f"CREATE SCHEMA storage AUTHORIZATION {owner}",
        f"CREATE SCHEMA extensions AUTHORIZATION {app}",
        "CREATE EXTENSION vector SCHEMA extensions",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {app}",
    )
    try:
        with connected(admin) as connection:
            connection.exec_driver_sql(f"SET ROLE {owner}")
            for statement in (*supabase.AUTH, *supabase.STORAGE):
                connection.exec_driver_sql(statement.replace("%", "%%"))
            connection.exec_driver_sql(
                "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'a@b.example')"
            )
            connection.exec_driver_sql("INSERT INTO storage.buckets (id, name) VALUES ('b', 'b')")
            connection.exec_driver_sql("INSERT INTO storage.objects (bucket_id, name) VALUES ('b', 'x/y')")
            if not same:
                connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA auth, storage TO {app}")
                connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA auth, storage TO {app}")
                everything = "FOR SELECT USING (true)"
                connection.exec_driver_sql(f"CREATE POLICY ours ON auth.users {everything}")
                connection.exec_driver_sql(f"CREATE POLICY ours ON storage.buckets {everything}")
        yield Platform(admin.set(username=app), admin)
    finally:
        run(admin, f"DROP OWNED BY {app}, {service} CASCADE", f"DROP ROLE {app}, {service}")


def test_every_door_is_green_and_changes_nothing_of_theirs(platform: Platform) -> None:
    before = platform.theirs()
    assert sum(len(rows) for rows in before.values()) > 300
    url = platform.url
    migrate.upgrade(url)
    migrate.upgrade(url, schema="acme")
    for schema in (None, "acme"):
        with Database(url, schema=schema) as database:
            database.verify()
        migrate.check(url, schema=schema)
        report = examine(url, schema)
        assert (report.errors, report.external) == ([], ["auth", "storage"])
        assert "left alone  schema auth, which is another service's" in report.as_text()
    done = alembic("check", url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Did not recognize type" not in done.stderr
    with Database(url) as database, database.begin() as uow:
        user = uow.users.get_by_email("a@b.example")
        assert user is not None
        assert [found.email for found in uow.users.list().items] == [user.email]
        stored = uow.storage.get("b", "x/y")
        assert stored is not None
        assert stored.path_tokens == ["x", "y"]
        assert [bucket.id for bucket in uow.storage.list_buckets().items] == ["b"]
        for write in (
            lambda: uow.storage.create_bucket("mine"),
            lambda: uow.storage.put("b", "z"),
            lambda: uow.storage.delete("b", "x/y"),
        ):
            with pytest.raises(ConfigurationError, match="another service"):
                write()
    assert differences(before, platform.theirs()) == []
    migrate.downgrade(url, "base", schema="acme")
    migrate.downgrade(url, "base")
    assert version(url) is None
    assert differences(before, platform.theirs()) == []
    assert scalar(platform.admin, "SELECT count(*) FROM auth.users") == 1
    migrate.upgrade(url)
    assert version(url) == HEAD


@pytest.mark.parametrize(
    "users",
    [
        supabase.users(change_token="email_change_token", phone="varchar(15)", newest=False),
        supabase.users(),
    ],
    ids=["before the change token had a new name", "newest"],
)
def test_each_form_that_the_library_can_read_is_enough(empty_url: URL, users: str) -> None:
    run(
        empty_url,
        "CREATE SCHEMA auth",
        users,
        "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'e')",
    )
    migrate.upgrade(empty_url)
    with Database(empty_url) as database:
        database.verify()
        migrate.check(empty_url)
        with database.begin() as uow:
            assert uow.users.get_by_email("e") is not None
            assert len(uow.users.list().items) == 1
    assert examine(empty_url).errors == []
    assert examine(empty_url).external == ["auth"]


def test_what_the_library_reads_and_their_tables_lack_is_named(empty_url: URL) -> None:
    """Each column that a statement of the repositories selects, and no other: verify is right if, and only if, reading works."""
    run(empty_url, "CREATE SCHEMA auth", supabase.first_users())
    migrate.upgrade(empty_url)
    with Database(empty_url) as database:
        with pytest.raises(
            SchemaDriftError, match=r"auth\.users\.deleted_at.*upgrade that service"
        ) as caught:
            database.verify()
        lacking = ("phone", "email_confirmed_at", "phone_confirmed_at", "deleted_at")
        for name in lacking:
            assert f"column auth.users.{name}:" in str(caught.value)
        assert str(caught.value).count("column auth.users.") == len(lacking)
        with engine_of(empty_url).connect() as connection:
            assert {problem.revision for problem in problems(connection)} == {
                "the service that owns the table"
            }
        for name in lacking:
            run(
                empty_url,
                f"ALTER TABLE auth.users ADD COLUMN {name} {'text' if name == 'phone' else 'timestamptz'}",
            )
        database.verify()
        with database.begin() as uow:
            assert uow.users.list().items == []


@pytest.mark.parametrize("table", requirements.OTHERS_TABLES)
def test_each_shared_table_is_recognised_by_our_comment_on_it(database_url: URL, table: str) -> None:
    """Of what we made ourselves, one column is too many to lose; without the comment it is somebody else's."""
    schema, _, name = table.partition(".")
    model = Base.metadata.tables[table]
    run(database_url, f"ALTER TABLE {table} ADD COLUMN added integer")
    column = "encrypted_password" if table == "auth.users" else "updated_at"
    unread = table == "auth.users"
    run(
        database_url, f"ALTER TABLE {table} ALTER COLUMN {column} TYPE varchar(255) USING NULL"
    ) if unread else None
    with pytest.raises(SchemaDriftError, match="added"):
        migrate.check(database_url)
    with engine_of(database_url).connect() as connection:
        facts = requirements.probe(connection)
        assert facts.shared_tables == dict.fromkeys(requirements.OTHERS_TABLES, True)
        assert not requirements.external(facts, schema)
        assert bool(problems(connection)) is unread
    run(database_url, f"COMMENT ON TABLE {table} IS NULL")
    migrate.check(database_url)
    with Database(database_url) as database:
        database.verify()
    assert schema in examine(database_url).external
    # A host application that maps the table itself compares it; one that does not leaves it alone.
    host, live = MetaData(), MetaData()
    theirs = Table(name, host, schema=schema)
    found = Table(name, live, schema=schema, comment=None)
    assert migrate.include_object(theirs, name, "table", False, found)
    assert not migrate.include_object(found, name, "table", True, None)
    ours = Table(name, MetaData(), schema=schema, comment=model.comment)
    assert not migrate.include_object(theirs, name, "table", False, ours)


def test_a_schema_that_its_service_has_not_filled_yet_is_waited_for(new_database: Callable[..., URL]) -> None:
    admin = new_database()
    app = f"{ROLE}_early"
    run(
        admin,
        f"CREATE ROLE {app} LOGIN",
        f"GRANT CREATE ON DATABASE {admin.database} TO {app}",
        "CREATE SCHEMA auth",
        f"GRANT USAGE ON SCHEMA auth TO {app}",
        "CREATE EXTENSION vector",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {app}",
    )
    try:
        before = snapshot(admin)
        with pytest.raises(
            ConfigurationError, match=r"table auth\.users: it is missing.*GRANT USAGE, CREATE"
        ) as caught:
            migrate.upgrade(admin.set(username=app))
        assert differences(before, snapshot(admin)) == []
        said = str(caught.value)
        run(admin, said[said.index("GRANT") :].removesuffix(";"))
        migrate.upgrade(admin.set(username=app))
    finally:
        run(admin, f"DROP OWNED BY {app} CASCADE", f"DROP ROLE {app}")
