"""Storage: metadata of blobs, in the tables and columns of the storage service of Supabase.

The contents are stored elsewhere. Only columns that Supabase has too are mapped, so that its tables can be
used.
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import BigInteger, Computed, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..sql import MADE_HERE
from ..types import Text
from .base import Base, CreatedAt, UpdatedAt, UuidId, updated_by_trigger

__all__ = ["Bucket", "StorageObject"]


@updated_by_trigger
class Bucket(Base):
    """A named container of objects, with limits on their size and type."""

    __tablename__ = "buckets"
    __table_args__ = (UniqueConstraint("name"), {"schema": "storage", "comment": MADE_HERE})

    id: Mapped[str] = mapped_column(primary_key=True)
    """Key of the bucket, chosen by the caller."""
    name: Mapped[str]
    """Name of the bucket; usually the same as `id`."""
    owner: Mapped[uuid.UUID | None]
    """The user who created it; no foreign key, as in Supabase: the bucket outlives the user."""
    public: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its objects may be read without authentication."""
    file_size_limit: Mapped[int | None] = mapped_column(BigInteger)
    """Maximum bytes of an object; NULL is unlimited."""
    allowed_mime_types: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """Allowed types of objects, also `image/*`; NULL is any."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    objects: Mapped[list[StorageObject]] = relationship(back_populates="bucket", passive_deletes="all")


@updated_by_trigger
class StorageObject(Base):
    """Metadata of one blob: its location, owner, size and type."""

    __tablename__ = "objects"
    __table_args__ = (
        UniqueConstraint("bucket_id", "name"),
        Index(None, "bucket_id", "name", postgresql_ops={"name": "text_pattern_ops"}),
        {"schema": "storage", "comment": MADE_HERE},
    )

    id: Mapped[UuidId]
    """Key of the row."""
    bucket_id: Mapped[str | None] = mapped_column(ForeignKey("storage.buckets.id"))
    """Its bucket."""
    name: Mapped[str | None]
    """Path in the bucket; the second index on it serves lists by prefix."""
    owner: Mapped[uuid.UUID | None]
    """The user who stored it; no foreign key, as in Supabase: the object outlives the user."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    """Metadata of the store: `size`, `mimetype`, `eTag`, `cacheControl`."""
    path_tokens: Mapped[list[str] | None] = mapped_column(
        ARRAY(Text), Computed("string_to_array(name, '/'::text)", persisted=True)
    )
    """The parts of `name`; computed by the database."""
    version: Mapped[str | None]
    """Key of the upload in the store."""
    last_accessed_at: Mapped[CreatedAt]
    """When the blob was last read."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    bucket: Mapped[Bucket | None] = relationship(back_populates="objects")
