"""Bulk writes of models by COPY, in the caller's transaction, which return the ids in the order of the input."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import le, methodcaller
from typing import Any, cast

import numpy as np
from sqlalchemy import BigInteger, Column, MetaData, Table, inspect
from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import attribute, by_attribute, check_names, check_objects, check_word
from ...errors import InvalidInputError, shown, translated
from ...models import Base
from ...models.base import table_of
from ...queries.shapes import bulk as queries
from ...queries.shapes.bulk import OnConflict
from ...vectors.formats import Matrix, MatrixLike
from ...vectors.types import Vector
from ..copy_format import pack_rows
from .copy import copy_rows, reserve_ids, table_name

Progress = Callable[[int, int], None]
"""Called with the number of rows sent so far and the number of all rows."""

LARGE = 10_000
"""A load of at least this many rows is followed by ANALYZE."""

MAX_UNSTAGED = 100
"""At most this many rows are merged without a temporary table, which would take longer."""

REPORTED = 1_000


async def add_many(
    session: AsyncSession,
    model: type[Base],
    rows: Sequence[Mapping[str, Any] | Base],
    *,
    vectors: Mapping[str, MatrixLike] | None = None,
    key: str | None = None,
    on_conflict: OnConflict = "error",
    progress: Progress | None = None,
) -> list[Any]:
    """Write rows by COPY.

    Rows whose stored values are the same are not rewritten.

    Args:
        session: The session whose transaction is used.
        model: The model of the table.
        rows: Mappings by attribute, or instances of the model.
        vectors: Whole columns by attribute, such as the embeddings, in the order of the rows.
        key: The unique attribute that identifies a row when `on_conflict` is `ignore` or `update`. Of rows
            with the same key the last one is stored.
        on_conflict: What happens to a row whose key exists: an error, ignored, or updated.
        progress: Called while the rows are sent.

    Returns:
        The id of each row, in the order of `rows`.

    Raises:
        InvalidInputError: A value does not fit its column; the message names row and column.
        ConflictError: A key exists and `on_conflict` is `error`.
    """
    check_word("on_conflict", on_conflict, OnConflict)
    if not rows:
        return []
    table = table_of(model)
    columns, values = _transposed(model, rows, vectors or {})
    identity = table.c.id
    if isinstance(identity.type, BigInteger):
        ids: Sequence[Any] = await reserve_ids(session, table, len(rows))
    else:
        ids = [uuid.uuid4() for _ in rows]
    with translated():
        if on_conflict == "error" or key is None:
            copied, given = [identity, *columns], [ids, *values]
            order = None if key is None else _key_order(columns, values, inspect(model).columns[key])
            if order is not None:
                given = [_reordered(column, order) for column in given]
            reported = _reported(zip(*map(_packed, copied, given), strict=True), len(rows), progress)
            try:
                await copy_rows(session, table, copied, reported)
            except InvalidInputError as error:
                raise type(error)(_as_given(str(error), order)) from None
            written = list(ids)
        else:
            written = await _merge(
                session, table, columns, values, ids, inspect(model).columns[key], on_conflict, progress
            )
        if len(rows) >= LARGE:
            await session.execute(queries.analyze(table_name(session, table)))
    return written


async def _merge(
    session: AsyncSession,
    table: Table,
    columns: Sequence[Column[Any]],
    values: Sequence[Sequence[Any]],
    ids: Sequence[Any],
    key: Column[Any],
    on_conflict: OnConflict,
    progress: Progress | None,
) -> list[Any]:
    if key not in columns:
        raise InvalidInputError(
            f"{table.name}: on_conflict={shown(on_conflict)} needs {key.name!r} in each row"
        )
    keys = values[list(columns).index(key)]
    last = {value: place for place, value in enumerate(keys) if value is not None}
    kept = [place for place, value in enumerate(keys) if value is None or last[value] == place]
    staged = [table.c.id, *columns]
    rows = ((ids[place], *(column[place] for column in values)) for place in kept)
    if len(kept) <= MAX_UNSTAGED:
        given = list(rows)
        for _ in pack_rows(staged, _reported(given, len(kept), progress)):
            pass  # raises what is wrong with a row, before anything is sent
        at = staged.index(key)
        given.sort(key=lambda row: str(row[at]))  # all writers lock rows in the order of their keys
        names = [column.name for column in staged]
        statement = queries.upsert(table, staged, [key], on_conflict)
        await session.execute(statement, [dict(zip(names, row, strict=True)) for row in given])
        known = dict((await session.execute(queries.ids_of(table, key, [row[at] for row in given]))).all())
        found = {place: known.get(keys[place], ids[place]) for place in kept}
    else:
        stage = f"alfred_stage_{uuid.uuid4().hex[:12]}"
        await session.execute(queries.create_stage(stage, table_name(session, table), staged))
        order: Column[Any] = Column(queries.ORDER, BigInteger)
        target = Table(stage, MetaData(), schema="pg_temp")
        placed = ((place, *row) for place, row in zip(kept, rows, strict=True))
        await copy_rows(session, target, [order, *staged], _reported(placed, len(kept), progress))
        await session.execute(queries.merge(table, stage, staged, [key], on_conflict))
        merged = await session.scalars(queries.merged_ids(table, stage, staged, key))
        found = dict(zip(kept, merged, strict=True))
    return [found[place if value is None else last[value]] for place, value in enumerate(keys)]


def _transposed(
    model: type[Base], rows: Sequence[Mapping[str, Any] | Base], vectors: Mapping[str, MatrixLike]
) -> tuple[list[Column[Any]], list[Sequence[Any]]]:
    """Return the columns that the rows name, and the values of each column."""
    mapped = {name: column for name, column in inspect(model).columns.items() if name != "id"}
    given = [row.__dict__ if isinstance(row, Base) else row for row in rows]
    keys = {name for row in given for name in row if not name.startswith("_sa_")} | set(vectors)
    key_of = {attribute(key): key for key in keys}
    if len(key_of) < len(keys):  # models have `metadata_`, mappings have `metadata`
        given = [by_attribute(row) for row in given]
        key_of = {name: name for name in key_of}
    check_names(model, key_of)
    for name, column in vectors.items():
        if len(column) != len(rows):
            raise InvalidInputError(
                f"{model.__name__}.{name}: expected {len(rows)} values, one a row, got {len(column)}"
            )
    chosen = [name for name in mapped if name in key_of]
    values: list[Any] = [
        vectors[name] if name in vectors else list(map(methodcaller("get", key_of[name]), given))
        for name in chosen
    ]
    for name, column in zip(chosen, values, strict=True):
        check_objects(model, name, column)
    return [mapped[name] for name in chosen], values


def _key_order(
    columns: Sequence[Column[Any]], values: Sequence[Sequence[Any]], key: Column[Any]
) -> Sequence[int] | None:
    """Return the order of the keys; None if the rows have it already.

    Two loads of the same rows that lock in this order do not deadlock.
    """
    keys: Sequence[Any] = values[list(columns).index(key)] if key in columns else ()
    try:
        if all(map(le, keys, islice(keys, 1, None))):
            return None
        return sorted(range(len(keys)), key=keys.__getitem__)
    except TypeError:  # some rows have no key, or a key that packing will refuse
        return sorted(range(len(keys)), key=lambda place: str(keys[place]))


def _reordered(column: Any, order: Sequence[int]) -> Any:
    if isinstance(column, np.ndarray):
        return cast("Matrix", column)[order]
    return [column[place] for place in order]


def _as_given(message: str, order: Sequence[int] | None) -> str:
    """Return the message with the row's number in the caller's order."""
    if order is None:
        return message
    return re.sub(r"^row (\d+)", lambda found: f"row {order[int(found[1])]}", message)


def _packed(column: Column[Any], values: Any) -> Iterable[Any]:
    """Return the values; a matrix is packed in blocks, which takes a tenth of the time."""
    if not isinstance(column.type, Vector) or not isinstance(values, np.ndarray):
        return cast("Sequence[Any]", values)
    matrix = cast("Matrix", values)
    return column.type.packed(matrix) if matrix.ndim == 2 else matrix


def _reported(rows: Any, total: int, progress: Progress | None) -> Iterator[Any]:
    done = 0
    for done, row in enumerate(rows, start=1):
        yield row
        if progress is not None and (done % REPORTED == 0 or done == total):
            progress(done, total)
