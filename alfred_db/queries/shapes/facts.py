"""When a fact of the entity graph is valid."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from ...models import EntityEdge
from .functions import func


def holds(
    as_of: datetime | ColumnElement[Any] | None, known_at: datetime | None = None
) -> ColumnElement[bool]:
    """The condition that a fact is valid at `as_of` and was known at `known_at`; None is now."""
    time = func.statement_timestamp() if as_of is None else as_of
    known: ColumnElement[bool] = EntityEdge.superseded_at.is_(None)
    if known_at is not None:
        known = and_(
            EntityEdge.created_at <= known_at,
            or_(EntityEdge.superseded_at.is_(None), EntityEdge.superseded_at > known_at),
        )
    return and_(
        known,
        # A function keeps the server from comparing the last column of the unique key within that index. It would estimate
        # a search for each type of edge, from PostgreSQL 18 on, and read all edges of both nodes to find one between them.
        func.greatest(EntityEdge.valid_from) <= time,
        or_(EntityEdge.valid_to.is_(None), EntityEdge.valid_to > time),
    )
