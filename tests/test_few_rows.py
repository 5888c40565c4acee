"""A few rows are stored without a temporary table, and without a statement for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from sqlalchemy import URL, event, text

from alfred_db import Database, UnitOfWork
from alfred_db.execution._sync.bulk import MAX_UNSTAGED

ROWS = 40
chance = np.random.default_rng(3)


def _points(uow: UnitOfWork, count: int) -> Callable[[], Any]:
    points: list[Any] = [
        {"id": f"p-{number}", "vector": chance.standard_normal(1536), "payload": {"n": number}}
        for number in range(count)
    ]
    return lambda: uow.knowledge.upsert("legal-knowledge", points)


def _documents(uow: UnitOfWork, count: int) -> Callable[[], Any]:
    rows: list[Any] = [
        {"external_id": f"d-{number}", "content": "c", "embedding": chance.standard_normal(384)}
        for number in range(count)
    ]
    return lambda: uow.documents.add_many(rows, on_conflict="update")


def _known(uow: UnitOfWork, count: int) -> Callable[[], Any]:
    """Near duplicates of what the bank has."""
    bank = uow.memory_banks.get_or_create("few").id
    vectors = chance.standard_normal((count, 384), dtype=np.float32)
    uow.memories.remember_many(bank, [{"content": f"old {n}"} for n in range(count)], embeddings=vectors)
    told: list[Any] = [{"content": f"new {n}"} for n in range(count)]
    return lambda: uow.memories.remember_many(bank, told, embeddings=vectors * np.float32(1.0001), near=0.01)


def _fresh(uow: UnitOfWork, count: int) -> Callable[[], Any]:
    bank = uow.memory_banks.get_or_create("fresh").id
    told: list[Any] = [{"content": f"new {n}"} for n in range(count)]
    vectors = chance.standard_normal((count, 384), dtype=np.float32)
    return lambda: uow.memories.remember_many(bank, told, embeddings=vectors, near=0.01)


CALLS = {build.__name__: build for build in (_points, _documents, _known, _fresh)}


@contextmanager
def sent(uow: UnitOfWork) -> Iterator[list[str]]:
    """What SQLAlchemy sends meanwhile; of an executemany by the driver, each execution."""
    found: list[str] = []

    def listen(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        found.extend([statement] * (len(parameters) if isinstance(parameters, list) else 1))

    connection = uow.session.connection()
    event.listen(connection, "before_cursor_execute", listen)
    yield found
    event.remove(connection, "before_cursor_execute", listen)


@pytest.mark.parametrize("name", CALLS)
def test_the_number_of_statements_does_not_depend_on_the_rows(migrated_url: URL, name: str) -> None:
    counts = []
    for rows in (2, ROWS):
        with Database(migrated_url) as database, database.session() as session:
            uow = UnitOfWork(session)
            call = CALLS[name](uow, rows)
            with sent(uow) as statements:
                call()
            session.rollback()
        assert not [statement for statement in statements if "TEMPORARY" in statement]
        counts.append(len(statements))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("count", [MAX_UNSTAGED, MAX_UNSTAGED + 1])
def test_both_ways_store_the_same(migrated_url: URL, count: int) -> None:
    with Database(migrated_url) as database, database.session() as session:
        uow = UnitOfWork(session)
        rows: list[Any] = [
            {
                "external_id": f"d-{number}" if number % 3 else None,
                "content": f"c {number}",
                "metadata": {"n": number},
            }
            for number in reversed(range(count))
        ]
        first = uow.documents.add_many(rows, on_conflict="update")
        assert len(set(first)) == count
        changed: list[Any] = [{**row, "content": "new"} for row in rows if row["external_id"] is not None]
        known = [id for id, row in zip(first, rows, strict=True) if row["external_id"] is not None]
        assert uow.documents.add_many(changed[:5], on_conflict="ignore") == known[:5]
        assert uow.documents.add_many([*changed, changed[0]], on_conflict="update") == [*known, known[0]]
        document = uow.documents.get(known[0])
        assert document is not None
        assert (document.content, document.external_id) == ("new", changed[0]["external_id"])
        session.rollback()


def test_an_upsert_of_one_point_leaves_nothing_in_the_catalog(database_url: URL) -> None:
    with Database(database_url) as database:
        tables = []
        for _ in range(2):
            with database.begin() as uow:
                # A large object takes the next number of those that tables take too.
                tables.append(int(uow.session.scalar(text("SELECT lo_create(0)")) or 0))
            for number in range(20):
                with database.begin() as uow:
                    uow.knowledge.upsert("legal-knowledge", [{"id": number, "payload": {"n": len(tables)}}])
        with database.begin() as uow:
            tables.append(int(uow.session.scalar(text("SELECT lo_create(0)")) or 0))
        assert tables[2] - tables[1] == 1
