"""Embedding spaces by name: looked up in a copy of the catalog, and their vectors written.

The copy is read once for each engine and tenant, and again after `FOLLOWED` seconds, when a name is not in it, and after a
commit of a session that has changed the catalog. A search in a space that has been dropped meanwhile finds nothing, because
the space has no partition any more; it then looks again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncSession

from ...engine.session import state_of
from ...errors import ConflictError, InvalidInputError, shown, translated
from ...models import Base, SpaceIndex, SpaceKind, SpaceState, SpaceStorage
from ...models.spaces import BUILTIN
from ...queries import spaces as queries
from ...queries.shapes.bulk import OnConflict
from ...queries.shapes.driver_statement import Tenant
from ...queries.shapes.spaces import KIND_OF, Space, stored_type, vector_columns, vectors_of
from ...vectors.formats import MatrixLike
from ...vectors.types import Vector
from ..missing import not_found
from .bulk import add_many
from .copy import copy_rows
from .driver import DIALECT, bind_of, fetch_rows, tenant_of

FOLLOWED = 5.0
"""Seconds after which the copy of the catalog is read again."""

AS_PARAMETERS = 50
"""At most this many vectors are sent as parameters of a statement, more by COPY."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A copy of the catalog."""

    spaces: Mapping[str, Space]
    """The spaces by name, without `builtin`."""
    defaults: Mapping[SpaceKind, Space]
    """The default spaces by kind, without `builtin`."""
    models: Mapping[SpaceKind, str]
    """The models of `builtin` by kind, where they are known."""
    until: float


_known: WeakKeyDictionary[Engine, dict[Tenant, Catalog]] = WeakKeyDictionary()


async def space_of(session: AsyncSession, model: type[Base], name: str | None) -> Space | None:
    """Return the space of a call, or None for `builtin`.

    Args:
        session: The session of the call.
        model: The model of the rows.
        name: The name that the caller passed; None means the default space.

    Raises:
        NotFoundError: The space does not exist.
        InvalidInputError: The space has vectors of other rows.
    """
    kept = _known.get(bind_of(session).engine) if not state_of(session).catalog_changed else None
    catalog = None if kept is None else kept.get(tenant_of(session))
    if catalog is None or catalog.until < time.monotonic():
        catalog = await read_catalog(session)
    if name is None:
        return catalog.defaults.get(KIND_OF[model]) if catalog.defaults else None
    if name == BUILTIN:
        return None
    if name not in catalog.spaces:
        catalog = await read_catalog(session)
    return _named(catalog, KIND_OF[model], name)


async def space_again(session: AsyncSession, space: Space) -> Space:
    """Return the space with the name of one whose search found nothing; it may have been created anew."""
    return _named(await read_catalog(session), space.kind, space.name)


async def space_for_writing(
    session: AsyncSession, model: type[Base], name: str | None, embedding_model: str | None
) -> Space | None:
    """Return the space of a call that writes vectors, or None for `builtin`; it cannot be dropped meanwhile.

    Raises:
        NotFoundError: The space does not exist.
        InvalidInputError: The space has vectors of other rows or of another model.
        ConflictError: The space is retired.
    """
    space = await space_of(session, model, name)
    if space is None:
        if embedding_model is not None:
            check_builtin_model(session, KIND_OF[model], embedding_model)
        return None
    return await hold_space(session, space, embedding_model)


def check_builtin_model(session: AsyncSession, kind: SpaceKind, embedding_model: str) -> None:
    """Check the model of vectors for `builtin`, where the space has a model."""
    known = _known.get(bind_of(session).engine, {}).get(tenant_of(session))
    model = None if known is None else known.models.get(kind)
    if model is not None and model != embedding_model:
        raise _other_model(f"space {BUILTIN!r} of {kind} (model {model})", model, embedding_model)


async def hold_space(session: AsyncSession, space: Space, embedding_model: str | None = None) -> Space:
    """Return the space as it is now; it cannot be dropped until the transaction ends."""
    check_model(space, embedding_model)
    with translated():
        state = (await session.scalars(queries.hold(space.id))).first()
        if state is None:
            space = await space_again(session, space)
            check_model(space, embedding_model)
            state = (await session.scalars(queries.hold(space.id))).first()
    if state is None:
        raise not_found("space", space.name)
    if state is SpaceState.RETIRED:
        raise ConflictError(f"{space.said}: is retired, and takes no vectors; use another space")
    return space


def check_model(space: Space, embedding_model: str | None) -> None:
    """Check that vectors of a model belong into a space."""
    if embedding_model is not None and embedding_model != space.model:
        raise _other_model(space.said, space.model, embedding_model)


def _other_model(said: str, model: str | None, other: str) -> InvalidInputError:
    return InvalidInputError(
        f"{said}: expected vectors of {shown(model)}, got those of {shown(other)}, which cannot be compared with them;"
        " pass the space of that model, or create one with `spaces.create`"
    )


def _named(catalog: Catalog, kind: SpaceKind, name: str) -> Space:
    space = catalog.spaces.get(name)
    if space is None:
        raise not_found("space", name)
    if space.kind is not kind:
        raise InvalidInputError(
            f"{space.said}: has no vectors of {kind}; pass a space of that kind, and search each kind by itself"
        )
    return space


async def read_catalog(session: AsyncSession) -> Catalog:
    """Read the catalog, and keep the copy unless the transaction has changed it."""
    rows = await fetch_rows(session, queries.catalog(), {})
    spaces: dict[str, Space] = {}
    defaults: dict[SpaceKind, Space] = {}
    models: dict[SpaceKind, str] = {}
    for *columns, is_default in rows:
        space = as_space(*columns)
        if space.name == BUILTIN:
            if space.model is not None:
                models[space.kind] = space.model
            continue
        spaces[space.name] = space
        if is_default:
            defaults[space.kind] = space
    catalog = Catalog(spaces, defaults, models, time.monotonic() + FOLLOWED)
    if not state_of(session).catalog_changed:
        _known.setdefault(bind_of(session).engine, {})[tenant_of(session)] = catalog
    return catalog


def as_space(
    id_: int, name: str, kind: Any, model: str | None, dimensions: int, storage: Any, index: Any, state: Any
) -> Space:
    """Return a row of the catalog as a space."""
    return Space(
        id_,
        name,
        SpaceKind(kind),
        model,
        dimensions,
        SpaceStorage(storage),
        SpaceIndex(index),
        SpaceState(state),
    )


def catalog_changes(session: AsyncSession) -> None:
    """Note that the session's transaction changes the catalog; its commit drops the copy."""
    engine, state = bind_of(session).engine, state_of(session)

    def forget(_: object) -> None:
        _known.pop(engine, None)

    forget(session)
    if not state.catalog_changed:
        state.catalog_changed = True
        event.listen(session.sync_session, "after_commit", forget)


def packed(space: Space, vectors: Any) -> list[Any]:
    """Return the binary form of vectors for a space, before anything is sent.

    Args:
        space: The space.
        vectors: A sequence of vectors, or a matrix with one a row.

    Raises:
        DimensionMismatch: One has another length than those of the space.
        InvalidVector: One is not a vector, or zero.
    """
    type_ = stored_type(space)
    if isinstance(type_, Vector) and isinstance(vectors, np.ndarray) and vectors.ndim == 2:
        vectors = type_.packed(cast("Any", vectors))
    process: Any = type_.bind_processor(DIALECT)
    return [process(one) for one in vectors]


def packed_for_row(space: Space, vectors: Any) -> list[Any]:
    """Return the binary form of the vectors of one row: one vector, or several as a matrix or a sequence of vectors."""
    if isinstance(vectors, np.ndarray):
        return packed(space, vectors if vectors.ndim == 2 else [vectors])
    first: Any = vectors[0] if isinstance(vectors, list | tuple) and vectors else 0  # pyright: ignore[reportUnknownVariableType]
    return packed(space, [vectors] if isinstance(first, int | float | np.number) else vectors)


async def replace_vectors(
    session: AsyncSession,
    space: Space,
    ids: Sequence[Any],
    vectors: Sequence[Any],
    hashes: Sequence[bytes | None] | None = None,
) -> list[Any]:
    """Replace the vectors of rows in a space that the caller holds; return the keys of the rows.

    Args:
        session: The session whose transaction is used.
        space: The space.
        ids: The key of the row of each vector; the vectors of a row are numbered in their order.
        vectors: The vectors, in binary form.
        hashes: The hash of the content of each vector: rows whose content has changed are skipped.
    """
    wanted = sorted(set(ids))
    if not wanted:
        return []
    with translated():
        current = {row[0]: row[1] for row in await session.execute(queries.held(space.kind, wanted))}
        if hashes is not None:
            given = dict(zip(ids, hashes, strict=True))
            current = {key: value for key, value in current.items() if given[key] == value}
        if not current:
            return []
        chunks: dict[Any, int] = {}
        rows: list[tuple[Any, ...]] = []
        for key, vector in zip(ids, vectors, strict=True):
            if key in current:
                chunks[key] = chunks.get(key, -1) + 1
                rows.append((key, chunks[key], space.id, current[key], vector))
        await session.execute(queries.clear(space, list(current)))
        if len(rows) <= AS_PARAMETERS:
            await session.execute(queries.store(space, rows))
        else:
            rows.sort(key=lambda row: row[:2])
            columns = vector_columns(space)
            await copy_rows(session, vectors_of(space.kind), columns, rows)
    return sorted(current)


@dataclass(frozen=True, slots=True)
class RowVectors:
    """The vectors of one row that a call writes, for a space other than `builtin`."""

    space: Space
    vectors: Sequence[Any] | None
    """In binary form; an empty sequence removes those of the row, and None keeps them."""

    async def store(self, session: AsyncSession, key: Any) -> None:
        """Store them for the row with this key, which the transaction has written."""
        if self.vectors:
            await replace_vectors(session, self.space, [key] * len(self.vectors), self.vectors)
        elif self.vectors is not None:
            await session.execute(queries.clear(self.space, [key]))


async def take_vectors(
    session: AsyncSession,
    model: type[Base],
    name: str | None,
    values: dict[str, Any],
    *,
    removes: bool = False,
) -> RowVectors | None:
    """Take the vectors out of the values of a row, unless they belong into its columns: then return None.

    Args:
        session: The session of the call.
        model: The model of the row.
        name: The name of the space that the caller passed; None means the default space.
        values: The values by attribute, with `embedding` and `embedding_model`.
        removes: Whether None as the vector removes those of the row.

    Raises:
        NotFoundError: The space does not exist.
        InvalidInputError: The space has vectors of other rows or of another model, or a vector does not fit.
        ConflictError: The space is retired.
    """
    space = await space_for_writing(session, model, name, values.get("embedding_model"))
    if space is None:
        return None
    values.pop("embedding_model", None)
    passed = "embedding" in values
    embedding = values.pop("embedding", None)
    if embedding is None:
        return RowVectors(space, [] if passed and removes else None)
    return RowVectors(space, packed_for_row(space, embedding))


async def add_many_in_space(
    session: AsyncSession,
    model: type[Base],
    space: Space,
    rows: Sequence[Mapping[str, Any] | Base],
    *,
    embeddings: MatrixLike | None = None,
    on_conflict: OnConflict,
    **options: Any,
) -> list[Any]:
    """Write rows by COPY, and their vectors into a space. The arguments are those of `bulk.add_many`."""
    given = [row.__dict__ if isinstance(row, Base) else row for row in rows]
    for named in {row.get("embedding_model") for row in given}:
        check_model(space, named)
    if embeddings is None:
        places = [place for place, row in enumerate(given) if row.get("embedding") is not None]
        vectors = packed(space, [given[place]["embedding"] for place in places])
    else:
        if len(embeddings) != len(rows):
            raise InvalidInputError(
                f"{space.said}: expected {len(rows)} vectors, one a row, got {len(embeddings)}"
            )
        places, vectors = list(range(len(rows))), packed(space, embeddings)
    plain = [
        {name: value for name, value in row.items() if name not in _VECTOR and not name.startswith("_sa_")}
        for row in given
    ]
    ids = await add_many(session, model, plain, on_conflict=on_conflict, **options)
    # A row that was ignored holds another content than the one that was embedded.
    hashes = [sha256(str(given[place]["content"]).encode()).digest() for place in places]
    await replace_vectors(session, space, [ids[place] for place in places], vectors, hashes)
    return ids


_VECTOR = frozenset({"embedding", "embedding_model"})


async def clear_vectors(session: AsyncSession, model: type[Base], key: Any) -> None:
    """Remove the vectors of a row from all spaces but `builtin`, since they belong to another content."""
    known = _known.get(bind_of(session).engine, {}).get(tenant_of(session))
    if known is None or known.spaces:
        await session.execute(queries.clear_everywhere(KIND_OF[model], [key]))
