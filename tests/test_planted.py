"""Whoever may create in a schema of the search_path has nothing of theirs called: tests/planted.py says what they plant."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from injection.ground import build
from injection.specimens import SPECIMENS
from planted import CALLED, leaning, plant
from servers import Servers
from sqlalchemy import URL, NullPool, create_engine, text

from alfred_db import Database, migrate
from alfred_db.cli import doctor
from alfred_db.config import parse_url
from alfred_db.repositories import UnitOfWork

LOW = f"alfred_low_{os.getpid()}"
TENANTS = (None, "acme")


@pytest.fixture(scope="module")
def planted(servers: Servers, new_database: Callable[..., URL]) -> Iterator[URL]:
    """A database where a role that may create in `public` has planted what it could, before anything else."""
    url = new_database()
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {LOW}"))
        for extension in ("vector", "pg_trgm"):
            connection.execute(text(f"CREATE EXTENSION IF NOT EXISTS {extension}"))
        connection.execute(text(f"GRANT CREATE ON SCHEMA public TO {LOW}"))
        assert plant(connection, LOW) > 5000
    yield url
    above = create_engine(parse_url(servers["embedded"]), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with above.connect() as connection:
        connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))
        connection.execute(text(f"DROP ROLE {LOW}"))


def nothing_called(url: URL) -> bool:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        called = connection.scalar(text(f"SELECT is_called FROM {CALLED}"))
        return not called and leaning(connection, LOW) == []


def test_a_superuser_who_migrates_and_looks_calls_nothing_of_theirs(planted: URL) -> None:
    for schema in TENANTS:
        migrate.upgrade(planted, schema=schema)
        assert nothing_called(planted)
        with Database(planted, schema=schema) as db:
            db.verify()
        migrate.check(planted, schema=schema)
        report = doctor.examine(planted, schema)
        assert report.errors == []
        assert any(f'REVOKE CREATE ON SCHEMA "public" FROM {LOW}' in warning for warning in report.warnings)
    assert nothing_called(planted)


@pytest.mark.parametrize("schema", TENANTS, ids=lambda schema: schema or "public")
def test_no_call_of_a_repository_calls_anything_of_theirs(
    planted: URL, schema: str | None, tmp_path: Path
) -> None:
    migrate.upgrade(planted, schema=schema)
    wrong: dict[str, str] = {}
    with Database(planted, schema=schema) as db:
        with db.begin() as uow:
            ground = build(uow, tmp_path)
        with db.session() as session:
            uow = UnitOfWork(session)
            for name, make in SPECIMENS.items():
                noun, _, method = name.partition(",")[0].partition(".")
                given = make(ground)
                savepoint = session.begin_nested()
                try:
                    getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
                except Exception as error:
                    wrong[name] = str(error)
                savepoint.rollback()
    assert not wrong
    assert nothing_called(planted)
