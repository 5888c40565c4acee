"""Building blocks of the statements about knowledge: partitions, conditions, and points as rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Table,
    and_,
    bindparam,
    cast,
    exists,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from ...checks import json_text
from ...errors import InvalidInputError
from ...models import KnowledgeAlias, KnowledgeCollection, KnowledgeDistance, KnowledgePoint
from ...models.base import table_of
from ...models.knowledge import DIMENSIONS, partition_name
from ...types import Text
from ...values.knowledge import KnowledgePointId, is_array, is_object, point_id, spellings
from ...vectors.types import HalfVector, Vector
from .filters import Where, expression
from .functions import func
from .vector_search import Partition, Stored

POINTS = table_of(KnowledgePoint)
_COLLECTION = bindparam("collection", type_=Text)
ALIVE = or_(POINTS.c.expires_at.is_(None), POINTS.c.expires_at > func.statement_timestamp())
"""The condition that a point has not expired."""

EXPIRED = POINTS.c.expires_at <= func.statement_timestamp()
"""The condition that it has, in the form that the index on `expires_at` serves."""

IN_COLLECTION: ColumnElement[bool] = and_(POINTS.c.collection == _COLLECTION, ALIVE)
_HIDDEN = select(exists().where(POINTS.c.collection == _COLLECTION, EXPIRED))
OPERATORS = {
    KnowledgeDistance.DOT: "<#>",
    KnowledgeDistance.EUCLID: "<->",
    KnowledgeDistance.MANHATTAN: "<+>",
}
"""Operators of the distances other than cosine, which the index of the partition serves."""

_OPERATOR_CLASSES = {
    KnowledgeDistance.COSINE: "cosine",
    KnowledgeDistance.DOT: "ip",
    KnowledgeDistance.EUCLID: "l2",
    KnowledgeDistance.MANHATTAN: "l1",
}

MOST_INDEXED, MOST_INDEXED_IN_HALF = 2_000, 4_000
"""The dimensions up to which pgvector has an index of the distances, and of those in half precision."""

VECTOR = func.coalesce(POINTS.c.embedding, POINTS.c.other_embedding, type_=Vector())
"""The vector of a point, whatever its length."""

_AS_IT_WAS = exists().where(
    KnowledgeCollection.name == _COLLECTION,
    KnowledgeCollection.distance
    == bindparam("compared_by", type_=table_of(KnowledgeCollection).c.distance.type),
    KnowledgeCollection.dimensions == bindparam("dimensions", type_=Integer),
)
_STANDS_FOR_IT = exists().where(
    KnowledgeAlias.alias == bindparam("name", type_=Text), KnowledgeAlias.collection == _COLLECTION
)


def partition(collection: str, distance: KnowledgeDistance, dimensions: int = DIMENSIONS) -> Partition:
    """Return the partition of a collection, and how its points are compared.

    The statement reads the parent table, not the partition, because privileges and row security belong to the
    parent.
    """
    return Partition(
        table(collection),
        IN_COLLECTION,
        {"collection": collection},
        OPERATORS.get(distance),
        stored(dimensions),
        _HIDDEN,
    )


@lru_cache(maxsize=1024)
def stored(dimensions: int) -> Stored | None:
    """Return how vectors of a length are compared; None for those in the column of the model's index."""
    if dimensions == DIMENSIONS:
        return None
    half = MOST_INDEXED < dimensions <= MOST_INDEXED_IN_HALF
    type_ = (HalfVector if half else Vector)(dimensions).named("knowledge_points.embedding")
    return Stored(cast(POINTS.c.other_embedding, type_), dimensions <= MOST_INDEXED_IN_HALF)


def index_definition(distance: KnowledgeDistance, dimensions: int) -> str | None:
    """Return the definition of a partition's own index, as it follows ON the table; None if it needs none."""
    compared = _OPERATOR_CLASSES[distance]
    if dimensions > MOST_INDEXED_IN_HALF or (
        dimensions == DIMENSIONS and distance is KnowledgeDistance.COSINE
    ):
        return None
    kind = "vector" if dimensions <= MOST_INDEXED else "halfvec"
    indexed = (
        "embedding" if dimensions == DIMENSIONS else f"(CAST(other_embedding AS {kind}({dimensions:d})))"
    )
    return f"USING hnsw ({indexed} {kind}_{compared}_ops) WITH (m = 16, ef_construction = 64)"


def dimensions_of(partition: Partition) -> int:
    """Return the length of the vectors of a partition."""
    return DIMENSIONS if partition.stored is None else partition.stored.dimensions


def of_length(dimensions: int) -> str | None:
    """Return the CHECK of a partition for vectors of this length; None if the column's type is enough."""
    if dimensions == DIMENSIONS:
        return None
    return f"embedding IS NULL AND vector_dims(other_embedding) = {dimensions:d}"


@lru_cache(maxsize=1024)
def vector_column(dimensions: int) -> Column[Any]:
    """Return the column with the vectors of a length, as one whose type checks them."""
    if dimensions == DIMENSIONS:
        found: Column[Any] = POINTS.c.embedding
        return found
    type_ = Vector(dimensions).named("knowledge_points.embedding")
    return Table(POINTS.name, MetaData(), Column("other_embedding", type_)).c.other_embedding


@lru_cache(maxsize=1024)
def partition_if(name: str, collection: str, distance: KnowledgeDistance, dimensions: int) -> Partition:
    """Return the partition of a collection, empty unless the name or alias still refers to it.

    A collection name as a parameter would make PostgreSQL plan each search anew, because a generic plan has
    to consider all partitions. So a name of harmless characters is written as a literal.
    """
    found = partition(collection, distance, dimensions)
    parameters = {**found.parameters, "compared_by": distance, "dimensions": dimensions}
    written_out = re.fullmatch(r"[A-Za-z0-9_.-]+", collection)
    own = POINTS.c.collection == literal_column(f"'{collection}'", Text) if written_out else IN_COLLECTION
    conditions = [own, ALIVE, _AS_IT_WAS]
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
