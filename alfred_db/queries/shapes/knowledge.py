"""Building blocks of the statements about knowledge: partitions, conditions, and points as rows."""

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
"""Operators of the distances other than cosine, which the index does not serve."""

_AS_IT_WAS = exists().where(
    KnowledgeCollection.name == _COLLECTION,
    KnowledgeCollection.distance
    == bindparam("compared_by", type_=table_of(KnowledgeCollection).c.distance.type),
)
_STANDS_FOR_IT = exists().where(
    KnowledgeAlias.alias == bindparam("name", type_=Text), KnowledgeAlias.collection == _COLLECTION
)


def partition(collection: str, distance: KnowledgeDistance) -> Partition:
    """Return the partition of a collection and the operator that compares its points.

    The statement reads the parent table, not the partition, because privileges and row security belong to the
    parent.
    """
    return Partition(table(collection), IN_COLLECTION, {"collection": collection}, OPERATORS.get(distance))


@lru_cache(maxsize=1024)
def partition_if(name: str, collection: str, distance: KnowledgeDistance) -> Partition:
    """Return the partition of a collection, empty unless the name or alias still refers to it.

    A collection name as a parameter would make PostgreSQL plan each search anew, because a generic plan has
    to consider all partitions. So a name of harmless characters is written as a literal.
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
    """Return the partition of a collection, as a table without columns."""
    return Table(partition_name(collection), MetaData())


def chosen(ids: Sequence[KnowledgePointId] | None, where: Where | None) -> ColumnElement[bool]:
    """Return the condition that selects points by their ids or by a filter.

    Raises:
        InvalidInputError: Both or none of `ids` and `where` are passed.
    """
    if (ids is None) == (where is None):
        raise InvalidInputError("expected either ids or where; `where=Filter()` means every point")
    condition = expression(KnowledgePoint, where)
    return with_ids(() if ids is None else ids) if condition is None else condition


def with_ids(ids: Sequence[KnowledgePointId]) -> ColumnElement[bool]:
    """Return the condition that selects points by their ids."""
    ids_of(ids)
    return POINTS.c.id == literal(spellings(ids), ARRAY(Text)).any_()


def ids_of(ids: Any) -> list[str]:
    """Return ids as text.

    Raises:
        InvalidInputError: `ids` is not a sequence, or an element is not an id.
    """
    if not is_array(ids):
        raise InvalidInputError(f"ids: expected several, got {type(ids).__name__}; put it into a list")
    return [point_id(one) for one in ids]


def rows_of(points: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Return vector and payload of points by their ids; the last of several points with the same id wins.

    Raises:
        InvalidInputError: A point has another form.
    """
    rows: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    given: Sequence[Any] = points
    for number, point in enumerate(given):
        if not is_object(point) or "id" not in point or not point.keys() <= _GIVEN:
            raise InvalidInputError(f"point {number}: expected a mapping with id, vector and payload")
        rows[point_id(point["id"])] = (point.get("vector"), payload_of(point.get("payload")))
    return rows


_GIVEN = {"id", "vector", "payload"}


def payload_of(payload: Any) -> Mapping[str, Any]:
    """Return a payload as a mapping; None is an empty one. Its JSON is checked when it is sent.

    Raises:
        InvalidInputError: The payload is not a mapping.
    """
    if payload is None:
        return {}
    if not is_object(payload):
        raise InvalidInputError(f"payload: expected a mapping, got {type(payload).__name__}")
    return payload


def json_of(payload: Any) -> Mapping[str, Any]:
    """Return a payload whose JSON is checked.

    Raises:
        InvalidInputError: It holds NaN, an object that JSON cannot represent, or a NUL character.
    """
    checked = payload_of(payload)
    json_text("payload", dict(checked))
    return checked
