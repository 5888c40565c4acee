"""Knowledge: collections of points, as in Qdrant, each in a partition with its indexes."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, Computed, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..types import EnumText
from ..vectors.formats import Embedding
from ..vectors.types import Vector
from ._vectors import hnsw
from .base import Base, CreatedAt, Json, UpdatedAt, after_create, one_of, updated_by_trigger

__all__ = [
    "COLLECTIONS",
    "DIMENSIONS",
    "KnowledgeAlias",
    "KnowledgeCollection",
    "KnowledgeDistance",
    "KnowledgePoint",
    "partition_name",
]

COLLECTIONS = ("general-knowledge", "financial-knowledge", "legal-knowledge", "social-knowledge")
"""The collections that a new database has."""

DIMENSIONS = 1536
"""The length of the vectors in the column `embedding`; those of other lengths are in `other_embedding`."""

MOST_DIMENSIONS = 16_000
"""The most numbers that a vector of pgvector has."""

_PREFIX = "knowledge_points_"

# Where the clients of Qdrant keep the text of a point. A tsvector holds 1 MB, hence the limit.
_SEARCH = (
    "to_tsvector('english'::regconfig, \"left\"(COALESCE(payload ->> 'text'::text,"
    " payload ->> 'content'::text, payload ->> 'page_content'::text,"
    " payload ->> 'document'::text, ''::text), 100000))"
)


class KnowledgeDistance(StrEnum):
    """The distance between points."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLID = "euclid"
    MANHATTAN = "manhattan"


def partition_name(collection: str) -> str:
    """Return the name of the table with the points of a collection, which is unique.

    Names like `legal-knowledge` keep their form; other names are shortened and get a hash after a double
    underscore.
    """
    name = _PREFIX + collection.replace("-", "_")
    if len(name) <= 63 and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", collection):
        return name
    slug = re.sub(r"[^a-z0-9]+", "_", collection.lower()).strip("_")[:30].rstrip("_")
    return f"{_PREFIX}{slug}__{hashlib.sha256(collection.encode()).hexdigest()[:12]}"


@updated_by_trigger
class KnowledgeCollection(Base):
    """A named set of points that are searched together."""

    __tablename__ = "knowledge_collections"
    __table_args__ = (
        one_of("distance", KnowledgeDistance),
        CheckConstraint(f"dimensions >= 1 AND dimensions <= {MOST_DIMENSIONS}", name="dimensions"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    """Unique name; it determines the name of the partition and never changes."""
    dimensions: Mapped[int] = mapped_column(server_default=text("1536"))
    """Dimensions of its vectors; a CHECK of its partition enforces them."""
    distance: Mapped[KnowledgeDistance] = mapped_column(
        EnumText(KnowledgeDistance), server_default=KnowledgeDistance.COSINE
    )
    """Distance between its points."""
    description: Mapped[str | None]
    """Description."""
    embedding_model: Mapped[str | None]
    """Name of the embedding model; distances between vectors of two models are meaningless."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """Metadata of the caller; not used by the library."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    aliases: Mapped[list[KnowledgeAlias]] = relationship(
        back_populates="knowledge_collection", cascade="all, delete-orphan", passive_deletes=True
    )
    points: Mapped[list[KnowledgePoint]] = relationship(
        back_populates="knowledge_collection", passive_deletes="all"
    )


@updated_by_trigger
class KnowledgeAlias(Base):
    """Another name of a collection; one UPDATE of it switches all readers to another collection."""

    __tablename__ = "knowledge_aliases"
    __table_args__ = (Index(None, "collection"),)

    alias: Mapped[str] = mapped_column(primary_key=True)
    """The alias; the library refuses the name of a collection."""
    collection: Mapped[str] = mapped_column(ForeignKey("knowledge_collections.name", ondelete="CASCADE"))
    """The collection; the alias is deleted with it."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When it was last switched."""

    knowledge_collection: Mapped[KnowledgeCollection] = relationship(back_populates="aliases")


@updated_by_trigger
class KnowledgePoint(Base):
    """A vector with its payload. Every partition inherits the indexes that are declared here."""

    __tablename__ = "knowledge_points"
    __table_args__ = (
        hnsw(None, "embedding"),
        Index(None, "payload", postgresql_using="gin", postgresql_ops={"payload": "jsonb_path_ops"}),
        Index(None, "search", postgresql_using="gin"),
        Index(None, "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        {"postgresql_partition_by": "LIST (collection)"},
    )

    collection: Mapped[str] = mapped_column(ForeignKey("knowledge_collections.name"), primary_key=True)
    """The collection, which determines the partition; the points are removed with the partition."""
    id: Mapped[str] = mapped_column(primary_key=True)
    """Key in the collection: a UUID or an integer in Qdrant, stored as text to keep imported ids."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(DIMENSIONS), deferred=True)
    """The vector of 1,536 dimensions; while it is NULL, vector search does not find the point."""
    payload: Mapped[Json]
    """The payload, returned with hits and used by filters."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    search: Mapped[str | None] = mapped_column(TSVECTOR, Computed(_SEARCH, persisted=True), deferred=True)
    """English words of `text` in the payload, else of `content`, `page_content` or `document`."""
    other_embedding: Mapped[Embedding | None] = mapped_column(Vector(), deferred=True)
    """The vector in a collection of other dimensions; added, for models of any length. Its partition has the index."""

    expires_at: Mapped[datetime | None]
    """When it expires; NULL is never; added, for points with a time to live."""

    knowledge_collection: Mapped[KnowledgeCollection] = relationship(back_populates="points")


_names = ", ".join(f"('{name}')" for name in COLLECTIONS)
_ON_CREATE: list[tuple[type[Base], str]] = [
    (KnowledgeCollection, f"INSERT INTO %(fullname)s (name) VALUES {_names}")
]
for _name in COLLECTIONS:
    # The name of the partition begins with that of the table, so that it is created in the same schema.
    _suffix = partition_name(_name).removeprefix("knowledge_points")
    _statement = f"CREATE TABLE %(fullname)s{_suffix} PARTITION OF %(fullname)s FOR VALUES IN ('{_name}')"
    _ON_CREATE.append((KnowledgePoint, _statement))
for _model, _statement in _ON_CREATE:
    after_create(_model, _statement)
