"""Storage: the metadata of buckets and objects, and the blobs that working memory refers to."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

from sqlalchemy import Engine

from ...errors import ConfigurationError, ConflictError, InvalidInputError, NotFoundError, shown
from ...execution._async.base import AsyncRepository
from ...execution.missing import not_found
from ...models import Bucket, StorageObject, WorkingMemory
from ...queries import storage as queries
from ...queries.shapes.paging import as_page
from ...values import Page

_own: WeakSet[Engine] = WeakSet()


class AsyncStorageRepository(AsyncRepository):
    """The metadata of blobs; the bytes are stored elsewhere.

    If another service owns the tables, as on Supabase, they are only read: methods that write raise
    ConfigurationError.
    """

    async def create_bucket(
        self,
        bucket_id: str,
        *,
        name: str | None = None,
        owner: uuid.UUID | None = None,
        public: bool = False,
        file_size_limit: int | None = None,
        allowed_mime_types: Sequence[str] | None = None,
    ) -> Bucket:
        """Create a bucket.

        Args:
            bucket_id: The unique id.
            name: The unique name; None is the id.
            owner: The user who owns it.
            public: Whether its objects are public.
            file_size_limit: The maximum size of an object in bytes.
            allowed_mime_types: The types that objects may have; they may end in `/*`.

        Raises:
            ConflictError: The id or the name is taken.
            ConfigurationError: Another service owns the tables.
        """
        await self._check_own()
        if file_size_limit is not None and file_size_limit < 0:
            raise InvalidInputError(f"file_size_limit: expected 0 or more bytes, got {file_size_limit}")
        bucket = await self._write(
            queries.create_bucket(
                bucket_id,
                name=bucket_id if name is None else name,
                owner=owner,
                public=public,
                file_size_limit=file_size_limit,
                allowed_mime_types=allowed_mime_types,
            )
        )
        if bucket is None:
            raise ConflictError(f"bucket {shown(bucket_id)}: its id or name is taken; use another")
        return bucket

    async def get_bucket(self, bucket_id: str) -> Bucket | None:
        """Return the bucket with this id."""
        return await self._first(queries.get_bucket(bucket_id))

    async def list_buckets(self, *, after: str | None = None, limit: int = 100) -> Page[Bucket]:
        """Return a page of the buckets, by id."""
        rows = await self._all(queries.list_buckets(after=after, limit=limit))
        return as_page(rows, queries.BUCKETS_KEY, limit)

    async def delete_bucket(self, bucket_id: str) -> None:
        """Delete an empty bucket.

        Raises:
            NotFoundError: The bucket does not exist.
            ConflictError: The bucket contains objects.
            ConfigurationError: Another service owns the tables.
        """
        await self._check_own()
        if await self._write(queries.delete_bucket(bucket_id)) is None:
            raise not_found("bucket", bucket_id)

    async def put(
        self,
        bucket_id: str,
        name: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        owner: uuid.UUID | None = None,
        version: str | None = None,
    ) -> StorageObject:
        """Create an object, or replace all metadata of the one with this name.

        Args:
            bucket_id: The bucket.
            name: The name in the bucket.
            metadata: The store's metadata. `size` and `mimetype` must respect the bucket's limits.
            owner: The user who owns it.
            version: The store's version.

        Raises:
            NotFoundError: The bucket does not exist.
            InvalidInputError: The bucket's limits do not allow the object.
            ConfigurationError: Another service owns the tables.
        """
        await self._check_own()
        bucket = await self.get_bucket(bucket_id)
        if bucket is None:
            raise not_found("bucket", bucket_id)
        _check_limits(bucket, metadata or {})
        stored = await self._write(
            queries.put(bucket_id, name, metadata=metadata, owner=owner, version=version)
        )
        assert stored is not None
        return stored

    async def get(self, bucket_id: str, name: str) -> StorageObject | None:
        """Return the object with this name."""
        return await self._first(queries.get(bucket_id, name))

    async def move(
        self, bucket_id: str, name: str, *, to_name: str, to_bucket: str | None = None
    ) -> StorageObject:
        """Rename the object, or move it to another bucket.

        Raises:
            NotFoundError: The object or the bucket does not exist.
            ConflictError: The name is taken.
            ConfigurationError: Another service owns the tables.
        """
        await self._check_own()
        if to_bucket is not None and await self.get_bucket(to_bucket) is None:
            raise not_found("bucket", to_bucket)
        moved = await self._write(
            queries.move(bucket_id, name, to_bucket=to_bucket or bucket_id, to_name=to_name)
        )
        if moved is None:
            raise _no_object(bucket_id, name)
        return moved

    async def delete(self, bucket_id: str, name: str) -> None:
        """Delete the metadata of the object; the store deletes the blob.

        Raises:
            NotFoundError: The object does not exist.
            ConfigurationError: Another service owns the tables.
        """
        await self._check_own()
        if await self._write(queries.remove(bucket_id, name)) is None:
            raise _no_object(bucket_id, name)

    async def list_references(
        self, blob_key: str, *, after: str | None = None, limit: int = 100
    ) -> Page[WorkingMemory]:
        """Return a page of the working memory records that refer to a blob."""
        rows = await self._all(queries.references(blob_key, after=after, limit=limit))
        return as_page(rows, queries.REFERENCES_KEY, limit)

    async def list_dangling(
        self, bucket_id: str, *, provider: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[WorkingMemory]:
        """Return a page of the working memory records whose blob is not in the bucket.

        `provider` selects records that name this store.
        """
        rows = await self._all(queries.dangling(bucket_id, provider=provider, after=after, limit=limit))
        return as_page(rows, queries.REFERENCES_KEY, limit)

    async def list_unreferenced(
        self, bucket_id: str, *, prefix: str = "", after: str | None = None, limit: int = 100
    ) -> Page[StorageObject]:
        """Return a page of the objects that no working memory record refers to, by name.

        Only this tenant's records are read: if tenants share a bucket, pass this tenant's `prefix`.
        """
        rows = await self._all(queries.unreferenced(bucket_id, prefix, after=after, limit=limit))
        return as_page(rows, queries.OBJECTS_KEY, limit)

    async def list(
        self, bucket_id: str, *, prefix: str = "", after: str | None = None, limit: int = 100
    ) -> Page[StorageObject]:
        """Return a page of the objects whose names begin with `prefix`, in the order of their UTF-8 bytes."""
        rows = await self._all(queries.list_(bucket_id, prefix, after=after, limit=limit))
        return as_page(rows, queries.OBJECTS_KEY, limit)

    async def _check_own(self) -> None:
        bind = self._session.get_bind()
        if bind.engine in _own:
            return
        if not await self._first(queries.made_here()):
            raise ConfigurationError(
                "storage.objects belongs to another service, so that alfred-db only reads it; write through that"
                " service's own interface (on Supabase, its Storage API)"
            )
        _own.add(bind.engine)


def _check_limits(bucket: Bucket, metadata: Mapping[str, Any]) -> None:
    size, kind = metadata.get("size"), metadata.get("mimetype")
    most, allowed = bucket.file_size_limit, bucket.allowed_mime_types
    if most is not None and isinstance(size, int | float) and size > most:
        raise InvalidInputError(
            f"bucket {shown(bucket.id)}: at most {most:,} bytes, got {size:,}; store less"
        )
    if allowed is not None and isinstance(kind, str):
        family = f"{kind.partition('/')[0]}/*"
        if not {kind, family, "*/*"} & set(allowed):
            raise InvalidInputError(
                f"bucket {shown(bucket.id)}: expected one of {', '.join(map(shown, allowed[:5]))}, got {shown(kind)}"
            )


def _no_object(bucket_id: str, name: str) -> NotFoundError:
    return NotFoundError(f"object {shown(name)}: not in bucket {shown(bucket_id)}; list its prefix")
