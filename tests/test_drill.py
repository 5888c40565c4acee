"""The drill: a backup that is restored and compared, of a database or a tenant, as any role, into any server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from injection.ground import build
from servers import Servers
from sqlalchemy import URL, NullPool, create_engine, text

from alfred_db import (
    AlfredDBError,
    ConfigurationError,
    ConflictError,
    Database,
    InvalidInputError,
    NotFoundError,
    migrate,
)
from alfred_db.cli import main
from alfred_db.config import parse_url
from alfred_db.drill import comparing, drill, running
from alfred_db.tenants import dumping


def fill(url: URL, folder: Path) -> None:
    """Rows of everything in both tenants, with vectors, texts and events."""
    with Database(url) as db:
        for number, one in enumerate((db, db.tenant("acme"))):
            with one.begin() as uow:
                (folder / str(number)).mkdir()
                build(uow, folder / str(number))
                for document in range(20):
                    vector = [1.0, document / 10] + [0.0] * 382
                    uow.documents.add(f"paper number {document} about storms", embedding=vector)
                uow.events.publish("drilled", {"n": number})


@pytest.fixture(scope="module")
def filled(template: URL, new_database: Callable[..., URL], tmp_path_factory: pytest.TempPathFactory) -> URL:
    """A database with rows of everything in both tenants."""
    url = new_database(template.database)
    fill(url, tmp_path_factory.mktemp("filled"))
    return url


def databases(url: URL) -> set[str]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return set(
            connection.scalars(text("SELECT datname FROM pg_database WHERE datname LIKE 'alfred_drill_%'"))
        )


def test_a_restored_database_answers_the_same(filled: URL) -> None:
    before = databases(filled)
    steps: list[str] = []
    report = drill(filled, progress=lambda step, seconds: steps.append(step))
    assert report.differences == []
    assert report.tenants == 2
    assert report.rows > 100
    assert report.searches >= 8
    assert report.size > 10_000
    assert steps == list(report.seconds)
    assert steps[0] == "dump"
    assert {"restore", "verify", "after_restore"} <= set(steps)
    assert report.database not in databases(filled)
    assert databases(filled) == before


def test_what_differs_is_reported(filled: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = running.restore

    def lossy(file: Path, url: URL) -> None:
        restore(file, url)
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(
                text("DELETE FROM acme.documents WHERE id = (SELECT min(id) FROM acme.documents)")
            )
            connection.execute(text("DELETE FROM public.conversations"))

    monkeypatch.setattr(running, "restore", lossy)
    done = CliRunner().invoke(main, ["drill", "--url", filled.render_as_string(hide_password=False)])
    assert done.exit_code == 1, done.output
    assert "differs: acme: documents: " in done.output
    assert "differs: default tenant: conversations: " in done.output
    assert "differs: acme: search of documents" in done.output
    assert "the copy differs" in done.output


def test_writers_go_on_meanwhile(filled: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = running.dump

    def meanwhile(*given: object, **named: object) -> None:
        with Database(filled) as db, db.begin() as uow:
            uow.tasks.enqueue("MEANWHILE")
        dump(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "dump", meanwhile)
    assert drill(filled, schema=None).differences == []


def test_a_tenant_is_dumped_without_the_others(
    filled: URL, tmp_path: Path, new_database: Callable[..., URL]
) -> None:
    with Database(filled) as db:
        db.tenants.create("globex")
        with db.tenant("globex").begin() as uow:
            uow.tasks.enqueue("SECRET")
        with pytest.raises(NotFoundError):
            db.tenants.export("initech", tmp_path / "no.dump")
        size = db.tenants.export("acme", tmp_path / "acme.dump")
        assert size == (tmp_path / "acme.dump").stat().st_size > 1000
    report = drill(filled, schema="acme")
    assert report.differences == []
    assert report.tenants == 1
    copy = new_database()
    dumping.restore(tmp_path / "acme.dump", copy)
    with Database(copy) as db:
        assert [tenant.name for tenant in db.tenants.list()] == ["acme"]
        db.tenant("acme").verify()
        db.verify()
        with db.begin() as uow:
            assert not uow.tasks.list().items
            assert not uow.documents.list().items
            assert uow.session.scalar(text("SELECT count(*) FROM auth.users")) == 0
        with db.tenant("acme").begin() as uow:
            assert len(uow.documents.list(limit=100).items) > 20
            uow.tasks.enqueue("GOES ON")


def test_a_tenant_that_does_not_exist_is_no_drill(filled: URL) -> None:
    before = databases(filled)
    with pytest.raises(NotFoundError, match="initech"):
        drill(filled, schema="initech")
    assert databases(filled) == before


@pytest.fixture
def owner(new_database: Callable[..., URL], tmp_path: Path) -> Iterator[tuple[URL, URL]]:
    """A database of a role that is no superuser, with rows, and an empty one, with the extension that it may not create."""
    name = f"drills_{uuid.uuid4().hex[:12]}"
    made = new_database(), new_database()
    for number, url in enumerate(made):
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            if not number:
                connection.execute(text(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 's3cret'"))
            connection.execute(text(f'ALTER DATABASE "{url.database}" OWNER TO "{name}"; '))
            connection.execute(text("CREATE EXTENSION vector"))
    source, empty = (url.set(username=name, password="s3cret") for url in made)
    migrate.upgrade(source)
    migrate.upgrade(source, schema="acme")
    fill(source, tmp_path)
    yield source, empty
    for url in made:
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'ALTER DATABASE "{url.database}" OWNER TO CURRENT_USER'))
            connection.execute(text(f'DROP OWNED BY "{name}" CASCADE'))
    with create_engine(made[0], poolclass=NullPool).begin() as connection:
        connection.execute(text(f'DROP ROLE "{name}"'))


def test_an_owner_who_is_no_superuser_can_drill(owner: tuple[URL, URL]) -> None:
    source, empty = owner
    report = drill(source, into=empty, existing=True)
    assert report.differences == []
    assert report.tenants == 2
    assert report.kept
    with pytest.raises(ConflictError, match="restore into an empty one"):
        drill(source, into=empty, existing=True)
    with pytest.raises(InvalidInputError, match="existing"):
        drill(source, existing=True)


def test_a_role_that_may_create_no_database_has_a_clear_error(filled: URL) -> None:
    name = f"drills_{uuid.uuid4().hex[:12]}"
    engine = create_engine(filled, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f'CREATE ROLE "{name}" LOGIN'))
    try:
        with pytest.raises(AlfredDBError, match="permission denied") as raised:
            drill(filled, into=filled.set(username=name))
        assert "database" in str(raised.value)
    finally:
        with engine.begin() as connection:
            connection.execute(text(f'DROP ROLE "{name}"'))


def test_the_copy_is_dropped_when_a_step_fails(filled: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(file: Path, url: URL) -> None:
        raise ConfigurationError("no restore")

    before = databases(filled)
    monkeypatch.setattr(running, "restore", fails)
    with pytest.raises(ConfigurationError, match="no restore"):
        drill(filled)
    assert databases(filled) == before


def test_a_program_that_is_missing_or_too_old_is_named(
    filled: URL, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dumping, "_places", lambda: iter([tmp_path]))
    with pytest.raises(ConfigurationError, match=r"pg_dump: version .* is needed, found none"):
        drill(filled)
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6'\n")
    program.chmod(0o755)
    with pytest.raises(ConfigurationError, match="found 9"):
        drill(filled)


@pytest.mark.parametrize("name", ["full", "pixeltable16"])
def test_a_newer_server_restores_it(
    name: str, servers: Servers, new_database: Callable[..., URL], tmp_path: Path
) -> None:
    url = new_database(on=name)
    migrate.upgrade(url)
    migrate.upgrade(url, schema="acme")
    fill(url, tmp_path)
    report = drill(url, into=parse_url(servers["embedded"]))
    assert report.differences == []
    assert report.tenants == 2


def test_the_command(filled: URL) -> None:
    address = ["--url", filled.render_as_string(hide_password=False)]
    done = CliRunner().invoke(main, ["drill", "--schema", "acme", "--keep", "--json", *address])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["differences"] == []
    assert report["database"] in databases(filled)
    dumping.drop_database(filled, report["database"])
    assert report["database"] not in databases(filled)


def test_answers_differ_by_rows_distances_and_texts() -> None:
    one = comparing.Answers({"a": 1}, {"a near 1": [0.0, 0.5]}, {"storm": [1, 2]})
    assert comparing.differences(one, one) == []
    other = comparing.Answers({"a": 2}, {"a near 1": [0.0, 0.6]}, {"storm": [2, 1]})
    assert len(comparing.differences(one, other)) == 3
    close = comparing.Answers({"a": 1}, {"a near 1": [0.0, 0.5 + 1e-9]}, {"storm": [1, 2]})
    assert comparing.differences(one, close) == []
