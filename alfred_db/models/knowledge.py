"""Knowledge: collections of points, in the place of Qdrant's, each in a partition with its own index."""

from __future__ import annotations

import hashlib
import re
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
    "KnowledgeAlias",
    "KnowledgeCollection",
    "KnowledgeDistance",
    "KnowledgePoint",
    "partition_name",
]

COLLECTIONS = ("general-knowledge", "financial-knowledge", "legal-knowledge", "social-knowledge")
"""Collections that exist from the start."""

_PREFIX = "knowledge_points_"

# Where the clients of Qdrant keep the text of a point. A tsvector holds 1 MB, hence the limit.
_SEARCH = (
    "to_tsvector('english'::regconfig, \"left\"(COALESCE(payload ->> 'text'::text,"
    " payload ->> 'content'::text, payload ->> 'page_content'::text,"
    " payload ->> 'document'::text, ''::text), 100000))"
)


class KnowledgeDistance(StrEnum):
    """How near two points are; all but `cosine` are searched without an index."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLID = "euclid"
    MANHATTAN = "manhattan"


def partition_name(collection: str) -> str:
    """Table that holds the points of `collection`; two collections never have the same.

    Names like `legal-knowledge` keep their form; any other gets a hash after a double underscore.
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
        CheckConstraint("dimensions = 1536", name="dimensions"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    """What it is called; names its partition, so it never changes."""
    dimensions: Mapped[int] = mapped_column(server_default=text("1536"))
    """Length of its vectors; the points' column has the one length, and the CHECK says so."""
    distance: Mapped[KnowledgeDistance] = mapped_column(
        EnumText(KnowledgeDistance), server_default=KnowledgeDistance.COSINE
    )
    """How near two of its points are."""
    description: Mapped[str | None]
    """What it is for."""
    embedding_model: Mapped[str | None]
    """What makes its vectors: those of two models have no meaningful distance."""
    metadata_: Mapped[Json] = mapped_column("metadata")
    """The caller's notes; not read by the library."""
    created_at: Mapped[CreatedAt]
    """When it was made."""
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
    """Another name of a collection; one UPDATE of it switches every reader to another collection."""

    __tablename__ = "knowledge_aliases"
    __table_args__ = (Index(None, "collection"),)

    alias: Mapped[str] = mapped_column(primary_key=True)
    """The other name; the library refuses that of a collection."""
    collection: Mapped[str] = mapped_column(ForeignKey("knowledge_collections.name", ondelete="CASCADE"))
    """What it stands for; it goes with it."""
    created_at: Mapped[CreatedAt]
    """When it was made."""
    updated_at: Mapped[UpdatedAt]
    """When it was last switched."""

    knowledge_collection: Mapped[KnowledgeCollection] = relationship(back_populates="aliases")


@updated_by_trigger
class KnowledgePoint(Base):
    """A vector with its payload. Partitions inherit every index declared here and have their own of each."""

    __tablename__ = "knowledge_points"
    __table_args__ = (
        hnsw(None, "embedding"),
        Index(None, "payload", postgresql_using="gin", postgresql_ops={"payload": "jsonb_path_ops"}),
        Index(None, "search", postgresql_using="gin"),
        {"postgresql_partition_by": "LIST (collection)"},
    )

    collection: Mapped[str] = mapped_column(ForeignKey("knowledge_collections.name"), primary_key=True)
    """The collection, and so the partition; it is removed with its partition, never row by row."""
    id: Mapped[str] = mapped_column(primary_key=True)
    """Key in the collection: a UUID or an integer in Qdrant, here as text, so that imported ones stay."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(1536), deferred=True)
    """The vector; NULL until there is one, and then not found by meaning."""
    payload: Mapped[Json]
    """What the point says, to give back and to filter by."""
    created_at: Mapped[CreatedAt]
    """When it was stored."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""
    search: Mapped[str | None] = mapped_column(TSVECTOR, Computed(_SEARCH, persisted=True), deferred=True)
    """English words of the payload's `text`, else `content`, `page_content` or `document`."""

    knowledge_collection: Mapped[KnowledgeCollection] = relationship(back_populates="points")


_names = ", ".join(f"('{name}')" for name in COLLECTIONS)
_ON_CREATE: list[tuple[type[Base], str]] = [
    (KnowledgeCollection, f"INSERT INTO %(fullname)s (name) VALUES {_names}")
]
for _name in COLLECTIONS:
    # The partition's name begins with the table's: so it lands in the same schema, whatever that is.
    _suffix = partition_name(_name).removeprefix("knowledge_points")
    _statement = f"CREATE TABLE %(fullname)s{_suffix} PARTITION OF %(fullname)s FOR VALUES IN ('{_name}')"
    _ON_CREATE.append((KnowledgePoint, _statement))
for _model, _statement in _ON_CREATE:
    after_create(_model, _statement)
