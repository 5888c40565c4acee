"""Statements about embedding spaces: their catalog, their partitions, and the vectors in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Insert,
    Select,
    TextClause,
    and_,
    column,
    delete,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import (
    EmbeddingSpace,
    EmbeddingSpaceDefault,
    SpaceKind,
    SpaceState,
)
from ..models.base import table_of
from ..types import Text
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import any_of
from .shapes.memories import alive
from .shapes.spaces import (
    KINDS,
    Space,
    column_name,
    column_of,
    content_hash,
    in_space,
    index_definition,
    stored_type,
    vector_columns,
    vectors_of,
)
from .shapes.vector_search import AnySelect, literal_limit

_spaces, _defaults = table_of(EmbeddingSpace), table_of(EmbeddingSpaceDefault)


@driver_statement
def catalog() -> AnySelect:
    """Select all spaces, and whether each is the default of its kind."""
    statement: AnySelect = select(
        _spaces.c.id,
        _spaces.c.name,
        _spaces.c.kind,
        _spaces.c.model,
        _spaces.c.dimensions,
        _spaces.c.storage,
        _spaces.c.index,
        _spaces.c.state,
        _defaults.c.kind.is_not(None).label("is_default"),
    ).outerjoin(_defaults, _defaults.c.space_id == _spaces.c.id)
    return statement.order_by(_spaces.c.id)


def find(name: str, kind: SpaceKind | None) -> Select[EmbeddingSpace]:
    """Select the spaces with this name, of a kind or of all."""
    statement = select(EmbeddingSpace).where(EmbeddingSpace.name == name).order_by(EmbeddingSpace.id)
    return statement if kind is None else statement.where(EmbeddingSpace.kind == kind)


def list_(kind: SpaceKind | None) -> Select[EmbeddingSpace]:
    """Select all spaces, or those of a kind, in the order of their creation."""
    statement = select(EmbeddingSpace).order_by(EmbeddingSpace.id)
    return statement if kind is None else statement.where(EmbeddingSpace.kind == kind)


def hold(space_id: int) -> Select[SpaceState]:
    """Select the state of a space, which cannot be dropped until the transaction ends."""
    statement = select(EmbeddingSpace.state).where(EmbeddingSpace.id == space_id)
    return statement.with_for_update(read=True, key_share=True)


def lock(space_id: int) -> Select[int]:
    """Lock a space exclusively; waits for the transactions that write its vectors."""
    return select(EmbeddingSpace.id).where(EmbeddingSpace.id == space_id).with_for_update()


def create(values_: Mapping[str, Any]) -> ReturningInsert[EmbeddingSpace]:
    """Insert a space, unless one with this name exists."""
    return insert(EmbeddingSpace).values(**values_).on_conflict_do_nothing().returning(EmbeddingSpace)


def change(space_id: int, values_: Mapping[str, Any]) -> ReturningUpdate[EmbeddingSpace]:
    """Update columns of a space."""
    return (
        update(EmbeddingSpace)
        .where(EmbeddingSpace.id == space_id)
        .values(**values_)
        .returning(EmbeddingSpace)
    )


def remove(space_id: int) -> ReturningDelete[int]:
    """Delete a space."""
    return delete(EmbeddingSpace).where(EmbeddingSpace.id == space_id).returning(EmbeddingSpace.id)


def default(kind: SpaceKind) -> Select[EmbeddingSpace]:
    """Select the default space of a kind; no row means `builtin`."""
    return (
        select(EmbeddingSpace)
        .join(EmbeddingSpaceDefault, EmbeddingSpaceDefault.space_id == EmbeddingSpace.id)
        .where(EmbeddingSpaceDefault.kind == kind)
    )


def set_default(kind: SpaceKind, space_id: int) -> ReturningInsert[int]:
    """Make a space the default of its kind."""
    statement = insert(EmbeddingSpaceDefault).values(kind=kind, space_id=space_id, updated_at=func.now())
    return statement.on_conflict_do_update(
        index_elements=[EmbeddingSpaceDefault.kind],
        set_={"space_id": statement.excluded.space_id, "updated_at": statement.excluded.updated_at},
    ).returning(EmbeddingSpaceDefault.space_id)


# DDL takes no parameters: names, storage and dimensions are those of the catalog.


def create_partition(parent: str, partition: str, space: Space) -> list[TextClause]:
    """Create the partition of a space with its CHECK, and attach it."""
    stored = column_name(space.storage)
    check = f"{stored} IS NOT NULL AND vector_dims({stored}) = {space.dimensions:d}"
    return [
        text(
            f"CREATE TABLE {partition} (LIKE {parent} INCLUDING ALL, CONSTRAINT dimensions CHECK ({check}))"
        ),
        text(f"ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES IN ({space.id:d})"),
    ]


def create_index(partition: str, name: str, space: Space, *, concurrently: bool = False) -> TextClause | None:
    """Create the index of a space with this name; None if it has none."""
    if (indexed := index_definition(space)) is None:
        return None
    how = "INDEX CONCURRENTLY" if concurrently else "INDEX IF NOT EXISTS"
    return text(f"CREATE {how} {name} ON {partition} {indexed}")


def drop_partition(partition: str) -> TextClause:
    """Drop the partition of a space."""
    return text(f"DROP TABLE {partition}")


def exclude_writers(table: str) -> TextClause:
    """Lock the table of the rows against writers; reads continue."""
    return text(f"LOCK TABLE {table} IN SHARE MODE")


# Vectors


def held(kind: SpaceKind, ids: Sequence[Any]) -> Select[Any, bytes]:
    """Select the rows with these keys and the hashes of their contents, and lock them in the order of their keys.

    Two calls with the same rows wait for each other instead of deadlocking, and no content changes meanwhile.
    """
    rows = table_of(KINDS[kind][0])
    return (
        select(rows.c.id, content_hash(KINDS[kind][0]).label("hash"))
        .where(rows.c.id == any_of(ids, rows.c.id.type))
        .order_by(rows.c.id)
        .with_for_update(key_share=True)
    )


def clear(space: Space, ids: Sequence[Any]) -> Delete:
    """Delete the vectors of rows in a space."""
    vectors = vectors_of(space.kind)
    return delete(vectors).where(in_space(space), vectors.c.row_id == any_of(ids, vectors.c.row_id.type))


def clear_everywhere(kind: SpaceKind, ids: Sequence[Any]) -> Delete:
    """Delete the vectors of rows in all spaces of a kind."""
    vectors = vectors_of(kind)
    return delete(vectors).where(vectors.c.row_id == any_of(ids, vectors.c.row_id.type))


def store(space: Space, rows: Sequence[Sequence[Any]]) -> Insert:
    """Insert a few vectors; each row has the values of `vector_columns`."""
    columns = vector_columns(space)
    types = [stored_type(space) if one is columns[-1] else one.type for one in columns]
    given: list[dict[str, Any]] = [
        {one.name: literal(value, type_) for one, type_, value in zip(columns, types, row, strict=True)}
        for row in rows
    ]
    return insert(vectors_of(space.kind)).values(given)


def store_builtin(
    kind: SpaceKind, rows: Sequence[tuple[Any, Any]], model: str | None
) -> ReturningUpdate[Any]:
    """Set the vectors in the column of rows, each with its key; the caller has locked the rows."""
    table = table_of(KINDS[kind][0])
    given = values(
        column("id", table.c.id.type), column("vector", table.c.embedding.type), name="given"
    ).data(list(rows))
    return (
        update(table)
        .where(table.c.id == given.c.id)
        .values(embedding=given.c.vector, embedding_model=literal(model, Text))
        .returning(table.c.id)
    )


def _joined(
    space: Space | SpaceKind, *selected: Any
) -> tuple[Select[*tuple[Any, ...]], ColumnElement[bool], ColumnElement[bool]]:
    """Select of the rows that can be embedded; and the conditions that a vector is missing, or stale."""
    kind = space.kind if isinstance(space, Space) else space
    model: Any = KINDS[kind][0]
    rows, current = table_of(model), content_hash(model)
    statement: Any = select(*selected).select_from(rows).where(rows.c.content.is_not(None))
    if "expires_at" in rows.c:
        statement = statement.where(alive(model))
    if not isinstance(space, Space):
        return statement, rows.c.embedding.is_(None), literal_column("false")
    vectors = vectors_of(kind)
    statement = statement.outerjoin(
        vectors, and_(in_space(space), vectors.c.row_id == rows.c.id, vectors.c.chunk == literal_column("0"))
    )
    missing = vectors.c.row_id.is_(None)
    return (
        statement,
        missing,
        and_(vectors.c.row_id.is_not(None), vectors.c.source_hash.is_distinct_from(current)),
    )


def pending(space: Space | SpaceKind, *, after: Any, limit: int) -> Select[*tuple[Any, ...]]:
    """Select rows without a vector in a space, or with one of another content, in the order of their keys.

    A kind instead of a space means `builtin`, whose vectors have no hash.
    """
    model = KINDS[space.kind if isinstance(space, Space) else space][0]
    rows = table_of(model)
    statement, missing, stale = _joined(space, rows.c.id, rows.c.content, content_hash(model).label("hash"))
    statement = statement.where(or_(missing, stale)).order_by(rows.c.id).limit(literal_limit(limit))
    return statement if after is None else statement.where(rows.c.id > literal(after, rows.c.id.type))


def coverage(space: Space | SpaceKind) -> Select[int, int, int]:
    """Count the rows that can be embedded, those without a vector, and those with one of another content."""
    _, missing, stale = _joined(space)
    counts = (func.count(), func.count().filter(missing), func.count().filter(stale))
    statement: Any = _joined(space, *counts)[0]
    found: Select[int, int, int] = statement
    return found


def count(space: Space) -> Select[int]:
    """Count the vectors of a space."""
    return select(func.count()).select_from(vectors_of(space.kind)).where(in_space(space))


def count_builtin(kind: SpaceKind) -> Select[int]:
    """Count the vectors in the column of the rows of a kind."""
    rows = table_of(KINDS[kind][0])
    return select(func.count()).select_from(rows).where(rows.c.embedding.is_not(None))


def some_vectors(space: Space, samples: int) -> Select[Any]:
    """Select vectors of a space in a random but repeatable order."""
    vectors, stored = vectors_of(space.kind), column_of(space)
    shuffled = func.hashtextextended(func.concat_ws("/", vectors.c.row_id, vectors.c.chunk), 0)
    return select(stored).where(in_space(space)).order_by(shuffled, vectors.c.row_id).limit(samples)


def models_in_column(kind: SpaceKind) -> Select[str | None, int]:
    """Count the vectors in the column of the rows of a kind, by their model."""
    rows = table_of(KINDS[kind][0])
    found: Any = select(rows.c.embedding_model, func.count()).where(rows.c.embedding.is_not(None))
    counted: Select[str | None, int] = found.group_by(rows.c.embedding_model).order_by(rows.c.embedding_model)
    return counted
