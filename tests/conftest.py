"""Servers and databases: one server a session, one migrated template, a clone of it for each test that commits."""

from __future__ import annotations

import gc
import itertools
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import cluster
import corpus
import large
import pytest
from injection.ground import Ground, build
from servers import THROWAWAY, Servers, place
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.orm import Session

from alfred_db import Database, Memory, embedded, migrate
from alfred_db.config import parse_url
from alfred_db.embedded import server as embedded_server
from alfred_db.execution._sync.bulk import add_many
from alfred_db.execution._sync.copy import table_name
from alfred_db.models.base import table_of
from alfred_db.repositories import UnitOfWork
from alfred_db.repositories._sync.documents import DocumentRepository

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what cannot run on the cluster that the suite is pointed at, with the reason."""
    for item in items if cluster.nodes() else ():
        if (mark := item.get_closest_marker(cluster.MARK)) is not None:
            item.add_marker(pytest.mark.skip(reason=f"on Citus: {mark.args[0]}"))


def pytest_configure() -> None:
    """While the tests are collected next to nothing is garbage, and to look for it takes two fifths of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What is imported stays: to look for garbage in it again and again takes a tenth of the time."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged may hold lone surrogates, which a worker of pytest-xdist cannot send."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    for name in ("ALFRED_DB_URL", "DATABASE_URL", "ALFRED_DB_MIGRATION_URL", "PGSSLMODE"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Superuser URLs of the servers by name; see tests/servers.py."""
    with ExitStack() as stack:
        default = next(iter(cluster.nodes()), os.environ.get("ALFRED_DB_TEST_URL"))
        if default is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alfred-db-", dir=place())))
            folder.chmod(0o755)
            with pytest.MonkeyPatch.context() as patch:
                usual = embedded_server._settings
                patch.setattr(embedded_server, "_settings", lambda sockets: usual(sockets) | THROWAWAY)
                default = str(make_url(embedded.start(folder).url or "").set(database="postgres"))
            stack.callback(embedded.stop, folder)
        yield Servers(stack, default)


@pytest.fixture(scope="session")
def new_database(servers: Servers) -> Iterator[Callable[..., URL]]:
    """Makes databases: `new_database(on="full")` an empty one, `template=` a copy.

    On a server that lasts they are dropped at the end.
    """
    made: list[tuple[str, str]] = []

    def make(template: str | None = None, *, on: str = "embedded") -> URL:
        url = servers[on]
        name = f"alfred_test_{os.getpid()}_{next(_numbers)}"
        if cluster.nodes() and on == "embedded":
            made.append((url, name))
            return cluster.create(name, migrated=template is not None)
        copied = "" if template is None else f" TEMPLATE {template}"
        if url not in servers.lasting:
            copied += " STRATEGY FILE_COPY"  # in memory, to log each page takes longer than to copy the files
        _as_superuser(url, f"CREATE DATABASE {name}{copied}")
        made.append((url, name))
        return parse_url(url).set(database=name)

    yield make
    for url, name in made:
        if cluster.nodes() and url == cluster.nodes()[0]:
            cluster.drop(name)
        elif url in servers.lasting:
            _drop(url, name)


def _drop(url: str, name: str | None) -> None:
    _as_superuser(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _as_superuser(url: str, statement: str) -> None:
    engine = create_engine(parse_url(url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))


@pytest.fixture(scope="session")
def template(servers: Servers, new_database: Callable[..., URL]) -> URL:
    """A migrated database, with the tenant `acme` in it, that nobody connects to."""
    if name := os.environ.get("ALFRED_DB_TEST_TEMPLATE"):  # made once for many runs, by tools/mutants.py
        return parse_url(servers["embedded"]).set(database=name)
    url = new_database()
    migrate.upgrade(url)
    migrate.upgrade(url, schema="acme")
    return url


@pytest.fixture(scope="session")
def migrated_url(template: URL, new_database: Callable[..., URL]) -> URL:
    """A migrated database for tests that commit nothing."""
    return new_database(template.database)


@pytest.fixture(scope="session")
def migrated(migrated_url: URL) -> Iterator[Engine]:
    """An engine on a migrated database, for tests that commit nothing."""
    engine = create_engine(migrated_url)
    yield engine
    engine.dispose()


@pytest.fixture
def database_url(servers: Servers, template: URL, new_database: Callable[..., URL]) -> Iterator[URL]:
    """A migrated database of the test's own."""
    url = new_database(template.database)
    yield url
    _drop(servers["embedded"], url.database)


@pytest.fixture
def empty_url(servers: Servers, new_database: Callable[..., URL]) -> Iterator[URL]:
    """An empty database of the test's own."""
    url = new_database()
    yield url
    _drop(servers["embedded"], url.database)


@pytest.fixture
def server(empty_url: URL) -> Iterator[Engine]:
    """A superuser's engine on an empty database of the test's own."""
    engine = create_engine(empty_url, poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def cron(servers: Servers) -> Iterator[Database]:
    """A migrated database with pg_cron: the one that cron.database_name names. All is taken away at the end."""
    url = parse_url(servers["full"])
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        home = connection.scalar(text("SELECT current_setting('cron.database_name', true)"))
        if home is None:
            pytest.skip("the server has no pg_cron")
        url = url.set(database=home)
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(5417)"))  # another worker may want it, too
        names = text("SELECT extname FROM pg_extension")
        schemas = text("SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'")
        before, homes = set(connection.scalars(names)), set(connection.scalars(schemas))
        migrate.upgrade(url)
        try:
            with Database(url) as database:
                yield database
        finally:
            if "pg_cron" in connection.scalars(names).all():
                connection.execute(
                    text("SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname LIKE 'alfred-db%'")
                )
            migrate.downgrade(url, "base", allow_data_loss=True)
            for name in set(connection.scalars(names)) - before:
                connection.execute(text(f'DROP EXTENSION IF EXISTS "{name}" CASCADE'))
            for name in set(connection.scalars(schemas)) - homes:
                connection.execute(text(f'DROP SCHEMA "{name}"'))


@pytest.fixture(params=["units", "sessions"])
def alone(db: Database, request: pytest.FixtureRequest) -> Callable[[Callable[[UnitOfWork], None]], None]:
    """Runs work in AUTOCOMMIT: the library's own, and that of a session of the caller's."""
    engine: Engine = db.engine.execution_options(isolation_level="AUTOCOMMIT")

    def run(work: Callable[[UnitOfWork], None]) -> None:
        if request.param == "units":
            with db.autocommit() as uow:
                work(uow)
        else:
            with Session(engine) as session:
                work(UnitOfWork(session))

    return run


@pytest.fixture(scope="session")
def library_url(template: URL, new_database: Callable[..., URL]) -> URL:
    """A migrated database with the grown set of tests/corpus.py as documents, for tests that commit nothing."""
    url = new_database(template.database)
    with Database(url) as database, database.session() as session:
        # Built after the load, the index takes a fraction of the time.
        definition = session.scalar(text("SELECT pg_get_indexdef('idx_documents_embedding'::regclass)"))
        session.execute(text("DROP INDEX idx_documents_embedding"))
        real = corpus.documents()
        rows = [
            {
                "title": real[number % len(real)]["synset"],
                "content": real[number % len(real)]["text"],
                "metadata_": {"lexname": real[number % len(real)]["lexname"], **corpus.parts(number)},
                "external_id": str(number),
            }
            for number in range(corpus.GROWN)
        ]
        DocumentRepository(session).add_many(rows, embeddings=corpus.grown())  # type: ignore[arg-type]
        session.execute(text("SET LOCAL maintenance_work_mem = '256MB'"))
        session.execute(text(definition or ""))
        session.commit()
    return url


@pytest.fixture(scope="session")
def glosses_url(template: URL, new_database: Callable[..., URL]) -> URL:
    """A migrated database with the documents of tests/corpus.py as memories of the bank `glosses`, the only one, in
    each tenant; for tests that commit nothing."""
    url = new_database(template.database)
    for schema in (None, "acme"):
        with Database(url, schema=schema) as database, database.begin() as uow:
            bank = uow.memory_banks.get_or_create("glosses").id
            given = zip(corpus.documents(), corpus.importances(), corpus.ages(), strict=True)
            rows = [
                {
                    "memory_bank_id": bank,
                    "content": document["text"],
                    "importance": int(importance),
                    "last_accessed": corpus.NOW - corpus.HALF_LIFE * float(age),
                }
                for document, importance, age in given
            ]
            add_many(uow.session, Memory, rows, vectors={"embedding": corpus.vectors()[0]})
            uow.session.execute(text(f"ANALYZE {table_name(uow.session, table_of(Memory))}"))
    return url


@pytest.fixture(scope="session")
def large_url(template: URL, new_database: Callable[..., URL]) -> URL:
    """A migrated database with 20,000 memories, memory entries, working memories and points of one collection."""
    url = new_database(template.database)
    with Database(url) as database:
        large.load(database)
    return url


@pytest.fixture(scope="session")
def grounds(
    template: URL, new_database: Callable[..., URL], tmp_path_factory: pytest.TempPathFactory
) -> tuple[URL, dict[str | None, Ground]]:
    """A migrated database with a few rows of everything, and what they are in each tenant; to be left as it is."""
    url = new_database(template.database)
    made: dict[str | None, Ground] = {}
    for schema in (None, "acme"):
        with Database(url, schema=schema) as database, database.begin() as uow:
            made[schema] = build(uow, tmp_path_factory.mktemp("ground"))
    return url, made
