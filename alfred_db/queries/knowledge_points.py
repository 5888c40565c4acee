"""Statements about the points of knowledge collections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVarTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    Interval,
    Select,
    and_,
    case,
    cast,
    collate,
    delete,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import undefer
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from ..checks import check_limit
from ..models import KnowledgePoint
from ..types import Text
from ..values.knowledge import KnowledgePointId
from ..vectors.formats import Embedding
from .shapes.filters import Where, expression
from .shapes.functions import func
from .shapes.knowledge import ALIVE, EXPIRED, IN_COLLECTION, POINTS, VECTOR, with_ids
from .shapes.literals import among, any_of, materialized, number
from .shapes.paging import page
from .shapes.payload_paths import WHOLE, elements, first_key, values
from .shapes.vector_search import Partition, columns_of, distance, has_vector

Ts = TypeVarTuple("Ts")

SCROLL_KEY = ("id",)
SCALARS = ("string", "number", "boolean")


def _of(collection: str) -> ColumnElement[bool]:
    return and_(KnowledgePoint.collection == collection, ALIVE)


def retrieve(
    collection: str, ids: Sequence[KnowledgePointId], *, with_vectors: bool
) -> Select[KnowledgePoint]:
    """Select points of a collection by their ids."""
    return _entities(collection, with_vectors).where(with_ids(ids))


def vectors(collection: str, ids: Sequence[KnowledgePointId]) -> Select[str, Embedding | None]:
    """Select ids and vectors of points of a collection."""
    return select(KnowledgePoint.id, VECTOR.label("embedding")).where(_of(collection), with_ids(ids))


def scroll(
    collection: str,
    *,
    where: Where | None,
    after: str | None,
    limit: int,
    with_vectors: bool,
    descending: bool = False,
) -> Select[KnowledgePoint]:
    """Select a page of the points of a collection that match a filter, ordered by id."""
    statement = _matching(_entities(collection, with_vectors), where)
    return page(statement, [KnowledgePoint.id], after=after, limit=limit, newest_first=descending)


def exported(
    collection: str, *, after: str, limit: int
) -> Select[str, dict[str, Any], Embedding | None, datetime | None]:
    """Select what an export contains of the points after an id, ordered by id."""
    return (
        select(
            KnowledgePoint.id, KnowledgePoint.payload, VECTOR.label("embedding"), KnowledgePoint.expires_at
        )
        .where(_of(collection), KnowledgePoint.id > after)
        .order_by(KnowledgePoint.id)
        .limit(limit)
    )


def count(collection: str, where: Where | None) -> Select[int]:
    """Count the points of a collection that match a filter."""
    return _matching(select(func.count()).select_from(KnowledgePoint).where(_of(collection)), where)


def facet(collection: str, key: str, *, where: Where | None, limit: int) -> Select[Any, int]:
    """Select the most frequent values at a path of the payload, each with the number of points that have it.

    Each element of an array counts as a value.

    Raises:
        InvalidInputError: `limit` is not between 1 and `MAX_LIMIT`.
    """
    check_limit(limit)
    # Points are grouped first by what they have under the first key, as text, so that 1 and 1.0 differ: the elements of
    # a value that many points share are then read once, instead of once for each point.
    part = cast(POINTS.c.payload.op("->", return_type=JSONB())(literal(first_key(key), Text)), Text)
    each = _matching(select(part.collate("C").label("part")).where(_of(collection)), where).subquery("each")
    parts = select(each.c.part, func.count().label("points")).group_by(each.c.part).subquery("parts")
    rows, element = elements(values(cast(parts.c.part, JSONB), key, start=1))
    own = (
        select(element.label("value"), cast(element, Text).label("text"))
        .select_from(rows)
        .distinct()  # a value counts once for each point
        .lateral("own")
    )
    value, points = own.c.value, cast(func.sum(parts.c.points), BigInteger).label("points")
    kind = func.jsonb_typeof(value)
    # The order of Qdrant, independent of the locale: by frequency, then by value.
    text = case((kind == "string", value.op("#>>", return_type=Text())(WHOLE)))
    order = (
        points.desc(),
        kind == "string",
        kind == "number",
        case((kind != "string", value)),
        text.collate("C"),
    )
    return (
        select(value, points)
        .select_from(parts)
        .join(own, true())
        .where(kind.in_(SCALARS))
        .group_by(value, own.c.text)
        .order_by(*order)
        .limit(limit)
    )


def remove(collection: str, which: ColumnElement[bool], *, limit: int | None = None) -> ReturningDelete[str]:
    """Delete points, at most `limit`."""
    held = _held(collection, which, limit=limit)
    return (
        delete(KnowledgePoint)
        .where(_of(collection), among(KnowledgePoint.id, held))
        .returning(KnowledgePoint.id)
    )


def set_payload(
    collection: str, which: ColumnElement[bool], payload: Mapping[str, Any], *, limit: int | None = None
) -> ReturningUpdate[str]:
    """Merge keys into the payload of points; a payload that would not change is not written."""
    return _change(collection, which, KnowledgePoint.payload.op("||")(literal(dict(payload), JSONB)), limit)


def overwrite_payload(
    collection: str, which: ColumnElement[bool], payload: Mapping[str, Any], *, limit: int | None = None
) -> ReturningUpdate[str]:
    """Replace the payload of points; a payload that would not change is not written."""
    return _change(collection, which, literal(dict(payload), JSONB), limit)


def delete_payload(
    collection: str, which: ColumnElement[bool], keys: Sequence[str], *, limit: int | None = None
) -> ReturningUpdate[str]:
    """Remove keys from the payload of points; a payload that would not change is not written."""
    return _change(collection, which, KnowledgePoint.payload.op("-")(literal(list(keys), ARRAY(Text))), limit)


def remove_expired(collection: str, ids: Sequence[str]) -> ReturningDelete[str]:
    """Delete those of these points that have expired."""
    held = materialized(
        select(POINTS.c.id)
        .where(POINTS.c.collection == collection, POINTS.c.id == any_of(ids, Text()), EXPIRED)
        .order_by(collate(POINTS.c.id, "C"))
        .with_for_update(),
        "held",
    )
    return (
        delete(KnowledgePoint)
        .where(KnowledgePoint.collection == collection, among(KnowledgePoint.id, held), EXPIRED)
        .returning(KnowledgePoint.id)
    )


def earliest_expired() -> Select[str]:
    """Select the collection of the point that has expired first."""
    return (
        select(KnowledgePoint.collection).where(EXPIRED).order_by(KnowledgePoint.expires_at).limit(number(1))
    )


def sweep(collection: str, limit: int) -> ReturningDelete[str]:
    """Delete expired points of a collection, the earliest expired first; locked rows are skipped."""
    own = KnowledgePoint.collection == collection
    due = select(KnowledgePoint.id).where(own, EXPIRED).order_by(KnowledgePoint.expires_at).limit(limit)
    gone = due.with_for_update(skip_locked=True).cte("gone")
    return delete(KnowledgePoint).where(own, among(KnowledgePoint.id, gone)).returning(KnowledgePoint.id)


def purgeable() -> Select[int]:
    """Count the expired points."""
    return select(func.count()).select_from(KnowledgePoint).where(EXPIRED)


def expiry(ttl: timedelta) -> Select[datetime]:
    """Select when something expires that lasts so long from now on."""
    return select(func.statement_timestamp(type_=DateTime(timezone=True)) + literal(ttl, Interval))


def best_of_groups(
    key: str,
    partition: Partition,
    *,
    where: Where | None,
    groups: int,
    size: int,
    among: Sequence[Any] | None,
    max_distance: float | None,
) -> Select[Any]:
    """Select the nearest points of each of the nearest groups, by comparing all points.

    Args:
        key: Path in the payload whose values are the groups.
        partition: The collection.
        where: Filter of the points.
        groups: Maximum number of groups.
        size: Maximum number of points of a group.
        among: The only values that are groups; None for all.
        max_distance: Maximum distance of a point.
    """
    found = distance(KnowledgePoint, partition.operator, partition.stored).label("distance")
    rows, each = elements(values(POINTS.c.payload, key))
    # A point is in a group once, even if its array has the value several times.
    several = select(each.label("value")).select_from(rows).where(func.jsonb_typeof(each).in_(SCALARS))
    members = several.distinct().lateral()
    value = members.c.value
    statement = select(
        *columns_of(KnowledgePoint),
        found,
        func.row_number().over(partition_by=value, order_by=found).label("place"),
        func.min(found).over(partition_by=value).label("best"),
        value.label("value"),
    )
    statement = statement.join(members, true()).where(
        IN_COLLECTION, has_vector(KnowledgePoint, partition.stored)
    )
    if among is not None:
        statement = statement.where(value.in_([literal(known, JSONB) for known in among]))
    ranked = materialized(_matching(statement, where), "ranked")
    placed = select(
        ranked, func.dense_rank().over(order_by=(ranked.c.best, ranked.c.value)).label("group_place")
    ).subquery("placed")
    nearest = (
        select(placed)
        .where(placed.c.place <= size, placed.c.group_place <= groups)
        .order_by(placed.c.group_place, placed.c.place)
    )
    return nearest if max_distance is None else nearest.where(placed.c.distance <= max_distance)


def _entities(collection: str, with_vectors: bool) -> Select[KnowledgePoint]:
    statement = select(KnowledgePoint).where(_of(collection))
    vectors = (undefer(KnowledgePoint.embedding), undefer(KnowledgePoint.other_embedding))
    return statement.options(*vectors) if with_vectors else statement


def _matching(statement: Select[*Ts], where: Where | None) -> Select[*Ts]:
    condition = expression(KnowledgePoint, where)
    return statement if condition is None else statement.where(condition)


def _change(
    collection: str, which: ColumnElement[bool], payload: ColumnElement[Any], limit: int | None
) -> ReturningUpdate[str]:
    changing = and_(which, KnowledgePoint.payload.is_distinct_from(payload))
    held = _held(collection, changing, key_share=True, limit=limit)
    return (
        update(KnowledgePoint)
        .where(_of(collection), among(KnowledgePoint.id, held))
        .values(payload=payload)
        .returning(KnowledgePoint.id)
    )


def _held(collection: str, which: ColumnElement[bool], *, key_share: bool = False, limit: int | None) -> CTE:
    """Select the points, at most `limit`, and lock them in the order of their ids.

    Two calls for the same points wait for each other instead of deadlocking.
    """
    chosen = [_of(collection), which]
    if limit is not None:
        some = select(KnowledgePoint.id).where(*chosen).limit(number(limit))
        chosen.append(among(KnowledgePoint.id, materialized(some, "some")))
    return materialized(
        select(KnowledgePoint.id)
        .where(*chosen)
        .order_by(collate(KnowledgePoint.id, "C"))
        .with_for_update(key_share=key_share),
        "held",
    )
