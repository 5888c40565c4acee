"""Vector search in a space by its name: `builtin` reads the columns of the rows, others their own vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Engine, Row
from sqlalchemy.ext.asyncio import AsyncSession

from ...errors import translated
from ...models import Base, SpaceIndex
from ...queries.shapes import spaces as queries
from ...queries.shapes.driver_statement import Tenant
from ...queries.shapes.explain import Explain
from ...queries.shapes.filters import Where, expression
from ...queries.shapes.spaces import Space, stored_type
from ...search.params import SearchParams
from ...search.results import Hit, SearchCandidates, SearchPath, SearchResult
from ...vectors.formats import MatrixLike, VectorLike
from . import search as builtin
from .driver import DIALECT, bind_of, fetch_rows, tenant_of
from .search import AT_ONCE, hit, near_enough, rows_of, scan_settings, set_local, way_of, without_vectors
from .spaces import packed, space_again, space_of

WIDER = 8
"""How many times more vectors are read, where several vectors of the same rows leave too few rows."""

MOST_CANDIDATES = 4_000
"""The number of vectors that are read from an index at most, before all are compared."""

_widened: WeakKeyDictionary[Engine, dict[tuple[Tenant, int], int]] = WeakKeyDictionary()
"""How many times more vectors than rows a search of a space reads first, from the searches before."""


async def search(
    session: AsyncSession,
    model: type[Base],
    embedding: VectorLike,
    *,
    space: str | None,
    limit: int = 10,
    where: Where | None = None,
    params: SearchParams = SearchParams(),
    explain: bool = False,
) -> SearchResult[Any]:
    """Return the rows nearest to `embedding`: `limit` of them whenever at least that many rows match.

    Args:
        session: The session whose transaction is used.
        model: The model of the rows.
        embedding: The vector of the query.
        space: The name of the space; None is the default one.
        limit: The maximum number of hits.
        where: Only rows that match this filter.
        params: Settings of the search.
        explain: Add the plan of the statement to the result; the search runs twice.
    """
    chosen = await space_of(session, model, space)
    if chosen is None:
        return await builtin.search(
            session, model, embedding, limit=limit, where=where, params=params, explain=explain
        )
    found = _Search(session, model, chosen, limit, expression(model, where), params)
    rows = await found.rows(embedding, only_keys=False)
    lines = await found.lines() if explain else ()
    return SearchResult(
        [hit(row) for row in rows],
        found.path,
        found.truncated(rows),
        len(rows),
        without_vectors("\n".join(lines)) or None,
    )


async def candidates(
    session: AsyncSession,
    model: type[Base],
    embedding: VectorLike,
    *,
    space: str | None,
    limit: int,
    where: Where | None = None,
    params: SearchParams = SearchParams(),
) -> SearchCandidates[Any, Any]:
    """Return the ids and distances of the nearest rows, for a large `limit`. The arguments are those of `search`."""
    chosen = await space_of(session, model, space)
    if chosen is None:
        return await builtin.candidates(session, model, embedding, limit=limit, where=where, params=params)
    condition = expression(model, where)
    found = _Search(session, model, chosen, limit, condition, params)
    rows = await found.rows(embedding, only_keys=True)
    nearest = sorted((row.distance, row[0]) for row in rows)
    return SearchCandidates(
        [key for _, key in nearest],
        [distance for distance, _ in nearest],
        found.path,
        found.truncated(rows),
        condition,
    )


async def search_many(
    session: AsyncSession,
    model: type[Base],
    embeddings: MatrixLike,
    *,
    space: str | None,
    limit: int = 10,
    where: Where | None = None,
    params: SearchParams = SearchParams(),
) -> list[list[Hit[Any]]]:
    """Return the nearest rows of each vector, by the index. The arguments are those of `search`."""
    chosen = await space_of(session, model, space)
    if chosen is None:
        return await builtin.search_many(session, model, embeddings, limit=limit, where=where, params=params)
    found: list[list[Hit[Any]]] = [[] for _ in embeddings]
    condition = expression(model, where)
    vectors = packed(chosen, embeddings)
    with translated():
        for factor in (widening(session, chosen), WIDER * WIDER):
            # Only the vectors whose rows were too few are searched for again.
            short = [number for number, hits in enumerate(found) if len(hits) < limit]
            candidates = min(limit * factor, MOST_CANDIDATES)
            await set_local(
                session,
                scan_settings(
                    chosen.reads(candidates, None), params, iterative=where is not None or factor > 1
                ),
            )
            for start in range(0, len(short), AT_ONCE):
                some = short[start : start + AT_ONCE]
                statement = queries.nearest_each(
                    model, chosen, [vectors[number] for number in some], limit, candidates, condition
                )
                hits: dict[int, list[Hit[Any]]] = {}
                for row in await session.execute(statement):
                    place: int = row.query
                    hits.setdefault(some[place], []).append(hit(row))
                for number, better in hits.items():
                    found[number] = better
    return found


class _Search:
    """One search: how it is executed, and again if it finds too little."""

    def __init__(
        self,
        session: AsyncSession,
        model: type[Base],
        space: Space,
        limit: int,
        where: ColumnElement[bool] | None,
        params: SearchParams,
    ) -> None:
        self._session, self._model, self._space = session, model, space
        self._limit, self._where, self._params = limit, where, params
        self.path = SearchPath.EXACT
        self._statement: Any = None
        self._parameters: Mapping[str, Any] = {}

    async def rows(self, embedding: VectorLike, *, only_keys: bool) -> Sequence[Row[Any]]:
        """Return the nearest rows."""
        with translated():
            rows = await self._nearest(embedding, only_keys)
            if not rows:
                again = await space_again(self._session, self._space)
                if again.id != self._space.id:
                    self._space = again
                    rows = await self._nearest(embedding, only_keys)
        return near_enough(rows, self._params.max_distance)

    async def _nearest(self, embedding: VectorLike, only_keys: bool) -> Sequence[Row[Any]]:
        session, space, limit, params = self._session, self._space, self._limit, self._params
        vector = stored_type(space).bind_processor(DIALECT)(embedding)
        self._parameters = {"embedding": vector}
        if not space.indexed:
            params = SearchParams(True, max_distance=params.max_distance, timeout=params.timeout)
        exact, self.path, settings = await way_of(
            session,
            self._model,
            space.reads(limit, params.ef_search),
            self._where,
            params,
            None,
            space.dimensions,
        )
        await set_local(session, settings)
        if exact:
            return await self._run(0, only_keys)
        factor = widening(session, space)
        while (candidates := limit * factor) <= max(MOST_CANDIDATES, limit):
            if factor > 1:
                wider = scan_settings(space.reads(candidates, params.ef_search), params, iterative=True)
                await set_local(session, {**settings, **wider})
            rows = await self._run(candidates, only_keys)
            if len(rows) == limit or params.exact is not None:
                if factor > 1:
                    _widened.setdefault(bind_of(session).engine, {})[tenant_of(session), space.id] = factor
                return rows
            factor *= WIDER
        # The index did not find enough. No matching row may be missing, so compare all.
        self.path = SearchPath.EXACT
        return await self._run(0, only_keys)

    async def _run(self, candidates: int, only_keys: bool) -> Sequence[Row[Any]]:
        session, model, space, limit = self._session, self._model, self._space, self._limit
        # Statements differ by the size of the candidate list for an index of bits only.
        ef_search = self._params.ef_search if space.index is SpaceIndex.HNSW_BIT else None
        if self.path is SearchPath.HNSW and not only_keys:
            nearest = queries.nearest(model, space, limit, candidates, ef_search)
            self._statement = nearest.built
            return await fetch_rows(session, nearest, self._parameters)
        self._statement = queries.nearest_within(
            model,
            space,
            limit,
            candidates,
            self._where,
            max_distance=self._params.max_distance,
            exact=self.path is SearchPath.EXACT,
            only_keys=only_keys,
            ef_search=ef_search,
        )
        return await rows_of(session, self._statement, self._parameters)

    async def lines(self) -> Sequence[str]:
        """Return the plan of the last statement."""
        with translated():
            return (await self._session.scalars(Explain(self._statement), self._parameters)).all()

    def truncated(self, rows: Sequence[Row[Any]]) -> bool:
        """Whether more rows may match."""
        return (
            len(rows) < self._limit
            and self.path is not SearchPath.EXACT
            and self._params.max_distance is None
        )


def widening(session: AsyncSession, space: Space) -> int:
    """Return how many times more vectors than rows a search reads first."""
    return _widened.get(bind_of(session).engine, {}).get((tenant_of(session), space.id), 1)
