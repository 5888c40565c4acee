"""Statements about the entity graph: nodes, and facts."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Uuid,
    and_,
    delete,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import EntityEdge, EntityNode
from ..models.base import table_of
from ..types import Text
from ..values.entities import EdgeDirection
from .shapes import cascades
from .shapes.facts import holds
from .shapes.functions import func
from .shapes.literals import among, any_of, in_order
from .shapes.paging import page

NODES_KEY = ("node_type", "key")
FACTS_KEY = ("id",)
HISTORY_KEY = ("valid_from", "id")

_IDS, _TYPES = ARRAY(Uuid), ARRAY(Text)


def upsert_node(
    node_type: str,
    key: str,
    *,
    name: str | None,
    description: str | None,
    properties: Mapping[str, Any],
) -> ReturningInsert[EntityNode]:
    """Insert a node, or update the one with the same type and key.

    An update keeps name and description where None is passed, and merges the properties.
    """
    statement = insert(EntityNode).values(
        node_type=node_type,
        key=key,
        name=name,
        description=description,
        properties=dict(properties),
        updated_at=func.now(),
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[EntityNode.node_type, EntityNode.key],
        set_={
            "name": func.coalesce(new.name, EntityNode.name),
            "description": func.coalesce(new.description, EntityNode.description),
            "properties": EntityNode.properties.op("||")(new.properties),
            "updated_at": new.updated_at,
        },
    ).returning(EntityNode)


def get_node(node_id: uuid.UUID) -> Select[EntityNode]:
    """Select a node by its id."""
    return select(EntityNode).where(EntityNode.id == node_id)


def find_node(node_type: str, key: str) -> Select[EntityNode]:
    """Select a node by its type and key."""
    return select(EntityNode).where(EntityNode.node_type == node_type, EntityNode.key == key)


def list_nodes(
    *, node_type: str | None, properties: Mapping[str, Any], after: str | None, limit: int
) -> Select[EntityNode]:
    """Select a page of nodes, ordered by type and key.

    Args:
        node_type: A type; None for all.
        properties: Properties that a node must have with these values. The containment test uses the GIN
            index.
        after: Cursor of the previous page.
        limit: Size of the page.
    """
    statement = select(EntityNode)
    if node_type is not None:
        statement = statement.where(EntityNode.node_type == node_type)
    if properties:
        statement = statement.where(EntityNode.properties.contains(dict(properties)))
    return page(statement, [EntityNode.node_type, EntityNode.key], after=after, limit=limit)


def hold_node(node_id: uuid.UUID) -> Select[uuid.UUID]:
    """Lock a node before it is deleted.

    A transaction that inserts an edge of this node waits until this one ends.
    """
    return select(EntityNode.id).where(EntityNode.id == node_id).with_for_update()


def delete_edges(node_id: uuid.UUID, *, limit: int | None) -> ReturningDelete[uuid.UUID]:
    """Delete the edges of a node in either direction, at most `limit`."""
    own = or_(EntityEdge.source_id == node_id, EntityEdge.target_id == node_id)
    held = in_order(EntityEdge.id, own, limit=limit)
    return delete(EntityEdge).where(among(EntityEdge.id, held)).returning(EntityEdge.id)


def delete_node(node_id: uuid.UUID) -> ReturningDelete[uuid.UUID]:
    """Delete a node. Its edges are deleted by their foreign keys."""
    held = cascades.held(table_of(EntityNode), node_id)
    return delete(EntityNode).where(EntityNode.id == node_id, *held).returning(EntityNode.id)


# Facts


def upsert_edge(
    source_id: uuid.UUID,
    target_id: uuid.UUID,
    edge_type: str,
    *,
    weight: float,
    properties: Mapping[str, Any],
    valid_from: datetime | None,
    valid_to: datetime | None,
) -> ReturningInsert[EntityEdge]:
    """Insert a fact, or update the same one.

    With `valid_from`, the same fact is the one that begins at that time. Without it, it is the one that has
    no end, or else a new fact that begins now.
    """
    statement = insert(EntityEdge).values(
        source_id=source_id,
        target_id=target_id,
        edge_type=edge_type,
        weight=weight,
        properties=dict(properties),
        valid_from=func.statement_timestamp() if valid_from is None else valid_from,
        valid_to=valid_to,
        created_at=func.statement_timestamp(),
        updated_at=func.now(),
    )
    key: list[Any] = [EntityEdge.source_id, EntityEdge.target_id, EntityEdge.edge_type]
    known: ColumnElement[bool] = EntityEdge.superseded_at.is_(None)
    new = statement.excluded
    changed: dict[str, Any] = {
        "weight": new.weight,
        "properties": EntityEdge.properties.op("||")(new.properties),
        "updated_at": new.updated_at,
    }
    if valid_from is None:
        known = and_(known, EntityEdge.valid_to.is_(None))
    else:
        key.append(EntityEdge.valid_from)
        changed["valid_to"] = new.valid_to
    return statement.on_conflict_do_update(index_elements=key, index_where=known, set_=changed).returning(
        EntityEdge
    )


def get_edge(edge_id: uuid.UUID) -> Select[EntityEdge]:
    """Select a fact by its id."""
    return select(EntityEdge).where(EntityEdge.id == edge_id)


def end_edge(edge_id: uuid.UUID, at: datetime | None) -> ReturningUpdate[EntityEdge]:
    """Set the end of a fact that is not superseded; None is the time of the statement."""
    return (
        update(EntityEdge)
        .where(EntityEdge.id == edge_id, EntityEdge.superseded_at.is_(None))
        .values(valid_to=func.statement_timestamp() if at is None else at)
        .returning(EntityEdge)
    )


def supersede_edge(edge_id: uuid.UUID) -> ReturningUpdate[EntityEdge]:
    """Mark a fact as superseded, unless it is already."""
    return (
        update(EntityEdge)
        .where(EntityEdge.id == edge_id, EntityEdge.superseded_at.is_(None))
        .values(superseded_at=func.statement_timestamp())
        .returning(EntityEdge)
    )


def delete_edge(edge_id: uuid.UUID) -> ReturningDelete[uuid.UUID]:
    """Delete a fact."""
    return delete(EntityEdge).where(EntityEdge.id == edge_id).returning(EntityEdge.id)


def facts(
    node_id: uuid.UUID,
    *,
    direction: EdgeDirection,
    edge_types: Sequence[str] | None,
    as_of: datetime | None,
    known_at: datetime | None,
    after: str | None,
    limit: int,
) -> Select[EntityEdge]:
    """Select a page of the facts of a node.

    Args:
        node_id: The node.
        direction: Edges that leave the node (`out`), that lead to it (`in`), or `both`.
        edge_types: Types of edges; None for all.
        as_of: Time at which a fact must be valid; None is the time of the statement.
        known_at: Time of knowledge. Facts stored later are left out, and those superseded later are selected.
            None selects what is not superseded now.
        after: Cursor of the previous page.
        limit: Size of the page.
    """
    ends = {"out": [EntityEdge.source_id], "in": [EntityEdge.target_id]}.get(
        direction, [EntityEdge.source_id, EntityEdge.target_id]
    )
    statement = select(EntityEdge).where(or_(*(end == node_id for end in ends)), holds(as_of, known_at))
    if edge_types is not None:
        statement = statement.where(EntityEdge.edge_type == any_of(edge_types, Text()))
    return page(statement, [EntityEdge.id], after=after, limit=limit)


def history(
    source_id: uuid.UUID, target_id: uuid.UUID, edge_type: str, *, after: str | None, limit: int
) -> Select[EntityEdge]:
    """Select a page of all versions of a relation, including those that ended or were superseded."""
    statement = select(EntityEdge).where(
        EntityEdge.source_id == source_id,
        EntityEdge.target_id == target_id,
        EntityEdge.edge_type == edge_type,
    )
    return page(statement, [EntityEdge.valid_from, EntityEdge.id], after=after, limit=limit)
