"""Storage: the metadata of blobs, in the tables and columns that Supabase's storage service has.

The bytes are elsewhere. Only columns that Supabase has too are here, so that its own tables can be mapped.
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
    """A named place for objects, with the limits on what may be put there."""

    __tablename__ = "buckets"
    __table_args__ = (UniqueConstraint("name"), {"schema": "storage", "comment": MADE_HERE})

    id: Mapped[str] = mapped_column(primary_key=True)
    """Key of the bucket, in the caller's words."""
    name: Mapped[str]
    """What the bucket is called; mostly the same as `id`."""
    owner: Mapped[uuid.UUID | None]
    """The user who made it; no foreign key, as in Supabase: the bucket outlives the user."""
    public: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its objects may be read without signing in."""
    file_size_limit: Mapped[int | None] = mapped_column(BigInteger)
    """Bytes that one object may have; NULL is no limit of its own."""
    allowed_mime_types: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """Types that objects may have, `image/*` too; NULL is any."""
    created_at: Mapped[CreatedAt]
    """When it was made."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    objects: Mapped[list[StorageObject]] = relationship(back_populates="bucket", passive_deletes="all")


@updated_by_trigger
class StorageObject(Base):
    """What is known of one blob: where it is, whose, how large, of what type."""

    __tablename__ = "objects"
    __table_args__ = (
        UniqueConstraint("bucket_id", "name"),
        Index(None, "bucket_id", "name", postgresql_ops={"name": "text_pattern_ops"}),
        {"schema": "storage", "comment": MADE_HERE},
    )

    id: Mapped[UuidId]
    """Key of the row."""
    bucket_id: Mapped[str | None] = mapped_column(ForeignKey("storage.buckets.id"))
    """The bucket it is in."""
    name: Mapped[str | None]
    """Its path in the bucket; the second index on it serves the listing of a prefix."""
    owner: Mapped[uuid.UUID | None]
    """The user who put it there; no foreign key, as in Supabase: the object outlives the user."""
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    """What the store knows of the blob: `size`, `mimetype`, `eTag`, `cacheControl`."""
    path_tokens: Mapped[list[str] | None] = mapped_column(
        ARRAY(Text), Computed("string_to_array(name, '/'::text)", persisted=True)
    )
    """The parts of `name`; computed by the database."""
    version: Mapped[str | None]
    """Which upload of that name this is; the store's own key."""
    last_accessed_at: Mapped[CreatedAt]
    """When the blob was last read."""
    created_at: Mapped[CreatedAt]
    """When it was put there."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    bucket: Mapped[Bucket | None] = relationship(back_populates="objects")
