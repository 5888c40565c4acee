from __future__ import annotations

from collections.abc import Callable, Iterator

import corpus
import numpy as np
import pytest
from sqlalchemy import URL, text

from alfred_db import Database
from alfred_db.repositories._sync.documents import DocumentRepository
from alfred_db.repositories._sync.knowledge import KnowledgeRepository

from .care import DOCUMENTS, LOADED, POINTS, copied, sql


@pytest.fixture(scope="session")
def loaded(template: URL, new_database: Callable[..., URL]) -> URL:
    """A migrated database with documents and points in both tenants, to be copied."""
    url = new_database(template.database)
    real, _ = corpus.vectors()
    for schema in (None, "acme"):
        with Database(url, schema=schema) as database, database.begin() as uow:
            rows = [{"title": str(number), "content": "…"} for number in range(LOADED)]
            DocumentRepository(uow.session).add_many(rows, embeddings=real[:LOADED])  # type: ignore[arg-type]
            for collection in ("legal-knowledge", "social-knowledge"):
                points = [{"id": number, "vector": np.tile(real[number], 4)} for number in range(POINTS)]
                KnowledgeRepository(uow.session).upsert(collection, points)  # type: ignore[arg-type]
        with Database(url) as database, database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    return url


@pytest.fixture(params=[None, "acme"], ids=["public", "acme"])
def tenant(
    request: pytest.FixtureRequest, loaded: URL, new_database: Callable[..., URL]
) -> Iterator[Database]:
    """A tenant of a copy of `loaded`."""
    with copied(new_database(loaded.database)) as url, Database(url, schema=request.param) as database:
        yield database


@pytest.fixture(scope="session")
def read_url(loaded: URL, new_database: Callable[..., URL]) -> URL:
    """A copy of `loaded` for tests that only read."""
    return new_database(loaded.database)


@pytest.fixture(params=[None, "acme"], ids=["public", "acme"])
def reader(request: pytest.FixtureRequest, read_url: URL) -> Iterator[Database]:
    """A tenant, only to read."""
    with Database(read_url, schema=request.param) as database:
        yield database


@pytest.fixture
def database(loaded: URL, new_database: Callable[..., URL]) -> Iterator[Database]:
    """The default tenant of a copy of `loaded`."""
    with copied(new_database(loaded.database)) as url, Database(url) as database:
        yield database


@pytest.fixture
def poor(database: Database) -> Database:
    """One whose index was built to find little."""
    sql(
        database,
        f"DROP INDEX {DOCUMENTS}",
        f"CREATE INDEX {DOCUMENTS} ON documents USING hnsw (embedding vector_cosine_ops) WITH (m = 2, ef_construction = 4)",
    )
    return database


@pytest.fixture
def library(library_url: URL) -> Iterator[Database]:
    with Database(library_url) as database:
        yield database
