"""The recall of a vector index: the library's search compared with an exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    and_,
    inspect,
    literal_column,
    select,
    text,
)
from sqlalchemy.orm import Mapper, Session

from ..checks import within
from ..config import command
from ..errors import InvalidInputError, NotFoundError, SchemaDriftError, translated
from ..execution._sync.search import scan_settings, search, set_local
from ..models import Base, KnowledgeCollection, KnowledgePoint
from ..models.base import table_of
from ..models.knowledge import partition_name
from ..queries.shapes.functions import func
from ..queries.shapes.knowledge import partition
from ..queries.shapes.vector_search import Partition, distance, literal_limit, vector_index
from ..search.params import SearchParams
from .catalog import mapping_of, models, require, status
from .results import EfRecall, IndexState, Progress, RecallReport

__all__ = ["EF", "MEASURING", "Subject", "check_measuring", "recall", "subject_of"]

EF = (10, 20, 40, 80, 160, 320)
"""Values of hnsw.ef_search to measure; the least that a search uses is 40."""

MEASURING = "measuring"
"""The phase in which an index is searched."""


def recall(
    engine: Engine,
    table: type[Base] | str,
    *,
    schema: str | None = None,
    target: float = 0.95,
    k: int = 10,
    samples: int = 200,
    ef: Sequence[int] = EF,
    progress: Callable[[Progress], None] | None = None,
) -> RecallReport:
    """Measure the recall and the time of a search at each hnsw.ef_search.

    The queries are stored vectors, the same ones each time for the same rows; vectors unlike the stored ones
    are harder to search for. Each search is compared with the exact answer within one read-only snapshot.

    Args:
        engine: The engine of the database.
        table: A model, its table, or a partition: knowledge is searched one collection at a time.
        schema: The tenant; by default that of the engine.
        target: The recall that `RecallReport.ef` must reach, more than 0 and at most 1.
        k: The number of nearest rows that are compared, 2 to 1000.
        samples: The number of queries.
        ef: Values of hnsw.ef_search, each 1 to 1000.
        progress: Called after the searches of each query.

    Raises:
        InvalidInputError: The table has no vector index, or an argument is out of range.
        NotFoundError: The table holds fewer than two vectors.
        SchemaDriftError: The index is missing or invalid.
    """
    check_measuring(target, k, samples, ef)
    with translated(), _own_connection(engine, schema) as connection:
        with connection.begin():
            found = [one for one in status(connection, schema) if one.state is not IndexState.LEFTOVER]
            name = table if isinstance(table, str) else str(getattr(table, "__tablename__", table))
            subject = subject_of(connection, name, {one.table for one in found if one.parent})
        known = vector_index(subject.model).name
        (index,) = (one for one in found if one.table == subject.name and known in (one.name, one.parent))
        require(index, IndexState.VALID)
        results = _measure(connection, subject, k, samples, sorted(set(ef)), index.name, progress)
    if not results:
        raise NotFoundError(
            f"table {subject.name}: holds fewer than two vectors, so there is nothing to measure"
        )
    tenant = schema or mapping_of(None, engine.get_execution_options()).get(None)
    return RecallReport(
        subject.name,
        index.name,
        target,
        k,
        len(results),
        _median([one.exact for one in results]),
        tuple(_by_ef(ef, [one.found[ef] for one in results]) for ef in results[0].found),
        command("vectors rebuild", engine.url, tenant, "--index", index.name),
    )


@contextmanager
def _own_connection(engine: Engine, schema: str | None) -> Generator[Connection]:
    """Open a connection for read-only snapshots that shares no plans with other work."""
    with engine.connect() as connection:
        connection = connection.execution_options(
            isolation_level="REPEATABLE READ",
            postgresql_readonly=True,
            schema_translate_map=mapping_of(schema, engine.get_execution_options()),
        )
        try:
            with connection.begin():
                connection.execute(text("DISCARD PLANS"))
            yield connection
        finally:
            connection.invalidate()


def _by_ef(ef: int, found: Sequence[tuple[float, float]]) -> EfRecall:
    parts = [part for part, _ in found]
    return EfRecall(ef, fmean(parts), min(parts), _median([seconds for _, seconds in found]))


def _median(seconds: Sequence[float]) -> float:
    return 1000 * median(seconds)


def check_measuring(target: float, k: int, samples: int, ef: Sequence[int]) -> None:
    """Check the arguments of a measurement."""
    if not 0 < target <= 1:
        raise InvalidInputError(f"target: expected more than 0, at most 1, got {target}")
    within("k", k, 2, 1000)
    within("samples", samples, 1, 100_000)
    if not ef:
        raise InvalidInputError("ef: expected at least one value of hnsw.ef_search, such as 40")
    for one in ef:
        within("ef", one, 1, 1000)


@dataclass(frozen=True, slots=True)
class Subject:
    """The table, or the partition of one, that is searched."""

    model: type[Base]
    partition: Partition | None = None

    @property
    def name(self) -> str:
        """The name of the table or partition."""
        return table_of(self.model).name if self.partition is None else self.partition.table.name

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of the condition of a partition."""
        return {} if self.partition is None else self.partition.parameters

    @property
    def keys(self) -> tuple[ColumnElement[Any], ...]:
        """The columns of the primary key."""
        mapper: Mapper[Any] = inspect(self.model)
        return tuple(mapper.primary_key)

    def key(self, row: Row[Any]) -> tuple[Any, ...]:
        """Return the primary key of a row."""
        return tuple(getattr(row, str(key.key)) for key in self.keys)


def subject_of(connection: Connection, table: str, partitions: Set[str]) -> Subject:
    """Return the table or partition with this name.

    Raises:
        InvalidInputError: It is not a table or partition with a vector index.
    """
    known = {name: model for model in models().values() for name in (model.__tablename__, _full_name(model))}
    model = known.get(table)
    if model is KnowledgePoint:
        raise InvalidInputError(
            f"table {table}: is searched one collection at a time; name one of {', '.join(sorted(partitions))}"
        )
    if model is not None:
        return Subject(model)
    stored = select(KnowledgeCollection.name, KnowledgeCollection.distance, KnowledgeCollection.dimensions)
    rows = connection.execute(stored).all()
    collections = {partition_name(row.name): row for row in rows}
    if table not in collections or table not in partitions:
        expected = ", ".join(
            [*(name for name in models() if known[name] is not KnowledgePoint), *sorted(partitions)]
        )
        raise InvalidInputError(f"table {table[:80]!r}: has no vector index; expected one of {expected}")
    name, compared, dimensions = collections[table]
    found = partition(name, compared, dimensions)
    if found.operator is not None or found.stored is not None:
        raise InvalidInputError(
            f"table {table}: its collection compares by {compared}, with vectors of {dimensions} dimensions, whose index"
            " is not measured; name the table of a collection that compares 1536 dimensions by cosine"
        )
    return Subject(KnowledgePoint, found)


def _full_name(model: type[Base]) -> str:
    return table_of(model).fullname


@dataclass(frozen=True, slots=True)
class _Sample:
    """The results of the searches for one stored vector."""

    exact: float
    """Seconds that the exact search took."""
    found: Mapping[int, tuple[float, float]]
    """Recall and seconds, by ef_search."""


def _measure(
    connection: Connection,
    subject: Subject,
    k: int,
    samples: int,
    ef: Sequence[int],
    index: str,
    progress: Callable[[Progress], None] | None,
) -> list[_Sample]:
    """Return one result for each sample.

    `connection` has no open transaction; each transaction that it begins is a read-only snapshot.
    """
    results: list[_Sample] = []
    with Session(connection) as session:
        with session.begin():
            chosen = session.execute(_sample(subject, samples), subject.parameters).all()
        for row in chosen[:1]:
            with session.begin():
                _require_index(session, subject, row.embedding, k, index)
        for number, row in enumerate(chosen):
            # Each ef_search comes first in turn, as the first search finds the coldest caches.
            turn = number % len(ef)
            with session.begin():
                result = _compare(session, subject, row, k, [*ef[turn:], *ef[:turn]])
            if result is not None:
                results.append(result)
            if progress is not None:
                progress(Progress(index, MEASURING, number + 1, len(chosen)))
    return results


def _compare(session: Session, subject: Subject, row: Row[Any], k: int, ef: Sequence[int]) -> _Sample | None:
    """Compare the searches for one row, which does not count itself; None without any other row."""
    own, started = subject.key(row), time.perf_counter()
    nearest = session.execute(_exact(subject, k), {**subject.parameters, "embedding": row.embedding}).all()
    exact = time.perf_counter() - started
    wanted = [one.distance for one in nearest if subject.key(one) != own][: k - 1]
    if not wanted:
        return None
    found: dict[int, tuple[float, float]] = {}
    for one in ef:
        rows, seconds = _search(session, subject, row.embedding, k, one)
        others = [hit.distance for hit in rows if subject.key(hit) != own]
        # Rows may have the same distance: one as near as the farthest exact result counts as found.
        good = sum(distance <= wanted[-1] for distance in others)
        found[one] = min(good, len(wanted)) / len(wanted), seconds
    return _Sample(exact, dict(sorted(found.items())))


def _search(
    session: Session, subject: Subject, embedding: Any, k: int, ef: int
) -> tuple[list[Row[Any]], float]:
    params = SearchParams(exact=False, ef_search=ef)
    # Set before the search, so that its time is that of the query alone.
    settings = {**scan_settings(k, params, iterative=False), "enable_seqscan": "off"}
    if subject.partition is not None:
        settings["plan_cache_mode"] = "force_custom_plan"
    set_local(session, settings)
    started = time.perf_counter()
    found = search(session, subject.model, embedding, limit=k, params=params, partition=subject.partition)
    return [hit.row for hit in found], time.perf_counter() - started


def _require_index(session: Session, subject: Subject, embedding: Any, k: int, index: str) -> None:
    """Check that the planner uses the index; with another plan the recall would always be 1.

    Raises:
        SchemaDriftError: It does not use the index.
    """
    set_local(session, {"enable_seqscan": "off"})
    params, where = SearchParams(exact=False), subject.partition
    found = search(session, subject.model, embedding, limit=k, params=params, partition=where, explain=True)
    if "Index Scan using" not in (found.plan or ""):
        bind = session.get_bind()
        homes = mapping_of(None, bind.get_execution_options())
        compare = command("check", bind.engine.url, homes.get(None))
        raise SchemaDriftError(
            f"index {index}: the server does not use it for a search; compare it with the models ({compare})"
        )


def _exact(subject: Subject, k: int) -> Select[*tuple[Any, ...]]:
    """Return the exact search: no index has the order of this sum, so all rows are compared."""
    found = distance(subject.model)
    statement = select(*subject.keys, found.label("distance")).where(_has_vector(subject))
    return statement.order_by(found + literal_column("0::float8")).limit(literal_limit(k))


def _sample(subject: Subject, samples: int) -> Select[*tuple[Any, ...]]:
    """Return rows in a random but repeatable order; vectors are read of the chosen rows only."""
    keys = subject.keys
    shuffled = func.hashtextextended(func.concat_ws("/", *keys), 0)
    some = select(*keys).where(_has_vector(subject)).order_by(shuffled, *keys).limit(samples).subquery()
    same = and_(*(key == one for key, one in zip(keys, some.c, strict=True)))
    return select(*keys, vector_index(subject.model).column.label("embedding")).join(some, same)


def _has_vector(subject: Subject) -> ColumnElement[bool]:
    there = vector_index(subject.model).column.is_not(None)
    return there if subject.partition is None else and_(there, subject.partition.where)
