"""Embedding spaces: vectors of any model and length beside those in the columns of the rows."""

from __future__ import annotations

import uuid
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from ..types import EnumText
from ..vectors.formats import Embedding
from ..vectors.types import HalfVector, Vector
from .base import Base, BigIntId, CreatedAt, UpdatedAt, after_create, one_of, updated_by_trigger

__all__ = [
    "BUILTIN",
    "DocumentEmbedding",
    "EmbeddingSpace",
    "EmbeddingSpaceDefault",
    "MemoryEmbedding",
    "MemoryEntryEmbedding",
    "SpaceIndex",
    "SpaceKind",
    "SpaceState",
    "SpaceStorage",
    "WorkingMemoryEmbedding",
]

BUILTIN = "builtin"
"""The name of the space of each kind whose vectors are in a column of the rows."""

_DIMENSIONS = {"documents": 384, "memories": 384, "memory_entries": 768, "working_memory": 1536}
"""The dimensions of the column `embedding`, by kind."""


class SpaceKind(StrEnum):
    """The rows that a space has vectors of, named after their table."""

    DOCUMENTS = "documents"
    MEMORIES = "memories"
    MEMORY_ENTRIES = "memory_entries"
    WORKING_MEMORY = "working_memory"


class SpaceStorage(StrEnum):
    """How the vectors of a space are stored."""

    VECTOR = "vector"
    """With 4 bytes a number."""
    HALFVEC = "halfvec"
    """With 2 bytes a number: 11 bits of precision, numbers up to 65504."""


class SpaceIndex(StrEnum):
    """The vector index of a space."""

    HNSW = "hnsw"
    """Of the stored vectors; up to 2000 dimensions, 4000 if they are stored as halfvec."""
    HNSW_HALFVEC = "hnsw-halfvec"
    """Of copies in half precision; up to 4000 dimensions."""
    HNSW_BIT = "hnsw-bit"
    """Of the signs of the numbers; the stored vectors rank what it finds."""
    NONE = "none"
    """No index: each search compares all vectors."""


class SpaceState(StrEnum):
    """What a space can be used for."""

    BUILDING = "building"
    """It is being filled and has no index yet: searches compare all vectors."""
    ACTIVE = "active"
    """It can be read and written."""
    RETIRED = "retired"
    """It can be read; writes are refused."""


@updated_by_trigger
class EmbeddingSpace(Base):
    """A space: the vectors of one embedding model.

    Added: in the reference a table has one vector column, of one length.
    """

    __tablename__ = "embedding_spaces"
    __table_args__ = (
        UniqueConstraint("name", "kind"),
        Index(None, "name", unique=True, postgresql_where=text("name <> 'builtin'")),
        one_of("kind", SpaceKind),
        one_of("storage", SpaceStorage),
        one_of("index", SpaceIndex),
        one_of("state", SpaceState),
        CheckConstraint("dimensions BETWEEN 1 AND 16000", name="dimensions"),
    )

    id: Mapped[BigIntId]
    """Key of the row; it determines the name of the partition."""
    name: Mapped[str]
    """Name; only `builtin` is that of several spaces, one of each kind."""
    kind: Mapped[SpaceKind] = mapped_column(EnumText(SpaceKind))
    """The rows that it has vectors of."""
    model: Mapped[str | None]
    """Name of the embedding model; NULL is unknown, which only `builtin` is."""
    dimensions: Mapped[int]
    """Length of its vectors."""
    storage: Mapped[SpaceStorage] = mapped_column(EnumText(SpaceStorage), server_default=SpaceStorage.VECTOR)
    """How its vectors are stored."""
    index: Mapped[SpaceIndex] = mapped_column(EnumText(SpaceIndex), server_default=SpaceIndex.HNSW)
    """Its vector index."""
    state: Mapped[SpaceState] = mapped_column(EnumText(SpaceState), server_default=SpaceState.ACTIVE)
    """What it can be used for."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""


@updated_by_trigger
class EmbeddingSpaceDefault(Base):
    """The space that calls without `space` use; a kind without a row uses `builtin`. Added with the spaces."""

    __tablename__ = "embedding_space_defaults"
    __table_args__ = (one_of("kind", SpaceKind),)

    kind: Mapped[SpaceKind] = mapped_column(EnumText(SpaceKind), primary_key=True)
    """The kind."""
    space_id: Mapped[int] = mapped_column(ForeignKey("embedding_spaces.id"), index=True)
    """Its default space."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
    updated_at: Mapped[UpdatedAt]
    """When the default last changed."""


class _Vectors:
    """The columns of the vectors of a kind, whose tables differ in the key of the row.

    Each space has a partition, which the repository creates and drops, with a CHECK of its dimensions and its index.
    A space without a partition has no vectors, so that no foreign key to it is needed.
    """

    chunk: Mapped[int] = mapped_column(Integer, primary_key=True)
    """Number of the vector among those of the row, from 0."""
    space_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """The space, which determines the partition."""
    source_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    """sha256 of the content that was embedded: another one than that of the row shows that the vector is stale."""
    embedding: Mapped[Embedding | None] = mapped_column(Vector(), deferred=True)
    """The vector, in a space that stores `vector`."""
    half: Mapped[Embedding | None] = mapped_column(HalfVector(), deferred=True)
    """The vector, in a space that stores `halfvec`."""


_BY_SPACE = {"postgresql_partition_by": "LIST (space_id)"}


class DocumentEmbedding(_Vectors, Base):
    """The vectors of documents, by space. Added with the spaces."""

    __tablename__ = "documents_embeddings"
    __table_args__ = (_BY_SPACE,)

    row_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )
    """The document."""


class MemoryEmbedding(_Vectors, Base):
    """The vectors of memories, by space. Added with the spaces."""

    __tablename__ = "memories_embeddings"
    __table_args__ = (_BY_SPACE,)

    row_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("memories.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )
    """The memory."""


class MemoryEntryEmbedding(_Vectors, Base):
    """The vectors of memory entries, by space. Added with the spaces."""

    __tablename__ = "memory_entries_embeddings"
    __table_args__ = (_BY_SPACE,)

    row_id: Mapped[uuid.UUID] = mapped_column(
        Uuid, ForeignKey("memory_entries.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )
    """The entry."""


class WorkingMemoryEmbedding(_Vectors, Base):
    """The vectors of working memory, by space. Added with the spaces."""

    __tablename__ = "working_memory_embeddings"
    __table_args__ = (_BY_SPACE | {"schema": "wm"},)

    row_id: Mapped[uuid.UUID] = mapped_column(
        Uuid, ForeignKey("wm.working_memory.id", ondelete="CASCADE"), primary_key=True, sort_order=-1
    )
    """The record."""


_builtin = ", ".join(f"('{BUILTIN}', '{kind}', {dimensions})" for kind, dimensions in _DIMENSIONS.items())
after_create(EmbeddingSpace, f"INSERT INTO %(fullname)s (name, kind, dimensions) VALUES {_builtin}")
