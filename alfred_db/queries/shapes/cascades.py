"""DELETE of rows whose foreign keys delete or change rows that other rows share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, or_, select

from .functions import func
from .literals import materialized, number


def held(parent: Table, key: Any) -> list[ColumnElement[bool]]:
    """Return conditions of a DELETE of the row with this key that lock its dependent rows.

    The rows are locked in the order of their keys. ON DELETE CASCADE and SET NULL lock rows in the order of
    an index. Two parents of the same rows, deleted at the same time, would lock them in the orders of two
    indexes, and deadlock.
    """
    conditions: list[ColumnElement[bool]] = []
    for child, links in _shared(parent):
        order = child.primary_key.columns
        locked = materialized(
            select(*order).where(or_(*(link == key for link in links))).order_by(*order).with_for_update(),
            f"held_{child.name}",
        )
        # Always true; the server evaluates it, and thereby locks the rows, before it reads the row to delete.
        conditions.append(select(func.count()).select_from(locked).scalar_subquery() >= number(0))
    return conditions


@cache
def _shared(parent: Table) -> Sequence[tuple[Table, Sequence[Column[Any]]]]:
    """The tables whose rows refer to this table and to another one, with the columns that refer to it."""
    found: list[tuple[Table, Sequence[Column[Any]]]] = []
    for child in parent.metadata.tables.values():
        cascading = [key for key in child.foreign_keys if key.ondelete]
        links = [key.parent for key in cascading if key.column.table is parent]
        if links and len(cascading) > 1:
            found.append((child, sorted(links, key=lambda link: str(link.name))))
    return found
