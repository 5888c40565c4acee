"""Embedding spaces as searches and writes use them: the statements that read their vectors.

The vectors of a space are in a partition of the table of their kind. A search first reads the candidates from it,
ordered by the exact expression of its index, and then their rows. A filter is on the rows: it is a subquery of the
scan, which an OFFSET keeps from becoming a join, because a join would not read the vectors in the order of the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Computed,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    bindparam,
    cast,
    column,
    literal,
    literal_column,
    select,
    true,
    values,
)

from ...checks import check_limit
from ...errors import InvalidInputError
from ...models import (
    Base,
    Document,
    DocumentEmbedding,
    Memory,
    MemoryEmbedding,
    MemoryEntry,
    MemoryEntryEmbedding,
    SpaceIndex,
    SpaceKind,
    SpaceState,
    SpaceStorage,
    WorkingMemory,
    WorkingMemoryEmbedding,
)
from ...models.base import table_of
from ...types import Text
from ...vectors.formats import MAX_DIMENSIONS, MatrixLike
from ...vectors.types import Bit, HalfVector, Vector
from .driver_statement import driver_statement
from .functions import func
from .literals import number
from .vector_search import AnySelect, columns_of, key_of, literal_limit

RERANKED = 8
"""The number of candidates for each hit in an index of bits, unless the caller sets the size of the candidate list."""

MOST_RERANKED = 1000
"""The number of candidates that are ranked again at most: the greatest candidate list of an index."""

MOST_INDEXED = {
    (SpaceIndex.HNSW, SpaceStorage.VECTOR): 2_000,
    (SpaceIndex.HNSW, SpaceStorage.HALFVEC): 4_000,
    (SpaceIndex.HNSW_HALFVEC, SpaceStorage.VECTOR): 4_000,
    (SpaceIndex.HNSW_HALFVEC, SpaceStorage.HALFVEC): 4_000,
}
"""The dimensions up to which pgvector has an index; others take all that a vector can have."""

KINDS: dict[SpaceKind, tuple[type[Base], type[Base]]] = {
    SpaceKind.DOCUMENTS: (Document, DocumentEmbedding),
    SpaceKind.MEMORIES: (Memory, MemoryEmbedding),
    SpaceKind.MEMORY_ENTRIES: (MemoryEntry, MemoryEntryEmbedding),
    SpaceKind.WORKING_MEMORY: (WorkingMemory, WorkingMemoryEmbedding),
}
"""The models of the rows and of their vectors, by kind."""

KIND_OF = {model: kind for kind, (model, _) in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Space:
    """A space other than `builtin`."""

    id: int
    name: str
    kind: SpaceKind
    model: str | None
    dimensions: int
    storage: SpaceStorage
    index: SpaceIndex
    state: SpaceState

    @property
    def indexed(self) -> bool:
        """Whether its vectors have an index."""
        return self.index is not SpaceIndex.NONE and self.state is not SpaceState.BUILDING

    def reads(self, candidates: int, ef_search: int | None) -> int:
        """Return how many vectors are read from the index for `candidates` rows.

        An index of bits has only roughly the order of the distances, so that the stored vectors rank more of its vectors:
        all that a candidate list of the caller's size keeps.
        """
        if self.index is not SpaceIndex.HNSW_BIT:
            return candidates
        return min(RERANKED * candidates if ef_search is None else max(candidates, ef_search), MOST_RERANKED)

    @property
    def said(self) -> str:
        """How messages name it."""
        return f"space {self.name!r} of {self.kind} (model {self.model})"


@lru_cache(maxsize=1024)
def stored_type(space: Space) -> Vector | HalfVector:
    """Return the type of the vectors, whose messages name the space."""
    type_ = HalfVector if space.storage is SpaceStorage.HALFVEC else Vector
    return type_(space.dimensions).named(f"embedding for {space.said}")


def vectors_of(kind: SpaceKind) -> Table:
    """Return the table of the vectors of a kind."""
    return table_of(KINDS[kind][1])


def partition(kind: SpaceKind, space_id: int) -> Table:
    """Return the partition of a space, as a table without columns."""
    parent = vectors_of(kind)
    return Table(f"{parent.name}_{space_id:d}", MetaData(), schema=parent.schema)


def column_of(space: Space) -> Column[Any]:
    """Return the column with the vectors."""
    found: Column[Any] = vectors_of(space.kind).c[column_name(space.storage)]
    return found


def column_name(storage: SpaceStorage) -> str:
    """Return the name of the column with the vectors."""
    return "half" if storage is SpaceStorage.HALFVEC else "embedding"


def in_space(space: Space) -> ColumnElement[bool]:
    """The vectors of a space. Its key is a literal, so that one plan serves all searches and reads one partition."""
    return vectors_of(space.kind).c.space_id == literal_column(f"{space.id:d}", BigInteger)


def index_definition(space: Space) -> str | None:
    """Return the definition of a space's index, as it follows ON the table; None if it has none."""
    stored, length = column_name(space.storage), f"({space.dimensions:d})"
    if space.index is SpaceIndex.NONE:
        return None
    if space.index is SpaceIndex.HNSW_BIT:
        indexed = f"(CAST(binary_quantize({stored}) AS bit{length})) bit_hamming_ops"
    elif space.index is SpaceIndex.HNSW_HALFVEC or space.storage is SpaceStorage.HALFVEC:
        indexed = f"(CAST({stored} AS halfvec{length})) halfvec_cosine_ops"
    else:
        indexed = f"(CAST({stored} AS vector{length})) vector_cosine_ops"
    return f"USING hnsw ({indexed}) WITH (m = 16, ef_construction = 64)"


def fitting_index(index: SpaceIndex | None, storage: SpaceStorage, dimensions: int) -> SpaceIndex:
    """Return an index if it takes vectors of a length, or the first that does.

    Raises:
        InvalidInputError: It does not.
    """
    most = MAX_DIMENSIONS
    for chosen in SpaceIndex if index is None else (index,):
        most = MOST_INDEXED.get((chosen, storage), MAX_DIMENSIONS)
        if dimensions <= most:
            return chosen
    raise InvalidInputError(
        f"index {index}: takes vectors of at most {most} dimensions stored as {storage}, got {dimensions}; pass another"
        " index, or None for the first that fits"
    )


def content_hash(model: type[Base]) -> ColumnElement[bytes]:
    """Return the sha256 of the content of a row, with immutable functions only."""
    columns = table_of(model).c
    known = columns.get("content_hash")
    if known is not None and isinstance(known.computed, Computed):
        return known
    backslash = func.chr(literal_column("92"))
    escaped = func.replace(columns.content, backslash, func.repeat(backslash, literal_column("2")))
    hashed: ColumnElement[bytes] = func.sha256(
        func.decode(escaped, literal_column("'escape'", Text), type_=LargeBinary), type_=LargeBinary
    )
    return hashed


def vector_columns(space: Space) -> list[Column[Any]]:
    """Return the columns of `store`, in the order of the values of a row."""
    columns = vectors_of(space.kind).c
    return [columns.row_id, columns.chunk, columns.space_id, columns.source_hash, column_of(space)]


def nearest_vectors(
    space: Space,
    candidates: int,
    where: ColumnElement[bool] | None,
    *,
    exact: bool,
    query: Any = None,
    ef_search: int | None = None,
) -> Select[Any, float]:
    """Select the row and the distance of the nearest vectors: by the index, or of all rows that match.

    Args:
        space: The space.
        candidates: Maximum number of vectors; an exact search returns all.
        where: Condition of the rows; None for all.
        exact: True compares all vectors of the rows that match.
        query: The vector of the query; by default the parameter `embedding`.
        ef_search: The size of the candidate list that the caller has set.
    """
    vectors, rows = vectors_of(space.kind), table_of(KINDS[space.kind][0])
    type_ = stored_type(space)
    if query is None:
        query = bindparam("embedding", type_=type_)
    # The type of the expression has no name of a space: the text of a statement is that of its types.
    full = cast(column_of(space), type(type_)(space.dimensions))
    found: Any = full.op("<=>", return_type=Float())(query).label("distance")
    statement = select(vectors.c.row_id, found).where(in_space(space))
    if exact:
        if where is not None:
            statement = statement.join(rows, rows.c.id == vectors.c.row_id).where(where)
        return statement.offset(literal_column("0"))
    if where is not None:
        one: ColumnElement[int] = literal_column("1", Integer)
        matching = select(one).select_from(rows).where(rows.c.id == vectors.c.row_id, where)
        statement = statement.where(matching.correlate(vectors).offset(literal_column("0")).exists())
    if space.index is SpaceIndex.HNSW_BIT:
        bits = Bit(space.dimensions)
        signs = cast(func.binary_quantize(column_of(space)), bits)
        order = signs.op("<~>", return_type=Float())(cast(func.binary_quantize(query), bits))
        return statement.order_by(order).limit(number(space.reads(candidates, ef_search)))
    if space.index is SpaceIndex.HNSW_HALFVEC and space.storage is SpaceStorage.VECTOR:
        half = HalfVector(space.dimensions)
        order = cast(column_of(space), half).op("<=>", return_type=Float())(cast(query, half))
        return statement.order_by(order).limit(number(candidates))
    return statement.order_by(found).limit(number(candidates))


def nearest_rows(
    space: Space,
    limit: int,
    candidates: int,
    where: ColumnElement[bool] | None,
    *,
    exact: bool,
    max_distance: float | None = None,
    ef_search: int | None = None,
) -> Select[Any, float]:
    """Select the nearest rows and their distances; of several vectors of a row the nearest counts."""
    each = nearest_vectors(space, candidates, where, exact=exact, ef_search=ef_search)
    near = each.subquery("candidates")
    distance = func.min(near.c.distance)
    statement = select(near.c.row_id, distance.label("distance")).group_by(near.c.row_id)
    if max_distance is not None and exact:
        statement = statement.where(near.c.distance <= max_distance)
    return statement.order_by(distance, near.c.row_id).limit(literal_limit(limit))


def distance_of_row(space: Space) -> ColumnElement[Any]:
    """Return the distance of a row of the statement around it; run that with the parameter `embedding`."""
    vectors, rows = vectors_of(space.kind), table_of(KINDS[space.kind][0])
    type_ = stored_type(space)
    full = cast(column_of(space), type(type_)(space.dimensions))
    found = full.op("<=>", return_type=Float())(bindparam("embedding", type_=type_))
    nearest: Select[Any] = select(func.min(found, type_=Float())).where(
        in_space(space), vectors.c.row_id == rows.c.id
    )
    return nearest.correlate(rows).scalar_subquery()


@driver_statement
def nearest(
    model: type[Base], space: Space, limit: int, candidates: int, ef_search: int | None = None
) -> AnySelect:
    """Select the nearest rows by the index; run it with the parameter `embedding`."""
    return nearest_within(
        model, space, limit, candidates, None, max_distance=None, exact=False, ef_search=ef_search
    )


def nearest_within(
    model: type[Base],
    space: Space,
    limit: int,
    candidates: int,
    where: ColumnElement[bool] | None,
    *,
    max_distance: float | None,
    exact: bool,
    only_keys: bool = False,
    ef_search: int | None = None,
) -> AnySelect:
    """Select the nearest rows that match, exactly or by the index. The arguments are those of `nearest_rows`."""
    found = nearest_rows(
        space, limit, candidates, where, exact=exact, max_distance=max_distance, ef_search=ef_search
    )
    near = found.subquery("nearest")
    order = (near.c.distance + literal_column("0::float8"), near.c.row_id)
    if only_keys:
        keys: AnySelect = select(near.c.row_id.label(key_of(model).name), near.c.distance)
        return keys.order_by(*order)
    rows = table_of(model)
    statement: AnySelect = select(*columns_of(model), near.c.distance)
    return statement.join_from(near, rows, rows.c.id == near.c.row_id).order_by(*order)


def nearest_each(
    model: type[Base],
    space: Space,
    embeddings: MatrixLike,
    limit: int,
    candidates: int,
    where: ColumnElement[bool] | None,
) -> AnySelect:
    """Select the nearest rows of each of several vectors; the column `query` is the index of the vector, from 0."""
    check_limit(limit)
    given = values(column("query", Integer), column("embedding", stored_type(space)), name="queries").data(
        list(enumerate(embeddings))
    )
    each = nearest_vectors(space, candidates, where, exact=not space.indexed, query=given.c.embedding)
    near = each.lateral("candidates")
    distance = func.min(near.c.distance)
    place = func.row_number().over(partition_by=given.c.query, order_by=(distance, near.c.row_id))
    merged = (
        select(given.c.query, near.c.row_id, distance.label("distance"), place.label("place"))
        .join(near, true())
        .group_by(given.c.query, near.c.row_id)
        .subquery("nearest")
    )
    rows = table_of(model)
    statement: AnySelect = select(merged.c.query, *columns_of(model), merged.c.distance)
    return (
        statement.join_from(merged, rows, rows.c.id == merged.c.row_id)
        .where(merged.c.place <= literal(limit, Integer))
        .order_by(merged.c.query, merged.c.place)
    )
