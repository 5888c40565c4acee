"""Whether the upkeep of a worker has anything to do, in one statement."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, false, or_, select

from ..models import Queue, ScheduledTask
from ..models.base import table_of
from .leases import Leased, expired
from .scheduler_executions import EXECUTIONS, waiting
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .task_leases import TASKS
from .workflow_executions import EXECUTIONS as WORKFLOWS

_task, _queue = table_of(ScheduledTask).c, table_of(Queue).c


@driver_statement
def due(schedules: bool, commands: bool = False) -> Select[bool, bool, bool, bool]:
    """Select whether tasks or workflows are to be reaped, executions created or claimed, and whether a queue ages.

    Args:
        schedules: Whether to look at the schedules; otherwise the second value is false.
        commands: Whether to look for executions of the `commands`, a parameter; otherwise the third value is false.
    """
    slot = and_(
        _task.is_active,
        _task.schedule.is_not(None),
        or_(_task.next_run_at <= func.statement_timestamp(), _task.next_run_at.is_(None)),
    )
    second: ColumnElement[Any] = or_(_any(EXECUTIONS), exists(select(_task.id).where(slot)))
    return select(
        or_(_any(TASKS), _any(WORKFLOWS)),
        second if schedules else false(),
        waiting() if commands else false(),
        exists(select(_queue.name).where(_queue.ageing.is_not(None))),
    )


def _any(leased: Leased[Any]) -> ColumnElement[bool]:
    return exists(select(leased.table.c.id).where(expired(leased)))
