"""Each kind of role has the rights that its calls need, and no others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from granted import Roles, granted, methods, refused
from sqlalchemy import URL, create_engine, text

from alfred_db import AlfredDBError, Database, InvalidInputError, Worker
from alfred_db.cli import main
from alfred_db.cli.doctor import examine
from alfred_db.migrate import upgrade
from alfred_db.migrate.grants import apply, excess, lacking, plan

OWNERS = {
    "broker_requests.detach_partition",
    "broker_requests.make_partitions",
    "broker_requests.schedule_maintenance",
    "broker_requests.unschedule_maintenance",
    "events.detach_partition",
    "events.make_partitions",
    "events.schedule_maintenance",
    "events.unschedule_maintenance",
    "knowledge.create_collection",
    "knowledge.drop_collection",
    "knowledge.ensure_collection",
    "knowledge.import_from",
    "spaces.create",
    "spaces.drop",
}
"""Methods that create or drop tables and indexes: for the owner, and for the application by functions of the owner."""


@pytest.fixture(params=[None, "acme"], ids=["default", "tenant"])
def roles(database_url: URL, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Roles]:
    """A database with a few rows, and a role of each kind that may log in."""
    with granted(database_url, request.param, tmp_path) as made:
        yield made


def test_the_application_can_call_every_method(roles: Roles) -> None:
    with roles.database("app") as database:
        assert refused(roles, database) == {}


def test_a_reader_can_call_what_reads_and_nothing_else(roles: Roles) -> None:
    with Database(roles.url, schema=roles.schema) as owner:
        writing = methods(refused(roles, owner, read_only=True))
    with roles.database("reader") as database:
        found = methods(refused(roles, database))
    assert found.keys() <= writing.keys() | OWNERS, found.keys() - writing.keys()
    assert writing.keys() <= found.keys() | OWNERS, writing.keys() - found.keys()
    assert len(writing) > 100


def test_a_worker_runs_tasks(roles: Roles) -> None:
    with Database(roles.url, schema=roles.schema) as owner, owner.begin() as uow:
        task, _ = uow.tasks.enqueue("GRANTED")
    with roles.database("worker") as database:
        Worker(database, {"GRANTED": lambda _task, lease: None}).run(drain=True, signals=False)
        with database.begin() as uow:
            found = uow.tasks.get(task.id)
            assert found is not None
            assert found.status == "completed"
        with pytest.raises(AlfredDBError, match="permission denied"), database.begin() as uow:
            uow.documents.list()


def test_a_broker_logs_requests_and_cannot_change_the_catalog(roles: Roles) -> None:
    with roles.database("broker") as database:
        found = methods(refused(roles, database))
    assert not {name for name in found if name.startswith("broker_requests.")} - OWNERS, found
    assert {name.partition(".")[0] for name in found} >= {"broker_catalog", "documents", "tasks"}


def test_a_second_plan_is_empty_and_a_lost_right_returns(roles: Roles) -> None:
    engine = create_engine(roles.url)
    table = "acme.documents" if roles.schema else "public.documents"
    with engine.begin() as connection:
        assert plan(connection, roles.names, roles.schema) == []
        assert excess(connection, roles.names, roles.schema) == []
        reader, app = roles.names["reader"], roles.names["app"]
        connection.execute(
            text(f'GRANT INSERT ON {table} TO "{reader}"; REVOKE DELETE ON {table} FROM "{app}"')
        )
        found = plan(connection, roles.names, roles.schema)
        assert [one.split()[:2] for one in found] == [["GRANT", "DELETE"], ["REVOKE", "INSERT"]]
        assert apply(connection, roles.names, roles.schema) == found
        assert plan(connection, roles.names, roles.schema) == []
        connection.execute(text(f"GRANT UPDATE ON {table} TO PUBLIC"))
        [finding] = excess(connection, {"reader": reader}, roles.schema)
        assert "UPDATE" in finding
        assert "PUBLIC" in finding
    engine.dispose()


def test_an_owner_keeps_its_rights(roles: Roles) -> None:
    engine = create_engine(roles.url)
    app = roles.names["app"]
    table = "acme.documents" if roles.schema else "public.documents"
    with engine.begin() as connection:
        connection.execute(text(f'ALTER TABLE {table} OWNER TO "{app}"'))
        assert not [one for one in plan(connection, {"app": app}, roles.schema) if "REVOKE" in one]
        [finding] = excess(connection, {"app": app}, roles.schema)
        assert "TRUNCATE" in finding
        assert "owner" in finding
        owner = connection.scalar(text("SELECT current_user"))
        connection.execute(text(f'ALTER TABLE {table} OWNER TO "{owner}"'))
    engine.dispose()


BEYOND = {
    "GRANT UPDATE (version_num) ON {home}.alfred_db_version TO {role}": 'REVOKE UPDATE ("version_num") ON TABLE',
    "GRANT SELECT (content) ON {home}.documents TO {role}": 'REVOKE SELECT ("content") ON TABLE',
    "GRANT SELECT ON {home}.documents TO {role} WITH GRANT OPTION": "REVOKE GRANT OPTION FOR SELECT ON TABLE",
    "GRANT TRUNCATE ON {home}.documents TO {role}": "REVOKE TRUNCATE ON TABLE",
    "GRANT UPDATE ON SEQUENCE {home}.documents_id_seq TO {role}": "REVOKE UPDATE ON SEQUENCE",
    "GRANT CREATE ON SCHEMA {home} TO {role}": "REVOKE CREATE ON SCHEMA",
    "GRANT CREATE ON SCHEMA model_registry TO {role}": 'REVOKE CREATE ON SCHEMA "model_registry"',
    "GRANT CREATE ON DATABASE {database} TO {role}": "REVOKE CREATE ON DATABASE",
}
"""What is granted, and how the plan takes it back."""


def test_whatever_was_granted_beyond_is_revoked(roles: Roles) -> None:
    engine = create_engine(roles.url)
    home, reader = roles.schema or "public", roles.names["reader"]
    with engine.begin() as connection:
        for grant, revoke in BEYOND.items():
            connection.exec_driver_sql(
                grant.format(home=home, role=f'"{reader}"', database=f'"{roles.url.database}"')
            )
            found = plan(connection, {"reader": reader}, roles.schema)
            assert len(found) == 1, (grant, found)
            assert found[0].startswith(revoke), (grant, found)
            assert apply(connection, {"reader": reader}, roles.schema) == found
            assert plan(connection, {"reader": reader}, roles.schema) == []
        assert excess(connection, {"reader": reader}, roles.schema) == []
    engine.dispose()


def test_what_no_revoke_here_takes_away_is_named(roles: Roles) -> None:
    engine = create_engine(roles.url)
    home, reader = roles.schema or "public", roles.names["reader"]
    with engine.connect() as connection:
        for statement, named in {
            'ALTER ROLE "{role}" CREATEDB CREATEROLE': "CREATEROLE, CREATEDB",
            'GRANT pg_read_all_data, pg_write_all_data TO "{role}"': "pg_read_all_data, pg_write_all_data",
            "GRANT CREATE ON SCHEMA {home} TO PUBLIC": "create in the schema",
            'GRANT CREATE ON DATABASE "{database}" TO PUBLIC': "create schemas in",
        }.items():
            with connection.begin() as transaction:
                connection.exec_driver_sql(
                    statement.format(home=home, role=reader, database=roles.url.database)
                )
                found = excess(connection, {"reader": reader}, roles.schema)
                assert any(named in one for one in found), (statement, found)
                transaction.rollback()
        assert excess(connection, {"reader": reader}, roles.schema) == []
    engine.dispose()


def test_later_tables_are_covered(roles: Roles) -> None:
    engine = create_engine(roles.url)
    home = roles.schema or "public"
    with engine.begin() as connection:
        connection.execute(
            text(f"CREATE TABLE {home}.later (id bigint GENERATED ALWAYS AS IDENTITY, n integer)")
        )
        held = "SELECT has_table_privilege(:role, :table, 'SELECT'), has_table_privilege(:role, :table, 'INSERT')"
        for kind, wanted in (
            ("app", (True, True)),
            ("reader", (True, False)),
            ("worker", (False, False)),
            ("broker", (False, False)),
        ):
            row = connection.execute(text(held), {"role": roles.names[kind], "table": f"{home}.later"}).one()
            assert tuple(row) == wanted, kind
    engine.dispose()


def test_what_the_current_role_lacks_is_named_by_noun(roles: Roles) -> None:
    for kind in roles.names:
        with roles.database(kind) as database, database.engine.connect() as connection:
            assert lacking(connection, roles.schema) == (kind, {})


def test_an_unknown_kind_is_refused(database_url: URL) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection, pytest.raises(InvalidInputError, match="app, worker"):
        plan(connection, {"admin": "x"})
    engine.dispose()


def test_an_owner_can_create_a_tenant(database_url: URL) -> None:
    engine = create_engine(database_url)
    name = f"owner_{uuid.uuid4().hex[:12]}"
    with engine.begin() as connection:
        apply(connection, {"owner": name})
        connection.execute(text(f'ALTER ROLE "{name}" LOGIN'))
    try:
        upgrade(database_url.set(username=name), schema="founded")
        with Database(database_url.set(username=name), schema="founded") as database:
            database.verify()
    finally:
        with engine.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'))
        engine.dispose()


def test_the_command_plans_applies_and_checks(database_url: URL) -> None:
    name = f"cli_{uuid.uuid4().hex[:12]}"
    address = ["--url", database_url.render_as_string(hide_password=False)]

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["grants", *arguments, *address])
        return done.exit_code, done.output

    try:
        planned = run("plan", "--role", f"app={name}")
        assert planned[0] == 0
        assert f'CREATE ROLE "{name}" NOLOGIN;' in planned[1]
        assert run("check", "--role", f"app={name}")[0] == 1
        assert run("apply", "--role", f"app={name}")[1].startswith(planned[1])
        assert run("apply", "--role", f"app={name}") == (0, "nothing to do\n")
        assert run("check", "--role", f"app={name}")[0] == 0
        revoking = run("plan", "--role", f"reader={name}")
        assert "REVOKE" in revoking[1]
        code, said = run("apply", "--role", f"reader={name}")
        assert (code, "pass --yes" in said) == (2, True)
        assert run("plan", "--role", f"reader={name}") == revoking
        assert run("apply", "--role", f"reader={name}", "--yes")[0] == 0
        assert run("plan", "--role", f"reader={name}") == (0, "")
        for wrong in ("app", "admin=x", "app="):
            assert run("plan", "--role", wrong)[0] == 2
        assert run("plan")[0] == 2
    finally:
        engine = create_engine(database_url)
        with engine.begin() as connection:
            connection.execute(text(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'))
        engine.dispose()


def test_the_doctor_names_what_its_role_lacks(roles: Roles) -> None:
    assert not [one for one in examine(roles.database("reader").url, roles.schema).warnings if "lacks" in one]
    engine = create_engine(roles.url)
    table = "acme.documents" if roles.schema else "public.documents"
    with engine.begin() as connection:
        connection.execute(text(f'REVOKE UPDATE ON {table} FROM "{roles.names["app"]}"'))
        connection.execute(text(f'REVOKE SELECT ON {table} FROM "{roles.names["reader"]}"'))
    engine.dispose()
    report = examine(roles.database("app").url, roles.schema)
    assert report.errors == []
    [app] = [one for one in report.warnings if "lacks" in one]
    assert "documents: UPDATE" in app
    assert f"--role app={roles.names['app']}" in app
