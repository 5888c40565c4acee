"""20,000 rows in every table that is searched by meaning, for the tests of plans.

Of the longest vectors every fifth row has one, as to index them all takes minutes; tests/_async/test_knowledge.py has a
collection whose points all have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import corpus
import numpy as np
from sqlalchemy import MetaData, Table, text
from sqlalchemy.orm import Session

from alfred_db import Database, KnowledgePoint, Memory, MemoryEntry, UnitOfWork, WorkingMemory
from alfred_db.execution._sync.copy import copy_rows
from alfred_db.models.base import table_of
from alfred_db.queries.shapes.vector_search import vector_index

ROWS = 20_000
BANK, NAMESPACE, COLLECTION = "large", "large", "large"


def vectors(dimensions: int) -> Any:
    """Unit vectors, by chance, but of eight directions only, as an index of those takes half the time to build."""
    chance = np.random.default_rng(dimensions)
    directions = chance.standard_normal((8, dimensions), dtype=np.float32)
    rows = chance.standard_normal((ROWS, 8), dtype=np.float32) @ directions
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def words(number: int) -> str:
    """A text with words of its own and words that many share."""
    real = corpus.documents()
    return f"{real[number % len(real)]['text']} number {number}"


def load(database: Database) -> None:
    """Fill the tables; an index that is built after the load takes a fraction of the time."""
    with database.begin() as uow:
        session = uow.session
        session.execute(text("SET LOCAL maintenance_work_mem = '400MB'"))
        bank = uow.memory_banks.get_or_create(BANK).id
        texts = list(map(words, range(ROWS)))
        _fill(
            session,
            Memory,
            384,
            ["memory_bank_id", "content", "content_hash"],
            ((bank, one, one.encode()) for one in texts),
        )
        _fill(session, MemoryEntry, 768, ["namespace", "content"], ((NAMESPACE, one) for one in texts))
        _fill(session, WorkingMemory, 1536, ["name", "memory_type"], ((one, "note") for one in texts))
        _collection(uow)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _fill(
    session: Session,
    model: Any,
    dimensions: int,
    names: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    table: Table | None = None,
    index: str | None = None,
) -> None:
    columns = [table_of(model).c[name] for name in (*names, "embedding")]
    found = table_of(model) if table is None else table
    name = index or f"{found.schema or 'public'}.{vector_index(model).name}"
    definition = session.scalar(text(f"SELECT pg_get_indexdef('{name}'::regclass)"))
    session.execute(text(f"DROP INDEX {name}"))
    every = 5 if dimensions > 1000 else 1
    given = vectors(dimensions)
    values = ((*row, given[number] if number % every == 0 else None) for number, row in enumerate(rows))
    copy_rows(session, found, columns, values)
    # Half the effort: the plans do not depend on it.
    session.execute(text((definition or "").replace("ef_construction='64'", "ef_construction='32'")))


def _collection(uow: UnitOfWork) -> None:
    uow.knowledge.create_collection(COLLECTION)
    own = f"knowledge_points_{COLLECTION}"
    uow.session.execute(text(f"ALTER TABLE knowledge_points DETACH PARTITION {own}"))
    rows = ((COLLECTION, str(number), {"half": number % 2}) for number in range(ROWS))
    names = ["collection", "id", "payload"]
    _fill(uow.session, KnowledgePoint, 1536, names, rows, Table(own, MetaData()), f"{own}_embedding_idx")
    uow.session.execute(
        text(f"ALTER TABLE knowledge_points ATTACH PARTITION {own} FOR VALUES IN ('{COLLECTION}')")
    )
