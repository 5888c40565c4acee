"""Vector search in the session's transaction: the choice of exact search or index, settings, and results."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Engine, Row
from sqlalchemy.ext.asyncio import AsyncSession

from ...engine.session import state_of
from ...errors import ConfigurationError, UnreadableRow, translated
from ...models import Base
from ...models.base import table_of
from ...queries.shapes import vector_search as queries
from ...queries.shapes.explain import Explain
from ...queries.shapes.filters import Where, expression
from ...queries.shapes.vector_search import Partition
from ...search.params import MAX_EF_SEARCH, SearchParams
from ...search.results import Hit, SearchCandidates, SearchPath, SearchResult
from ...vectors.formats import MatrixLike, VectorLike
from .citus import on_citus, size_of
from .copy import table_name
from .driver import DIALECT, bind_of, commits_alone, driver_of, fetch_rows, transaction_of
from .unreadable import located

MAX_COMPARED = 20_000
"""At most this many matches are compared one by one, if they are also a small part of the table."""

CHEAP = 1_500_000
"""Matches are always compared one by one if their vectors have at most this many numbers together.

That takes less time than an index scan needs to find out that they are far from the query.
"""

SMALL_PART = 0.1
"""If a smaller part of the table matches, an index scan visits too many rows that do not."""

SAMPLED_PAGES = 100
ESTIMATES_LAST = 60.0
"""Seconds for which the estimated number of matches of a filter is kept."""

# A generic plan would not know how few rows match these values of the parameters, or in which partition.
OWN_PLAN = {"plan_cache_mode": "force_custom_plan"}

AT_ONCE = 1_000
"""The number of vectors in one statement of a search for several."""

MAX_VISITED = 20_000
"""The default number of rows that an iterative scan visits at most; pgvector's own default."""

DEFAULTS = {
    "hnsw.ef_search": "40",
    "hnsw.iterative_scan": "off",
    "hnsw.max_scan_tuples": str(MAX_VISITED),
}

_estimates: WeakKeyDictionary[Engine, dict[Any, tuple[float, float, float]]] = WeakKeyDictionary()


async def search(
    session: AsyncSession,
    model: type[Base],
    embedding: VectorLike,
    *,
    limit: int = 10,
    where: Where | None = None,
    params: SearchParams = SearchParams(),
    partition: Partition | None = None,
    explain: bool = False,
) -> SearchResult[Any]:
    """Return the rows nearest to `embedding`: `limit` of them whenever at least that many rows match.

    Args:
        session: The session whose transaction is used.
        model: A model with a vector index.
        embedding: The vector of the query.
        limit: The maximum number of hits.
        where: Only rows that match this filter.
        params: Settings of the search.
        partition: Search only this partition, with its distance.
        explain: Add the plan of the statement to the result; the search runs twice.
    """
    condition = expression(model, where)
    parameters = {"embedding": embedding, **(partition.parameters if partition else {})}
    with translated():
        exact, path, settings = await way_of(session, model, limit, condition, params, partition)
        await set_local(session, settings)
        if path is SearchPath.HNSW:
            nearest = (
                queries.nearest(model, limit)
                if partition is None
                else queries.nearest(model, limit, partition.where, partition.operator, partition.stored)
            )
            statement = nearest.built
            rows = await fetch_rows(session, nearest, parameters)
        else:
            statement = queries.nearest_within(
                model, limit, condition, max_distance=params.max_distance, exact=exact, partition=partition
            )
            rows = await rows_of(session, statement, parameters)
        if (
            len(rows) < limit
            and params.exact is None
            and (
                path is SearchPath.HNSW_ITERATIVE
                or (path is SearchPath.HNSW and await hidden(session, partition))
            )
        ):
            # The scan ended before it had found enough. No matching row may be missing, so compare all.
            statement = queries.nearest_within(
                model, limit, condition, max_distance=params.max_distance, exact=True, partition=partition
            )
            rows, path = await rows_of(session, statement, parameters), SearchPath.EXACT
        rows = near_enough(rows, params.max_distance)
        lines = await session.scalars(Explain(statement), parameters) if explain else ()
    operator = None if partition is None else partition.operator
    truncated = len(rows) < limit and path is not SearchPath.EXACT and params.max_distance is None
    return SearchResult(
        [hit(row, operator) for row in rows],
        path,
        truncated,
        len(rows),
        without_vectors("\n".join(lines)) or None,
    )


async def hidden(session: AsyncSession, partition: Partition | None) -> bool:
    """Return whether the index of a partition has rows that cannot be found, which leave room for fewer others."""
    if partition is None or partition.hidden is None:
        return False
    return bool(await session.scalar(partition.hidden, {"collection": partition.parameters["collection"]}))


async def search_many(
    session: AsyncSession,
    model: type[Base],
    embeddings: MatrixLike,
    *,
    limit: int = 10,
    where: Where | None = None,
    params: SearchParams = SearchParams(),
    partition: Partition | None = None,
) -> list[list[Hit[Any]]]:
    """Return the nearest rows of each vector, by the index; up to `AT_ONCE` vectors in one round trip.

    The arguments are those of `search`.
    """
    found: list[list[Hit[Any]]] = [[] for _ in embeddings]
    if not len(embeddings):
        return found
    with translated():
        settings = scan_settings(limit, params, iterative=where is not None)
        await set_local(session, settings if partition is None else {**settings, **OWN_PLAN})
        condition = expression(model, where)
        operator = None if partition is None else partition.operator
        for start in range(0, len(embeddings), AT_ONCE):
            some = embeddings[start : start + AT_ONCE]
            statement = queries.nearest_each(model, some, limit, condition, partition)
            for row in await session.execute(statement, partition.parameters if partition else {}):
                number: int = row.query
                found[start + number].append(hit(row, operator))
    return found


async def candidates(
    session: AsyncSession,
    model: type[Base],
    embedding: VectorLike,
    *,
    limit: int,
    where: Where | None = None,
    params: SearchParams = SearchParams(),
) -> SearchCandidates[Any, Any]:
    """Return the ids and distances of the nearest rows, for a large `limit`."""
    condition = expression(model, where)
    with translated():
        exact, path, settings = await way_of(session, model, limit, condition, params, None)
        await set_local(session, settings)
        rows: Sequence[Row[Any]] = ()
        for compare_all in (exact, True):
            statement = queries.nearest_within(
                model,
                limit,
                condition,
                max_distance=params.max_distance,
                exact=compare_all,
                only_keys=True,
            )
            rows = await rows_of(session, statement, {"embedding": embedding})
            if path is not SearchPath.HNSW_ITERATIVE or len(rows) == limit or params.exact is not None:
                break
            path = SearchPath.EXACT
    nearest = sorted((row.distance, row[0]) for row in near_enough(rows, params.max_distance))
    return SearchCandidates(
        [key for _, key in nearest],
        [distance for distance, _ in nearest],
        path,
        len(rows) < limit and path is not SearchPath.EXACT and params.max_distance is None,
        condition,
    )


def near_enough(rows: Sequence[Row[Any]], max_distance: float | None) -> Sequence[Row[Any]]:
    """Return the rows within a distance.

    The index is asked for the nearest rows whatever their distance: when it returned as many as were wanted and
    the last of them is too far away, no other row is near enough, and nothing else has to be compared.
    """
    return rows if max_distance is None else [row for row in rows if row.distance <= max_distance]


async def rows_of(session: AsyncSession, statement: Any, parameters: Mapping[str, Any]) -> Sequence[Row[Any]]:
    """Return the rows of a statement of a search."""
    try:
        with translated():
            return (await session.execute(statement, parameters)).all()
    except UnreadableRow as error:
        raise await located(session, await driver_of(session), error, statement, parameters) from None


def hit(row: Row[Any], operator: str | None = None) -> Hit[Any]:
    """Return the hit of a row whose last column is the distance: cosine, or that of `operator`."""
    distance = row[-1]
    return Hit(row, distance, score(distance, operator))


def score(distance: float, operator: str | None) -> float:
    """Return the score of a distance; a larger one is better."""
    return 1.0 - distance if operator is None else -distance


def without_vectors(plan: str) -> str:
    """Return a plan without the vectors in it, and without their signs."""
    return re.sub(r"'(\[[^']*\]|[01]+)'(?=::)", "$1", plan)


async def way_of(
    session: AsyncSession,
    model: type[Base],
    limit: int,
    where: ColumnElement[bool] | None,
    params: SearchParams,
    partition: Partition | None,
    dimensions: int | None = None,
) -> tuple[bool, SearchPath, dict[str, str]]:
    """Return whether a search compares all matches, its path, and its settings.

    `dimensions` are those of the vectors, if they are not those of the model.
    """
    stored = None if partition is None else partition.stored
    exact = True if stored is not None and not stored.indexed else params.exact
    part, visited = 1.0, MAX_VISITED
    if exact is None and where is not None:
        matches, rows = await estimate(session, model, where, partition)
        part = matches / max(rows, 1.0)
        length = dimensions or (queries.dimensions(model) if stored is None else stored.dimensions)
        cheap = CHEAP / length
        exact = matches <= max(cheap, limit, min(MAX_COMPARED, rows * SMALL_PART))
        visited = int(min(matches, MAX_VISITED))
    if exact:
        return True, SearchPath.EXACT, {**_timeout(params), **(OWN_PLAN if partition is not None else {})}
    iterative = where is not None
    path = SearchPath.HNSW_ITERATIVE if iterative else SearchPath.HNSW
    settings = scan_settings(limit, params, iterative=iterative, part=part)
    if params.max_scan_tuples is None:
        # Visiting more rows than this takes as long as comparing all matches.
        settings["hnsw.max_scan_tuples"] = str(visited)
    return False, path, settings


def scan_settings(
    limit: int, params: SearchParams, *, iterative: bool, part: float = SMALL_PART
) -> dict[str, str]:
    """Return the settings of an index scan with a filter that passes `part` of the rows.

    Twenty candidates for each hit, and up to thirty where few rows pass the filter, keep the recall above
    0.98.
    """
    wanted = int(limit * max(20, 4.5 / max(part, 0.15))) if iterative else 2 * limit
    ef_search = params.ef_search or min(max(40, wanted), MAX_EF_SEARCH)
    settings = {
        **DEFAULTS,
        "hnsw.ef_search": str(int(ef_search)),
        "hnsw.iterative_scan": "relaxed_order" if iterative or limit > ef_search else "off",
        **_timeout(params),
    }
    if params.max_scan_tuples is not None:
        settings["hnsw.max_scan_tuples"] = str(int(params.max_scan_tuples))
    if iterative:
        settings |= OWN_PLAN
    return settings


def _timeout(params: SearchParams) -> dict[str, str]:
    return {} if params.timeout is None else {"statement_timeout": str(int(params.timeout * 1000))}


async def set_local(session: AsyncSession, wanted: Mapping[str, str]) -> None:
    """Set what this transaction has not set yet, as literals: Citus forwards no set_config.

    Raises:
        ConfigurationError: The connection is in AUTOCOMMIT, where SET LOCAL has no effect.
    """
    state, transaction = state_of(session), transaction_of(session)
    savepoint = session.sync_session.get_nested_transaction()
    known: Mapping[str, str] = DEFAULTS
    if transaction is not None and state.set_in is transaction:
        # Rolling back to a savepoint also resets the settings made in it: outside of it they are unknown.
        known = state.settings if state.set_within is savepoint else {}
    changed = {name: value for name, value in wanted.items() if known.get(name) != value}
    if not changed:
        return
    if await on_citus(session) and "citus.propagate_set_commands" not in known:
        # Citus propagates SET LOCAL to its workers only with this setting, so it comes first.
        changed = {"citus.propagate_set_commands": "local", **changed}
    if await commits_alone(session):
        raise ConfigurationError(
            "this search changes settings of its transaction, and the connection is in AUTOCOMMIT; use a session"
            " without that isolation level"
        )
    driver = await driver_of(session)
    await driver.execute("; ".join(f"SET LOCAL {name} = {_value(value)}" for name, value in changed.items()))
    state.set_in, state.set_within = transaction_of(session), savepoint
    state.settings = {**known, **changed}


def _value(value: str) -> str:
    """Return a setting's value as a literal; all values are numbers or words of this module."""
    if not value.replace("_", "").isalnum():
        raise ValueError(value)
    return f"'{value}'"


async def estimate(
    session: AsyncSession,
    model: type[Base],
    where: ColumnElement[bool],
    partition: Partition | None = None,
) -> tuple[float, float]:
    """Return approximately how many rows match, and of how many; from a sample of the table.

    The planner's statistics know nothing about the content of JSON.
    """
    name = table_name(session, table_of(model) if partition is None else partition.table)
    engine = bind_of(session).engine
    key = (name, *text_of(where))
    kept = _estimates.setdefault(engine, {})
    if key in kept and kept[key][2] > time.monotonic():
        return kept[key][:2]
    rows, pages = await size_of(session, name)
    percent = min(100.0, 100.0 * SAMPLED_PAGES / max(pages, 1))
    statement = queries.sample(model, where, percent, None if partition is None else partition.where)
    seen, matching = (await session.execute(statement, partition.parameters if partition else {})).one()
    total = max(float(rows), float(seen))
    if len(kept) > 1000:
        kept.clear()
    kept[key] = (total * matching / seen if seen else 0.0, total, time.monotonic() + ESTIMATES_LAST)
    return kept[key][:2]


@lru_cache
def text_of(where: ColumnElement[bool]) -> tuple[str, str]:
    """Return the SQL of a condition and its values, as the key of what is kept about it."""
    compiled = where.compile(dialect=DIALECT)
    return str(compiled), repr(compiled.params)
