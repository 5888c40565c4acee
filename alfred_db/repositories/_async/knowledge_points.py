"""The points of knowledge collections: written, read, changed, exported and imported."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import (
    BigInteger,
    Column,
    CursorResult,
    Delete,
    Integer,
    MetaData,
    Table,
    Update,
    literal_column,
)
from sqlalchemy.orm.attributes import set_committed_value

from ...checks import check_word, within
from ...errors import InvalidInputError, shown, translated
from ...execution._async.bulk import LARGE, MAX_UNSTAGED
from ...execution._async.copy import copy_rows, table_name
from ...execution._async.driver import in_transaction
from ...execution.copy_format import pack_rows
from ...interchange.knowledge import ExportWriter, batches, read_export, read_qdrant
from ...models import KnowledgeDistance, KnowledgePoint
from ...models.knowledge import DIMENSIONS
from ...queries import knowledge_collections as collections
from ...queries import knowledge_points as queries
from ...queries.shapes import bulk as bulk
from ...queries.shapes.filters import Where
from ...queries.shapes.knowledge import (
    POINTS,
    chosen,
    dimensions_of,
    json_of,
    rows_of,
    table,
    vector_column,
)
from ...queries.shapes.memories import lasting
from ...queries.shapes.paging import as_page
from ...queries.shapes.vector_search import Partition
from ...values import Page
from ...values.knowledge import KnowledgeFacetCount, KnowledgePointId, NewKnowledgePoint, point_id, spellings
from .knowledge_base import AsyncKnowledgeBase
from .knowledge_collections import AsyncKnowledgeCollections

BATCH = 1_000
"""The number of points that an import or an export holds in memory."""

_Rows = Mapping[str, tuple[Any, Mapping[str, Any], datetime | None]]
"""Vector, payload and expiry of points by their ids."""

Existing = Literal["update", "ignore"]
"""What becomes of a point whose id exists."""

Imported = Callable[[int], None]
"""Called with the number of points that were imported so far."""

_KEY = [POINTS.c.collection, POINTS.c.id]


def _written(dimensions: int) -> list[Column[Any]]:
    """Return the columns of a point whose vector has a length, in the order of the values of a row."""
    return [*_KEY, vector_column(dimensions), POINTS.c.payload, POINTS.c.expires_at]


class AsyncKnowledgePoints(AsyncKnowledgeBase):
    """The part of the knowledge repository for points.

    A collection is named by its name or by an alias.
    """

    @in_transaction
    async def upsert(
        self,
        collection: str,
        points: Sequence[NewKnowledgePoint],
        *,
        on_conflict: Existing = "update",
        ttl: timedelta | None = None,
    ) -> int:
        """Store points.

        An existing point gets the new vector and the new payload as a whole, or keeps its own.

        Args:
            collection: The name or an alias.
            points: Mappings with `id`, `vector` and `payload`. Of points with the same id the last one is
                stored. A point without a vector is stored, but not found by meaning.
            on_conflict: `update` replaces a point whose id exists, `ignore` leaves it unchanged.
            ttl: The time until the points expire; None is never. Expired points are not found, and workers that keep
                a retention policy delete them.

        Returns:
            The number of points that are new or have changed.

        Raises:
            NotFoundError: The collection does not exist.
            InvalidInputError: A point is invalid; the message names it.
        """
        check_word("on_conflict", on_conflict, Existing)
        lasts = lasting(ttl)
        partition = await self._partition(collection, hold=True)
        rows = rows_of(points)
        if not rows:
            return 0
        expires_at = None if lasts is None else await self._session.scalar(queries.expiry(lasts))
        return await self._store(
            partition, {id_: (*row, expires_at) for id_, row in rows.items()}, on_conflict
        )

    @in_transaction
    async def _restore(
        self, collection: str, points: Sequence[NewKnowledgePoint], expiries: Mapping[str, datetime | None]
    ) -> None:
        """Store points of a file, each with its own expiry."""
        partition = await self._partition(collection, hold=True)
        rows = {id_: (*row, expiries.get(id_)) for id_, row in rows_of(points).items()}
        await self._store(partition, rows, "update")

    async def _store(self, partition: Partition, rows: _Rows, existing: Existing) -> int:
        name, dimensions = str(partition.parameters["collection"]), dimensions_of(partition)
        if existing == "ignore":  # an expired point does not count as existing
            await self._rows(queries.remove_expired(name, list(rows)))
        store = self._insert if len(rows) <= MAX_UNSTAGED else self._merge
        written = await store(name, dimensions, rows, existing)
        await self._analyze(name, len(rows))
        return written

    async def _insert(self, name: str, dimensions: int, rows: _Rows, existing: Existing) -> int:
        """Store a few points by one statement: a temporary table would take longer, and leave rows in the catalog."""
        written = _written(dimensions)
        names = [column.name for column in written]
        values = [dict(zip(names, (name, id_, *row), strict=True)) for id_, row in sorted(rows.items())]
        with _named(rows):
            for _ in pack_rows(written, ((name, id_, *row) for id_, row in rows.items())):
                pass  # raises what is wrong with a point, before anything is sent
        with translated():
            statement = bulk.upsert(POINTS, [POINTS.c[one] for one in names], _KEY, existing)
            return len((await self._session.execute(statement, values)).all())

    async def _merge(self, name: str, dimensions: int, rows: _Rows, existing: Existing) -> int:
        """Store many points: copy them into a temporary table, and merge that."""
        session, stage = self._session, f"alfred_stage_{uuid.uuid4().hex[:12]}"
        written = _written(dimensions)
        columns = [POINTS.c[column.name] for column in written]
        with translated():
            await session.execute(bulk.create_stage(stage, table_name(session, POINTS), columns))
            staged = Table(
                stage,
                MetaData(),
                Column(bulk.ORDER, BigInteger),
                *(Column(column.name, column.type) for column in written),
                schema="pg_temp",
            )
            # All writers lock rows in the order of their keys, so that two of them cannot deadlock.
            order = {id_: place for place, id_ in enumerate(sorted(rows))}
            values = ((order[id_], name, id_, *row) for id_, row in rows.items())
            with _named(rows):
                await copy_rows(session, staged, list(staged.c), values)
            merged = bulk.merge(POINTS, stage, columns, _KEY, existing).returning(
                literal_column("1", Integer)
            )
            # Citus reports all rows of the SELECT as written, also those that the conflict has left as they were.
            return len((await session.execute(merged)).all())

    async def _analyze(self, name: str, rows: int) -> None:
        """Analyze the partition after its first or a large load.

        Without statistics the planner expects few points of the collection, and sorts all of them.
        """
        own, parent = table_name(self._session, table(name)), table_name(self._session, POINTS)
        if rows >= LARGE or not await self._session.scalar(collections.counted(table(name).name, parent)):
            await self._session.execute(bulk.analyze(own))

    async def retrieve(
        self, collection: str, ids: Sequence[KnowledgePointId], *, with_vectors: bool = False
    ) -> Sequence[KnowledgePoint]:
        """Return the points with these ids, in their order; unknown ids are omitted.

        Raises:
            NotFoundError: The collection does not exist.
        """
        name = await self._name(collection)
        found = await self._all(queries.retrieve(name, ids, with_vectors=with_vectors))
        known = {point.id: point for point in _with_vector(found)}
        return [known[one] for one in spellings(ids) if one in known]

    async def delete(
        self,
        collection: str,
        *,
        ids: Sequence[KnowledgePointId] | None = None,
        where: Where | None = None,
        limit: int | None = None,
    ) -> int:
        """Delete the points with these ids, or those that match; return their number.

        With a `limit` of 1 to 10,000 points, call it and commit until it returns less, as `Database.in_chunks` does.

        Raises:
            NotFoundError: The collection does not exist.
        """
        which = chosen(ids, where)
        name = await self._name(collection)
        return len(await self._in_turns(limit, lambda left: queries.remove(name, which, limit=left)))

    async def set_payload(
        self,
        collection: str,
        payload: Mapping[str, Any],
        *,
        ids: Sequence[KnowledgePointId] | None = None,
        where: Where | None = None,
        limit: int | None = None,
    ) -> int:
        """Set these keys of the payload and keep the others; return the number of points that have changed.

        The points are those with these ids, or those that match. With a `limit` of 1 to 10,000 points, call it and
        commit until it returns less, as `Database.in_chunks` does.

        Raises:
            NotFoundError: The collection does not exist.
        """
        which, new = chosen(ids, where), json_of(payload)
        name = await self._name(collection)
        return len(
            await self._in_turns(limit, lambda left: queries.set_payload(name, which, new, limit=left))
        )

    async def overwrite_payload(
        self,
        collection: str,
        payload: Mapping[str, Any],
        *,
        ids: Sequence[KnowledgePointId] | None = None,
        where: Where | None = None,
        limit: int | None = None,
    ) -> int:
        """Replace the whole payload; return the number of points that have changed.

        The points are those with these ids, or those that match. With a `limit` of 1 to 10,000 points, call it and
        commit until it returns less, as `Database.in_chunks` does.

        Raises:
            NotFoundError: The collection does not exist.
        """
        which, new = chosen(ids, where), json_of(payload)
        name = await self._name(collection)
        return len(
            await self._in_turns(limit, lambda left: queries.overwrite_payload(name, which, new, limit=left))
        )

    async def delete_payload(
        self,
        collection: str,
        keys: Sequence[str],
        *,
        ids: Sequence[KnowledgePointId] | None = None,
        where: Where | None = None,
        limit: int | None = None,
    ) -> int:
        """Delete these top-level keys of the payload; return the number of points that have changed.

        The points are those with these ids, or those that match. With a `limit` of 1 to 10,000 points, call it and
        commit until it returns less, as `Database.in_chunks` does.

        Raises:
            NotFoundError: The collection does not exist.
        """
        which = chosen(ids, where)
        if isinstance(keys, str):
            raise InvalidInputError("keys: expected several, got one text; put it into a list")
        name = await self._name(collection)
        return len(
            await self._in_turns(limit, lambda left: queries.delete_payload(name, which, keys, limit=left))
        )

    async def scroll(
        self,
        collection: str,
        *,
        where: Where | None = None,
        after: str | None = None,
        limit: int = 100,
        with_vectors: bool = False,
        descending: bool = False,
    ) -> Page[KnowledgePoint]:
        """Return a page of the points that match, in the order of their ids, which are compared as text.

        Args:
            collection: The name or an alias.
            where: Only points that match this filter.
            after: The `next` of the page before.
            limit: The maximum number of points.
            with_vectors: Whether the vectors are read too.
            descending: Whether the greatest id comes first.

        Raises:
            NotFoundError: The collection does not exist.
        """
        name = await self._name(collection)
        statement = queries.scroll(
            name, where=where, after=after, limit=limit, with_vectors=with_vectors, descending=descending
        )
        return as_page(_with_vector(await self._all(statement)), queries.SCROLL_KEY, limit)

    async def count(self, collection: str, *, where: Where | None = None) -> int:
        """Return the exact number of points, or of those that match.

        Raises:
            NotFoundError: The collection does not exist.
        """
        return await self._first(queries.count(await self._name(collection), where)) or 0

    async def facet(
        self, collection: str, key: str, *, where: Where | None = None, limit: int = 10
    ) -> Sequence[KnowledgeFacetCount]:
        """Return the values at a path into the payload with their counts, the most frequent first.

        Args:
            collection: The name or an alias.
            key: A path such as `author.name` or `parts[].kind`. Each element of an array counts as a value,
                once for each point; objects and nulls do not count.
            where: Only points that match this filter.
            limit: The maximum number of values.

        Raises:
            NotFoundError: The collection does not exist.
        """
        rows = await self._rows(queries.facet(await self._name(collection), key, where=where, limit=limit))
        return [KnowledgeFacetCount(*row) for row in rows]

    async def sweep(self, limit: int = 1000) -> int:
        """Delete at most `limit` expired points of all collections; return their number."""
        within("limit", limit, 1, 100_000)
        done = 0
        while done < limit and (name := await self._first(queries.earliest_expired())) is not None:
            deleted = len(await self._rows(queries.sweep(name, limit - done)))
            if not deleted:  # others delete them
                break
            done += deleted
        return done

    async def purgeable(self) -> int:
        """Return how many points calls of `sweep` delete in the end."""
        return (await self._rows(queries.purgeable()))[0][0]

    async def import_qdrant(
        self,
        collection: str,
        source: str | Path | Iterable[str | bytes],
        *,
        vector_name: str | None = None,
        progress: Imported | None = None,
    ) -> int:
        """Store the points of a dump of Qdrant's scroll.

        Args:
            collection: The name or an alias.
            source: A file of JSON lines, or the lines. Each is a point or a page of points. Ids are kept, as
                text.
            vector_name: The vector to store of named vectors.
            progress: Called with the number of points imported so far.

        Returns:
            The number of points.

        Raises:
            NotFoundError: The collection does not exist.
            InvalidInputError: A line is not a point; the message names it.
        """
        return await self._import(collection, read_qdrant(source, vector_name), progress)

    async def export_to(
        self, collection: str, folder: str | Path, *, progress: Imported | None = None
    ) -> int:
        """Write a collection into a folder, as JSON lines and a .npy file.

        Points are read in batches: changes that are committed meanwhile may be included or not, unless the
        transaction is REPEATABLE READ. Points keep the time at which they expire; other times and aliases are not
        exported.

        Returns:
            The number of points.

        Raises:
            NotFoundError: The collection does not exist.
        """
        found = await self._collection(collection)
        last = ""
        with ExportWriter(folder, found.dimensions) as writer:
            while rows := await self._rows(queries.exported(found.name, after=last, limit=BATCH)):
                writer.add((id_, payload, vector, expires_at) for id_, payload, vector, expires_at in rows)
                last = rows[-1][0]
                if progress is not None:
                    progress(writer.points)
            writer.finish(
                {
                    "name": found.name,
                    "dimensions": found.dimensions,
                    "distance": str(found.distance),
                    "description": found.description,
                    "embedding_model": found.embedding_model,
                    "metadata": found.metadata_,
                }
            )
        return writer.points

    async def import_from(
        self, folder: str | Path, *, collection: str | None = None, progress: Imported | None = None
    ) -> int:
        """Store the points that `export_to` has written.

        Creates the collection if it does not exist; an existing one keeps its description and metadata.
        Existing points get the exported vector, payload and expiry.

        Args:
            folder: The folder.
            collection: The name of the collection; None is the exported name.
            progress: Called with the number of points imported so far.

        Returns:
            The number of points.

        Raises:
            InvalidInputError: The folder is not an export.
            ConflictError: The collection has another distance, length or embedding model.
        """
        described, points = read_export(folder)
        name = described.get("name") if collection is None else collection
        if not isinstance(name, str) or described.get("distance") not in list(KnowledgeDistance):
            raise InvalidInputError(f"{folder}: collection.json needs a name and a distance; export again")
        known = await self._first(collections.find(name))
        await AsyncKnowledgeCollections(self._session).create_collection(
            name if known is None else known.name,
            distance=KnowledgeDistance(described["distance"]),
            dimensions=described.get("dimensions", DIMENSIONS),
            description=described.get("description") if known is None else None,
            embedding_model=described.get("embedding_model"),
            metadata=described.get("metadata") if known is None else None,
        )
        return await self._import(name, points, progress)

    async def _import(
        self, collection: str, points: Iterable[dict[str, Any]], progress: Imported | None
    ) -> int:
        await self._name(collection)
        done = 0
        for batch in batches(points, BATCH):
            expiries = {point_id(point["id"]): point.pop("expires_at", None) for point in batch}
            await self._restore(collection, cast("list[NewKnowledgePoint]", batch), expiries)
            done += len(batch)
            if progress is not None:
                progress(done)
        return done

    async def _affected(self, statement: Update | Delete) -> int:
        """Run a statement that writes; return the number of its rows."""
        with translated():
            options = {"synchronize_session": False, "preserve_rowcount": True}
            result = await self._session.execute(statement, execution_options=options)
            return cast("CursorResult[Any]", result).rowcount


def _with_vector(points: Sequence[KnowledgePoint]) -> Sequence[KnowledgePoint]:
    """Have `embedding` be the vector of each point that was read with it, whatever its length."""
    for point in points:
        if point.__dict__.get("other_embedding") is not None:
            set_committed_value(point, "embedding", point.other_embedding)
    return points


@contextmanager
def _named(rows: _Rows) -> Generator[None]:
    """Name the point instead of the number of its row in an error."""
    try:
        yield
    except InvalidInputError as error:
        if not (found := re.fullmatch(r"row (\d+): \w+\.(.*)", str(error), re.DOTALL)):
            raise
        raise type(error)(f"point {shown(list(rows)[int(found[1])])}: {found[2]}") from None
