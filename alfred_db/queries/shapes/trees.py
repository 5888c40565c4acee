"""DELETE of rows that refer to each other: whole trees, or the rows that no remaining row refers to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, delete, false, or_, select
from sqlalchemy.sql.dml import ReturningDelete
from sqlalchemy.sql.expression import FromClause

from .functions import func
from .literals import among, materialized, number

Conditions = Callable[[Any], list[ColumnElement[bool]]]


def purge(
    rows: Table, references: Sequence[str], over: Conditions, ended: ColumnElement[Any], *, limit: int
) -> ReturningDelete[Any]:
    """Delete at most `limit` rows, the earliest ended first, and none that a remaining row refers to.

    It starts with the rows that no other row refers to and continues with the rows they refer to, so that the
    last row of a tree is deleted together with the first. A locked row is kept, and so are the rows that it
    refers to. Each call deletes something as long as anything can be deleted.

    Args:
        rows: The table.
        references: Names of the columns by which a row refers to another.
        over: Returns the conditions of a row that may be deleted.
        ended: The time of the end of a row.
        limit: Maximum number of rows.
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


def purgeable(rows: Table, references: Sequence[str], over: Conditions) -> Select[int]:
    """Count the rows that calls of `purge` delete in the end: those of `over` that no other row keeps.

    Args:
        rows: The table.
        references: Names of the columns by which a row refers to another.
        over: Returns the conditions of a row that may be deleted.
    """
    found, other, above = rows.c, rows.alias("other"), rows.alias("above")
    referring = or_(*(other.c[name] == found.id for name in references))
    # A condition may be unknown, as that of a time which is NULL; such a row remains too.
    remains = func.coalesce(and_(*over(other.c)), false()).is_(false())
    kept = (
        select(found.id, *(found[name] for name in references))
        .where(*over(found), select(other.c.id).where(referring, remains).exists())
        .cte("kept", recursive=True)
    )
    referred = or_(*(above.c.id == kept.c[name] for name in references))
    kept = kept.union(
        select(above.c.id, *(above.c[name] for name in references))
        .join_from(kept, above, referred)
        .where(*over(above.c))
    )
    counts = [
        select(func.count()).select_from(rows).where(*over(found)).scalar_subquery(),
        select(func.count()).select_from(kept).scalar_subquery(),
    ]
    return select(counts[0] - counts[1])


def _referred_by_others(rows: Table, locked: FromClause, references: Sequence[str]) -> Any:
    """Select the locked rows that a row which is not locked refers to, directly or not."""
    other = rows.alias("remaining")
    referring = or_(*(other.c[name] == locked.c.id for name in references))
    remaining = select(other.c.id).where(referring, other.c.id.not_in(select(locked.c.id)))
    stays = select(*locked.c).where(remaining.exists()).cte("stays", recursive=True)
    again = locked.alias("again")
    referred = or_(*(again.c.id == stays.c[name] for name in references))
    return stays.union(select(*again.c).join_from(stays, again, referred))
