"""Many tenants of one database: made, listed, upgraded and dropped together, used through one pool, and apart from each other."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from injection.ground import Ground, build
from injection.specimens import SPECIMENS
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, text

from alfred_db import (
    AlfredDBError,
    AsyncDatabase,
    ConfigurationError,
    Database,
    InvalidInputError,
    NotFoundError,
    SchemaOutdatedError,
    TaskStatus,
    TenantOutcome,
    UnitOfWork,
    migrate,
)
from alfred_db.cli import main, options
from alfred_db.migrate.lock import locked
from alfred_db.tenants import upgrading

MIDDLE = "alfred_0024"
"""The beginning of the id of a revision in the middle."""


@pytest.fixture
def engine(database_url: URL) -> Iterator[Engine]:
    made = create_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def two_tenants(
    template: URL, new_database: Callable[..., URL], tmp_path_factory: pytest.TempPathFactory
) -> tuple[URL, Ground]:
    """A database with the tenants acme and one, and globex, and what is in that one."""
    url = new_database(template.database)
    with Database(url) as db:
        db.tenants.create("globex", "one")
        with db.tenant("globex").begin() as uow:
            return url, build(uow, tmp_path_factory.mktemp("ground"))


def middle() -> str:
    return next(revision.id for revision in migrate.history() if revision.id.startswith(MIDDLE))


def processes() -> list[Any]:
    """The processes of this one that upgrade tenants."""
    found: list[Any] = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            if "alfred_db.tenants" in process.cmdline():
                found.append(process)
    return found


def at_head(db: Database) -> dict[str, bool]:
    return {tenant.name: tenant.at_head for tenant in db.tenants.list()}


def test_tenants_are_created_listed_upgraded_and_dropped_together(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[TenantOutcome] = []
    started: list[list[str]] = []
    popen = upgrading.subprocess.Popen

    def note(command: list[str], **options: Any) -> Any:
        started.append(command)
        return popen(command, **options)

    monkeypatch.setattr(upgrading.subprocess, "Popen", note)
    with Database(database_url.set(password="s3cret")) as db:
        report = db.tenants.create("one", "two", "acme", parallel=2, progress=shown.append)
        assert (report.changed, report.unchanged, report.failed) == (["one", "two"], ["acme"], {})
        assert sorted(outcome.name for outcome in shown) == ["acme", "one", "two"]
        assert [outcome.number for outcome in shown] == [1, 2, 3]
        found = {tenant.name: tenant for tenant in db.tenants.list()}
        assert list(found) == ["acme", "one", "two"]
        assert all(tenant.at_head and tenant.revision == migrate.head() for tenant in found.values())
        assert all((tenant.size or 0) > 1_000_000 for tenant in found.values())
        for name in ("one", "two"):
            db.tenant(name).verify()
        assert started
        assert "s3cret" not in str(started)  # others can read the arguments of a process
        migrate.downgrade(database_url, middle(), schema="one")
        assert at_head(db) == {"acme": True, "one": False, "two": True}
        assert db.tenants.upgrade().changed == ["one"]
        assert db.tenants.upgrade(["one"]).unchanged == ["one"]
        with db.tenant("one").begin() as uow:
            uow.tasks.enqueue("KEPT")
        db.tenants.drop("one")
        assert list(at_head(db)) == ["acme", "two"]
        with pytest.raises(NotFoundError, match="tenant 'one': not found"):
            db.tenants.drop("one")
        with pytest.raises(NotFoundError, match="tenant 'one': not found"):
            db.tenants.upgrade(["two", "one"])


async def test_the_same_for_asyncio(database_url: URL) -> None:
    async with AsyncDatabase(database_url) as db:
        report = await db.tenants.create("one", roles={"reader": "{tenant}_reads_" + uuid.uuid4().hex[:8]})
        assert report.changed == ["one"]
        async with db.tenant("one").begin() as uow:
            task, _ = await uow.tasks.enqueue("HERE")
        async with db.tenant("acme").begin() as uow:
            assert await uow.tasks.get(task.id) is None
        assert [tenant.name for tenant in await db.tenants.list()] == ["acme", "one"]
        assert (await db.tenants.upgrade()).unchanged == ["acme", "one"]
        await db.tenants.drop("one")
        assert [tenant.name for tenant in await db.tenants.list()] == ["acme"]


def test_what_fails_fails_alone(database_url: URL, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA theirs; CREATE TABLE theirs.tasks (id integer)"))
    with Database(database_url) as db:
        report = db.tenants.create("one", "theirs", "two", parallel=2)
        assert report.changed == ["one", "two"]
        assert list(report.failed) == ["theirs"]
        assert "theirs.tasks" in report.failed["theirs"].replace('"', "")
        assert list(at_head(db)) == ["acme", "one", "two"]


def test_an_upgrade_that_is_killed_is_simply_run_again(database_url: URL, engine: Engine) -> None:
    names = ["one", "two", "three"]
    with Database(database_url) as db:
        with locked(engine, "two"):  # so that its process waits, and is there to be killed

            def kill(outcome: TenantOutcome) -> None:
                if outcome.number == len(names) - 1:
                    for process in processes():
                        process.kill()

            report = db.tenants.create(*names, parallel=2, progress=kill)
        assert report.changed == ["one", "three"]
        assert list(report.failed) == ["two"]
        assert "ended with status -9" in report.failed["two"]
        assert list(at_head(db)) == ["acme", "one", "three"]
        report = db.tenants.create(*names, parallel=2)
        assert (report.changed, report.unchanged, report.failed) == (["two"], ["one", "three"], {})
        assert all(at_head(db).values())


def test_the_end_of_the_caller_ends_the_processes(database_url: URL, engine: Engine) -> None:
    def stop(outcome: TenantOutcome) -> None:
        raise KeyboardInterrupt

    with Database(database_url) as db, locked(engine, "two"), pytest.raises(KeyboardInterrupt):
        db.tenants.create("one", "two", parallel=2, progress=stop)
    assert not processes()


@pytest.mark.parametrize("name", ["pg_x", "wm", "a-b", "", "Extensions", "x" * 64])
def test_names_that_cannot_be_a_tenants_are_refused_before_anything_is_done(
    database_url: URL, name: str
) -> None:
    with Database(database_url) as db:
        with pytest.raises((ConfigurationError, InvalidInputError)):
            db.tenants.create("fine", name)
        with pytest.raises(ConfigurationError):
            db.tenant(name)
        assert list(at_head(db)) == ["acme"]


def test_a_kind_of_role_that_does_not_exist_is_refused_before_anything_is_done(database_url: URL) -> None:
    with Database(database_url) as db:
        with pytest.raises(InvalidInputError, match="no kind of role"):
            db.tenants.create("one", roles={"boss": "one_boss"})
        with pytest.raises(InvalidInputError, match="parallel"):
            db.tenants.create("one", parallel=0)
        assert list(at_head(db)) == ["acme"]


def test_a_database_that_is_not_at_head_has_no_tenants_made(empty_url: URL) -> None:
    with Database(empty_url) as db, pytest.raises(SchemaOutdatedError, match="run `alfred-db upgrade"):
        db.tenants.create("one")
    with Database(empty_url) as db:
        assert db.tenants.list() == []


def test_an_unknown_tenant_is_a_clear_error(two_tenants: tuple[URL, Ground]) -> None:
    with Database(two_tenants[0]) as db:
        ghost = db.tenant("ghost")
        for begin in (ghost.begin, ghost.autocommit, ghost.session):
            with (
                pytest.raises(NotFoundError, match=r"tenant 'ghost': not found; .*tenants create ghost"),
                begin(),
            ):
                pytest.fail("it has begun")


async def test_an_unknown_tenant_is_a_clear_error_for_asyncio(two_tenants: tuple[URL, Ground]) -> None:
    async with AsyncDatabase(two_tenants[0]) as db:
        ghost = db.tenant("ghost")
        for begin in (ghost.begin, ghost.autocommit, ghost.session):
            with pytest.raises(NotFoundError, match=r"tenant 'ghost': not found"):
                async with begin():
                    pytest.fail("it has begun")


def connections(url: URL, name: str) -> int:
    """The number of connections with this application name."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
        return int(connection.scalar(query, {"name": name}) or 0)


SESSION = text(
    "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction_%' ORDER BY name"
)


def use(db: Database, name: str) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue(name)
    with db.begin() as uow:
        uow.documents.add(name)  # by SQLAlchemy
    with db.autocommit() as uow:
        uow.tasks.list()
    db.cache.set("here", name.encode())
    db.rate_limits.hit("here", limit=9, period=60)
    assert db.cache.get("here") == name.encode()


def test_all_tenants_share_one_pool_and_leave_nothing_in_its_sessions(
    two_tenants: tuple[URL, Ground],
) -> None:
    application = f"many {uuid.uuid4().hex[:8]}"
    with Database(two_tenants[0], application_name=application, notify=True) as db:
        use(db, "default")
        with db.session() as session:
            before = session.execute(SESSION).all()
        for name in ("acme", "one", "globex", "acme"):
            tenant = db.tenant(name)
            assert tenant is db.tenant(name)
            assert tenant.schema == name
            use(tenant, name)
            tenant.close()
        assert db.cache.get("here") == b"default"
        with db.session() as session:
            assert session.execute(SESSION).all() == before
        assert connections(two_tenants[0], application) <= 2  # one kept for the next unit, one for SQLAlchemy
        assert connections(two_tenants[0], "alfred-db notifier") <= 1
        for name, tasks in (("acme", 2), ("one", 1)):
            with db.tenant(name).begin() as uow:
                assert [task.intent for task in uow.tasks.list().items] == [name] * tasks


async def test_all_tenants_share_one_pool_for_asyncio(two_tenants: tuple[URL, Ground]) -> None:
    application = f"many {uuid.uuid4().hex[:8]}"
    async with AsyncDatabase(two_tenants[0], application_name=application) as db:
        numbers: list[int] = []
        for tenant in (db, *(db.tenant(name) for name in ("acme", "one", "acme"))):
            async with tenant.begin() as uow:
                await uow.tasks.enqueue("shared")
            async with tenant.begin() as uow:
                await uow.documents.add("shared")
            await tenant.cache.set("here", str(tenant.schema).encode())
            numbers.append(connections(two_tenants[0], application))
        assert max(numbers) <= 2
        assert await db.tenant("acme").cache.get("here") == b"acme"
        assert await db.cache.get("here") == b"None"


def test_units_of_many_tenants_at_the_same_time_do_not_mix(two_tenants: tuple[URL, Ground]) -> None:
    names = ["acme", "one", "globex"]
    with Database(two_tenants[0], pool_size=2) as db:

        def work(name: str) -> None:
            for _ in range(20):
                with db.tenant(name).begin() as uow:
                    uow.tasks.enqueue(f"mixed {name}")

        threads = [threading.Thread(target=work, args=(name,)) for name in names for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name in names:
            with db.tenant(name).begin() as uow:
                found = [task.intent for task in uow.tasks.list(limit=500).items if "mixed" in task.intent]
                assert found == [f"mixed {name}"] * 40


@pytest.mark.parametrize("kind", [Database, AsyncDatabase])
def test_a_tenant_has_its_own_of_what_a_database_makes_when_asked(migrated_url: URL, kind: Any) -> None:
    """Whatever was asked of the database before: it is made of the sessions of one tenant."""
    names = [
        name for one in kind.__mro__ for name, made in vars(one).items() if isinstance(made, cached_property)
    ]
    assert {"cache", "tasks"} <= set(names)
    db = kind(migrated_url)
    mine = {name: getattr(db, name) for name in names}
    tenant = db.tenant("acme")
    assert [name for name in names if getattr(tenant, name) is mine[name]] == []


def test_a_tenant_waits_for_its_own_tasks_whatever_its_database_has_waited_for(database_url: URL) -> None:
    with Database(database_url) as db:
        with db.tenant("acme").begin() as uow:
            task, _ = uow.tasks.enqueue("X")
            uow.tasks.cancel(task.id)
        with pytest.raises(NotFoundError):
            db.tasks.wait(task.id, 0)
        # A tenant that is asked for after the waiter of the database was made.
        db._opened.clear()
        assert db.tenant("acme").tasks.wait(task.id, 0).status is TaskStatus.CANCELLED


def test_a_commit_of_a_tenant_wakes_the_workers_of_that_tenant_alone(two_tenants: tuple[URL, Ground]) -> None:
    with (
        Database(two_tenants[0], notify=True) as db,
        db.tenant("acme").listen() as acme,
        db.tenant("one").listen() as one,
    ):
        assert acme.wait(30)  # each looks once after LISTEN
        assert one.wait(30)
        with db.tenant("one").begin() as uow:
            uow.tasks.enqueue("WAKE")
        assert one.wait(30)
        assert not acme.wait(0.2)


USED = text("""
    SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'globex'::regnamespace AND relkind IN ('r', 'i', 'p', 'S')
        AND pg_stat_get_xact_numscans(oid) + pg_stat_get_xact_tuples_inserted(oid)
            + pg_stat_get_xact_tuples_updated(oid) + pg_stat_get_xact_tuples_deleted(oid) > 0
""")
"""The tables and indexes of the other tenant that this transaction has read or written."""


def call(uow: UnitOfWork, name: str, ground: Ground) -> None:
    noun, _, method = name.partition(",")[0].partition(".")
    given = SPECIMENS[name](ground)
    getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)


def test_no_call_of_one_tenant_reads_or_writes_a_table_of_another(two_tenants: tuple[URL, Ground]) -> None:
    url, ground = two_tenants
    touched: dict[str, list[str]] = {}
    answered = 0
    with Database(url) as other, other.tenant("globex").session() as session:
        UnitOfWork(session).tasks.list()
        assert session.scalars(
            USED
        ).all()  # which shows what was read, for a while: hence a connection of its own
    with Database(url) as db:
        for name in SPECIMENS:
            with db.tenant("acme").session() as session:
                session.begin_nested()
                try:
                    call(UnitOfWork(session), name, ground)
                    answered += 1
                except AlfredDBError:
                    session.rollback()
                    continue  # nothing of the other tenant is needed to refuse an id that is unknown here
                if found := session.scalars(USED).all():
                    touched[name] = list(found)
    assert touched == {}
    assert answered > len(SPECIMENS) // 3


@pytest.fixture
def acme_role(two_tenants: tuple[URL, Ground]) -> Iterator[URL]:
    """The URL of a role that has the rights of the application on acme, and no others."""
    url, _ = two_tenants
    role = f"acme_{uuid.uuid4().hex[:12]}"
    engine = create_engine(url)
    with Database(url) as db:
        assert db.tenants.create("acme", roles={"app": role}).changed == ["acme"]
        assert db.tenants.create("acme", roles={"app": role}).unchanged == ["acme"]
    with engine.begin() as connection:
        connection.execute(text(f"ALTER ROLE \"{role}\" LOGIN PASSWORD 'x'"))
    yield url.set(username=role, password="x")
    with engine.begin() as connection:
        connection.execute(text(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"'))
    engine.dispose()


def test_the_role_of_one_tenant_can_call_everything_there_and_nothing_of_another(
    two_tenants: tuple[URL, Ground], acme_role: URL
) -> None:
    _, ground = two_tenants
    crossed: dict[str, str] = {}
    refused = 0
    with Database(acme_role) as db:
        for name in SPECIMENS:
            for tenant in ("acme", "globex"):
                with db.tenant(tenant).session() as session:
                    try:
                        call(UnitOfWork(session), name, ground)
                    except AlfredDBError as error:
                        if "permission denied for schema globex" in str(error):
                            refused += tenant == "globex"
                            if tenant == "acme":
                                crossed[name] = str(error)
        with db.tenant("acme").begin() as uow:
            uow.tasks.enqueue("MINE")
        with (
            pytest.raises(AlfredDBError, match="permission denied for schema globex"),
            db.tenant("globex").begin() as uow,
        ):
            uow.tasks.list()
        assert {tenant.name: tenant.revision for tenant in db.tenants.list()} == {
            "acme": migrate.head(),
            "globex": None,
            "one": None,
        }
    assert crossed == {}
    assert refused > len(SPECIMENS) // 2


ATTACKS = (
    "SELECT * FROM globex.tasks",
    "INSERT INTO globex.tasks (task_id, intent) VALUES ('x', 'x')",
    "SELECT nextval('globex.tasks_id_seq')",
    "COPY globex.tasks TO STDOUT",
    "SELECT * FROM public.tasks",
    "CREATE TABLE acme.mine (id integer)",
    "CREATE TABLE public.mine (id integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION acme.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE acme.tasks ADD COLUMN mine integer",
    "DROP TABLE acme.tasks",
    "TRUNCATE acme.tasks",
    "CREATE INDEX mine ON acme.tasks (id)",
    "ALTER TABLE acme.tasks DISABLE TRIGGER ALL",
    "UPDATE acme.alfred_db_version SET version_num = 'x'",
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "SELECT * FROM pg_user_mapping",
    "SET ROLE pg_read_all_data",
    "COPY acme.tasks TO PROGRAM 'cat'",
    "SELECT pg_read_file('/etc/passwd')",
    "CREATE EXTENSION dblink",
    "COMMENT ON TABLE acme.alfred_db_version IS 'x'",
)


def _attack(connection: Connection, statement: str) -> str | None:
    try:
        with connection.begin():
            connection.exec_driver_sql(statement)
            done = connection.connection.driver_connection
            assert done is not None
    except Exception as error:
        return str(error)
    return None


def test_attacks_of_the_role_of_a_tenant_are_refused(acme_role: URL) -> None:
    engine = create_engine(acme_role)
    with engine.connect() as connection:
        found = {statement: _attack(connection, statement) for statement in ATTACKS}
    engine.dispose()
    assert [statement for statement, error in found.items() if error is None] == []
    assert not [
        (statement, error)
        for statement, error in found.items()
        if error is not None
        and not any(word in error for word in ("permission denied", "must be owner", "must be superuser"))
    ]


def run(url: URL, *arguments: str, given: str | None = None) -> tuple[int, str]:
    address = ["--url", url.render_as_string(hide_password=False)]
    done = CliRunner().invoke(main, ["tenants", *arguments, *address], input=given)
    return done.exit_code, done.output


def test_the_commands(database_url: URL, engine: Engine) -> None:
    role = f"one_{uuid.uuid4().hex[:8]}"
    code, output = run(database_url, "create", "one", "two", "--role", f"app={role}", "--parallel", "2")
    assert code == 0, output
    assert "[2/2]" in output
    assert "2 created or upgraded, 0 unchanged, 0 failed" in output
    code, output = run(database_url, "list")
    assert code == 0
    assert [line.split()[:2] for line in output.splitlines()[:3]] == [
        [name, migrate.head()] for name in ("acme", "one", "two")
    ]
    code, output = run(database_url, "list", "--json")
    found = json.loads(output)
    assert [tenant["name"] for tenant in found] == ["acme", "one", "two"]
    assert found[0].keys() == {"name", "revision", "at_head", "size", "owner", "node"}
    migrate.downgrade(database_url, middle(), schema="one")
    assert "not at head" in run(database_url, "list")[1]
    assert run(database_url, "upgrade")[0] == 2
    assert run(database_url, "upgrade", "--all", "one")[0] == 2
    code, output = run(database_url, "upgrade", "--all", "--parallel", "2")
    assert code == 0
    assert "1 upgraded, 2 unchanged, 0 failed" in output
    assert (
        run(database_url, "drop", "one", given="y\n")[0] == 2
    )  # the standard input of a test is no terminal
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(options, "answerable", lambda yes: None)
        patched.setattr("alfred_db.cli.tenants.answerable", lambda yes: None)
        assert run(database_url, "drop", "one", given="n\n")[0] == 1
        assert run(database_url, "drop", "one", given="")[0] == 1
        assert "one" in run(database_url, "list")[1]
        assert run(database_url, "drop", "one", given="y\n")[0] == 0
    assert run(database_url, "drop", "two", "--yes")[0] == 0
    code, output = run(database_url, "drop", "two", "--yes")
    assert code == 2
    assert "tenant 'two': not found" in output
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA theirs; CREATE TABLE theirs.tasks (id integer)"))
    code, output = run(database_url, "create", "theirs")
    assert code == 1
    assert "failed, run the command again: theirs" in output
    with engine.begin() as connection:
        connection.execute(text(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"'))


@pytest.mark.skipif("ALFRED_DB_FAULTS" not in os.environ, reason="a few minutes; ALFRED_DB_FAULTS=1 runs it")
def test_a_hundred_tenants(database_url: URL, engine: Engine, tmp_path: Path) -> None:
    """Created in parallel, upgraded with processes killed in the middle, again; one unit in each; all at head."""
    names = [f"tenant_{number:03}" for number in range(100)]
    application = f"many {uuid.uuid4().hex[:8]}"
    with Database(database_url, application_name=application) as db:
        assert db.tenants.create(*names, parallel=4).failed == {}
        for name in names[:20]:
            migrate.downgrade(database_url, middle(), schema=name)
        assert sum(at_head(db).values()) == 81

        def kill(outcome: TenantOutcome) -> None:
            if outcome.changed and outcome.number > 90:
                for process in processes():
                    process.kill()

        report = db.tenants.upgrade(parallel=4, progress=kill)
        assert report.failed
        report = db.tenants.upgrade(parallel=4)
        assert report.failed == {}
        assert set(at_head(db).values()) == {True}
        for name in names:
            with db.tenant(name).begin() as uow:
                uow.tasks.enqueue(name)
        assert connections(database_url, application) <= 2
