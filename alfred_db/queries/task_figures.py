"""Figures of the queues: what waits, runs and has failed, and which workers are there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnClause,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    Select,
    cast,
    column,
    extract,
    literal,
    literal_column,
    select,
    table,
    true,
    union_all,
)

from ..models import Task, TaskStatus
from ..models.base import table_of
from ..types import Text
from .shapes.functions import func
from .shapes.literals import constant, materialized, number, seconds_ago
from .task_maintenance import FINAL

RECENT = 1000
"""How many of the tasks that ended last show which intents are handled."""

_t = table_of(Task).c
_now = func.statement_timestamp


def waiting() -> Select[str, int, int, float | None]:
    """Select for each queue how many tasks are ready, how many are delayed, and the age of the oldest ready one."""
    ready = _t.available_at <= _now()
    return (
        select(
            _t.queue,
            func.count().filter(ready).label("ready"),
            func.count().filter(~ready).label("delayed"),
            _age(func.min(_t.available_at).filter(ready)).label("oldest"),
        )
        .where(_has(TaskStatus.PENDING))
        .group_by(_t.queue)
    )


def running() -> Select[str, int, int, float | None]:
    """Select for each queue how many tasks are held, how many leases have expired, and the age of the first attempt."""
    return (
        select(
            _t.queue,
            func.count().label("running"),
            func.count().filter(_t.lease_expires_at <= _now()).label("expired"),
            _age(func.min(_t.attempt_started_at)).label("longest"),
        )
        .where(_has(TaskStatus.PROCESSING))
        .group_by(_t.queue)
    )


def failed() -> Select[str, int]:
    """Select for each queue how many tasks have failed."""
    return select(_t.queue, func.count().label("failed")).where(_has(TaskStatus.FAILED)).group_by(_t.queue)


def workers() -> Select[int, int, int]:
    """Select how many workers hold tasks, how many listen, and how many overdue handlers these report."""
    columns: list[ColumnClause[Any]] = [column(name, Text) for name in ("application_name", "datname")]
    activity = table("pg_stat_activity", *columns, schema="pg_catalog").c
    reported = func.substring(activity.application_name, "^alfred-db listener, ([0-9]{1,9}) overdue$")
    busy = select(func.count(_t.worker_id.distinct())).where(_has(TaskStatus.PROCESSING)).scalar_subquery()
    overdue = cast(func.coalesce(func.sum(cast(reported, BigInteger)), number(0)), BigInteger)
    return select(busy, func.count(), overdue).where(
        activity.datname == func.current_database(),
        func.starts_with(activity.application_name, "alfred-db listener"),
    )


def unhandled(after: float) -> Select[str, float]:
    """Select the intents whose first ready task has waited for `after` seconds, although nobody takes such tasks.

    No task of the intent is held, and none is among those that ended last. The intents are read one by one from
    the index of claims by intent, so that a backlog of one costs nothing.
    """
    hashed = func.hashtextextended(_t.intent, number(0), type_=BigInteger)
    first = (
        select(hashed.label("hash"), _t.intent, _t.available_at)
        .where(_has(TaskStatus.PENDING))
        .order_by(hashed, -_t.priority, _t.available_at, _t.id)
        .limit(number(1))
    )
    intents = select(*first.subquery("first").c).cte("intents", recursive=True)
    following = first.where(hashed > intents.c.hash).correlate(intents).lateral("following")
    intents = intents.union_all(select(*following.c).select_from(intents).join(following, true()))
    other = table_of(Task).alias("other").c
    ended = (
        select(other.intent)
        .where(other.status.in_([constant(status) for status in FINAL]))
        .order_by(func.coalesce(other.completed_at, other.failed_at, other.cancelled_at).desc())
        .limit(number(RECENT))
    ).subquery("ended")
    held = table_of(Task).alias("held").c
    seen = materialized(
        union_all(
            select(ended.c.intent),
            select(held.intent).where(held.status == constant(TaskStatus.PROCESSING)),
        ),
        "seen",
    )
    return (
        select(intents.c.intent, _age(intents.c.available_at))
        .where(
            intents.c.available_at <= seconds_ago(after),
            intents.c.intent.not_in(select(seen.c.intent)),
        )
        .order_by(intents.c.available_at)
    )


def holders(limit: int) -> Select[str, int, float]:
    """Select the workers that hold tasks: how many, and the age of the first attempt."""
    return (
        select(
            _t.worker_id, func.count().label("tasks"), _age(func.min(_t.attempt_started_at)).label("longest")
        )
        .where(_has(TaskStatus.PROCESSING), _t.worker_id.is_not(None))
        .group_by(_t.worker_id)
        .order_by(func.min(_t.attempt_started_at))
        .limit(number(limit))
    )


def longest(limit: int) -> Select[*tuple[Any, ...]]:
    """Select the tasks whose attempts run longest."""
    return (
        select(
            _t.task_id,
            _t.intent,
            _t.queue,
            _t.worker_id,
            _age(_t.attempt_started_at).label("seconds"),
            (_t.lease_expires_at <= _now()).label("expired"),
        )
        .where(_has(TaskStatus.PROCESSING))
        .order_by(_t.attempt_started_at)
        .limit(number(limit))
    )


def latest_failed(limit: int) -> Select[*tuple[Any, ...]]:
    """Select the tasks that failed last."""
    return (
        select(_t.task_id, _t.intent, _t.queue, _t.error_code, _age(_t.failed_at).label("seconds"))
        .where(_has(TaskStatus.FAILED))
        .order_by(_t.failed_at.desc())
        .limit(number(limit))
    )


def dead(intents: Sequence[str], since: datetime | None, limit: int) -> Select[*tuple[Any, ...]]:
    """Select the tasks of these intents that have failed since a time, in the last day if it is None, oldest first."""
    first = seconds_ago(86_400) if since is None else literal(since, DateTime(timezone=True))
    return (
        select(
            _t.id,
            _t.task_id,
            _t.intent,
            _t.queue,
            _t.error_code,
            _t.error_message,
            _t.retry_count + _t.crash_count + literal_column("1", Integer),
            _t.failed_at,
        )
        .where(
            _has(TaskStatus.FAILED),
            _t.failed_at >= first,
            _t.intent == func.any(literal(list(intents), ARRAY(Text))),
        )
        .order_by(_t.failed_at, _t.id)
        .limit(number(limit))
    )


def _has(status: TaskStatus) -> ColumnElement[bool]:
    return _t.status == constant(status)


def _age(time: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(extract("epoch", _now() - time), Double)
