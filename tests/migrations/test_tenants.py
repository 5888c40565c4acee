"""A tenant is a schema: a complete second set of tables, which leaves the shared catalogs and the others alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from sqlalchemy import URL

from alfred_db import AsyncDatabase, Database, migrate
from alfred_db.cli import main
from alfred_db.config import tenant_schema
from alfred_db.errors import ConfigurationError, ConflictError, SchemaOutdatedError
from alfred_db.migrate.verify import verify
from alfred_db.models import Base
from alfred_db.sql import SHARED_SCHEMAS, TENANT_SCHEMAS

from .catalog import (
    HEAD,
    REVISIONS,
    Snapshot,
    alembic,
    column,
    differences,
    dump,
    engine_of,
    own_url,
    run,
    scalar,
    snapshot,
    unlike,
    version,
)

OWN_TABLES = {table.name for table in Base.metadata.sorted_tables if table.schema not in SHARED_SCHEMAS}


@pytest.fixture
def default_url(migrated_to: Callable[..., URL]) -> URL:
    """A migrated database without tenants."""
    return migrated_to("head")


def without(name: str, objects: dict[str, str]) -> dict[str, str]:
    return {key: body for key, body in objects.items() if not re.search(rf"\b{name}\b", key)}


def check_database(url: URL, schema: str | None) -> None:
    with engine_of(url).connect() as connection:
        verify(connection, schema)


def test_plain_alembic_makes_a_complete_second_set(default_url: URL) -> None:
    before = dump(default_url)
    done = alembic("-x", "schema=acme", "upgrade", "head", url=default_url)
    assert done.returncode == 0, done.stderr
    made = column(default_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'acme'")
    assert set(made) >= {
        *OWN_TABLES,
        "working_memory",
        "entity_node",
        "broker_request",
        migrate.VERSION_TABLE,
    }
    assert set(made) - OWN_TABLES - {migrate.VERSION_TABLE} == {
        name for name in made if re.match(r"knowledge_points_|broker_request_|events_", name)
    }
    assert version(default_url, "acme") == version(default_url) == HEAD
    assert unlike(before, without("acme", dump(default_url))) == []
    check_database(default_url, "acme")
    migrate.check(default_url, schema="acme")
    migrate.check(default_url)


def test_a_tenant_goes_up_and_down_step_by_step(default_url: URL) -> None:
    before = snapshot(default_url)
    states: dict[str, Snapshot] = {}
    for revision in REVISIONS:
        migrate.upgrade(default_url, revision, schema="acme")
        states[revision] = snapshot(default_url)
    check_database(default_url, "acme")
    for revision in reversed(REVISIONS[:-1]):
        migrate.downgrade(default_url, revision, schema="acme")
        assert differences(states[revision], snapshot(default_url)) == [], revision
    migrate.downgrade(default_url, "base", schema="acme")
    assert differences(before, snapshot(default_url)) == []
    check_database(default_url, None)


def test_a_tenant_without_the_shared_catalogs_is_refused(empty_url: URL) -> None:
    before = snapshot(empty_url)
    with pytest.raises(
        SchemaOutdatedError, match=r"shared catalogs.*run `alfred-db upgrade --url \S+` without a schema"
    ):
        migrate.upgrade(empty_url, schema="acme")
    assert differences(before, snapshot(empty_url)) == []
    migrate.upgrade(empty_url, "alfred_0006_model_registry")
    before = snapshot(empty_url)
    with pytest.raises(SchemaOutdatedError, match="brk_registry"):
        migrate.upgrade(empty_url, schema="acme")
    assert differences(before, snapshot(empty_url)) == []


def test_a_tenants_downgrade_leaves_the_default_tenant(database_url: URL) -> None:
    run(database_url, "INSERT INTO tasks (task_id, intent) VALUES ('t', 'x')")
    before = dump(database_url)
    migrate.downgrade(database_url, "base", schema="acme")
    assert unlike(without("acme", before), dump(database_url)) == []
    assert scalar(database_url, "SELECT count(*) FROM tasks") == 1
    assert scalar(database_url, "SELECT to_regnamespace('acme') IS NULL")
    check_database(database_url, None)


def test_a_tenants_rows_are_kept_by_its_downgrade(database_url: URL) -> None:
    run(database_url, "INSERT INTO acme.tasks (task_id, intent) VALUES ('t', 'x')")
    with pytest.raises(ConflictError, match=r"tasks\W* holds rows"):
        migrate.downgrade(database_url, "base", schema="acme")
    assert scalar(database_url, "SELECT count(*) FROM acme.tasks") == 1
    migrate.downgrade(database_url, "base", schema="acme", allow_data_loss=True)
    assert scalar(database_url, "SELECT to_regnamespace('acme') IS NULL")


def test_a_tenants_downgrade_never_reaches_for_the_default_tenants_tables(database_url: URL) -> None:
    run(
        database_url,
        "DROP TABLE acme.task_results, acme.tasks CASCADE",
        "DROP TABLE acme.knowledge_points, acme.knowledge_aliases, acme.knowledge_collections",
    )
    with pytest.raises(Exception, match="does not exist"):
        migrate.downgrade(database_url, "base", schema="acme", allow_data_loss=True)
    assert version(database_url, "acme") in REVISIONS[REVISIONS.index("alfred_0015_knowledge") :]
    assert scalar(database_url, "SELECT count(*) FROM knowledge_collections") == 4
    check_database(database_url, None)


def test_what_others_put_into_a_tenants_schema_is_kept(default_url: URL) -> None:
    migrate.upgrade(default_url, schema="acme")
    run(default_url, "CREATE TABLE acme.theirs (id int)")
    migrate.downgrade(default_url, "base", schema="acme")
    assert column(default_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'acme'") == ["theirs"]


def test_a_schema_that_others_made_is_kept(default_url: URL) -> None:
    run(default_url, "CREATE SCHEMA acme")
    before = snapshot(default_url)
    migrate.upgrade(default_url, schema="acme")
    migrate.downgrade(default_url, "base", schema="acme")
    assert differences(before, snapshot(default_url)) == []


def test_the_default_tenant_cannot_go_while_another_is_there(database_url: URL) -> None:
    before = snapshot(database_url)
    with pytest.raises(ConflictError, match=r"tenant.*acme"):
        migrate.downgrade(database_url, "base")
    assert differences(before, snapshot(database_url)) == []
    check_database(database_url, None)
    check_database(database_url, "acme")
    migrate.downgrade(database_url, "base", schema="acme")
    migrate.downgrade(database_url, "base")
    assert version(database_url) is None


def test_a_tenant_may_have_a_name_that_needs_quotes(default_url: URL) -> None:
    before = snapshot(default_url)
    for name in ("Acme", "select", "мир", "_1"):
        migrate.upgrade(default_url, schema=name)
        check_database(default_url, name)
        migrate.check(default_url, schema=name)
        with Database(default_url, schema=name) as db, db.session() as session:
            assert session.scalar(Base.metadata.tables["tasks"].select()) is None
        migrate.downgrade(default_url, "base", schema=name)
    assert differences(before, snapshot(default_url)) == []


HOSTILE = (
    "",
    " ",
    "1st",
    'a"b',
    "a'b",
    "a.b",
    "a-b",
    "x; drop",
    "x\n",
    "%s",
    ":name",
    "a" * 64,
    "é" * 32,
    "pg_x",
    "pg_catalog",
    "information_schema",
    "PUBLIC",
    "Public",
    "PG_x",
    "Pg_Toast",
    "Information_Schema",
    *SHARED_SCHEMAS,
    *TENANT_SCHEMAS,
    # Without quotes, SQL would mean the others.
    *(name.upper() for name in (*SHARED_SCHEMAS, *TENANT_SCHEMAS)),
    *(name.title() for name in (*SHARED_SCHEMAS, *TENANT_SCHEMAS)),
)


@pytest.fixture(scope="module")
def untouched(new_database: Callable[..., URL]) -> tuple[URL, Snapshot]:
    """An empty database that stays so, and what is in it."""
    url = new_database()
    return url, snapshot(url)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_cannot_be_a_tenants_is_refused_at_every_door(
    untouched: tuple[URL, Snapshot], name: str
) -> None:
    url, before = untouched
    doors = (
        lambda: tenant_schema(name),
        lambda: Database(url, schema=name),
        lambda: AsyncDatabase(url, schema=name),
        lambda: migrate.upgrade(url, schema=name),
        lambda: migrate.downgrade(url, "base", schema=name),
        lambda: migrate.check(url, schema=name),
        lambda: migrate.sql(schema=name),
    )
    for door in doors:
        with pytest.raises(ConfigurationError, match="schema"):
            door()
    done = CliRunner().invoke(main, ["upgrade", "--url", own_url(url), "--schema", name])
    assert done.exit_code == 2
    assert differences(before, snapshot(url)) == []


@pytest.mark.parametrize("name", ["acme", "_", "a" * 63, "é" * 31, "public", "Acme", "a1_b"])
def test_an_ordinary_name_can_be_a_tenants(name: str) -> None:
    assert tenant_schema(name) == name


def test_the_schema_of_the_default_tenant_is_no_other_tenants(default_url: URL) -> None:
    for act in (
        lambda: migrate.upgrade(default_url, schema="public"),
        lambda: migrate.downgrade(default_url, "base", schema="public"),
    ):
        before = snapshot(default_url)
        with pytest.raises(ConfigurationError, match=r"'public'.*default tenant"):
            act()
        assert differences(before, snapshot(default_url)) == []


def test_the_command_makes_and_removes_a_tenant(default_url: URL) -> None:
    def command(*arguments: str) -> str:
        done = CliRunner().invoke(main, [*arguments, "--url", own_url(default_url), "--schema", "acme"])
        assert done.exit_code == 0, done.output
        return done.output

    assert command("current") == "base\n"
    command("upgrade")
    assert command("current") == f"{HEAD}\n"
    command("check")
    command("downgrade", "base", "--yes")
    assert command("current") == "base\n"


@pytest.mark.parametrize("schema", [None, "acme"])
def test_triggers_can_be_left_out(empty_url: URL, schema: str | None) -> None:
    tenant = () if schema is None else ("-x", f"schema={schema}")
    if schema is not None:
        migrate.upgrade(empty_url, triggers=False)
    done = alembic("-x", "triggers=off", *tenant, "upgrade", "head", url=empty_url)
    assert done.returncode == 0, done.stderr
    assert scalar(empty_url, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
    check_database(empty_url, schema)
    migrate.check(empty_url, schema=schema)
    migrate.downgrade(empty_url, "base", schema=schema)


@pytest.mark.parametrize(
    "path", sorted((migrate.location() / "versions").glob("*.py")), ids=lambda path: path.stem
)
def test_a_revision_touches_shared_or_tenant_objects_and_keeps_the_rules(path: object) -> None:
    assert isinstance(path, type(migrate.location()))
    source = path.read_text()
    tree = ast.parse(source)
    assert "Lock impact:" in (ast.get_docstring(tree) or "")
    (found,) = re.findall(r'^revision = "(.*)"$', source, re.MULTILINE)
    assert found == f"alfred_{path.stem}"
    assert len(found) <= 32
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"upgrade", "downgrade"} <= set(functions)
    shared = {
        name
        for name in ("upgrade", "downgrade")
        if [ast.unparse(d) for d in functions[name].decorator_list] == ["shared"]
        # What tenants can do without is left out for them without the mark, which would keep a downgrade waiting.
        or ast.unparse(functions[name].body[0]).startswith("if option('schema') is None:")
    }
    assert shared in (set(), {"upgrade", "downgrade"}), "one way is shared, the other is not"
    objects = re.findall(
        r"(?:CREATE TABLE|CREATE (?:UNIQUE )?INDEX \w+ ON|ALTER TABLE|DROP TABLE|INSERT INTO|DELETE FROM|drop_tables\(|updated_by_trigger\(|create_unless_exists\(|drop_if_made_here\()\s*[\"']?(\w+\.\w+|\w+)",
        source,
    )
    touched = {
        name.split(".")[0] if "." in name else None
        for name in objects
        if name.upper() not in ("NULL", "TABLE")
    }
    if shared:
        assert not touched & {None, *TENANT_SCHEMAS} or path.stem == "0001_extensions", touched
    else:
        assert not touched & set(SHARED_SCHEMAS), touched
