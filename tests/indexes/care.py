"""What the tests of the vector indexes ask and do to a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL

from alfred_db import Database
from alfred_db.indexes import IndexStatus, status

DOCUMENTS, KNOWLEDGE = "idx_documents_embedding", "idx_knowledge_points_embedding"
PARTITIONS = [f"knowledge_points_{name}_knowledge" for name in ("financial", "general", "legal", "social")]
TABLES = ["documents", *PARTITIONS, "memories", "memory_entries", "working_memory"]
LOADED, POINTS = 1_000, 60


@contextmanager
def copied(url: URL) -> Iterator[URL]:
    """A database, dropped at once when the test is over: many that are left make the server's stop slow."""
    yield url
    with Database(url.set(database="postgres")) as server:
        sql(server, f"DROP DATABASE {url.database} WITH (FORCE)")


def sql(database: Database, *statements: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            done = connection.exec_driver_sql(statement)
            rows = [tuple(row) for row in done] if done.returns_rows else []
    return rows


def indexes(database: Database, table: str | None = None) -> list[IndexStatus]:
    with database.engine.connect() as connection:
        return [one for one in status(connection, database.schema) if table in (None, one.table)]


def reported(one: IndexStatus) -> list[str]:
    """Its warnings, but those of an old pgvector."""
    return [line for line in one.warnings if not line.startswith("vector ")]


def home(database: Database, schema: str = "public") -> str:
    return database.schema or schema


def invalidate(database: Database, name: str) -> None:
    sql(
        database,
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{home(database)}.{name}'::regclass",
    )


def files(database: Database, table: str) -> dict[str, int]:
    """The files of a table's indexes: a rebuild makes others."""
    found = sql(
        database,
        "SELECT c.relname, c.relfilenode FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid"
        f" WHERE indrelid = '{home(database)}.{table}'::regclass",
    )
    return dict(found)
