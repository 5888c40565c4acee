"""Deleting rows that refer to each other: whole trees, or as much of them as nothing that stays refers to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, or_, select
from sqlalchemy.sql.dml import ReturningDelete
from sqlalchemy.sql.expression import FromClause

from .literals import among, materialized, number

Conditions = Callable[[Any], list[ColumnElement[bool]]]


def purge(
    rows: Table, references: Sequence[str], over: Conditions, ended: ColumnElement[Any], *, limit: int
) -> ReturningDelete[Any]:
    """Delete at most `limit` rows that are `over`, the longest ended first, and none that another one refers to.

    `references` are the columns by which one row refers to another. It starts at the rows that none refers to, and goes
    on to those that they refer to, so that the last of a tree goes with the first. A row that another transaction has
    locked stays, and so does what it refers to. As long as anything can be deleted, something is.
    """
    found = rows.c
    other = rows.alias("other")
    referring = or_(*(other.c[name] == found.id for name in references))
    leaves = materialized(
        select(found.id, *(found[name] for name in references))
        .where(*over(found), ~select(other.c.id).where(referring).exists())
        .order_by(ended)
        .limit(number(limit)),
        "leaves",
    )
    up = select(*leaves.c).cte("up", recursive=True)
    above = rows.alias("above")
    referred = or_(*(above.c.id == up.c[name] for name in references))
    up = up.union(
        select(above.c.id, *(above.c[name] for name in references))
        .join_from(up, above, referred)
        .where(*over(above.c))
    )
    chosen = materialized(select(up.c.id).limit(number(limit)), "chosen")
    locked = materialized(
        select(found.id, *(found[name] for name in references))
        .where(among(found.id, chosen), *over(found))
        .order_by(found.id)
        .with_for_update(skip_locked=True, of=rows),
        "locked",
    )
    stays = _referred_by_others(rows, locked, references)
    gone = select(locked.c.id).where(locked.c.id.not_in(select(stays.c.id))).cte("gone")
    return delete(rows).where(among(found.id, gone)).returning(found.id)


def _referred_by_others(rows: Table, locked: FromClause, references: Sequence[str]) -> Any:
    """Which of the locked rows are referred to by one that is not locked, directly or not."""
    other = rows.alias("remaining")
    referring = or_(*(other.c[name] == locked.c.id for name in references))
    remaining = select(other.c.id).where(referring, other.c.id.not_in(select(locked.c.id)))
    stays = select(*locked.c).where(remaining.exists()).cte("stays", recursive=True)
    again = locked.alias("again")
    referred = or_(*(again.c.id == stays.c[name] for name in references))
    return stays.union(select(*again.c).join_from(stays, again, referred))
