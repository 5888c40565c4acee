"""Statements about queues: their settings, and the ageing of the tasks that wait in them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Interval,
    Select,
    delete,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import Queue, Task
from ..models.base import table_of
from .shapes.claims import levels, of_names, pending
from .shapes.clock import now_us
from .shapes.functions import func
from .shapes.literals import among, materialized, number

_q, _t = table_of(Queue).c, table_of(Task).c

LOOKED_AT = 10_000
"""How many of the waiting tasks of a queue and a priority `age` looks at; it raises those that have not been raised lately."""

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


def age(*, limit: int) -> ReturningUpdate[uuid.UUID]:
    """Raise the priority by one of tasks that have waited at it for longer than the ageing of their queue.

    The index of claims by queue has those that wait longest first. Of each queue and priority, a bounded number is looked at.
    """
    level = levels()
    since = func.statement_timestamp() - _q.ageing * literal_column("interval '1 second'", Interval)
    look = (
        select(_t.id, _t.updated_at)
        .where(
            pending,
            *of_names({"queue": _q.name}),
            -_t.priority == -level.c.priority,
            _t.available_at <= since,
        )
        .order_by(_t.available_at, _t.id)
        .limit(number(LOOKED_AT))
        .correlate(table_of(Queue), level)
        .lateral("look")
    )
    row = (
        select(_t.id)
        .where(_t.id == look.c.id, pending)
        .with_for_update(key_share=True, skip_locked=True)
        .correlate(look)
        .lateral("row")
    )
    aged = materialized(
        select(row.c.id)
        .select_from(table_of(Queue).join(level, true()).join(look, true()).join(row, true()))
        .where(_q.ageing.is_not(None), level.c.priority < 5, look.c.updated_at <= since)
        .limit(number(limit)),
        "aged",
    )
    return update(table_of(Task)).where(among(_t.id, aged)).values(priority=_t.priority + 1).returning(_t.id)


def figures() -> Select[int, int]:
    """Count the queues that are paused, and those that have a limit."""
    limited = or_(*(limit.is_not(None) for limit in (_q.max_running, _q.max_running_per_key, _q.rate_jobs)))
    return select(func.count().filter(_q.paused), func.count().filter(limited)).select_from(table_of(Queue))


def get(name: str) -> Select[*tuple[Any, ...]]:
    """Select the settings of a queue."""
    return select(*SETTINGS).where(_q.name == name)


def list_() -> Select[*tuple[Any, ...]]:
    """Select the settings of all queues that have some, by name."""
    return select(*SETTINGS).order_by(_q.name)


def remove(name: str) -> ReturningDelete[str]:
    """Delete the settings of a queue."""
    return delete(table_of(Queue)).where(_q.name == name).returning(_q.name)
