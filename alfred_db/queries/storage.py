"""Statements about buckets, objects, and the references of working memory to them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import column, table
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..checks import check_limit, cursor_values
from ..models import Bucket, StorageObject, WorkingMemory
from ..sql import MADE_HERE
from .shapes.functions import func
from .shapes.paging import page

BUCKETS_KEY = ("id",)
OBJECTS_KEY = ("name",)
REFERENCES_KEY = ("id",)


def made_here() -> Select[bool]:
    """Select whether this library created the tables.

    It leaves a comment on the tables that it creates.
    """
    relation = table(
        "pg_class", column("oid"), column("relname"), column("relnamespace"), schema="pg_catalog"
    )
    namespace = table("pg_namespace", column("oid"), column("nspname"), schema="pg_catalog")
    comment = func.coalesce(func.obj_description(relation.c.oid, "pg_class"), "")
    return select(func.bool_and(comment == MADE_HERE)).where(
        relation.c.relnamespace == namespace.c.oid,
        namespace.c.nspname == "storage",
        relation.c.relname.in_(["buckets", "objects"]),
    )


def create_bucket(
    bucket_id: str,
    *,
    name: str,
    owner: uuid.UUID | None,
    public: bool,
    file_size_limit: int | None,
    allowed_mime_types: Sequence[str] | None,
) -> ReturningInsert[Bucket]:
    """Insert a bucket, unless its id or name is taken."""
    return (
        insert(Bucket)
        .values(
            id=bucket_id,
            name=name,
            owner=owner,
            public=public,
            file_size_limit=file_size_limit,
            allowed_mime_types=None if allowed_mime_types is None else list(allowed_mime_types),
        )
        .on_conflict_do_nothing()
        .returning(Bucket)
    )


def get_bucket(bucket_id: str) -> Select[Bucket]:
    """Select a bucket by its id."""
    return select(Bucket).where(Bucket.id == bucket_id)


def list_buckets(*, after: str | None, limit: int) -> Select[Bucket]:
    """Select a page of buckets, ordered by id."""
    return page(select(Bucket), [Bucket.id], after=after, limit=limit)


def delete_bucket(bucket_id: str) -> ReturningDelete[str]:
    """Delete a bucket."""
    return delete(Bucket).where(Bucket.id == bucket_id).returning(Bucket.id)


def put(
    bucket_id: str,
    name: str,
    *,
    metadata: Mapping[str, Any] | None,
    owner: uuid.UUID | None,
    version: str | None,
) -> ReturningInsert[StorageObject]:
    """Insert an object, or replace metadata, owner and version of the one with this name."""
    statement = insert(StorageObject).values(
        bucket_id=bucket_id,
        name=name,
        metadata_=None if metadata is None else dict(metadata),
        owner=owner,
        version=version,
        updated_at=func.now(),
    )
    changed = ("metadata", "owner", "version", "updated_at")
    return statement.on_conflict_do_update(
        index_elements=[StorageObject.bucket_id, StorageObject.name],
        set_={name: statement.excluded[name] for name in changed},
    ).returning(StorageObject)


def get(bucket_id: str, name: str) -> Select[StorageObject]:
    """Select an object by bucket and name."""
    return select(StorageObject).where(StorageObject.bucket_id == bucket_id, StorageObject.name == name)


def move(bucket_id: str, name: str, *, to_bucket: str, to_name: str) -> ReturningUpdate[StorageObject]:
    """Change bucket and name of an object."""
    return (
        update(StorageObject)
        .where(StorageObject.bucket_id == bucket_id, StorageObject.name == name)
        .values(bucket_id=to_bucket, name=to_name)
        .returning(StorageObject)
    )


def remove(bucket_id: str, name: str) -> ReturningDelete[uuid.UUID]:
    """Delete an object."""
    return (
        delete(StorageObject)
        .where(StorageObject.bucket_id == bucket_id, StorageObject.name == name)
        .returning(StorageObject.id)
    )


def list_(bucket_id: str, prefix: str, *, after: str | None, limit: int) -> Select[StorageObject]:
    """Select a page of the objects whose names have a prefix, in the byte order of their names."""
    return _by_name(select(StorageObject), bucket_id, prefix, after=after, limit=limit)


def unreferenced(bucket_id: str, prefix: str, *, after: str | None, limit: int) -> Select[StorageObject]:
    """Select a page of the objects whose name is not the blob key of a record."""
    reference = select(WorkingMemory.id).where(WorkingMemory.blob_key == StorageObject.name).exists()
    return _by_name(select(StorageObject).where(~reference), bucket_id, prefix, after=after, limit=limit)


def _by_name(
    statement: Select[StorageObject], bucket_id: str, prefix: str, *, after: str | None, limit: int
) -> Select[StorageObject]:
    """Page with the operators of text_pattern_ops; unlike LIKE they use the index with any parameter."""
    check_limit(limit)
    name = StorageObject.name
    statement = statement.where(StorageObject.bucket_id == bucket_id, name.op("~>=~")(prefix))
    end = _after_prefix(prefix)
    if end is not None:
        statement = statement.where(name.op("~<~")(end))
    if after is not None:
        statement = statement.where(name.op("~>~")(cursor_values(after, [name.type])[0]))
    order: ColumnElement[Any] = name.op("USING")(literal_column("~<~"))
    return statement.order_by(StorageObject.bucket_id, order).limit(limit + 1)


def _after_prefix(prefix: str) -> str | None:
    """The least text that is greater than all texts with a prefix, or None.

    UTF-8 sorts in the order of the code points.
    """
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)


# Blob references of working memory


def references(blob_key: str, *, after: str | None, limit: int) -> Select[WorkingMemory]:
    """Select a page of the records of working memory with this blob key."""
    statement = select(WorkingMemory).where(WorkingMemory.blob_key == blob_key)
    return page(statement, [WorkingMemory.id], after=after, limit=limit)


def dangling(bucket_id: str, *, provider: str | None, after: str | None, limit: int) -> Select[WorkingMemory]:
    """Select a page of the records whose blob key is not the name of an object in the bucket."""
    there = (
        select(StorageObject.id)
        .where(StorageObject.bucket_id == bucket_id, StorageObject.name == WorkingMemory.blob_key)
        .exists()
    )
    statement = select(WorkingMemory).where(WorkingMemory.blob_key.is_not(None), ~there)
    if provider is not None:
        statement = statement.where(WorkingMemory.provider == provider)
    return page(statement, [WorkingMemory.id], after=after, limit=limit)
