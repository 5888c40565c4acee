"""Entities: a graph of nodes, and of facts about them that are valid for a time."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .base import Base, CreatedAt, Json, UpdatedAt, UuidId, trigram_index, updated_by_trigger

__all__ = ["EntityEdge", "EntityNode"]


@updated_by_trigger
class EntityNode(Base):
    """A node. The reference only lists "Entity nodes and edges"; the columns are defined here.

    The names of the tables repeat `entity`, because all tables of a tenant are in one schema.
    """

    __tablename__ = "entity_node"
    __table_args__ = (
        UniqueConstraint("node_type", "key"),
        Index(None, "properties", postgresql_using="gin", postgresql_ops={"properties": "jsonb_path_ops"}),
        {"schema": "entity"},
    )

    id: Mapped[UuidId]
    """Key of the row, which edges refer to."""
    node_type: Mapped[str]
    """Kind of node, defined by the platform."""
    key: Mapped[str]
    """Key that is unique within its type; storing it again updates the same node."""
    name: Mapped[str | None]
    """Display name."""
    description: Mapped[str | None]
    """Description."""
    properties: Mapped[Json]
    """Properties, for filters; a fact that is valid only for a time is an edge."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
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

    `valid_to` marks its end; a wrong fact is superseded, not deleted. At most one such fact has no end, which
    is the one that storing it again updates. The indexes with the weight return the strongest edges of a node
    without reading the others.
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
    """The node it starts from; it is deleted with the node."""
    target_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("entity.entity_node.id", ondelete="CASCADE"))
    """The node it leads to; it is deleted with the node."""
    edge_type: Mapped[str]
    """The relation, defined by the platform."""
    weight: Mapped[float] = mapped_column(Double, server_default=text("1"))
    """Strength, on a scale of the caller."""
    properties: Mapped[Json]
    """Further properties of the fact, for filters."""
    valid_from: Mapped[CreatedAt]
    """Start of its validity in the world."""
    valid_to: Mapped[datetime | None]
    """End of its validity; NULL if it is still valid."""
    created_at: Mapped[CreatedAt]
    """Start of its validity in the database."""
    superseded_at: Mapped[datetime | None]
    """End of its validity in the database; NULL if not superseded. With `created_at`: what was known when."""
    updated_at: Mapped[UpdatedAt]
    """When the row last changed."""

    source: Mapped[EntityNode] = relationship(back_populates="out_edges", foreign_keys=[source_id])
    target: Mapped[EntityNode] = relationship(back_populates="in_edges", foreign_keys=[target_id])


trigram_index(EntityNode, "name")
trigram_index(EntityNode, "key")
