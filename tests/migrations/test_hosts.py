"""The doors by which an upgrade is started, and life beside an application's own Alembic.

Mode A, the default: the application keeps its environment and version table, we keep ours. Its
`context.configure` is given our `include_object` and, with `include_schemas`, our `include_name`.
Mode B: the application's environment runs our revisions too, from `version_locations`, in its own version
table. What does not work there: `upgrade head` (there are two heads: `upgrade heads`), our lock, retries
and checks (its env.py runs, not ours), and `-x schema=` (nobody sets the search_path).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from sqlalchemy import URL, ForeignKey, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from alfred_db import AsyncDatabase, Database, Task, WorkingMemory, migrate
from alfred_db.cli import main
from alfred_db.config import command as command_line
from alfred_db.errors import AlfredDBError, ConfigurationError, SchemaDriftError, translated

from .catalog import (
    HEAD,
    REVISIONS,
    alembic,
    column,
    connected,
    differences,
    engine_of,
    own_url,
    run,
    scalar,
    snapshot,
    version,
)

CONFIGURATION = {
    "pyproject.toml": '[tool.alembic]\nscript_location = "{location}"\n',
    "alembic.ini": "[alembic]\nscript_location = {location}\n",
}


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The doors


@pytest.mark.parametrize("name", CONFIGURATION)
def test_plain_alembic_in_a_users_folder_upgrades(empty_url: URL, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(CONFIGURATION[name].format(location=migrate.location()))
    succeed(alembic("upgrade", "head", url=empty_url, cwd=tmp_path))
    assert version(empty_url) == HEAD
    assert HEAD in succeed(alembic("current", url=empty_url, cwd=tmp_path))
    succeed(alembic("check", url=empty_url, cwd=tmp_path))
    succeed(alembic("downgrade", "-1", url=empty_url, cwd=tmp_path))
    assert version(empty_url) == REVISIONS[-2]
    succeed(alembic("upgrade", "+1", url=empty_url, cwd=tmp_path))
    assert version(empty_url) == HEAD


@pytest.mark.parametrize("name", CONFIGURATION)
def test_the_variable_alembic_config_upgrades_from_anywhere(
    empty_url: URL, tmp_path: Path, name: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).write_text(CONFIGURATION[name].format(location=migrate.location()))
    done = alembic(
        "upgrade", "head", url=empty_url, cwd=tmp_path / "elsewhere", ALEMBIC_CONFIG=str(tmp_path / name)
    )
    succeed(done)
    assert version(empty_url) == HEAD


def test_the_url_for_migrations_goes_before_the_others(empty_url: URL, tmp_path: Path) -> None:
    (tmp_path / "alembic.ini").write_text(CONFIGURATION["alembic.ini"].format(location=migrate.location()))
    wrong = "postgresql://nobody@/nothing?host=/nonexistent"
    done = alembic(
        "upgrade",
        "head",
        cwd=tmp_path,
        ALFRED_DB_MIGRATION_URL=own_url(empty_url),
        ALFRED_DB_URL=wrong,
        DATABASE_URL=wrong,
    )
    succeed(done)
    assert version(empty_url) == HEAD
    done = alembic("upgrade", "head", cwd=tmp_path, ALFRED_DB_URL=wrong)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.startswith("FAILED: ") or "FAILED: " in done.stderr


def test_the_command_upgrades_and_goes_back(empty_url: URL) -> None:
    def command(*arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(main, [*arguments])
        assert done.exit_code == status, done.output
        return done.output

    url = ("--url", own_url(empty_url))
    assert command("current", *url) == "base\n"
    command("upgrade", *url)
    assert command("current", *url) == f"{HEAD}\n"
    command("check", *url)
    run(empty_url, "INSERT INTO tasks (task_id, intent) VALUES ('t', 'x')")
    assert "table tasks holds rows" in command("downgrade", REVISIONS[6], "--yes", *url, status=2)
    command("downgrade", REVISIONS[6], "--allow-data-loss", "--yes", *url)
    assert command("current", *url) == f"{REVISIONS[6]}\n"
    assert f"run {command_line('upgrade', empty_url)} first" in command("check", *url, status=2)
    assert [line.split()[0] for line in command("history").splitlines()] == REVISIONS
    assert command("sql") == migrate.sql()
    assert command("sql", f"{REVISIONS[6]}:{REVISIONS[7]}") == migrate.sql(f"{REVISIONS[6]}:{REVISIONS[7]}")
    command("downgrade", "base", "--yes", *url)
    assert command("current", *url) == "base\n"


async def test_a_database_object_upgrades(empty_url: URL) -> None:
    with Database(empty_url) as db:
        db.upgrade(REVISIONS[9])
        assert version(empty_url) == REVISIONS[9]
    async with AsyncDatabase(empty_url) as other:
        await other.upgrade()
        await other.verify()
    assert version(empty_url) == HEAD


# Mode A: two environments

ENV = """
from __future__ import annotations
import os
from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table, create_engine
from alfred_db import migrate

metadata = MetaData()
Table("orders", metadata, Column("id", Integer, primary_key=True))
Table("items", metadata, Column("id", Integer, primary_key=True), schema="shop")
with create_engine(os.environ["THEIR_URL"]).connect() as connection:
    context.configure(
        connection=connection, target_metadata=metadata, include_schemas={schemas},
        include_object=migrate.include_object, include_name=migrate.include_name,
    )
    with context.begin_transaction():
        context.run_migrations()
"""
MAKO = '''"""${message}"""
from alembic import op
import sqlalchemy as sa
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
'''


def their_environment(folder: Path, env: str) -> None:
    (folder / "theirs" / "versions").mkdir(parents=True)
    (folder / "theirs" / "env.py").write_text(env)
    (folder / "theirs" / "script.py.mako").write_text(MAKO)


@pytest.fixture
def shop_url(database_url: URL) -> URL:
    """Our schema, and that of an application."""
    run(
        database_url,
        "CREATE SCHEMA shop",
        "CREATE TABLE orders (id int PRIMARY KEY)",
        "CREATE TABLE shop.items (id int PRIMARY KEY)",
        "CREATE TABLE shop.tasks_of_theirs (id int PRIMARY KEY)",
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
    )
    return database_url


@pytest.mark.parametrize("schemas", [False, True], ids=["one schema", "include_schemas"])
def test_their_autogenerate_sees_theirs_and_nothing_of_ours(
    shop_url: URL, tmp_path: Path, schemas: bool
) -> None:
    run(shop_url, "DROP TABLE orders", *(["DROP TABLE shop.items"] if schemas else []))
    their_environment(tmp_path, ENV.format(schemas=schemas))
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/theirs\n")
    environment: dict[str, Any] = {"THEIR_URL": shop_url.render_as_string(hide_password=False)}
    before = snapshot(shop_url)
    succeed(alembic("revision", "--autogenerate", "-m", "first", cwd=tmp_path, **environment))
    (made,) = (tmp_path / "theirs" / "versions").glob("*_first.py")
    upgrade = made.read_text().split("def upgrade()")[1].split("def downgrade()")[0]
    operations = [line.strip() for line in upgrade.splitlines() if line.strip().startswith("op.")]
    # A table of theirs that has no model any more is theirs to drop.
    dropped = ["op.drop_table('tasks_of_theirs', schema='shop')"] if schemas else []
    expected = ["op.create_table('orders',", "op.create_table('items',", *dropped]
    assert sorted(operations) == sorted(expected), upgrade
    assert differences(before, snapshot(shop_url)) == []
    if schemas:
        succeed(alembic("upgrade", "head", cwd=tmp_path, **environment))
        succeed(alembic("check", cwd=tmp_path, **environment))
        migrate.check(shop_url)
        migrate.check(shop_url, schema="acme")
        with Database(shop_url) as db:
            db.verify()


def test_their_dropped_model_is_still_dropped(shop_url: URL) -> None:
    for schemas in (False, True):
        with connected(shop_url) as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_schemas": schemas,
                    "include_object": migrate.include_object,
                    "include_name": migrate.include_name,
                },
            )
            found = {(diff[0], str(diff[1])) for diff in compare_metadata(context, MetaData())}
        theirs = ["orders", *(["shop.items", "shop.tasks_of_theirs"] if schemas else [])]
        assert found == {("remove_table", name) for name in theirs}


def test_our_check_sees_nothing_of_theirs(shop_url: URL) -> None:
    run(
        shop_url,
        "CREATE INDEX theirs ON orders (id)",
        "CREATE SCHEMA wm_theirs",
        "CREATE TABLE wm_theirs.tasks (id int)",
    )
    migrate.check(shop_url)
    migrate.check(shop_url, schema="acme")


@pytest.mark.parametrize(
    ("statement", "schema", "named"),
    [
        ("ALTER TABLE tasks DROP COLUMN error_code", None, "add_column public tasks error_code"),
        ("ALTER TABLE wm.working_memory ADD COLUMN extra int", None, "remove_column wm working_memory extra"),
        ("DROP INDEX acme.idx_tasks_running_queue", "acme", "idx_tasks_running_queue"),
        ("DROP TABLE acme.entity_edge", "acme", "entity_edge"),
        ("ALTER TABLE tasks ALTER COLUMN intent DROP NOT NULL", None, "modify_nullable public tasks intent"),
    ],
)
def test_our_check_sees_what_was_changed_of_ours(
    database_url: URL, statement: str, schema: str | None, named: str
) -> None:
    run(database_url, statement)
    with pytest.raises(SchemaDriftError, match=named):
        migrate.check(database_url, schema=schema)
    migrate.check(database_url, schema=None if schema else "acme")


def test_our_downgrade_leaves_theirs(shop_url: URL) -> None:
    migrate.downgrade(shop_url, "base", schema="acme")
    migrate.downgrade(shop_url, "base")
    tables = column(
        shop_url,
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^pg_|information_schema' ORDER BY 1",
    )
    assert tables == ["public.alembic_version", "public.orders", "shop.items", "shop.tasks_of_theirs"]


# Mode B: one environment

COMBINED = """
from __future__ import annotations
import os
from alembic import context
from sqlalchemy import create_engine

with create_engine(os.environ["THEIR_URL"]).connect() as connection:
    context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""
FIRST = f'''"""Theirs, on top of ours."""
from alembic import op
revision = "shop_1"
down_revision = None
branch_labels = ("shop",)
depends_on = ("{HEAD}",)


def upgrade() -> None:
    op.execute("CREATE TABLE shop_links (task uuid PRIMARY KEY REFERENCES tasks (id))")


def downgrade() -> None:
    op.execute("DROP TABLE shop_links")
'''
COMBINED_CONFIGURATION = {
    "alembic.ini": (
        "[alembic]\nscript_location = %(here)s/theirs\npath_separator = newline\n"
        "version_locations =\n    %(here)s/theirs/versions\n    {location}/versions\n"
    ),
    "pyproject.toml": (
        '[tool.alembic]\nscript_location = "%(here)s/theirs"\n'
        'version_locations = ["%(here)s/theirs/versions", "{location}/versions"]\n'
    ),
}


@pytest.mark.parametrize("name", COMBINED_CONFIGURATION)
def test_their_environment_can_run_our_revisions_first(empty_url: URL, tmp_path: Path, name: str) -> None:
    their_environment(tmp_path, COMBINED)
    (tmp_path / "theirs" / "versions" / "shop_1.py").write_text(FIRST)
    (tmp_path / name).write_text(COMBINED_CONFIGURATION[name].format(location=migrate.location()))
    environment: dict[str, Any] = {"THEIR_URL": empty_url.render_as_string(hide_password=False)}

    two_heads = alembic("upgrade", "head", cwd=tmp_path, **environment)
    assert two_heads.returncode != 0
    assert "Multiple head revisions" in two_heads.stdout + two_heads.stderr

    succeed(alembic("upgrade", "heads", cwd=tmp_path, **environment))
    assert scalar(empty_url, "SELECT to_regclass('shop_links') IS NOT NULL")
    assert set(column(empty_url, "SELECT version_num FROM alembic_version")) <= {"shop_1", HEAD}
    assert "shop_1" in column(empty_url, "SELECT version_num FROM alembic_version")
    assert scalar(empty_url, f"SELECT to_regclass('{migrate.VERSION_TABLE}') IS NULL")
    with Database(empty_url) as db:
        db.verify()
    succeed(alembic("downgrade", "shop@base", cwd=tmp_path, **environment))
    assert scalar(empty_url, "SELECT to_regclass('shop_links') IS NULL")
    assert scalar(empty_url, "SELECT to_regclass('tasks') IS NOT NULL")
    succeed(alembic("upgrade", "shop@head", cwd=tmp_path, **environment))
    succeed(alembic("downgrade", "base", cwd=tmp_path, **environment))
    assert scalar(empty_url, "SELECT to_regclass('tasks') IS NULL")


SCRIPT_ENV = """
from alembic import context

context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
"""
SHOP = '''"""A step of theirs."""
revision = "{id}"
down_revision = {before!r}
depends_on = "{ours}"


def upgrade() -> None:
    pass
'''


@pytest.mark.parametrize(
    ("ours", "concurrently"), [("alfred_0022_events", True), ("alfred_0007_broker_catalog", False)]
)
def test_a_script_from_their_revision_builds_indexes_of_filled_tables_concurrently(
    tmp_path: Path, ours: str, concurrently: bool
) -> None:
    """Whether ours made the table before is found by ancestry, whatever the id of theirs."""
    their_environment(tmp_path, SCRIPT_ENV)
    for id, before, depends_on in (("0d2f", None, ours), ("9c1e", "0d2f", HEAD)):
        (tmp_path / "theirs" / "versions" / f"{id}.py").write_text(
            SHOP.format(id=id, before=before, ours=depends_on)
        )
    (tmp_path / "alembic.ini").write_text(
        COMBINED_CONFIGURATION["alembic.ini"].format(location=migrate.location())
    )
    script = succeed(alembic("upgrade", "0d2f:9c1e", "--sql", cwd=tmp_path))
    assert ("CREATE TABLE tasks" in script) is not concurrently
    assert ("CREATE INDEX CONCURRENTLY idx_tasks_ready_queue ON" in script) is concurrently
    assert ("CREATE INDEX idx_tasks_ready_queue ON" in script) is not concurrently


def test_plain_upgrade_after_the_combined_mode_is_refused(empty_url: URL, tmp_path: Path) -> None:
    """The two modes do not mix: our own version table is not there, but our tables are."""
    their_environment(tmp_path, COMBINED)
    (tmp_path / "alembic.ini").write_text(
        COMBINED_CONFIGURATION["alembic.ini"].format(location=migrate.location())
    )
    environment: dict[str, Any] = {"THEIR_URL": empty_url.render_as_string(hide_password=False)}
    succeed(alembic("upgrade", "heads", cwd=tmp_path, **environment))
    with pytest.raises(SchemaDriftError, match="no alfred_db_version"):
        migrate.upgrade(empty_url)
    with engine_of(empty_url).connect() as connection:
        assert migrate.current(connection) is None


# Tables of theirs that refer to ours


def own_models(*, by_name: bool) -> MetaData:
    class Own(DeclarativeBase):
        pass

    class Job(Own):
        __tablename__ = "jobs"
        id: Mapped[int] = mapped_column(primary_key=True)
        task_id = mapped_column(ForeignKey("tasks.id" if by_name else Task.id))
        vector_id = mapped_column(ForeignKey(WorkingMemory.id))

    return Own.metadata


def test_a_foreign_key_to_a_column_of_ours_lives_with_every_door(database_url: URL) -> None:
    metadata = own_models(by_name=False)
    with engine_of(database_url).begin() as connection:
        metadata.create_all(connection)
        metadata.create_all(connection)  # finds it
    with connected(database_url) as connection:
        # Their autogenerate, as docs/howto/own-alembic.md has it.
        filters = {"include_object": migrate.include_object, "include_name": migrate.include_name}
        for options in (filters, {**filters, "include_schemas": True}):
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, metadata) == []
    with Database(database_url) as db:
        db.verify()
        db.upgrade()
        with db.begin() as uow:
            task, _ = uow.tasks.enqueue("X", {})
            uow.session.execute(metadata.tables["jobs"].insert().values(id=1, task_id=task.id))
    migrate.check(database_url)
    migrate.upgrade(database_url, schema="newco")
    migrate.check(database_url, schema="newco")
    assert CliRunner().invoke(main, ["doctor", "--url", own_url(database_url)]).exit_code in (0, 1)
    for schema in ("acme", "newco"):
        migrate.downgrade(database_url, "base", schema=schema)
    with pytest.raises(AlfredDBError, match="jobs"):
        migrate.downgrade(database_url, "base", allow_data_loss=True)
    run(database_url, "DROP TABLE jobs")
    migrate.downgrade(database_url, "base", allow_data_loss=True)


def test_a_foreign_key_by_name_names_the_other_way_at_each_door_of_ours(database_url: URL) -> None:
    metadata = own_models(by_name=True)
    advice = r"ForeignKey\(Task.id\)"
    with engine_of(database_url).connect() as connection:
        with pytest.raises(ConfigurationError, match=advice), translated():
            metadata.create_all(connection)
        with pytest.raises(ConfigurationError, match=advice), translated():
            compare_metadata(MigrationContext.configure(connection), metadata)
    with Database(database_url) as db:
        db.upgrade()  # which does not look at their models
        db.verify()
