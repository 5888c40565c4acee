"""Statements of vector searches: nearest neighbours.

A candidate query reads one table, orders by the exact expression of the index, and has a literal LIMIT: the
planner needs this to use the index, also for a prepared statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Float,
    FromClause,
    Index,
    Integer,
    Select,
    Table,
    bindparam,
    cast,
    column,
    inspect,
    literal,
    literal_column,
    or_,
    select,
    table,
    true,
    values,
)
from sqlalchemy.dialects.postgresql import ARRAY, OID, TSVECTOR
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.util import ClauseAdapter

from ...checks import check_limit
from ...models import Base
from ...models.base import table_of
from ...vectors.distances import OPERATORS
from ...vectors.formats import MatrixLike
from ...vectors.types import VectorType
from .driver_statement import driver_statement
from .functions import func
from .literals import materialized, number, percentage

AnySelect: TypeAlias = Select[*tuple[Any, ...]]
"""A SELECT whose columns depend on the model."""


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The vector index of a model, as its table declares it.

    Searches, tests of plans and the commands for vector indexes all use this description.
    """

    name: str
    index: Index
    """The index of the model."""
    column: Column[Any]
    """The indexed column; rows that are NULL there are not in the index."""
    expression: ColumnElement[Any]
    """The indexed expression, which a search must repeat.

    It is the column, or a copy of it such as one in half precision.
    """
    operator: str
    """The distance operator."""
    m: int
    ef_construction: int


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """The vectors of a partition that are not in the indexed column of the model. Compared by identity: keep it."""

    expression: ColumnElement[Any]
    """The indexed expression, which a search must repeat; its type has the dimensions."""
    indexed: bool
    """Whether there is an index on it."""

    @property
    def dimensions(self) -> int:
        """The number of dimensions."""
        type_ = self.expression.type
        assert isinstance(type_, VectorType)
        assert type_.dim
        return type_.dim


@dataclass(frozen=True, slots=True)
class Partition:
    """The only partition of the table of a model that a search reads; its statistics decide the plan."""

    table: Table
    """The partition."""
    where: ColumnElement[bool]
    """The condition that makes the planner prune the others; all rows of the partition match it that can be found."""
    parameters: Mapping[str, Any]
    """The parameters of `where`."""
    operator: str | None = None
    """The distance operator if it is not that of the model's index; the partition then has an index for it."""
    stored: Stored | None = None
    """Its vectors, if they are not in the indexed column of the model."""
    hidden: Select[bool] | None = None
    """Selects whether its index has rows that cannot be found; none are where this is None."""


@lru_cache
def vector_index(model: type[Base]) -> VectorIndex:
    """Return the only vector index of a model that covers all rows.

    An index of half-precision copies takes half the memory; declare it after the model:

        Index("idx", cast(Model.embedding, HalfVector(384)).label("half"), postgresql_using="hnsw",
            postgresql_ops={"half": "halfvec_cosine_ops"})

    Raises:
        LookupError: The model has no such index, or several.
    """
    found = [
        index
        for index in table_of(model).indexes
        if index.dialect_options["postgresql"]["using"] == "hnsw"
        and index.dialect_options["postgresql"]["where"] is None
    ]
    if len(found) != 1:
        raise LookupError(
            f"{model.__name__} has {len(found) or 'no'} vector indexes of all rows; one is needed"
        )
    (index,) = found
    options = index.dialect_options["postgresql"]
    indexed: Any = index.expressions[0]
    column: Column[Any] = index.columns[0]
    ops: str = options["ops"][indexed.name]
    return VectorIndex(
        str(index.name),
        index,
        column,
        column if indexed is column else indexed.element,
        OPERATORS[ops.split("_")[1]],
        int(options["with"].get("m", 16)),
        int(options["with"].get("ef_construction", 64)),
    )


def dimensions(model: type[Base]) -> int:
    """Return the number of dimensions of the indexed vectors of a model."""
    type_ = vector_index(model).expression.type
    assert isinstance(type_, VectorType)
    assert type_.dim
    return type_.dim


def has_vector(model: type[Base], stored: Stored | None = None) -> ColumnElement[bool]:
    """Return the condition that a row has a vector.

    The index does not hold rows without one, but a scan of the table would return them.
    """
    return (vector_index(model).column if stored is None else stored.expression).is_not(None)


@lru_cache
def columns_of(model: type[Base]) -> tuple[ColumnElement[Any], ...]:
    """Return the columns of a hit, labelled by attribute, without vectors and what serves the search by words."""
    mapper: Mapper[Any] = inspect(model)
    return tuple(
        attribute.columns[0].label(attribute.key)
        for attribute in mapper.column_attrs
        if not (attribute.deferred or isinstance(attribute.columns[0].type, VectorType | TSVECTOR))
    )


@lru_cache
def key_of(model: type[Base]) -> ColumnElement[Any]:
    """Return the primary key, which must be one column, labelled by its attribute."""
    (key,) = inspect(model).primary_key
    return key.label(inspect(model).get_property_by_column(key).key)


def rows_of(model: type[Base], ids: Sequence[Any], where: ColumnElement[bool] | None) -> AnySelect:
    """Select the columns of hits for those of these ids that match, in no order."""
    (key,) = inspect(model).primary_key
    statement = select(*columns_of(model)).where(key == literal(list(ids), ARRAY(key.type)).any_())
    return statement if where is None else statement.where(where)


def extension(name: str) -> Select[bool]:
    """Select whether an extension is installed."""
    return select(select(_extension.c.extname).where(_extension.c.extname == name).exists())


@lru_cache
def distance(
    model: type[Base], operator: str | None = None, stored: Stored | None = None
) -> ColumnElement[float]:
    """Return the distance to the parameter `embedding`.

    Without an `operator` and `stored` it is the expression that the index of the model serves.
    """
    index = vector_index(model)
    expression = index.expression if stored is None else stored.expression
    parameter = bindparam("embedding", type_=expression.type)
    return expression.op(operator or index.operator, return_type=Float())(parameter)


@driver_statement
def nearest(
    model: type[Base],
    limit: int,
    partition: ColumnElement[bool] | None = None,
    operator: str | None = None,
    stored: Stored | None = None,
) -> AnySelect:
    """Select the nearest rows with the index of the model, or with that of a partition.

    Run it with the parameter `embedding` and those of the partition.
    """
    found = distance(model, operator, stored).label("distance")
    statement = select(*columns_of(model), found).where(has_vector(model, stored))
    statement = statement.order_by(found).limit(literal_limit(limit))
    return statement if partition is None else statement.where(partition)


def nearest_within(
    model: type[Base],
    limit: int,
    where: ColumnElement[bool] | None,
    *,
    max_distance: float | None,
    exact: bool,
    partition: Partition | None = None,
    only_keys: bool = False,
) -> AnySelect:
    """Select the nearest rows that match, exactly or by an iterative scan of the index.

    The planner must not rearrange the inner query. In an exact search an OFFSET keeps it from using the
    index, and the rows are streamed to a top-N sort. In an approximate search it is materialised and sorted
    again, because an iterative scan returns rows only roughly in order.

    Args:
        model: The searched model.
        limit: Maximum number of rows.
        where: Condition of the rows; None for all.
        max_distance: Maximum distance of a row of an exact search. Rows of the index are compared with it by the
            caller, who sees whether the index returned all that were wanted.
        exact: True compares all rows that match; False reads the index until enough rows match.
        partition: The only partition to read.
        only_keys: Whether only primary key and distance are selected.
    """
    columns = (key_of(model),) if only_keys else columns_of(model)
    operator, stored = (None, None) if partition is None else (partition.operator, partition.stored)
    found = distance(model, operator, stored).label("distance")
    inner = select(*columns, found).where(has_vector(model, stored))
    if partition is not None:
        inner = inner.where(partition.where)
    if where is not None:
        inner = inner.where(where)
    candidates: FromClause
    if exact:
        candidates = inner.offset(literal_column("0")).subquery("candidates")
    else:
        nearest = inner.order_by(found).limit(literal_limit(limit))
        candidates = materialized(nearest, "candidates")
    statement = select(candidates)
    if max_distance is not None and exact:
        statement = statement.where(candidates.c.distance <= max_distance)
    # "+ 0": from PostgreSQL 17 on the planner would otherwise rely on the order of the scan and omit the sort.
    return statement.order_by(candidates.c.distance + literal_column("0::float8")).limit(literal_limit(limit))


def nearest_each(
    model: type[Base],
    embeddings: MatrixLike,
    limit: int,
    where: ColumnElement[bool] | None,
    partition: Partition | None = None,
) -> AnySelect:
    """Select the nearest rows of each of several vectors in one statement.

    The column `query` is the index of the vector, from 0.
    """
    index, stored = vector_index(model), None if partition is None else partition.stored
    expression = index.expression if stored is None else stored.expression
    given = values(column("query", Integer), column("embedding", expression.type), name="queries").data(
        list(enumerate(embeddings))
    )
    operator = (None if partition is None else partition.operator) or index.operator
    found = expression.op(operator, return_type=Float())(given.c.embedding).label("distance")
    inner = select(*columns_of(model), found).where(has_vector(model, stored))
    inner = inner.order_by(found).limit(literal_limit(limit))
    if partition is not None:
        inner = inner.where(partition.where)
    if where is not None:
        inner = inner.where(where)
    hits = inner.lateral("hits")
    found_each: AnySelect = select(given.c.query, hits).join(hits, true())
    return found_each.order_by(given.c.query, hits.c.distance)


def sample(
    model: type[Base],
    where: ColumnElement[bool],
    percent: float,
    partition: ColumnElement[bool] | None = None,
) -> Select[int, int]:
    """Count the sampled rows, and those of them that match.

    Whole pages are sampled, about `percent` of the table.
    """
    sampled = table_of(model).tablesample(func.system(percentage(percent)), name="sampled")
    moved = ClauseAdapter(sampled)
    statement = select(func.count(), func.count().filter(moved.traverse(where))).select_from(sampled)
    return statement if partition is None else statement.where(moved.traverse(partition))


def table_size(name: str) -> Select[float, int]:
    """Select rows and pages of a table with its partitions, as counted by the last ANALYZE or VACUUM."""
    oid = cast(func.to_regclass(name), OID)
    partitions = select(_inherits.c.inhrelid).where(_inherits.c.inhparent == oid)
    return select(
        func.coalesce(func.sum(func.greatest(_class.c.reltuples, 0)), 0.0, type_=Double()),
        func.coalesce(func.sum(_class.c.relpages), 0, type_=BigInteger()),
    ).where(_class.c.relkind == literal_column("'r'"), or_(_class.c.oid == oid, _class.c.oid.in_(partitions)))


_extension = table("pg_extension", column("extname"), schema="pg_catalog")
_class = table("pg_class", *map(column, ("oid", "relkind", "reltuples", "relpages")), schema="pg_catalog")
_inherits = table("pg_inherits", column("inhrelid"), column("inhparent"), schema="pg_catalog")


def literal_limit(limit: int) -> ColumnElement[int]:
    """The limit as text of the statement: with a parameter there a prepared statement may lose its index."""
    check_limit(limit)
    return number(limit)
