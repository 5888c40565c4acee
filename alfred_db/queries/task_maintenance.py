"""Statements that maintain the queue: ageing, purging, and its health."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnClause,
    ColumnElement,
    Double,
    Interval,
    Select,
    cast,
    column,
    extract,
    literal_column,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import OID
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from ..checks import one_of
from ..models import ExecutionStatus, ScheduledExecution, ScheduledTask, Task, TaskStatus
from ..models.base import table_of
from ..types import Text
from .shapes import trees
from .shapes.functions import func
from .shapes.literals import among, constant, in_queue, materialized, number, seconds_ago
from .task_claims import ready
from .task_waits import forever

COUNTED = 10_000
"""Maximum number of tasks that `health` counts."""

_ENDED = (
    ExecutionStatus.COMPLETED,
    ExecutionStatus.FAILED,
    ExecutionStatus.CANCELLED,
    ExecutionStatus.SKIPPED,
)
_second = literal_column("interval '1 second'", Interval)

FINAL = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)

_ENDS = {TaskStatus.FAILED: "failed_at", TaskStatus.CANCELLED: "cancelled_at"}

_t = table_of(Task).c
_pending = _t.status == constant(TaskStatus.PENDING)
_processing = _t.status == constant(TaskStatus.PROCESSING)
_now = func.statement_timestamp


def age(after: float, *, limit: int) -> ReturningUpdate[uuid.UUID]:
    """Raise the priority of tasks by one that have waited at it for more than `after` seconds."""
    waited = (
        _pending,
        _t.priority < 5,
        _t.available_at <= seconds_ago(after),
        _t.updated_at <= seconds_ago(after),
    )
    waiting = materialized(
        select(_t.id).where(*waited).limit(number(limit)).with_for_update(key_share=True, skip_locked=True),
        "waiting",
    )
    return (
        update(table_of(Task)).where(among(_t.id, waiting)).values(priority=_t.priority + 1).returning(_t.id)
    )


def purge(
    older_than: float, *, status: TaskStatus | None, queue: str | None = None, limit: int
) -> ReturningDelete[uuid.UUID]:
    """Delete tasks that ended more than `older_than` seconds ago, the oldest first, with their results.

    A parent is not deleted before its children.

    Args:
        older_than: Seconds since the end of the task.
        status: A final status; None for all of them.
        queue: A queue; None for all.
        limit: Maximum number of tasks.
    """
    over, ended_at = _over(older_than, status, queue)
    return trees.purge(table_of(Task), ["parent_task_id"], over, ended_at(_t), limit=limit)


def purgeable(older_than: float, *, status: TaskStatus | None, queue: str | None = None) -> Select[int]:
    """Count the tasks that calls of `purge` delete in the end."""
    return trees.purgeable(table_of(Task), ["parent_task_id"], _over(older_than, status, queue)[0])


def _over(
    older_than: float, status: TaskStatus | None, queue: str | None
) -> tuple[trees.Conditions, Callable[[Any], ColumnElement[Any]]]:
    """Return the conditions of a task to delete, and the time of its end."""

    def over(task: Any) -> list[ColumnElement[bool]]:
        final = [
            task.status.in_([constant(status) for status in FINAL]),
            ended_at(task) < seconds_ago(older_than),
        ]
        if status is not None:
            final.append(task.status == constant(one_of(TaskStatus, status)))
        if queue is not None:
            final += in_queue(task.queue, queue)
        return final

    def ended_at(task: Any) -> ColumnElement[Any]:
        # The failed and the cancelled tasks are few, and each of the two has an index.
        if status is not None and status in _ENDS:
            time: ColumnElement[Any] = task[_ENDS[TaskStatus(status)]]
            return time
        return func.coalesce(task.completed_at, task.failed_at, task.cancelled_at)

    return over, ended_at


def health(table_name: str) -> Select[*tuple[Any, ...]]:
    """Select the fields of `QueueHealth`, except those of the oldest snapshot."""
    first = ready(1, lock=False, also=[_t.available_at]).subquery("first")
    statistics = table("pg_stat_user_tables", column("n_dead_tup"), column("relid"), schema="pg_catalog")
    return select(
        _counted(ready(COUNTED, lock=False)),
        select(_age(func.min(first.c.available_at))).scalar_subquery(),
        _counted(select(_t.id).where(_processing)),
        _counted(select(_t.id).where(_processing, _t.lease_expires_at <= _now())),
        _counted(select(_t.id).where(_t.status == constant(TaskStatus.FAILED))),
        _counted(
            select(_t.id).where(
                _pending,
                _t.priority.in_([number(level) for level in range(1, 6)]),
                _t.available_at == forever(),
            )
        ),
        select(func.coalesce(func.max(statistics.c.n_dead_tup), 0))
        .where(statistics.c.relid == cast(func.to_regclass(table_name), OID))
        .scalar_subquery(),
    )


def oldest_snapshot() -> Select[float, int, str]:
    """Select age, process id and application of the oldest transaction that holds a snapshot.

    Only transactions in this database are considered.
    """
    names = ("pid", "application_name", "xact_start", "backend_xmin", "datname")
    columns: list[ColumnClause[Any]] = [column(name) for name in names]
    activity = table("pg_stat_activity", *columns, schema="pg_catalog").c
    return (
        select(_age(activity.xact_start), activity.pid, activity.application_name)
        .where(
            activity.backend_xmin.is_not(None),
            activity.xact_start.is_not(None),
            activity.datname == func.current_database(),
            activity.pid != func.pg_backend_pid(),
        )
        .order_by(activity.xact_start)
        .limit(1)
    )


def overdue_handlers() -> Select[int]:
    """Select how many handlers of workers of this database are still running after their end was requested.

    Workers report the number in the application name of their listener connection.
    """
    names = ("application_name", "datname")
    columns: list[ColumnClause[Any]] = [column(name, Text) for name in names]
    activity = table("pg_stat_activity", *columns, schema="pg_catalog").c
    reported = func.substring(activity.application_name, "^alfred-db listener, ([0-9]{1,9}) overdue$")
    return select(cast(func.coalesce(func.sum(cast(reported, BigInteger)), 0), BigInteger)).where(
        activity.datname == func.current_database()
    )


def schedules() -> Select[*tuple[Any, ...]]:
    """Select how late schedules are: overdue ones, waiting executions, and slots that were not run lately."""
    schedule, execution = table_of(ScheduledTask).c, table_of(ScheduledExecution).c
    grace = cast(schedule.misfire_grace_seconds, Double) * _second
    overdue = select(schedule.id).where(
        schedule.is_active, schedule.schedule.is_not(None), schedule.next_run_at <= _now() - grace
    )
    pending = execution.status == constant(ExecutionStatus.PENDING)
    first = (
        select(execution.available_at)
        .where(pending, execution.available_at <= _now())
        .order_by(execution.available_at, execution.id)
        .limit(number(1))
    ).subquery("first_execution")
    ended = (
        select(execution.missed_slots, execution.status)
        .where(
            execution.status.in_([constant(status) for status in _ENDED]),
            execution.end_time > seconds_ago(86_400),
        )
        .order_by(execution.end_time.desc())
        .limit(number(COUNTED))
    ).subquery("ended")
    skipped = func.count().filter(ended.c.status == constant(ExecutionStatus.SKIPPED))
    missed = func.coalesce(func.sum(ended.c.missed_slots), number(0)) + skipped
    return select(
        _counted(overdue),
        _counted(select(execution.id).where(pending, execution.available_at <= _now())),
        select(_age(func.min(first.c.available_at))).scalar_subquery(),
        select(cast(missed, BigInteger)).scalar_subquery(),
    )


def _age(time: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(extract("epoch", _now() - time), Double)


def _counted(found: Select[Any]) -> ColumnElement[int]:
    rows = found.limit(number(COUNTED)).subquery()
    return select(func.count()).select_from(rows).scalar_subquery()
