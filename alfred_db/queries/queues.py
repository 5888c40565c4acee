"""Statements about queues: their settings, and the ageing of the tasks that wait in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Select, delete, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import Queue
from ..models.base import table_of
from .shapes.clock import now_us
from .shapes.functions import func

_q = table_of(Queue).c

SETTINGS = (
    _q.name,
    _q.paused,
    _q.max_running,
    _q.max_running_per_key,
    _q.rate_jobs,
    _q.rate_period,
    _q.rate_burst,
    _q.ageing,
)
"""The columns of `QueueSettings`, in order, the rate in three of them."""


def change(name: str, values: Mapping[str, Any], capacity: int | None) -> ReturningUpdate[*tuple[Any, ...]]:
    """Update settings of a queue.

    Args:
        name: The queue.
        values: The columns to change.
        capacity: The microseconds after which all of the burst is due again, at most, under a new rate; None without one.
    """
    settings = dict(values)
    if capacity is not None:
        settings["tat_us"] = func.least(_q.tat_us, now_us() + literal(capacity, BigInteger))
    return update(table_of(Queue)).where(_q.name == name).values(settings).returning(*SETTINGS)


def create(name: str, values: Mapping[str, Any]) -> ReturningInsert[*tuple[Any, ...]]:
    """Insert the settings of a queue, or update them if they were inserted meanwhile."""
    statement = insert(table_of(Queue)).values(name=name, **values)
    changed = {column: statement.excluded[column] for column in values}
    return statement.on_conflict_do_update(index_elements=[_q.name], set_=changed).returning(*SETTINGS)


def resume(name: str) -> ReturningUpdate[*tuple[Any, ...]]:
    """End the pause of a queue."""
    return update(table_of(Queue)).where(_q.name == name).values(paused=False).returning(*SETTINGS)


def get(name: str) -> Select[*tuple[Any, ...]]:
    """Select the settings of a queue."""
    return select(*SETTINGS).where(_q.name == name)


def list_() -> Select[*tuple[Any, ...]]:
    """Select the settings of all queues that have some, by name."""
    return select(*SETTINGS).order_by(_q.name)


def remove(name: str) -> ReturningDelete[str]:
    """Delete the settings of a queue."""
    return delete(table_of(Queue)).where(_q.name == name).returning(_q.name)
