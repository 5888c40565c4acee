"""What the statements about knowledge are made of: the partition of a collection, and paths into payloads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, MetaData, Table, and_, bindparam, exists, literal, literal_column
from sqlalchemy.dialects.postgresql import ARRAY

from ...checks import json_text
from ...errors import InvalidInputError
from ...models import KnowledgeAlias, KnowledgeCollection, KnowledgeDistance, KnowledgePoint
from ...models.base import table_of
from ...models.knowledge import partition_name
from ...types import Text
from ...values.knowledge import KnowledgePointId, is_array, is_object, point_id, spellings
from .filters import Where, expression
from .vector_search import Partition

POINTS = table_of(KnowledgePoint)
_COLLECTION = bindparam("collection", type_=Text)
IN_COLLECTION: ColumnElement[bool] = POINTS.c.collection == _COLLECTION
OPERATORS = {
    KnowledgeDistance.DOT: "<#>",
    KnowledgeDistance.EUCLID: "<->",
    KnowledgeDistance.MANHATTAN: "<+>",
}
"""How points are compared where not by cosine, which is what the index does."""

_AS_IT_WAS = exists().where(
    KnowledgeCollection.name == _COLLECTION,
    KnowledgeCollection.distance
    == bindparam("compared_by", type_=table_of(KnowledgeCollection).c.distance.type),
)
_STANDS_FOR_IT = exists().where(
    KnowledgeAlias.alias == bindparam("name", type_=Text), KnowledgeAlias.collection == _COLLECTION
)


def partition(collection: str, distance: KnowledgeDistance) -> Partition:
    """Where a search finds the points of a collection, and how it compares them.

    By way of the parent, not of the partition: row security and the right to read are the parent's.
    """
    return Partition(table(collection), IN_COLLECTION, {"collection": collection}, OPERATORS.get(distance))


@lru_cache(maxsize=1024)
def partition_if(name: str, collection: str, distance: KnowledgeDistance) -> Partition:
    """The same, found empty unless the name or alias still stands for the collection as it was.

    With the name as a parameter the planner would plan each search anew: a plan that serves any collection has to
    reckon with all of them. So names that are nothing but words are written out.
    """
    found = partition(collection, distance)
    parameters = {**found.parameters, "compared_by": distance}
    written_out = re.fullmatch(r"[A-Za-z0-9_.-]+", collection)
    own = POINTS.c.collection == literal_column(f"'{collection}'", Text) if written_out else IN_COLLECTION
    conditions = [own, _AS_IT_WAS]
    if name != collection:
        conditions.append(_STANDS_FOR_IT)
        parameters["name"] = name
    return replace(found, where=and_(*conditions), parameters=parameters)


@lru_cache
def table(collection: str) -> Table:
    """The partition, by name."""
    return Table(partition_name(collection), MetaData())


def chosen(ids: Sequence[KnowledgePointId] | None, where: Where | None) -> ColumnElement[bool]:
    """The points that a call means: those of the ids, or those that match."""
    if (ids is None) == (where is None):
        raise InvalidInputError("expected either ids or where; `where=Filter()` means every point")
    condition = expression(KnowledgePoint, where)
    return with_ids(() if ids is None else ids) if condition is None else condition


def with_ids(ids: Sequence[KnowledgePointId]) -> ColumnElement[bool]:
    """The points of these ids."""
    ids_of(ids)
    return POINTS.c.id == literal(spellings(ids), ARRAY(Text)).any_()


def ids_of(ids: Any) -> list[str]:
    """The ids as text."""
    if not is_array(ids):
        raise InvalidInputError(f"ids: expected several, got {type(ids).__name__}; put it into a list")
    return [point_id(one) for one in ids]


def rows_of(points: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Vector and payload by id; of points that share an id the last one counts."""
    rows: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    given: Sequence[Any] = points
    for number, point in enumerate(given):
        if not is_object(point) or "id" not in point or not point.keys() <= _GIVEN:
            raise InvalidInputError(f"point {number}: expected a mapping with id, vector and payload")
        rows[point_id(point["id"])] = (point.get("vector"), payload_of(point.get("payload")))
    return rows


_GIVEN = {"id", "vector", "payload"}


def payload_of(payload: Any) -> Mapping[str, Any]:
    """A payload, checked to be JSON as PostgreSQL takes it only where it is sent."""
    if payload is None:
        return {}
    if not is_object(payload):
        raise InvalidInputError(f"payload: expected a mapping, got {type(payload).__name__}")
    return payload


def json_of(payload: Any) -> Mapping[str, Any]:
    """A payload that is JSON; raises InvalidInputError for NaN, for objects that JSON does not know, and for NUL."""
    checked = payload_of(payload)
    json_text("payload", dict(checked))
    return checked
