"""Which index of vectors is the best: each kind is built on a sample of the rows, and measured.

The sample is in temporary tables of a transaction that is rolled back: nothing of the database changes, and nobody waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from statistics import fmean, median
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    MetaData,
    Table,
    insert,
    select,
    text,
)
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateTable

from ..checks import within
from ..errors import InvalidInputError, NotFoundError, translated
from ..execution._sync.copy import table_name
from ..models import SpaceIndex, SpaceKind, SpaceState, SpaceStorage
from ..models.base import table_of
from ..models.spaces import BUILTIN
from ..queries import spaces as queries
from ..queries.shapes.functions import func
from ..queries.shapes.literals import number, percentage
from ..queries.shapes.spaces import (
    MOST_INDEXED,
    MOST_RERANKED,
    Space,
    column_name,
    index_definition,
    partition,
    stored_type,
)
from ..queries.shapes.vector_search import table_size, vector_index
from ..vectors.types import HalfVector, Vector
from .catalog import mapping_of, status
from .measuring import EF, MEASURING, check_measuring, subject_of
from .rebuilding import memory_size
from .results import EfRecall, IndexAdvice, IndexState, MeasuredIndex, Progress

__all__ = ["advise"]

ROWS, QUERIES = "pg_temp.alfred_db_advice", "pg_temp.alfred_db_advice_queries"


def advise(
    engine: Engine,
    table: str | None = None,
    *,
    space: str | None = None,
    schema: str | None = None,
    target: float = 0.95,
    k: int = 10,
    samples: int = 100,
    rows: int = 50_000,
    ef: Sequence[int] = EF,
    maintenance_work_mem: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> IndexAdvice:
    """Build each kind of index on a sample of the stored vectors, and measure recall and time.

    Queries are stored vectors, which are not among the searched ones. An index of bits returns as many candidates as
    hnsw.ef_search, which are ranked again by the full vectors. Times are those of the statement; a search reads the rows too.

    Args:
        engine: The engine of the database.
        table: A table with vectors, or a partition of one; pass either this or `space`.
        space: An embedding space.
        schema: The tenant; by default that of the engine.
        target: The recall that an index must reach, more than 0 and at most 1.
        k: The number of nearest rows that are compared, 2 to 1000.
        samples: The number of queries.
        rows: The number of vectors in the sample, 100 to 10 million. The more, the more like the real index.
        ef: Values of hnsw.ef_search, each 1 to 1000.
        maintenance_work_mem: A size such as "2GB" for the builds.
        progress: Called before each build, and after each search.

    Raises:
        InvalidInputError: The table has no vectors, or an argument is out of range.
        NotFoundError: The space does not exist, or there are fewer than three vectors.
    """
    tell = progress or _ignore
    check_measuring(target, k, samples, ef)
    within("rows", rows, 100, 10_000_000)
    if (table is None) == (space is None):
        raise InvalidInputError("advise: pass either `table` or `space`")
    homes = mapping_of(schema, engine.get_execution_options())
    with translated(), engine.connect() as connection:
        connection = connection.execution_options(schema_translate_map=homes)
        # What this transaction makes and sets is never committed.
        with connection.begin() as transaction, Session(connection) as session:
            name, known, stored = _source(session, table, space)
            total, _ = session.execute(table_size(name)).one()
            found = _copied(connection, stored, known, total, samples, rows)
            if found < 2:
                raise NotFoundError(f"{table or space}: has too few vectors, so there is nothing to measure")
            if maintenance_work_mem is not None:
                size = memory_size(maintenance_work_mem)
                connection.execute(text(f"SET LOCAL maintenance_work_mem = '{size}'"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            exact, nearest = _exact(connection, known, k, tell)
            measured = [
                _measured(
                    connection,
                    _with(known, index),
                    k,
                    sorted(set(ef)),
                    nearest,
                    max(total / found, 1.0),
                    tell,
                )
                for index in _kinds(known)
            ]
            transaction.rollback()
    return IndexAdvice(
        str(table or space),
        known.dimensions,
        int(total),
        found,
        target,
        k,
        len(nearest),
        exact,
        tuple(measured),
    )


def _ignore(progress: Progress) -> None:
    pass


def _kinds(space: Space) -> list[SpaceIndex]:
    """Return the kinds of indexes that differ for these vectors, and take their length."""
    kinds = [SpaceIndex.HNSW, SpaceIndex.HNSW_HALFVEC, SpaceIndex.HNSW_BIT]
    if space.storage is SpaceStorage.HALFVEC:
        kinds.remove(SpaceIndex.HNSW)  # the same as that of half precision
    most = [MOST_INDEXED.get((kind, space.storage), space.dimensions) for kind in kinds]
    return [kind for kind, limit in zip(kinds, most, strict=True) if space.dimensions <= limit]


def _with(space: Space, index: SpaceIndex) -> Space:
    return Space(
        space.id,
        space.name,
        space.kind,
        space.model,
        space.dimensions,
        space.storage,
        index,
        SpaceState.ACTIVE,
    )


def _source(session: Session, table: str | None, space: str | None) -> tuple[str, Space, Column[Any]]:
    """Return the name of the table, its vectors as those of a space, and their column."""
    if space is not None:
        row = None if space == BUILTIN else session.scalars(queries.find(space, None)).first()
        if row is None:
            raise NotFoundError(
                f"space {space!r}: not found; the column of the rows is measured by their table"
            )
        known = Space(
            row.id, row.name, row.kind, row.model, row.dimensions, row.storage, row.index, row.state
        )
        own = partition(known.kind, known.id)
        own.append_column(Column(column_name(known.storage), stored_type(known)))
        return table_name(session, own), known, own.c[column_name(known.storage)]
    assert table is not None
    connection = session.connection()
    found = [one for one in status(connection) if one.state is not IndexState.LEFTOVER]
    subject = subject_of(connection, table, {one.table for one in found if one.parent})
    column = vector_index(subject.model).column
    type_: Any = column.type
    half = isinstance(type_, HalfVector)
    known = Space(
        0,
        subject.name,
        SpaceKind.DOCUMENTS,
        None,
        type_.dim,
        SpaceStorage.HALFVEC if half else SpaceStorage.VECTOR,
        SpaceIndex.HNSW,
        SpaceState.ACTIVE,
    )
    target = table_of(subject.model) if subject.partition is None else subject.partition.table
    named = Table(target.name, MetaData(), Column(column.name, column.type), schema=target.schema)
    return table_name(session, named), known, named.c[column.name]


def _copied(
    connection: Connection, stored: Column[Any], space: Space, total: float, samples: int, rows: int
) -> int:
    """Copy a sample of the vectors into temporary tables; return how many are searched."""
    column = column_name(space.storage)
    type_ = (HalfVector if space.storage is SpaceStorage.HALFVEC else Vector)(space.dimensions)
    target, asking = (
        Table(
            name.rpartition(".")[2],
            MetaData(),
            Column("id", BigInteger),
            Column(column, type_),
            schema="pg_temp",
            prefixes=["TEMPORARY"],
        )
        for name in (ROWS, QUERIES)
    )
    for made in (target, asking):
        connection.execute(CreateTable(made))
    wanted = rows + samples
    picked: Any = stored
    if total > 2 * wanted:
        # Whole pages are read, a little more than needed; the rest is cut off.
        sample = percentage(min(100.0, 130.0 * wanted / total))
        picked = stored.table.tablesample(func.system(sample), name="sampled").c[stored.name]
    vectors = select(picked.label("embedding")).where(picked.is_not(None))
    numbered = vectors.limit(number(wanted)).subquery("numbered")
    connection.execute(
        insert(target).from_select(
            ["id", column], select(func.row_number().over(), numbered.c.embedding), include_defaults=False
        )
    )
    order = "pg_catalog.hashint8(id), id"
    copied: int = connection.exec_driver_sql(f"SELECT pg_catalog.count(*) FROM {ROWS}").scalar_one()
    # Of few rows most are searched.
    asked = min(samples, max(copied // 5, 1))
    for statement in (
        f"INSERT INTO {QUERIES} SELECT pg_catalog.row_number() OVER (ORDER BY {order}), {column} FROM {ROWS}"
        f" ORDER BY {order} LIMIT {asked:d}",
        f"DELETE FROM {ROWS} WHERE id IN (SELECT id FROM {ROWS} ORDER BY {order} LIMIT {asked:d})",
        f"CREATE UNIQUE INDEX ON {QUERIES} (id)",
        f"ANALYZE {ROWS}",
        f"ANALYZE {QUERIES}",
    ):
        connection.exec_driver_sql(statement)
    return copied - asked


def _exact(
    connection: Connection, space: Space, k: int, tell: Callable[[Progress], None]
) -> tuple[float, list[tuple[int, list[float]]]]:
    """Return the median time of a search without an index, and the distances of the nearest rows of each query."""
    column = column_name(space.storage)
    numbers = connection.exec_driver_sql(f"SELECT id FROM {QUERIES} ORDER BY id").scalars().all()
    statement = f"SELECT {column} <=> (SELECT {column} FROM {QUERIES} WHERE id = %s) AS distance FROM {ROWS} ORDER BY 1 LIMIT {k:d}"
    found: list[tuple[int, list[float]]] = []
    with _timed(connection) as run:
        times: list[float] = []
        for query in numbers:
            rows, seconds = run(statement, query)
            times.append(seconds)
            found.append((query, [distance for (distance,) in rows]))
            tell(Progress("no index", MEASURING, len(found), len(numbers)))
    return 1000 * median(times), found


def _measured(
    connection: Connection,
    space: Space,
    k: int,
    ef: Sequence[int],
    nearest: Sequence[tuple[int, Sequence[float]]],
    scale: float,
    tell: Callable[[Progress], None],
) -> MeasuredIndex:
    """Build one index on the sample, measure it, and drop it."""
    tell(Progress(space.index.value, "building", 0, 0))
    started = time.perf_counter()
    connection.execute(text(f"CREATE INDEX alfred_db_advice_index ON {ROWS} {index_definition(space)}"))
    built = time.perf_counter() - started
    index = "pg_temp.alfred_db_advice_index"
    size: int = connection.exec_driver_sql(
        f"SELECT pg_catalog.pg_relation_size('{index}'::pg_catalog.regclass)"
    ).scalar_one()
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    results: list[EfRecall] = []
    for turn, effort in enumerate(ef):
        connection.exec_driver_sql(f"SET LOCAL hnsw.ef_search = {effort:d}")
        statement = _search(space, k, min(max(effort, k), MOST_RERANKED))
        parts: list[float] = []
        times: list[float] = []
        with _timed(connection) as run:
            run(statement, nearest[0][0])
            for place, (query, wanted) in enumerate(nearest, 1):
                rows, seconds = run(statement, query)
                good = sum(distance <= wanted[-1] + 1e-7 for (distance,) in rows)
                parts.append(min(good, len(wanted)) / len(wanted))
                times.append(seconds)
                done = turn * len(nearest) + place
                tell(Progress(space.index.value, MEASURING, done, len(ef) * len(nearest)))
        results.append(EfRecall(effort, fmean(parts), min(parts), 1000 * median(times)))
    connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
    connection.exec_driver_sql(f"DROP INDEX {index}")
    return MeasuredIndex(space.index.value, int(size * scale), built * scale, tuple(results))


def _search(space: Space, k: int, candidates: int) -> str:
    """Return the search as the library runs it: the exact expression of the index, ranked again if that is another."""
    column, length = column_name(space.storage), f"({space.dimensions:d})"
    query = f"(SELECT {column} FROM {QUERIES} WHERE id = %s)"
    if space.index is SpaceIndex.HNSW_BIT:
        signs = f"CAST(binary_quantize({column}) AS bit{length})"
        asked = f"CAST(binary_quantize(one.{column}) AS bit{length})"
        return (
            f"SELECT found.{column} <=> one.{column} AS distance FROM {QUERIES} AS one CROSS JOIN LATERAL ("
            f"SELECT {column} FROM {ROWS} ORDER BY {signs} <~> {asked} LIMIT {candidates:d}) AS found"
            f" WHERE one.id = %s ORDER BY 1 LIMIT {k:d}"
        )
    type_ = (
        "halfvec"
        if space.index is SpaceIndex.HNSW_HALFVEC or space.storage is SpaceStorage.HALFVEC
        else "vector"
    )
    full = f"CAST({column} AS {type_}{length})"
    return (
        f"SELECT {column} <=> {query} AS distance FROM {ROWS}"
        f" ORDER BY {full} <=> (SELECT {full} FROM {QUERIES} WHERE id = %s) LIMIT {k:d}"
    )


@contextmanager
def _timed(connection: Connection) -> Generator[Any]:
    """Yield a function that runs a statement by the driver, and returns its rows and the seconds that it took."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:

        def run(statement: str, query: int) -> tuple[Sequence[Any], float]:
            values = [query] * statement.count("%s")
            started = time.perf_counter()
            rows = cursor.execute(statement, values, prepare=True).fetchall()
            return rows, time.perf_counter() - started

        yield run
