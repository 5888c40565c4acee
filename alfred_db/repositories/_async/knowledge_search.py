"""Search in knowledge collections: points near to a vector, in groups, or like other points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...checks import MAX_LIMIT, check_limit, within
from ...errors import InvalidInputError, InvalidVector, NotFoundError, shown
from ...execution._async.hybrid_search import hybrid_search
from ...execution._async.search import hidden, score, search, search_many
from ...models import KnowledgePoint
from ...queries import knowledge_points as queries
from ...queries.shapes.filters import Where, expression
from ...queries.shapes.hybrid_search import Legs
from ...queries.shapes.knowledge import POINTS, ids_of
from ...queries.shapes.payload_paths import values_at
from ...queries.shapes.vector_search import Partition
from ...queries.shapes.words import Match
from ...search.params import SearchParams, SearchWeights
from ...search.results import Hit, SearchResult
from ...values.knowledge import KnowledgePointGroup, KnowledgePointId, KnowledgePointRow
from ...vectors.formats import Embedding, MatrixLike, VectorLike
from .knowledge_base import AsyncKnowledgeBase


class AsyncKnowledgeSearch(AsyncKnowledgeBase):
    """The part of the knowledge repository that searches points.

    A collection is named by its name or by an alias.
    """

    async def query(
        self,
        collection: str,
        embedding: VectorLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        explain: bool = False,
    ) -> SearchResult[KnowledgePointRow]:
        """Return the points nearest to a vector, by the collection's distance.

        Args:
            collection: The name or an alias.
            embedding: The vector.
            limit: The maximum number of hits.
            where: Only points that match this filter.
            params: Settings of the search.
            explain: Add the plan of the statement to the result.

        Returns:
            Hits whose score is 1 - distance for `cosine`, the product for `dot`, and -distance for the
            others.

        Raises:
            NotFoundError: The collection does not exist.
        """
        ask = partial(
            self._search, embedding=embedding, limit=limit, where=where, params=params, explain=explain
        )
        # Resolving the name costs a round trip. The search runs with the partition that the name had last. If it
        # finds nothing, the name may have been moved or dropped, so it is resolved again.
        known = self._known_partition(collection)
        found = None if known is None else await ask(known)
        if not found:
            partition = await self._partition(collection)
            if found is None or self._known_partition(collection) is not known:
                found = await ask(partition)
        return found

    async def query_many(
        self,
        collection: str,
        embeddings: MatrixLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
    ) -> Sequence[Sequence[Hit[KnowledgePointRow]]]:
        """Return the points nearest to each of several vectors.

        One round trip, unless `where` or `params` are passed, or expired points leave too few.

        Raises:
            NotFoundError: The collection does not exist.
        """
        partition = await self._partition(collection)
        if where is None and params == SearchParams():
            found = await search_many(
                self._session, KnowledgePoint, embeddings, limit=limit, partition=partition
            )
            if all(len(hits) == limit for hits in found) or not await hidden(self._session, partition):
                return found
        # One search for each vector: only a single search falls back to comparing all matches of a filter.
        return [
            (await self._search(partition, embedding, limit=limit, where=where, params=params)).hits
            for embedding in embeddings
        ]

    async def hybrid_search(
        self,
        collection: str,
        text: str,
        embedding: VectorLike | None,
        *,
        limit: int = 10,
        where: Where | None = None,
        weights: SearchWeights = SearchWeights(),
        match: Match = "any",
    ) -> SearchResult[KnowledgePointRow]:
        """Return the best points of a collection by meaning and by English word, ranked together.

        The words are those of `text` in the payload, else of `content`, `page_content` or `document`.

        Args:
            collection: The name or an alias.
            text: The words to search for.
            embedding: The vector to search for; None ranks by words alone.
            limit: The maximum number of hits.
            where: Only points that match this filter.
            weights: The weight of each leg, and how they are ranked together.
            match: Whether any or all of the words must occur.

        Raises:
            NotFoundError: The collection does not exist.
        """
        partition = await self._partition(collection)
        legs = Legs(
            KnowledgePoint,
            POINTS.c.search,
            vector=embedding is not None,
            operator=partition.operator,
            stored=partition.stored,
            match=match,
            fusion=weights.fusion,
        )
        return await hybrid_search(
            self._session,
            legs,
            text,
            embedding,
            limit=limit,
            where=expression(KnowledgePoint, where),
            partition=partition,
            weights=weights,
        )

    async def query_groups(
        self,
        collection: str,
        embedding: VectorLike,
        *,
        group_by: str,
        groups: int = 10,
        size: int = 3,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
    ) -> Sequence[KnowledgePointGroup]:
        """Return the nearest points of each of the nearest groups.

        Args:
            collection: The name or an alias.
            embedding: The vector.
            group_by: A path into the payload, such as `author.name` or `parts[].kind`. A point with an array
                there is in the group of each element. Values other than text, numbers and booleans form no
                group.
            groups: The maximum number of groups.
            size: The maximum number of points in each group.
            where: Only points that match this filter.
            params: Settings of the search.

        Raises:
            NotFoundError: The collection does not exist.
        """
        within("groups", groups, 1, MAX_LIMIT)
        within("size", size, 1, MAX_LIMIT)
        partition = await self._partition(collection)
        fetched = min(MAX_LIMIT, max(50, 4 * groups * size))
        found = await self._search(partition, embedding, limit=fetched, where=where, params=params)
        near = _grouped(found.hits, group_by)[:groups]
        full = len(near) == groups and all(len(group) >= size for group in near)
        if full or (len(found) < fetched and not found.truncated):
            return [KnowledgePointGroup(group.value, group.hits[:size]) for group in near]
        statement = queries.best_of_groups(
            group_by,
            partition,
            where=where,
            groups=groups,
            size=size,
            among=[group.value for group in near] if len(near) == groups else None,
            max_distance=params.max_distance,
        )
        rows = await self._rows(statement, {"embedding": embedding, **partition.parameters})
        return _groups(
            (row.value, Hit(row, row.distance, score(row.distance, partition.operator))) for row in rows
        )

    async def recommend(
        self,
        collection: str,
        positive: Sequence[KnowledgePointId],
        negative: Sequence[KnowledgePointId] = (),
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
    ) -> SearchResult[KnowledgePointRow]:
        """Return points like the `positive` ones and unlike the `negative` ones, without these.

        The search vector is twice the mean of the positive vectors minus the mean of the negative ones, as in
        Qdrant.

        Args:
            collection: The name or an alias.
            positive: Ids of points that the hits should resemble; at least one.
            negative: Ids of points that the hits should not resemble.
            limit: The maximum number of hits.
            where: Only points that match this filter.
            params: Settings of the search.

        Raises:
            NotFoundError: The collection or one of the points does not exist.
            InvalidInputError: One of the points has no vector.
            InvalidVector: The positive and the negative points cancel out.
        """
        partition = await self._partition(collection)
        liked, disliked = ids_of(positive), ids_of(negative)
        given = {*liked, *disliked}
        check_limit(limit)
        if not liked or len(given) + limit > MAX_LIMIT:
            raise InvalidInputError(
                f"positive: expected at least one id, and at most {MAX_LIMIT} ids and hits together"
            )
        name = partition.parameters["collection"]
        rows = await self._rows(queries.vectors(name, sorted(given)))
        target = _recommended(dict(rows), liked, disliked, unit=partition.operator is None)
        found = await self._search(partition, target, limit=limit + len(given), where=where, params=params)
        hits = [hit for hit in found if hit.row.id not in given][:limit]
        return SearchResult(hits, found.path, found.truncated and len(hits) < limit, found.candidates)

    async def _search(
        self,
        partition: Partition,
        embedding: VectorLike,
        *,
        limit: int,
        where: Where | None,
        params: SearchParams,
        explain: bool = False,
    ) -> SearchResult[KnowledgePointRow]:
        return await search(
            self._session,
            KnowledgePoint,
            embedding,
            limit=limit,
            where=where,
            params=params,
            partition=partition,
            explain=explain,
        )


def _grouped(hits: Iterable[Hit[KnowledgePointRow]], key: str) -> list[KnowledgePointGroup]:
    """Return the hits grouped by the values at a path of their payload, the group with the nearest hit first."""
    return _groups((value, found) for found in hits for value in _unique(values_at(found.row.payload, key)))


def _unique(values: Iterable[Any]) -> Iterable[Any]:
    return {_key(value): value for value in values if isinstance(value, str | int | float)}.values()


def _groups(members: Iterable[tuple[Any, Hit[Any]]]) -> list[KnowledgePointGroup]:
    groups: dict[Any, tuple[Any, list[Hit[KnowledgePointRow]]]] = {}
    for value, found in members:
        groups.setdefault(_key(value), (value, []))[1].append(found)
    return [KnowledgePointGroup(value, hits) for value, hits in groups.values()]


def _key(value: Any) -> tuple[bool, Any]:
    # True is 1 in Python, and not in JSON.
    return isinstance(value, bool), value


def _recommended(
    vectors: Mapping[str, Embedding | None],
    liked: Sequence[str],
    disliked: Sequence[str],
    *,
    unit: bool,
) -> Embedding:
    """Return the vector to search for; for cosine, each vector counts by its direction alone."""
    means: list[npt.NDArray[np.float64]] = []
    for ids in (liked, disliked or liked):
        unknown = [one for one in ids if one not in vectors]
        if unknown:
            raise NotFoundError(
                f"points {', '.join(map(shown, unknown[:5]))}: do not exist in the collection"
            )
        several = np.array([_known_vector(one, vectors[one]) for one in ids], dtype=np.float64)
        means.append((several / np.linalg.norm(several, axis=1, keepdims=True) if unit else several).mean(0))
    target: Embedding = (2 * means[0] - means[1]).astype(np.float32)
    if not target.any():
        raise InvalidVector("the positive and the negative points cancel out; choose others")
    return target


def _known_vector(id_: str, vector: Embedding | None) -> Embedding:
    if vector is None:
        raise InvalidInputError(f"point {shown(id_)}: has no vector; choose another")
    return vector
