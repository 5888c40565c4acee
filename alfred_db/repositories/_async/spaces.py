"""Embedding spaces: created and dropped at run time, filled while everything runs, and switched."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from ...checks import check_text, one_of, within
from ...errors import ConfigurationError, ConflictError, InvalidInputError, shown, translated
from ...execution._async.base import AsyncRepository
from ...execution._async.copy import table_name
from ...execution._async.driver import in_transaction
from ...execution._async.ownership import as_owner
from ...execution._async.search import set_local
from ...execution._async.spaces import (
    as_space,
    catalog_changes,
    check_model,
    hold_space,
    packed,
    replace_vectors,
)
from ...execution.missing import not_found
from ...models import EmbeddingSpace, SpaceIndex, SpaceKind, SpaceState, SpaceStorage
from ...models.base import table_of
from ...models.spaces import BUILTIN
from ...queries import spaces as queries
from ...queries.knowledge_collections import lock_timeout
from ...queries.shapes.bulk import analyze
from ...queries.shapes.spaces import KINDS, Space, fitting_index, partition, vectors_of
from ...values.spaces import EmbeddingSpaceInfo, PendingEmbedding, SpaceCoverage
from ...vectors.formats import MAX_DIMENSIONS, MatrixLike

MAX_NAME = 255
LOCK_TIMEOUT = "5s"
"""How long dropping a space waits for running searches; later searches wait behind it."""


class AsyncSpaceRepository(AsyncRepository):
    """The embedding spaces: each has the vectors of one model."""

    async def create(
        self,
        name: str,
        *,
        kind: SpaceKind | str,
        model: str,
        dimensions: int,
        storage: SpaceStorage | str = SpaceStorage.VECTOR,
        index: SpaceIndex | str | None = None,
        building: bool = False,
    ) -> EmbeddingSpace:
        """Create a space, or return the one with this name if it is the same.

        Writers of the rows wait until the transaction ends, so end it soon. The role must own the tables, or have
        the grants of an `app`.

        Args:
            name: 1 to 255 bytes; unique, except `builtin`, whose model this sets while it has none.
            kind: The rows that it has vectors of: `documents`, `memories`, `memory_entries` or `working_memory`.
            model: The embedding model.
            dimensions: The length of its vectors, 1 to 16000.
            storage: `vector`, or `halfvec` with half the size.
            index: `hnsw` up to 2000 dimensions (4000 as halfvec), `hnsw-halfvec` up to 4000, `hnsw-bit`, or `none`; None
                takes the first that fits.
            building: Create no index: `alfred-db spaces reembed` builds it once the vectors are loaded.

        Raises:
            ConflictError: A space with this name exists, and has another kind, model, length, storage or index.
            InvalidInputError: The index does not take vectors of this length.
            ConfigurationError: The role may not create partitions of the tables.
            NotFoundError: Another transaction has dropped the space meanwhile.
        """
        kind, storage = one_of(SpaceKind, kind), one_of(SpaceStorage, storage)
        check_text("name", name, MAX_NAME)
        check_text("model", model)
        within("dimensions", dimensions, 1, MAX_DIMENSIONS)
        chosen = fitting_index(None if index is None else one_of(SpaceIndex, index), storage, dimensions)
        wanted = {
            "kind": kind,
            "model": model,
            "dimensions": dimensions,
            "storage": storage,
            "index": chosen,
        }
        known = await self._named(name, kind if name == BUILTIN else None)
        if known is None:
            values = wanted | {"name": name, "state": SpaceState.BUILDING if building else SpaceState.ACTIVE}
            with translated():
                async with self._session.begin_nested():
                    known = await self._create(values)
        if known.name == BUILTIN and known.model is None and known.dimensions == dimensions:
            known = await self._changed(known, {"model": model})
        for attribute, value in wanted.items():
            if (has := getattr(known, attribute)) != value and not (attribute == "index" and index is None):
                raise ConflictError(
                    f"space {shown(name)}: exists with the {attribute} {shown(has)}, not {shown(value)}; use another name"
                )
        return known

    async def _create(self, values: dict[str, Any]) -> EmbeddingSpace:
        session = self._session
        try:
            made = await self._write(queries.create(values))
            if made is None:  # another transaction has created it meanwhile
                return await self._found(values["name"], None)
            catalog_changes(session)
            space = _space(made)
            parent = table_name(session, vectors_of(space.kind))
            own = partition(space.kind, space.id)
            with translated():
                statements = queries.create_partition(parent, table_name(session, own), space)
                await as_owner(session, parent, "alfred_create_space", [space.id], statements)
                if space.indexed:
                    await self._index(space)
        except ConfigurationError as error:
            raise _not_the_owner(values["name"], error) from error
        return made

    async def _index(self, space: Space) -> None:
        own, parent = partition(space.kind, space.id), table_name(self._session, vectors_of(space.kind))
        statement = queries.create_index(table_name(self._session, own), f"idx_{own.name}", space)
        if statement is not None:
            await as_owner(self._session, parent, "alfred_index_space", [space.id], [statement])

    async def list(self, kind: SpaceKind | str | None = None) -> Sequence[EmbeddingSpace]:
        """Return all spaces, or those of a kind, in the order of their creation; `builtin` is one of each kind."""
        return await self._all(queries.list_(None if kind is None else one_of(SpaceKind, kind)))

    async def describe(self, space: str, *, kind: SpaceKind | str | None = None) -> EmbeddingSpaceInfo:
        """Return a space with the number of its vectors.

        Args:
            space: Its name.
            kind: Its kind; needed for `builtin`, which is the name of one space of each kind.

        Raises:
            NotFoundError: The space does not exist.
        """
        found = await self._found(space, kind)
        is_default = (await self._default(found.kind)).id == found.id
        if found.name == BUILTIN:
            vectors = await self._first(queries.count_builtin(found.kind))
            return EmbeddingSpaceInfo(found, is_default, vectors or 0, table_of(KINDS[found.kind][0]).name)
        own = _space(found)
        vectors = await self._first(queries.count(own))
        return EmbeddingSpaceInfo(found, is_default, vectors or 0, partition(own.kind, own.id).name)

    async def default(self, kind: SpaceKind | str, space: str | None = None) -> EmbeddingSpace:
        """Return the default space of a kind, which calls without `space` use.

        Other processes follow a change within five seconds.

        Args:
            kind: The kind.
            space: Make this space the default first, whether or not all rows have a vector in it; see `switch`.

        Raises:
            NotFoundError: The space does not exist.
            ConflictError: The space is retired.
        """
        kind = one_of(SpaceKind, kind)
        if space is not None:
            await self._make_default(await self._found(space, kind))
        return await self._default(kind)

    async def _default(self, kind: SpaceKind) -> EmbeddingSpace:
        found = await self._first(queries.default(kind))
        return found if found is not None else await self._found(BUILTIN, kind)

    async def switch(self, kind: SpaceKind | str, space: str) -> EmbeddingSpace:
        """Make a space the default, if each row has a vector of its content in it.

        Writers of the rows wait until the transaction ends, so end it soon; reads go on. Other processes follow within
        five seconds.

        Args:
            kind: The kind.
            space: The space.

        Raises:
            NotFoundError: The space does not exist.
            ConflictError: Rows have no vector, or one of another content; or the space is retired.
        """
        found = await self._found(space, one_of(SpaceKind, kind))
        with translated():
            await self._session.execute(
                queries.exclude_writers(table_name(self._session, table_of(KINDS[found.kind][0])))
            )
        covered = await self._coverage(found)
        if not covered.complete:
            raise ConflictError(
                f"space {shown(space)}: {covered.missing} of {covered.rows} rows have no vector in it, and {covered.stale}"
                " have one of another content; embed those that `spaces.pending` returns, then switch"
            )
        await self._make_default(found)
        return found

    async def _make_default(self, space: EmbeddingSpace) -> None:
        if space.state is SpaceState.RETIRED:
            raise ConflictError(f"space {shown(space.name)}: is retired; use another one as the default")
        await self._write(queries.set_default(space.kind, space.id))
        catalog_changes(self._session)

    async def retire(self, space: str) -> EmbeddingSpace:
        """Refuse further writes to a space; it can still be searched.

        Raises:
            NotFoundError: The space does not exist.
            ConflictError: The space is the default of its kind, or `builtin`.
        """
        return await self._changed(await self._unused(space, "retire"), {"state": SpaceState.RETIRED})

    async def activate(self, space: str) -> EmbeddingSpace:
        """Allow writes to a retired space again; build the index of one that is being filled.

        The index is built in the transaction, and writers wait for it; `alfred-db spaces reembed` builds it while they go
        on.

        Raises:
            NotFoundError: The space does not exist.
        """
        found = await self._found(space, None)
        if found.state is SpaceState.BUILDING:
            own = _space(found)
            await self._index(own)
            # The planner would expect few vectors, and sort all of them.
            await self._session.execute(analyze(table_name(self._session, partition(own.kind, own.id))))
        return await self._changed(found, {"state": SpaceState.ACTIVE})

    async def drop(self, space: str) -> None:
        """Delete a space with its vectors.

        Searches of all spaces of the kind wait until the transaction ends, so end it soon.

        Raises:
            NotFoundError: The space does not exist.
            ConflictError: The space is the default of its kind, or `builtin`; or other transactions still use it after
                5 seconds.
            ConfigurationError: The role may not drop partitions of the tables.
        """
        session = self._session
        try:
            with translated():
                async with session.begin_nested():
                    found = await self._unused(space, "drop")
                    if await self._first(queries.lock(found.id)) is None:
                        raise not_found("space", space)
                    before = await session.scalar(lock_timeout())
                    await set_local(session, {"lock_timeout": LOCK_TIMEOUT})
                    own = queries.drop_partition(table_name(session, partition(found.kind, found.id)))
                    parent = table_name(session, vectors_of(found.kind))
                    await as_owner(session, parent, "alfred_drop_space", [found.id], [own])
                    await self._write(queries.remove(found.id))
                    await set_local(session, {"lock_timeout": str(before)})
        except ConfigurationError as error:
            raise _not_the_owner(space, error) from error
        catalog_changes(session)

    async def pending(
        self,
        space: str,
        limit: int = 100,
        *,
        kind: SpaceKind | str | None = None,
        after_id: int | uuid.UUID | None = None,
    ) -> Sequence[PendingEmbedding]:
        """Return rows that have no vector of their content in a space, in the order of their keys.

        Args:
            space: The space.
            limit: The maximum number of rows.
            kind: Its kind; needed for `builtin`.
            after_id: The key of the last row of the previous call; None starts at the first.

        Raises:
            NotFoundError: The space does not exist.
        """
        found = await self._found(space, kind)
        rows = await self._rows(queries.pending(_read(found), after=after_id, limit=limit))
        return [PendingEmbedding(*row) for row in rows]

    @in_transaction
    async def store(
        self,
        space: str,
        ids: Sequence[int | uuid.UUID],
        matrix: MatrixLike,
        hashes: Sequence[bytes] | None = None,
        *,
        kind: SpaceKind | str | None = None,
        embedding_model: str | None = None,
    ) -> Sequence[int | uuid.UUID]:
        """Store the vectors of rows, and replace those that the rows have in the space.

        A row whose content has changed since `pending` returned it is skipped, and `pending` returns it again.

        Args:
            space: The space.
            ids: The key of the row of each vector. The same key several times stores several vectors for the row, of which
                the nearest counts in a search.
            matrix: The vectors, one a row.
            hashes: The hash of the embedded content of each, as `pending` returned it; None embeds what the rows hold.
            kind: Its kind; needed for `builtin`.
            embedding_model: The model of the vectors, to be compared with that of the space.

        Returns:
            The keys of the rows that were written.

        Raises:
            NotFoundError: The space does not exist.
            InvalidInputError: The numbers of keys, vectors and hashes differ, or the model is not that of the space.
            DimensionMismatch: A vector has another length than those of the space.
            ConflictError: The space is retired.
        """
        for what, number in (("matrix", len(matrix)), ("hashes", len(ids if hashes is None else hashes))):
            if number != len(ids):
                raise InvalidInputError(f"{what}: expected {len(ids)}, one a key, got {number}")
        found = await self._found(space, kind)
        target = _space(found)
        check_model(target, embedding_model if found.model else None)
        vectors = packed(target, matrix)
        if found.name == BUILTIN:
            return await self._store_builtin(target, ids, vectors, hashes)
        held = await hold_space(self._session, target, embedding_model)
        return await replace_vectors(self._session, held, ids, vectors, hashes)

    async def _store_builtin(
        self, space: Space, ids: Sequence[Any], vectors: Sequence[Any], hashes: Sequence[bytes] | None
    ) -> Sequence[Any]:
        if len(set(ids)) != len(ids):
            raise InvalidInputError(f"{space.said}: has one vector for each row; pass each key once")
        current = {row[0]: row[1] for row in await self._rows(queries.held(space.kind, sorted(ids)))}
        given = dict(zip(ids, ids if hashes is None else hashes, strict=True))
        rows = [
            (key, vector)
            for key, vector in zip(ids, vectors, strict=True)
            if key in current and (hashes is None or current[key] == given[key])
        ]
        if rows:
            await self._rows(queries.store_builtin(space.kind, rows, space.model))
        return sorted(key for key, _ in rows)

    async def coverage(self, space: str, *, kind: SpaceKind | str | None = None) -> SpaceCoverage:
        """Count the rows that have a vector in a space; all rows are read.

        Args:
            space: The space.
            kind: Its kind; needed for `builtin`.

        Raises:
            NotFoundError: The space does not exist.
        """
        return await self._coverage(await self._found(space, kind))

    async def _coverage(self, space: EmbeddingSpace) -> SpaceCoverage:
        (row,) = await self._rows(queries.coverage(_read(space)))
        return SpaceCoverage(*row)

    async def _changed(self, space: EmbeddingSpace, values: dict[str, Any]) -> EmbeddingSpace:
        changed = await self._write(queries.change(space.id, values))
        if changed is None:
            raise not_found("space", space.name)
        catalog_changes(self._session)
        return changed

    async def _named(self, name: str, kind: SpaceKind | None) -> EmbeddingSpace | None:
        return await self._first(queries.find(name, kind))

    async def _found(self, name: str, kind: SpaceKind | str | None) -> EmbeddingSpace:
        wanted = None if kind is None else one_of(SpaceKind, kind)
        if name == BUILTIN and wanted is None:
            raise InvalidInputError(f"space {BUILTIN!r}: each kind has one; pass `kind` too")
        found = await self._named(name, None if wanted is None or name != BUILTIN else wanted)
        if found is None:
            raise not_found("space", name)
        if wanted is not None and found.kind is not wanted:
            raise InvalidInputError(f"space {shown(name)}: has vectors of {found.kind}, not of {wanted}")
        return found

    async def _unused(self, name: str, what: str) -> EmbeddingSpace:
        """Return a space that is neither `builtin` nor a default."""
        if name == BUILTIN:
            raise ConflictError(
                f"space {BUILTIN!r}: is the column of the rows; it cannot be changed to {what} it"
            )
        found = await self._found(name, None)
        if (await self._default(found.kind)).id == found.id:
            raise ConflictError(
                f"space {shown(name)}: is the default of {found.kind}; make another one the default before you {what} it"
            )
        return found


def _space(row: EmbeddingSpace) -> Space:
    return as_space(row.id, row.name, row.kind, row.model, row.dimensions, row.storage, row.index, row.state)


def _read(row: EmbeddingSpace) -> Space | SpaceKind:
    return row.kind if row.name == BUILTIN else _space(row)


def _not_the_owner(name: str, error: ConfigurationError) -> ConfigurationError:
    return ConfigurationError(
        f"space {shown(name)}: only the owner of the tables may create and drop its table ({error}); connect as that"
        " role, such as with the URL that migrates"
    )
