"""Walks through the entity graph. A statement is built once for each shape, and runs with named parameters."""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import Any, TypeVarTuple

from sqlalchemy import (
    CTE,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    column,
    false,
    literal,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, distinct_on
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.selectable import LateralFromClause, Subquery

from ..models import EntityEdge, EntityNode
from ..models.base import table_of
from ..types import Text
from ..values.entities import EdgeDirection
from .shapes.driver_statement import DriverStatement, driver_statement
from .shapes.facts import holds
from .shapes.functions import func
from .shapes.literals import materialized, number

Ts = TypeVarTuple("Ts")

REVERSED: dict[EdgeDirection, EdgeDirection] = {"out": "in", "in": "out", "both": "both"}
"""The direction of a walk from the other end."""

HUB = 1_000
"""A node with more edges than this is asked for its edge to each of some nodes, instead of for all of its edges."""

_IDS, _TYPES = ARRAY(Uuid), ARRAY(Text)


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


def steps(direction: EdgeDirection, *, typed: bool, dated: bool) -> DriverStatement[uuid.UUID, int]:
    """Select the other ends of the edges of the nodes `frontier`, each with the place of its node, from 1.

    Parameters of the statement: `frontier`; `cap`, the maximum number of rows; `edge_types` if `typed`; `as_of`
    if `dated`.
    """
    return _steps(direction, typed, dated)


def way(direction: EdgeDirection, *, typed: bool, dated: bool) -> Select[EntityNode, EntityEdge | None]:
    """Select the nodes `nodes` in their order, each with an edge to the next node; the last one has none.

    Parameters of the statement: `nodes`; `following`, the same without the first; `edge_types` if `typed`; `as_of`
    if `dated`.
    """
    return _way(direction, typed, dated)


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
    step = _step(walk, direction, typed=typed, dated=dated)
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


@driver_statement
def _steps(direction: EdgeDirection, typed: bool, dated: bool) -> Select[uuid.UUID, int]:
    frontier = (
        func.unnest(bindparam("frontier", type_=_IDS))
        .table_valued(column("node_id", Uuid), with_ordinality="place", name="frontier")
        .render_derived()
    )
    step = _step(frontier, direction, typed=typed, dated=dated)
    return (
        select(step.c.node_id, frontier.c.place)
        .select_from(frontier)
        .join(step, true())
        .limit(bindparam("cap", type_=Integer))
    )


@lru_cache
def _way(direction: EdgeDirection, typed: bool, dated: bool) -> Select[EntityNode, EntityEdge | None]:
    pairs = (
        func.unnest(bindparam("nodes", type_=_IDS), bindparam("following", type_=_IDS))
        .table_valued(column("here", Uuid), column("there", Uuid), with_ordinality="place", name="pairs")
        .render_derived()
    )
    ways = {
        "out": and_(EntityEdge.source_id == pairs.c.here, EntityEdge.target_id == pairs.c.there),
        "in": and_(EntityEdge.source_id == pairs.c.there, EntityEdge.target_id == pairs.c.here),
    }
    # One search of the unique key for each way: with OR the server reads all edges to one of the nodes.
    joined = union_all(
        *(
            _matching(select(EntityEdge).where(pair), typed=typed, dated=dated).correlate(pairs)
            for name, pair in ways.items()
            if direction in (name, "both")
        )
    )
    first = aliased(EntityEdge, joined.order_by(joined.selected_columns.id).limit(number(1)).lateral("first"))
    nodes: Any = select(EntityNode, first).select_from(pairs)
    found: Select[EntityNode, EntityEdge | None] = nodes.join(
        EntityNode, EntityNode.id == pairs.c.here
    ).outerjoin(first, true())
    return found.order_by(pairs.c.place)


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
    left = _leaving(found, typed=typed, dated=dated)
    edges = (
        select(left)
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


def _leaving(found: CTE, *, typed: bool, dated: bool) -> Subquery:
    """The edges between the nodes of the array `found.ids`.

    The edges of a node are read, and those to other nodes left out, unless it has too many: then its edge to
    each of the others is looked up.
    """
    own = select(func.unnest(found.c.ids).label("node_id")).distinct().cte("own")
    beyond = select(EntityEdge.id).where(EntityEdge.source_id == own.c.node_id).correlate(own)
    hub = beyond.offset(number(HUB)).limit(number(1)).exists()
    sizes = materialized(select(own.c.node_id, hub.label("hub")), "sizes")
    own, other = sizes, sizes.alias("other")
    edge = select(EntityEdge).where(EntityEdge.source_id == own.c.node_id).correlate(own, other)
    edge = _matching(edge, typed=typed, dated=dated)
    near = edge.limit(number(HUB + 1)).lateral("near")
    read = (
        select(near)
        .select_from(own)
        .join(near, true())
        .where(~own.c.hub, near.c.target_id.in_(select(sizes.alias("inside").c.node_id)))
    )
    # OFFSET 0 and the limit above keep the server from joining with all edges instead.
    far = edge.where(EntityEdge.target_id == other.c.node_id).offset(number(0)).lateral("far")
    looked_up = select(far).select_from(own).join(other, true()).join(far, true()).where(own.c.hub)
    return union_all(read, looked_up).subquery("leaving")


def _matching(edges: Select[*Ts], *, typed: bool, dated: bool) -> Select[*Ts]:
    """Those of the edges that hold and have one of the types."""
    edges = edges.where(holds(bindparam("as_of", type_=DateTime(timezone=True)) if dated else None))
    if typed:
        edges = edges.where(EntityEdge.edge_type == any_(bindparam("edge_types", type_=_TYPES)))
    return edges


def _step(rows: FromClause, direction: EdgeDirection, *, typed: bool, dated: bool) -> LateralFromClause:
    """The `cap` strongest edges that leave the node of a row, and their other ends."""

    def one_way(
        here: InstrumentedAttribute[uuid.UUID], there: InstrumentedAttribute[uuid.UUID]
    ) -> Select[uuid.UUID, uuid.UUID]:
        edges = select(there.label("node_id"), EntityEdge.id.label("edge_id")).where(here == rows.c.node_id)
        strongest = _matching(edges, typed=typed, dated=dated).order_by(
            EntityEdge.weight.desc(), EntityEdge.id.desc()
        )
        return strongest.limit(bindparam("cap", type_=Integer)).correlate(rows)

    out = one_way(EntityEdge.source_id, EntityEdge.target_id)
    back = one_way(EntityEdge.target_id, EntityEdge.source_id)
    if direction == "both":
        return union_all(out, back).lateral("step")
    return (out if direction == "out" else back).lateral("step")
