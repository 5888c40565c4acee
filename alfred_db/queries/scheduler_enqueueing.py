"""Statements of the slots that enqueue a task instead of being run by a handler."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Uuid,
    case,
    cast,
    column,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from ..models import ExecutionStatus, OverlapPolicy, ScheduledExecution, ScheduledTask, Task
from ..models.base import table_of
from ..types import Text
from .shapes.functions import func
from .shapes.literals import constant, materialized

__all__ = ["ended", "enqueue", "enqueue_now", "pending", "record"]

_schedule = table_of(ScheduledTask).c
_execution = table_of(ScheduledExecution).c
_TASK = (
    "id",
    "task_id",
    "intent",
    "content",
    "priority",
    "max_retries",
    "timeout_seconds",
    "queue",
    "dedupe_key",
    "metadata",
)


def enqueue(executions: Sequence[int], ids: Sequence[uuid.UUID]) -> ReturningInsert[*tuple[Any, ...]]:
    """Insert the task of each execution, unless a live one has its `dedupe_key`; return `id`, queue and intent.

    The content never leaves the server, so that no content keeps the slots of other schedules from being planned.
    The `task_id` names the execution, so that an execution has one task however often this runs.

    Args:
        executions: Ids of executions of schedules that have an intent.
        ids: The `id` of the task for each.
    """
    given = _given(executions, ids)
    key = func.concat(_text("execution-"), cast(_execution.id, Text))
    return _insert(
        select(given.c.id, key.label("task_id"), *_settings(_execution.scheduled_at))
        .join_from(given, table_of(ScheduledExecution), _execution.id == given.c.execution_id)
        .join(table_of(ScheduledTask), _schedule.id == _execution.task_id)
        .where(_schedule.intent.is_not(None))
        .order_by(given.c.id)
    )


def enqueue_now(task_id: int, id: uuid.UUID) -> ReturningInsert[*tuple[Any, ...]]:
    """Insert the task of a schedule for this moment, as `enqueue` does for a slot."""
    return _insert(
        select(
            literal(id, Uuid).label("id"),
            literal(str(id), Text).label("task_id"),
            *_settings(func.statement_timestamp()),
        ).where(_schedule.id == task_id, _schedule.intent.is_not(None))
    )


def ended(executions: Sequence[int], tasks: Sequence[uuid.UUID]) -> ReturningUpdate[int]:
    """Complete executions whose tasks are enqueued."""
    given = _given(executions, tasks)
    return (
        update(ScheduledExecution)
        .where(ScheduledExecution.id == given.c.execution_id)
        .values(
            status=constant(ExecutionStatus.COMPLETED),
            start_time=func.statement_timestamp(),
            end_time=func.statement_timestamp(),
            exit_code=literal_column("0", Integer),
            enqueued_task_id=given.c.id,
        )
        .returning(ScheduledExecution.id)
    )


def pending(task_id: int) -> ReturningUpdate[int]:
    """Skip the executions of a schedule that wait for a handler, and return their ids."""
    return (
        update(ScheduledExecution)
        .where(
            ScheduledExecution.task_id == task_id,
            ScheduledExecution.status == constant(ExecutionStatus.PENDING),
        )
        .values(status=constant(ExecutionStatus.SKIPPED), end_time=func.statement_timestamp())
        .returning(ScheduledExecution.id)
    )


def record(task_id: int, enqueued: uuid.UUID) -> ReturningInsert[ScheduledExecution]:
    """Insert an execution of this moment whose task is enqueued."""
    now = func.statement_timestamp()
    return (
        insert(ScheduledExecution)
        .values(
            task_id=task_id,
            status=ExecutionStatus.COMPLETED,
            start_time=now,
            end_time=now,
            exit_code=0,
            enqueued_task_id=enqueued,
        )
        .returning(ScheduledExecution)
    )


def _settings(scheduled_at: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """The columns of a task after its keys, from its schedule."""
    # Without a key, a schedule whose slots must not overlap has one live task.
    alone = func.concat(_text("schedule-"), cast(_schedule.id, Text))
    name = case((_schedule.schedule_key.is_not(None), _schedule.schedule_key), else_=_schedule.name)
    slot = cast(scheduled_at, Text)
    return [
        _schedule.intent,
        _schedule.content,
        _schedule.priority,
        _schedule.max_retries,
        _schedule.timeout.label("timeout_seconds"),
        _schedule.queue,
        case(
            (_schedule.dedupe_key.is_not(None), _schedule.dedupe_key),
            (_schedule.overlap_policy == constant(OverlapPolicy.SKIP), alone),
        ).label("dedupe_key"),
        func.jsonb_build_object(_text("schedule"), name, _text("scheduled_at"), slot).label("metadata"),
    ]


def _insert(rows: Select[*tuple[Any, ...]]) -> ReturningInsert[*tuple[Any, ...]]:
    """Insert a task for each row, unless a live one has its key."""
    slots = materialized(rows, "slots").c
    task = table_of(Task)
    return (
        insert(task)
        .from_select(list(_TASK), select(*(slots[name] for name in _TASK)))
        .on_conflict_do_nothing()
        .returning(task.c.id, task.c.task_id, task.c.queue, task.c.intent)
    )


def _given(executions: Sequence[int], ids: Sequence[uuid.UUID]) -> Any:
    rows = func.unnest(literal(list(executions), ARRAY(BigInteger)), literal(list(ids), ARRAY(Uuid)))
    return rows.table_valued(column("execution_id", BigInteger), column("id", Uuid)).render_derived("given")


def _text(value: str) -> ColumnElement[str]:
    return literal_column(f"'{value}'", Text)
