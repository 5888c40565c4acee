"""Knowledge collections: created and dropped at run time, each with its own partition and index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import within
from ...errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    shown,
    translated,
)
from ...execution._async.copy import table_name
from ...execution._async.ownership import as_owner
from ...execution._async.search import set_local
from ...execution.missing import not_found
from ...models import KnowledgeAlias, KnowledgeCollection, KnowledgeDistance, KnowledgePoint
from ...models.base import table_of
from ...models.knowledge import DIMENSIONS, MOST_DIMENSIONS, partition_name
from ...queries import knowledge_collections as queries
from ...queries import knowledge_points as points
from ...queries.shapes.knowledge import table
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.knowledge import KnowledgeCollectionInfo
from .knowledge_base import AsyncKnowledgeBase

MAX_NAME = 255
LOCK_TIMEOUT = "5s"
"""How long dropping a collection waits for running searches; later searches wait behind it."""

_POINTS = table_of(KnowledgePoint)
_LOCKED = (table_of(KnowledgeCollection), table_of(KnowledgeAlias))


class AsyncKnowledgeCollections(AsyncKnowledgeBase):
    """The part of the knowledge repository for collections and their aliases."""

    async def create_collection(
        self,
        name: str,
        *,
        distance: KnowledgeDistance = KnowledgeDistance.COSINE,
        dimensions: int = DIMENSIONS,
        description: str | None = None,
        embedding_model: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> KnowledgeCollection:
        """Create a collection for vectors of one length, or return the one with this name.

        To create one, the role must own the table `knowledge_points`, or have the grants of an `app`.

        Args:
            name: 1 to 255 characters.
            distance: How points are compared.
            dimensions: The length of the vectors, 1 to 16,000. Up to 2,000 dimensions have an index, and up to 4,000 one
                in half precision; longer vectors are searched by comparing all points.
            description: Replaces the description of an existing collection; None keeps it.
            embedding_model: The model that makes the vectors. An existing collection without one takes it.
            metadata: Replaces the metadata of an existing collection; None keeps them.

        Raises:
            ConflictError: The name is an alias, or the existing collection has another distance, length or
                embedding model.
            ConfigurationError: The role may not create a partition of `knowledge_points`.
            NotFoundError: Another transaction has dropped the collection meanwhile.
        """
        _check_name(name)
        within("dimensions", dimensions, 1, MOST_DIMENSIONS)
        known = await self._named(name)
        if known is None:
            with translated():
                async with self._session.begin_nested():
                    known = await self._create(
                        name,
                        distance=distance,
                        dimensions=dimensions,
                        description=description,
                        embedding_model=embedding_model,
                        metadata=metadata or {},
                    )
        if known.distance != distance:
            raise ConflictError(
                f"collection {shown(name)}: exists with the distance {known.distance}; use it, or another name"
            )
        if known.dimensions != dimensions:
            raise ConflictError(
                f"collection {shown(name)}: exists for vectors of {known.dimensions} dimensions, not {dimensions}; pass"
                " that length, or use another name"
            )
        if None not in (embedding_model, known.embedding_model) and embedding_model != known.embedding_model:
            raise ConflictError(
                f"collection {shown(name)}: exists for vectors of {shown(known.embedding_model)}; those of another"
                " model cannot be compared with them: use another name"
            )
        declared = {
            "description": description,
            "embedding_model": embedding_model,
            "metadata_": None if metadata is None else dict(metadata),
        }
        changed = {
            attribute: value
            for attribute, value in declared.items()
            if value is not None and value != getattr(known, attribute)
        }
        if changed:
            known = await self._write(queries.change(name, changed))
            if known is None:  # dropped meanwhile
                raise not_found("collection", name)
        return known

    async def _create(
        self,
        name: str,
        *,
        distance: KnowledgeDistance,
        dimensions: int,
        description: str | None,
        embedding_model: str | None,
        metadata: Mapping[str, Any],
    ) -> KnowledgeCollection:
        session = self._session
        parent, own = table_name(session, _POINTS), table_name(session, table(name))
        try:
            with translated():
                await session.execute(
                    queries.exclude_others(*(table_name(session, locked) for locked in _LOCKED))
                )
                if await self._first(queries.alias(name)) is not None:
                    raise ConflictError(f"collection {shown(name)}: an alias has the name; use another name")
                made = await self._write(
                    queries.create(
                        name,
                        distance=distance,
                        dimensions=dimensions,
                        description=description,
                        embedding_model=embedding_model,
                        metadata=metadata,
                    )
                )
                if made is None:
                    # Another transaction has created it while this one waited for the lock.
                    return await self._collection(name)
                await as_owner(
                    session,
                    parent,
                    "alfred_create_collection",
                    [name, partition_name(name)],
                    queries.create_partition(parent, own, name, distance=distance, dimensions=dimensions),
                )
        except ConfigurationError as error:
            raise _not_the_owner(name, error) from error
        return made

    async def drop_collection(self, name: str) -> None:
        """Delete a collection with its points and aliases; `name` must not be an alias.

        Searches of every collection wait until the transaction ends, so end it soon.

        Raises:
            NotFoundError: The collection does not exist.
            ConflictError: Other transactions still use the points after 5 seconds.
            ConfigurationError: The role may not drop a partition of `knowledge_points`.
        """
        session = self._session
        try:
            with translated():
                async with session.begin_nested():
                    if await self._first(queries.lock(name)) is None:
                        raise not_found("collection", name)
                    before = await self._session.scalar(queries.lock_timeout())
                    await set_local(session, {"lock_timeout": LOCK_TIMEOUT})
                    await as_owner(
                        session,
                        table_name(session, _POINTS),
                        "alfred_drop_collection",
                        [name, partition_name(name)],
                        [queries.drop_partition(table_name(session, table(name)))],
                    )
                    await self._write(queries.drop(name))
                    await set_local(session, {"lock_timeout": str(before)})
        except ConfigurationError as error:
            raise _not_the_owner(name, error) from error

    async def describe_collection(self, name: str) -> KnowledgeCollectionInfo:
        """Return the collection with this name or alias, with the number of its points.

        Raises:
            NotFoundError: The collection does not exist.
        """
        collection = await self._collection(name)
        aliases = await self._all(queries.aliases(collection.name))
        count = await self._first(points.count(collection.name, None))
        return KnowledgeCollectionInfo(
            collection, [alias.alias for alias in aliases], count or 0, partition_name(collection.name)
        )

    async def list_collections(
        self, *, after: str | None = None, limit: int = 100
    ) -> Page[KnowledgeCollection]:
        """Return a page of the collections, by name."""
        rows = await self._all(queries.list_(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def set_aliases(self, aliases: Mapping[str, str]) -> None:
        """Create aliases of collections, or move existing ones; all of them or none.

        Raises:
            NotFoundError: A collection does not exist.
            ConflictError: An alias is the name of a collection.
        """
        for alias, collection in aliases.items():
            _check_name(alias)
            _check_name(collection)
        with translated():
            async with self._session.begin_nested():
                written = {row[0] for row in await self._rows(queries.set_aliases(aliases))}
                for alias in aliases.keys() - written:
                    if await self._named(alias) is not None:
                        raise ConflictError(
                            f"alias {shown(alias)}: a collection has the name; use another, or drop the collection"
                        )
                    raise not_found("collection", aliases[alias])

    async def delete_alias(self, alias: str) -> None:
        """Delete an alias, not the collection.

        Raises:
            NotFoundError: The alias does not exist.
        """
        if await self._write(queries.delete_alias(alias)) is None:
            raise not_found("alias", alias)

    async def list_aliases(self, collection: str | None = None) -> Sequence[KnowledgeAlias]:
        """Return the aliases, by name, optionally those of one collection."""
        return await self._all(queries.aliases(collection))


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > MAX_NAME:
        raise InvalidInputError(f"name: expected 1 to {MAX_NAME} characters, got {shown(name)}")


def _not_the_owner(name: str, error: ConfigurationError) -> ConfigurationError:
    return ConfigurationError(
        f"collection {shown(name)}: its table is part of knowledge_points, and only the owner of that may create and drop"
        f" it ({error}); connect as that role, such as with the URL that migrates, or have it apply the grants of the"
        " kind app"
    )
