"""Statements about the executions of scheduled tasks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    Select,
    Uuid,
    and_,
    bindparam,
    delete,
    exists,
    literal,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from ..models import ExecutionStatus, ScheduledExecution, ScheduledTask
from ..models.base import table_of
from ..types import Text
from . import lease_endings, leases
from .leases import Leased, held, taken
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, constant, materialized, one_row, seconds_ago, seconds_ahead
from .shapes.paging import page

HISTORY_KEY = ("scheduled_at",)

LIVE = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING)

_task = table_of(ScheduledTask)
_own = table_of(ScheduledExecution).c
_pending = ScheduledExecution.status == constant(ExecutionStatus.PENDING)
_output = bindparam("output", type_=Text)

EXECUTIONS = Leased(
    noun="execution",
    table=table_of(ScheduledExecution),
    running=ExecutionStatus.RUNNING,
    started_at="start_time",
    completed_at="end_time",
    failed_at="end_time",
    cancelled_at="end_time",
    error="error_output",
    max_retries=_task.c.max_retries,
    parent=(_task, _task.c.id == _own.task_id),
    retry_delay=_task.c.retry_delay,
    on_complete={
        "exit_code": literal_column("0", Integer),
        "output": _output,
        "error_output": bindparam("message", type_=Text),
        "error_code": null(),
    },
    on_fail={"exit_code": bindparam("exit_code", type_=Integer), "output": _output},
)
"""How executions of scheduled tasks are leased; `leases` builds the statements."""


def claim(*, limit: int, commands: Sequence[str] | None = None) -> ReturningUpdate[*tuple[Any, ...]]:
    """Claim the executions that have waited longest; executions that another worker has locked are skipped.

    Parameters of the statement: those of `leases.taken`, and the seconds of the lease as `seconds`. The
    columns are those of `ClaimedExecution`, up to `lease`.

    Args:
        limit: Maximum number of executions.
        commands: Only executions of tasks with these commands; None is all.
    """
    named = None if commands is None else literal(list(commands), ARRAY(Text))
    due = select(ScheduledExecution.id, ScheduledExecution.task_id).where(*_waiting(named))
    ready = materialized(
        due.order_by(ScheduledExecution.available_at, ScheduledExecution.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True, of=ScheduledExecution),
        "ready",
    )
    chosen = materialized(
        select(
            ready.c.id,
            ScheduledTask.name,
            ScheduledTask.command,
            ScheduledTask.max_retries,
            seconds_ahead(ScheduledTask.timeout).label("deadline"),
        )
        .join(ScheduledTask, ScheduledTask.id == ready.c.task_id)
        .where(one_row(ready.c.id)),
        "chosen",
    )
    return (
        update(ScheduledExecution)
        .where(ScheduledExecution.id == chosen.c.id)
        .values(**taken(EXECUTIONS, chosen.c.deadline), lease_seconds=bindparam("seconds", type_=Double))
        .returning(*_claimed(chosen))
    )


def waiting() -> ColumnElement[bool]:
    """Return whether an execution of a task with one of the `commands`, a parameter, can be claimed."""
    commands = bindparam("commands", type_=ARRAY(Text))
    return exists(select(ScheduledExecution.id).where(*_waiting(commands)))


def _waiting(commands: ColumnElement[Any] | None) -> list[ColumnElement[bool]]:
    conditions = [
        _pending,
        ScheduledExecution.available_at <= func.statement_timestamp(),
        ScheduledExecution.task_id.is_not(None),
    ]
    if commands is not None:
        named = select(_task.c.id).where(
            _task.c.id == _own.task_id,
            _task.c.command == func.any(commands),
            _task.c.intent.is_(None),
        )
        conditions.append(named.exists())
    return conditions


def again(token: uuid.UUID, known: Sequence[int]) -> Select[*tuple[Any, ...]]:
    """The same columns of what a claim has taken, without the executions that are known."""
    return leases.again(EXECUTIONS, _claimed(_task), token, known).join(_task, _task.c.id == _own.task_id)


def _claimed(task: FromClause) -> Sequence[ColumnElement[Any]]:
    return [
        _own.id,
        _own.task_id,
        task.c.name,
        task.c.command,
        _own.scheduled_at,
        _own.lease_token,
        _own.claim_seq,
        _own.lease_expires_at,
        _own.attempt_deadline_at,
        _own.retry_count,
        _own.crash_count,
        task.c.max_retries,
        _own.missed_slots,
    ]


@driver_statement
def start() -> ReturningUpdate[*tuple[Any, ...]]:
    """Restart the time of the attempt at the execution `id` with `token`, and extend its lease by `lease`.

    Timeout and deadline count from now on.
    """
    mine = held(EXECUTIONS, bindparam("id", type_=BigInteger), bindparam("token", type_=Uuid))
    own = materialized(
        select(_own.id, seconds_ahead(_task.c.timeout).label("deadline"))
        .join_from(EXECUTIONS.table, _task, _task.c.id == _own.task_id)
        .where(mine)
        .with_for_update(key_share=True, of=EXECUTIONS.table),
        "own",
    )
    return (
        update(EXECUTIONS.table)
        .where(_own.id == own.c.id, mine)
        .values(
            attempt_started_at=func.statement_timestamp(),
            attempt_deadline_at=own.c.deadline,
            lease_expires_at=func.statement_timestamp() + bindparam("lease", type_=INTERVAL),
        )
        .returning(_own.attempt_deadline_at, _own.lease_expires_at)
    )


def cancel(execution_id: int) -> ReturningUpdate[*tuple[Any, ...]]:
    """Cancel a pending execution; request the cancellation of a running one."""
    live = (
        select(_own.id).where(_own.id == execution_id, _own.status.in_(LIVE)).with_for_update(key_share=True)
    )
    return lease_endings.cancel(EXECUTIONS, live)


def get(execution_id: int) -> Select[ScheduledExecution]:
    """Select an execution by its id."""
    return select(ScheduledExecution).where(ScheduledExecution.id == execution_id)


def history(task_id: int, *, after: str | None, limit: int) -> Select[ScheduledExecution]:
    """Select a page of the executions of a task, newest first."""
    statement = select(ScheduledExecution).where(ScheduledExecution.task_id == task_id)
    key = [ScheduledExecution.scheduled_at]
    return page(statement, key, after=after, limit=limit, newest_first=True)


def purge(older_than: float, *, limit: int) -> ReturningDelete[int]:
    """Delete executions that ended more than `older_than` seconds ago, the oldest first."""
    oldest = materialized(
        select(ScheduledExecution.id)
        .where(_over(older_than))
        .order_by(ScheduledExecution.end_time)
        .limit(limit)
        .with_for_update(skip_locked=True),
        "oldest",
    )
    return (
        delete(ScheduledExecution)
        .where(among(ScheduledExecution.id, oldest))
        .returning(ScheduledExecution.id)
    )


def running(task_id: int) -> Select[int]:
    """Select an execution of a task that is running."""
    statement = select(ScheduledExecution.id).where(
        ScheduledExecution.task_id == task_id,
        ScheduledExecution.status == constant(ExecutionStatus.RUNNING),
    )
    return statement.limit(1)


def clear(task_id: int, *, limit: int | None) -> ReturningDelete[int]:
    """Delete executions of a task, except those that run."""
    statement = select(ScheduledExecution.id).where(
        ScheduledExecution.task_id == task_id,
        ScheduledExecution.status != constant(ExecutionStatus.RUNNING),
    )
    if limit is not None:
        statement = statement.limit(limit)
    some = materialized(statement.with_for_update(), "some")
    return (
        delete(ScheduledExecution).where(among(ScheduledExecution.id, some)).returning(ScheduledExecution.id)
    )


def purgeable(older_than: float) -> Select[int]:
    """Count the executions that calls of `purge` delete in the end."""
    return select(func.count()).select_from(ScheduledExecution).where(_over(older_than))


def _over(older_than: float) -> ColumnElement[bool]:
    return and_(
        ScheduledExecution.status.in_([constant(status) for status in ExecutionStatus if status not in LIVE]),
        ScheduledExecution.end_time < seconds_ago(older_than),
    )
