"""How much of the truth a vector index finds: the library's own search against a comparison of all rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from statistics import fmean, median
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    and_,
    func,
    inspect,
    literal_column,
    select,
)
from sqlalchemy.orm import Mapper, Session

from ..errors import InvalidInputError, NotFoundError, SchemaDriftError, translated
from ..models import Base, KnowledgeCollection, KnowledgePoint
from ..models.base import table_of
from ..models.knowledge import partition_name
from ..queries._knowledge import partition
from ..queries._search import Partition, distance, literal_limit, vector_index
from ..queries._shared import within
from ..repositories._sync.search import scan_settings, search, set_local
from ..search import SearchParams
from .catalog import mapping_of, models, require, status
from .results import EfRecall, IndexState, RecallReport

__all__ = ["EF", "recall"]

EF = (10, 20, 40, 80, 160, 320)
"""Values of hnsw.ef_search to try; 40 is the least that a search uses."""


def recall(
    engine: Engine,
    table: type[Base] | str,
    *,
    schema: str | None = None,
    target: float = 0.95,
    k: int = 10,
    samples: int = 200,
    ef: Sequence[int] = EF,
) -> RecallReport:
    """Measure what part of the k truly nearest a search finds, and how fast, at each hnsw.ef_search.

    `table` is a model, its table, or a partition of it: knowledge is searched one collection at a time. The
    queries are stored vectors, the same ones each time for the same rows; vectors unlike the stored ones are
    harder to search for. Each is compared with the exact answer within one read-only snapshot. Raises
    InvalidInputError, NotFoundError when there are fewer than two vectors, and SchemaDriftError when the index
    is missing or invalid.
    """
    _check(target, k, samples, ef)
    options = mapping_of(schema, engine.get_execution_options())
    with translated(), engine.connect() as connection:
        # Its cached plans, made for settings of this measurement, must not be anybody else's.
        connection.detach()
        connection = connection.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True, schema_translate_map=options
        )
        with connection.begin():
            found = [one for one in status(connection, schema) if one.state is not IndexState.LEFTOVER]
            model, searched = _meant(connection, table, models(), {one.table for one in found if one.parent})
        name = table_of(model).name if searched is None else searched.table.name
        known = vector_index(model).name
        (index,) = (one for one in found if one.table == name and known in (one.name, one.parent))
        require(index, IndexState.VALID)
        return _measure(connection, model, searched, index.name, target, k, samples, sorted(set(ef)))


def _check(target: float, k: int, samples: int, ef: Sequence[int]) -> None:
    if not 0 < target <= 1:
        raise InvalidInputError(f"target: expected more than 0, at most 1, got {target}")
    within("k", k, 2, 1000)
    within("samples", samples, 1, 100_000)
    if not ef:
        raise InvalidInputError("ef: expected at least one value of hnsw.ef_search, such as 40")
    for one in ef:
        within("ef", one, 1, 1000)


def _meant(
    connection: Connection, table: type[Base] | str, known: Mapping[str, type[Base]], partitions: Set[str]
) -> tuple[type[Base], Partition | None]:
    """The model that is meant, and the partition of it; raises InvalidInputError for any other name."""
    if not isinstance(table, str):
        table = getattr(table, "__tablename__", repr(table))
    model = known.get(table) or {table_of(model).fullname: model for model in known.values()}.get(table)
    if model is not None and model is not KnowledgePoint:
        return model, None
    if model is KnowledgePoint:
        raise InvalidInputError(
            f"table {table!r}: is searched one collection at a time; name one of {', '.join(sorted(partitions))}"
        )
    rows = connection.execute(select(KnowledgeCollection.name, KnowledgeCollection.distance)).all()
    collections = {partition_name(row.name): row for row in rows}
    if table not in collections or table not in partitions:
        known = ", ".join(
            [*(name for name in known if name != KnowledgePoint.__tablename__), *sorted(partitions)]
        )
        raise InvalidInputError(f"table {table[:80]!r}: has no vector index; expected one of {known}")
    found = partition(*collections[table])
    if found.operator is not None:
        raise InvalidInputError(
            f"table {table!r}: its collection is compared by {collections[table].distance}, for which there is no"
            " index; all of its searches are exact"
        )
    return KnowledgePoint, found


def _measure(
    connection: Connection,
    model: type[Base],
    searched: Partition | None,
    index: str,
    target: float,
    k: int,
    samples: int,
    ef: Sequence[int],
) -> RecallReport:
    """The report; `connection` begins read-only transactions with one snapshot each, and has none open."""
    name = table_of(model).name if searched is None else searched.table.name
    exact_times: list[float] = []
    parts: dict[int, list[float]] = {one: [] for one in ef}
    times: dict[int, list[float]] = {one: [] for one in ef}
    with Session(connection) as session:
        with session.begin():
            chosen = session.execute(_sample(model, samples, searched), _parameters(searched)).all()
        for number, row in enumerate(chosen):
            with session.begin():
                started = time.perf_counter()
                given = {"embedding": row.embedding, **_parameters(searched)}
                nearest = session.execute(_exact(model, k, searched), given).all()
                exact_times.append(time.perf_counter() - started)
                limits = [one.distance for one in nearest if _key(model, one) != _key(model, row)]
                if not limits:
                    break
                if number == 0:
                    _require_index(session, model, row.embedding, k, searched, index)
                # Each takes its turn as the first, for which the processor's caches hold the least.
                turn = number % len(ef)
                for one in [*ef[turn:], *ef[:turn]]:
                    seconds, hits = _search(session, model, row.embedding, k, one, searched)
                    others = [hit.distance for hit in hits if _key(model, hit) != _key(model, row)]
                    # What is as near as the last that counts is as good: rows may have the same distance.
                    good = sum(other <= limits[-1] for other in others)
                    parts[one].append(min(good, len(limits)) / len(limits))
                    times[one].append(seconds)
    if not parts[ef[0]]:
        raise NotFoundError(f"table {name}: holds fewer than two vectors, so there is nothing to measure")
    return RecallReport(
        name,
        index,
        target,
        k,
        len(parts[ef[0]]),
        1000 * median(exact_times),
        tuple(EfRecall(one, fmean(parts[one]), min(parts[one]), 1000 * median(times[one])) for one in ef),
    )


def _search(
    session: Session, model: type[Base], embedding: Any, k: int, ef: int, searched: Partition | None
) -> tuple[float, list[Row[Any]]]:
    params = SearchParams(exact=False, ef_search=ef)
    # Set ahead of the search, which then has nothing to set, so that its time is that of the query.
    settings = {**scan_settings(k, params, iterative=False), "enable_seqscan": "off"}
    if searched is not None:
        settings["plan_cache_mode"] = "force_custom_plan"
    set_local(session, settings)
    started = time.perf_counter()
    found = search(session, model, embedding, limit=k, params=params, partition=searched)
    return time.perf_counter() - started, [hit.row for hit in found]


def _require_index(
    session: Session, model: type[Base], embedding: Any, k: int, searched: Partition | None, index: str
) -> None:
    """Raise SchemaDriftError when the planner passes the index by, so that all would seem to be found."""
    set_local(session, {"enable_seqscan": "off"})
    params = SearchParams(exact=False)
    found = search(session, model, embedding, limit=k, params=params, partition=searched, explain=True)
    if "Index Scan using" not in (found.plan or ""):
        raise SchemaDriftError(
            f"index {index}: the server does not use it for a search; compare it with the models (`alfred-db check`)"
        )


def _exact(model: type[Base], k: int, searched: Partition | None) -> Select[*tuple[Any, ...]]:
    """The nearest by a comparison of all rows: no index has the order of a sum."""
    found = distance(model)
    statement = select(*_keys(model), found.label("distance")).where(vector_index(model).column.is_not(None))
    if searched is not None:
        statement = statement.where(searched.where)
    return statement.order_by(found + literal_column("0")).limit(literal_limit(k))


def _sample(model: type[Base], samples: int, searched: Partition | None) -> Select[*tuple[Any, ...]]:
    """Rows by chance, but the same ones each time; only theirs of the vectors are read."""
    embedding, keys = vector_index(model).column, _keys(model)
    some = select(*keys).where(embedding.is_not(None))
    if searched is not None:
        some = some.where(searched.where)
    shuffled = func.hashtextextended(func.concat_ws("/", *keys), 0)
    some_keys = some.order_by(shuffled, *keys).limit(samples).subquery()
    same = and_(*(key == one for key, one in zip(keys, some_keys.c, strict=True)))
    return select(*keys, embedding.label("embedding")).join(some_keys, same)


def _keys(model: type[Base]) -> tuple[ColumnElement[Any], ...]:
    mapper: Mapper[Any] = inspect(model)
    return tuple(mapper.primary_key)


def _key(model: type[Base], row: Row[Any]) -> tuple[Any, ...]:
    return tuple(getattr(row, str(key.key)) for key in _keys(model))


def _parameters(searched: Partition | None) -> Mapping[str, Any]:
    return {} if searched is None else searched.parameters
