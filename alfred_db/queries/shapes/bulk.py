"""Statements of a bulk write: rows are copied into a staging table and merged from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import Column, Select, Table, TextClause, collate, column, or_, select, table, text
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.sql.dml import ReturningInsert

from ...types import Text
from .functions import func
from .literals import any_of

OnConflict = Literal["error", "ignore", "update"]

ORDER = "alfred_ord"
"""The column of the staging table that holds the order of the input."""


def create_stage(stage: str, target: str, columns: Sequence[Column[Any]]) -> TextClause:
    """Create a temporary table with these columns of the target; it is dropped when the transaction ends."""
    names = ", ".join(f'"{part.name}"' for part in columns)
    return text(
        f'CREATE TEMPORARY TABLE "{stage}" ON COMMIT DROP AS'
        f" SELECT CAST(0 AS bigint) AS {ORDER}, {names} FROM {target} WITH NO DATA"
    )


def merge(
    target: Table, stage: str, columns: Sequence[Column[Any]], key: Sequence[Column[Any]], action: OnConflict
) -> Insert:
    """Merge the staged rows into the target.

    Rows are written in the order of their keys, so that two calls with the same keys wait for each other
    instead of deadlocking.

    Args:
        target: The table to write.
        stage: Name of the staging table.
        columns: The staged columns.
        key: The columns of the unique key.
        action: `update` updates a row with a known key if a column differs; `ignore` skips it.
    """
    staged = _staged(stage, columns)
    names = [part.name for part in columns]
    in_order = [
        collate(staged.c[part.name], "C") if isinstance(part.type, Text) else staged.c[part.name]
        for part in key
        if part.name in staged.c
    ]
    statement = insert(target).from_select(
        names,
        select(*(staged.c[name] for name in names)).order_by(*in_order, staged.c[ORDER]),
        include_defaults=False,
    )
    return _on_conflict(statement, target, columns, key, action)


def upsert(
    target: Table, columns: Sequence[Column[Any]], key: Sequence[Column[Any]], action: OnConflict
) -> ReturningInsert[Any]:
    """Merge a few rows into the target, and return the last column of the key of what was written.

    Run it with a list of mappings of columns, in the order of their keys; see `merge`.
    """
    return _on_conflict(insert(target), target, columns, key, action).returning(key[-1])


def ids_of(target: Table, key: Column[Any], keys: Sequence[Any]) -> Select[Any, Any]:
    """Select key and id of the rows with these keys."""
    return select(key, target.c.id).where(key == any_of([one for one in keys if one is not None], key.type))


def _on_conflict(
    statement: Insert,
    target: Table,
    columns: Sequence[Column[Any]],
    key: Sequence[Column[Any]],
    action: OnConflict,
) -> Insert:
    keys = {part.name for part in key}
    changing = [part for part in columns if part.name not in keys and not part.primary_key]
    if action == "ignore" or not changing:
        return statement.on_conflict_do_nothing(index_elements=key)
    new: dict[str, Any] = {part.name: statement.excluded[part.name] for part in changing}
    if "updated_at" in target.c:
        new["updated_at"] = statement.excluded["updated_at"]
    return statement.on_conflict_do_update(
        index_elements=key,
        set_=new,
        where=or_(*(part.is_distinct_from(statement.excluded[part.name]) for part in changing)),
    )


def merged_ids(target: Table, stage: str, columns: Sequence[Column[Any]], key: Column[Any]) -> Select[Any]:
    """Select the id of each staged row, in the order of the input.

    For a row whose key was known it is the id of the existing row.
    """
    staged = _staged(stage, columns)
    identity = target.c.id
    return (
        select(func.coalesce(identity, staged.c.id))
        .select_from(staged.outerjoin(target, key == staged.c[key.name]))
        .order_by(staged.c[ORDER])
    )


def analyze(target: str) -> TextClause:
    """Update the statistics of a table after a load; skip it if another session holds its lock."""
    return text(f"ANALYZE (SKIP_LOCKED) {target}")


def _staged(stage: str, columns: Sequence[Column[Any]]) -> Any:
    return table(stage, column(ORDER), *(column(part.name, part.type) for part in columns), schema="pg_temp")
