"""Statements about the entity graph: nodes, facts, and traversals."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    column,
    delete,
    false,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, array, distinct_on, insert
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate
from sqlalchemy.sql.selectable import LateralFromClause, Subquery

from ..models import EntityEdge, EntityNode
from ..models.base import table_of
from ..types import Text
from ..values.entities import EdgeDirection
from .shapes import cascades
from .shapes.driver_statement import DriverStatement, driver_statement
from .shapes.functions import func
from .shapes.literals import any_of, materialized
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
    statement = select(EntityEdge).where(or_(*(end == node_id for end in ends)), _holds(as_of, known_at))
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


def _holds(
    as_of: datetime | ColumnElement[Any] | None, known_at: datetime | None = None
) -> ColumnElement[bool]:
    time = func.statement_timestamp() if as_of is None else as_of
    known: ColumnElement[bool] = EntityEdge.superseded_at.is_(None)
    if known_at is not None:
        known = and_(
            EntityEdge.created_at <= known_at,
            or_(EntityEdge.superseded_at.is_(None), EntityEdge.superseded_at > known_at),
        )
    return and_(
        known,
        EntityEdge.valid_from <= time,
        or_(EntityEdge.valid_to.is_(None), EntityEdge.valid_to > time),
    )


# Traversals. A statement is built once for each shape, and runs with named parameters.

_REVERSED: Mapping[EdgeDirection, EdgeDirection] = {"out": "in", "in": "out", "both": "both"}


def neighbours(
    direction: EdgeDirection, *, typed: bool, dated: bool
) -> DriverStatement[uuid.UUID, str, str, str | None, str | None, dict[str, Any], int, uuid.UUID, str]:
    """Select the nodes around the node `start`, up to `depth` edges away.

    From each node only the `cap` strongest edges are followed. Each level holds a node once, so that the work
    is at most depth times nodes, also in a graph with cycles.

    Parameters of the statement: `start`, `depth`, `cap`, `limit`; `edge_types` if `typed`; `as_of` if
    `dated`.
    """
    return _neighbours(direction, typed, dated)


def subgraph(direction: EdgeDirection, *, typed: bool, dated: bool) -> Select[Any, Any, Any]:
    """Select the nodes `start`, the nodes around them, and the edges between all of these.

    A row holds a node or an edge, and whether there are more than `limit` nodes. It is one statement, so that
    everything is read from the same snapshot.

    Parameters of the statement: those of `neighbours`, with an array as `start`; `most`, the maximum number
    of edges.
    """
    return _subgraph(direction, typed, dated)


def shortest_path(direction: EdgeDirection, *, typed: bool, dated: bool) -> Select[EntityNode, EntityEdge]:
    """Select the nodes of a shortest path from `source` to `target`, each with the edge to the next node.

    The last node has no edge. Two walks meet in the middle: each visits far fewer nodes than one that goes
    all the way.

    Parameters of the statement: `source`, `target`; `ahead` and `back`, the maximum depths of both walks;
    `edge_types` if `typed`; `as_of` if `dated`.
    """
    return _shortest_path(direction, typed, dated)


def _around(given: ColumnElement[Any], direction: EdgeDirection, *, typed: bool, dated: bool) -> Subquery:
    """The nodes that the walk reaches, including the start.

    Each has its depth and the edge that led to it.
    """
    start = select(
        EntityNode.id.label("node_id"),
        literal(0, Integer).label("depth"),
        cast(null(), Uuid).label("edge_id"),
    ).where(EntityNode.id == given)
    walk = start.cte("walk", recursive=True)
    step = _step(walk, direction, typed=typed, dated=dated, capped=True)
    level = (
        select(step.c.node_id, (walk.c.depth + 1).label("depth"), step.c.edge_id)
        .select_from(walk)
        .join(step, true())
        .where(walk.c.depth < bindparam("depth", type_=Integer))
        .ext(distinct_on(step.c.node_id))
        .order_by(step.c.node_id, step.c.edge_id)
        .subquery("level")
    )
    walk = walk.union_all(select(level.c.node_id, level.c.depth, level.c.edge_id))
    return (
        select(walk.c.node_id, walk.c.depth, walk.c.edge_id)
        .ext(distinct_on(walk.c.node_id))
        .order_by(walk.c.node_id, walk.c.depth, walk.c.edge_id)
        .subquery("first")
    )


@driver_statement
def _neighbours(
    direction: EdgeDirection, typed: bool, dated: bool
) -> Select[uuid.UUID, str, str, str | None, str | None, dict[str, Any], int, uuid.UUID, str]:
    # No array as in `_subgraph`: the estimated cost of a generic plan for an array is so high that PostgreSQL would
    # plan each call anew.
    first = _around(bindparam("start", type_=Uuid), direction, typed=typed, dated=dated)
    # Columns: building model instances would take longer than finding the rows.
    node, edge = table_of(EntityNode), table_of(EntityEdge)
    return (
        select(
            node.c.id,
            node.c.node_type,
            node.c.key,
            node.c.name,
            node.c.description,
            node.c.properties,
            first.c.depth,
            edge.c.id,
            edge.c.edge_type,
        )
        .select_from(first)
        .join(node, node.c.id == first.c.node_id)
        .join(edge, edge.c.id == first.c.edge_id)
        .order_by(first.c.depth, first.c.node_id)
        .limit(bindparam("limit", type_=Integer))
    )


@lru_cache
def _subgraph(direction: EdgeDirection, typed: bool, dated: bool) -> Select[Any, Any, Any]:
    start, limit = bindparam("start", type_=_IDS), bindparam("limit", type_=Integer)
    first = _around(any_(start), direction, typed=typed, dated=dated)
    near = (
        select(first.c.node_id, first.c.depth)
        .where(first.c.depth > 0)
        .order_by(first.c.depth, first.c.node_id)
        .limit(limit + 1)
        .cte("near")
    )
    more = select(func.count() > limit).select_from(near).scalar_subquery()
    nearest = select(near.c.node_id).order_by(near.c.depth, near.c.node_id).limit(limit).scalar_subquery()
    found = select(func.array_cat(start, func.array(nearest), type_=_IDS).label("ids")).cte("found")
    ids = cast(select(found.c.ids).scalar_subquery(), _IDS)
    nodes = select(EntityNode).where(EntityNode.id == any_(ids)).subquery("nodes")
    # Only one end is compared with the array: the server searches an array linearly for each edge.
    leaving = select(EntityEdge).where(
        EntityEdge.source_id == any_(ids),
        _holds(bindparam("as_of", type_=DateTime(timezone=True)) if dated else None),
    )
    if typed:
        leaving = leaving.where(EntityEdge.edge_type == any_(bindparam("edge_types", type_=_TYPES)))
    left = materialized(leaving, "leaving")
    edges = (
        select(left)
        .where(left.c.target_id.in_(select(func.unnest(ids))))
        .order_by(left.c.weight.desc(), left.c.id.desc())
        .limit(bindparam("most", type_=Integer))
        .subquery("edges")
    )
    node, edge = aliased(EntityNode, nodes), aliased(EntityEdge, edges)
    return (
        select(node, edge, more.label("more"))
        .select_from(node)
        .join(edge, false(), full=True)
        .order_by(node.id, edge.weight.desc(), edge.id.desc())
    )


@lru_cache
def _shortest_path(direction: EdgeDirection, typed: bool, dated: bool) -> Select[EntityNode, EntityEdge]:
    ahead = _trail("ahead", "source", direction, typed=typed, dated=dated)
    back = _trail("back", "target", _REVERSED[direction], typed=typed, dated=dated)
    best = (
        select(
            func.array_cat(ahead.c.nodes, back.c.nodes, type_=_IDS).label("nodes"),
            func.array_cat(ahead.c.edges, back.c.edges, type_=_IDS).label("edges"),
        )
        .join_from(ahead, back, ahead.c.node_id == back.c.node_id)
        .order_by(ahead.c.depth + back.c.depth, ahead.c.node_id)
        .limit(1)
        .subquery("best")
    )
    way = (
        func.unnest(best.c.nodes, best.c.edges)
        .table_valued(column("node_id", Uuid), column("edge_id", Uuid), with_ordinality="place", name="way")
        .render_derived()
    )
    return (
        select(EntityNode, EntityEdge)
        .select_from(best)
        .join(way, true())
        .join(EntityNode, EntityNode.id == way.c.node_id)
        .outerjoin(EntityEdge, EntityEdge.id == way.c.edge_id)
        .order_by(way.c.place)
    )


def _trail(name: str, end: str, direction: EdgeDirection, *, typed: bool, dated: bool) -> CTE:
    """A walk that records its path.

    The path of `ahead` is in the order of the walk, that of `back` in the opposite order.
    """
    forwards = name == "ahead"
    nothing = cast(array[uuid.UUID]([]), _IDS)
    start = select(
        EntityNode.id.label("node_id"),
        literal(0, Integer).label("depth"),
        (cast(array([EntityNode.id]), _IDS) if forwards else nothing).label("nodes"),
        nothing.label("edges"),
    ).where(EntityNode.id == bindparam(end, type_=Uuid))
    walk = start.cte(name, recursive=True)
    step = _step(walk, direction, typed=typed, dated=dated, capped=False)
    if forwards:
        nodes = func.array_append(walk.c.nodes, step.c.node_id, type_=_IDS)
        edges = func.array_append(walk.c.edges, step.c.edge_id, type_=_IDS)
    else:
        nodes = func.array_cat(array([walk.c.node_id]), walk.c.nodes, type_=_IDS)
        edges = func.array_cat(array([step.c.edge_id]), walk.c.edges, type_=_IDS)
    level = (
        select(step.c.node_id, (walk.c.depth + 1).label("depth"), nodes.label("nodes"), edges.label("edges"))
        .select_from(walk)
        .join(step, true())
        .where(
            walk.c.depth < bindparam(name, type_=Integer),
            step.c.node_id != walk.c.node_id,
            ~(step.c.node_id == any_(walk.c.nodes)),
        )
        .ext(distinct_on(step.c.node_id))
        .order_by(step.c.node_id, step.c.edge_id)
        .subquery(f"{name}_level")
    )
    return walk.union_all(select(level.c.node_id, level.c.depth, level.c.nodes, level.c.edges))


def _step(
    walk: CTE, direction: EdgeDirection, *, typed: bool, dated: bool, capped: bool
) -> LateralFromClause:
    """The edges that leave a row of the walk and their other ends; if capped, only the strongest edges."""
    time = bindparam("as_of", type_=DateTime(timezone=True)) if dated else None

    def one_way(
        here: InstrumentedAttribute[uuid.UUID], there: InstrumentedAttribute[uuid.UUID]
    ) -> Select[uuid.UUID, uuid.UUID]:
        found = select(there.label("node_id"), EntityEdge.id.label("edge_id")).where(
            here == walk.c.node_id, _holds(time)
        )
        if typed:
            found = found.where(EntityEdge.edge_type == any_(bindparam("edge_types", type_=_TYPES)))
        if capped:
            found = found.order_by(EntityEdge.weight.desc(), EntityEdge.id.desc())
            found = found.limit(bindparam("cap", type_=Integer))
        return found.correlate(walk)

    out = one_way(EntityEdge.source_id, EntityEdge.target_id)
    back = one_way(EntityEdge.target_id, EntityEdge.source_id)
    if direction == "both":
        return union_all(out, back).lateral("step")
    return (out if direction == "out" else back).lateral("step")
