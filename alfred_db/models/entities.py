"""Entities: a graph of things, and of facts about them that hold for a time."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .base import Base, CreatedAt, Json, UpdatedAt, UuidId, trigram_index, updated_by_trigger

__all__ = ["EntityEdge", "EntityNode"]


@updated_by_trigger
class EntityNode(Base):
    """A thing. The reference says only "Entity nodes and edges": the tables and their columns are ours.

    The tables' names say `entity` again, because a tenant has all its tables in one schema.
    """

    __tablename__ = "entity_node"
    __table_args__ = (
        UniqueConstraint("node_type", "key"),
        Index(None, "properties", postgresql_using="gin", postgresql_ops={"properties": "jsonb_path_ops"}),
        {"schema": "entity"},
    )

    id: Mapped[UuidId]
    """Key of the row, and what edges refer to."""
    node_type: Mapped[str]
    """Kind of thing, in the platform's words."""
    key: Mapped[str]
    """What it is known by among its kind; storing it twice gives the same node."""
    name: Mapped[str | None]
    """What people call it."""
    description: Mapped[str | None]
    """What it is, in words."""
    properties: Mapped[Json]
    """What is known of it, to filter by; what holds for a time only is an edge."""
    created_at: Mapped[CreatedAt]
    """When it was stored."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    out_edges: Mapped[list[EntityEdge]] = relationship(
        back_populates="source",
        foreign_keys="EntityEdge.source_id",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )
    in_edges: Mapped[list[EntityEdge]] = relationship(
        back_populates="target",
        foreign_keys="EntityEdge.target_id",
        cascade="all, delete-orphan",
        passive_deletes=True,
    )


@updated_by_trigger
class EntityEdge(Base):
    """A fact: `source` has this relation to `target`.

    When it ceases to hold, `valid_to` says so; when it was a mistake, it is superseded, not deleted. At most one
    such fact holds without an end, which is what storing it again finds. The indexes by weight give the strongest
    edges of a node without reading the others.
    """

    __tablename__ = "entity_edge"
    __table_args__ = (
        CheckConstraint("valid_to > valid_from", name="valid"),
        Index(None, "source_id", "weight", "id", "edge_type"),
        Index(None, "target_id", "weight", "id", "edge_type"),
        Index(
            "uq_entity_edge_source_id_target_id_edge_type_valid_from",
            "source_id",
            "target_id",
            "edge_type",
            "valid_from",
            unique=True,
            postgresql_where=text("superseded_at IS NULL"),
        ),
        Index(
            "uq_entity_edge_holding",
            "source_id",
            "target_id",
            "edge_type",
            unique=True,
            postgresql_where=text("superseded_at IS NULL AND valid_to IS NULL"),
        ),
        Index(None, "properties", postgresql_using="gin", postgresql_ops={"properties": "jsonb_path_ops"}),
        {"schema": "entity"},
    )

    id: Mapped[UuidId]
    """Key of the row."""
    source_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("entity.entity_node.id", ondelete="CASCADE"))
    """The node it starts from; it goes with it."""
    target_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("entity.entity_node.id", ondelete="CASCADE"))
    """The node it leads to; it goes with it."""
    edge_type: Mapped[str]
    """The relation, in the platform's words."""
    weight: Mapped[float] = mapped_column(Double, server_default=text("1"))
    """How strong it is; what it measures is the caller's."""
    properties: Mapped[Json]
    """What else is known of the fact, to filter by."""
    valid_from: Mapped[CreatedAt]
    """Since when it holds in the world."""
    valid_to: Mapped[datetime | None]
    """Until when it held; NULL is that it still does."""
    created_at: Mapped[CreatedAt]
    """Since when the database says so."""
    superseded_at: Mapped[datetime | None]
    """Until when the database said so; NULL is that it still does. With `created_at`: what was known when."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    source: Mapped[EntityNode] = relationship(back_populates="out_edges", foreign_keys=[source_id])
    target: Mapped[EntityNode] = relationship(back_populates="in_edges", foreign_keys=[target_id])


trigram_index(EntityNode, "name")
trigram_index(EntityNode, "key")
