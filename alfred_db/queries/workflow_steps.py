"""Statements about the steps of executions, and the events that they wait for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import INTERVAL, JSONB, insert
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from ..models import WorkflowEvent, WorkflowExecution, WorkflowExecutionStatus, WorkflowStep
from ..models.base import table_of
from ..types import Text
from .leases import given_up, held
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import jsonb, materialized
from .shapes.paging import page
from .workflow_executions import EXECUTIONS

STEPS_KEY = ("seq",)


@driver_statement
def checkpoint(*, extending: bool) -> ReturningInsert[int]:
    """Insert a finished step, if the lease is held and no such step exists.

    Parameters of the statement: `execution`, `token`, `key`, `number`, `label`, `result` (JSON text),
    `failure`, `tries`, `began`; the interval `lease` if `extending`, otherwise `fresh`: the minimum time that
    the lease must have left.

    Args:
        extending: True also updates the execution: its lease, its current step, and the retry counts, which a
            new step resets. False is half the work for the server, and inserts nothing if the execution needs
            such an update.
    """
    executions = EXECUTIONS.table.c
    token, number = bindparam("token", type_=Uuid), bindparam("number", type_=Integer)
    mine = held(EXECUTIONS, bindparam("execution", type_=BigInteger), token)
    now, zero = func.statement_timestamp(), literal_column("0", Integer)
    if extending:
        own = (
            update(EXECUTIONS.table)
            .where(mine)
            # This step ends the wait, so that the next wait has another deadline.
            .values(
                lease_expires_at=now + bindparam("lease", type_=INTERVAL),
                wait_deadline_at=null(),
                **_progress(executions, number),
            )
            .returning(executions.id)
            .cte("own")
        )
    else:
        own = materialized(
            select(executions.id)
            .where(
                mine,
                executions.lease_expires_at >= now + bindparam("fresh", type_=INTERVAL),
                executions.retry_count == zero,
                executions.crash_count == zero,
                executions.wait_deadline_at.is_(None),
            )
            .with_for_update(key_share=True),
            "own",
        )
    values: dict[str, ColumnElement[Any]] = {
        "step_key": bindparam("key", type_=Text),
        "seq": number,
        "name": bindparam("label", type_=Text),
        "output": cast(bindparam("result", type_=Text), JSONB),
        "error": bindparam("failure", type_=Text),
        "attempt": bindparam("tries", type_=Integer),
        "lease_token": token,
        "started_at": bindparam("began", type_=DateTime(timezone=True)),
    }
    return _insert(own.c.id, values)


def sleep(
    execution_id: int, token: uuid.UUID, step_key: str, *, seq: int, until: datetime
) -> ReturningUpdate[int]:
    """Insert a sleep as a finished step and suspend the execution until then, unless the step exists."""
    own = materialized(
        select(WorkflowExecution.id)
        .where(held(EXECUTIONS, execution_id, token), WorkflowExecution.cancel_requested_at.is_(None))
        .with_for_update(key_share=True),
        "own",
    )
    step = _insert(
        own.c.id,
        {
            "step_key": literal(step_key, Text),
            "seq": literal(seq, Integer),
            "name": literal(step_key, Text),
            "output": jsonb(f'"{until.isoformat()}"'),
            "lease_token": literal(token, Uuid),
        },
    ).cte("step")
    return (
        _suspend(execution_id, token, available_at=until)
        .where(WorkflowExecution.id == step.c.execution_id)
        .values(_progress(table_of(WorkflowExecution).c, literal(seq, Integer)))
        .returning(WorkflowExecution.id)
    )


def stored(execution_id: int, token: uuid.UUID, step_key: str, *, seq: int) -> Select[*tuple[Any, ...]]:
    """Select the state of a lease, and the steps that conflict with a step.

    The columns are: whether the lease is held, whether its holder released it, whether a cancellation was
    requested, and a step with the same key or the same number.
    """
    return (
        select(
            held(EXECUTIONS, execution_id, token),
            and_(
                WorkflowExecution.lease_token == token,
                WorkflowExecution.status == WorkflowExecutionStatus.PENDING,
            ),
            WorkflowExecution.cancel_requested_at.is_not(None),
            WorkflowStep,
        )
        .join(
            WorkflowStep,
            and_(
                WorkflowStep.execution_id == WorkflowExecution.id,
                or_(WorkflowStep.step_key == step_key, WorkflowStep.seq == seq),
            ),
            isouter=True,
        )
        .where(WorkflowExecution.id == execution_id)
        .order_by(WorkflowStep.step_key == step_key)
    )


@cache
def steps(execution_id: int, *, after: str | None, limit: int) -> Select[WorkflowStep]:
    """Select a page of the steps of an execution, in order."""
    statement = select(WorkflowStep).where(WorkflowStep.execution_id == execution_id)
    return page(statement, [WorkflowStep.seq], after=after, limit=limit)


# Events


def own(execution_id: int, token: uuid.UUID) -> Select[datetime | None, datetime]:
    """Lock a held execution; select the deadline of its current wait and the time of the database."""
    return (
        select(WorkflowExecution.wait_deadline_at, func.statement_timestamp())
        .where(held(EXECUTIONS, execution_id, token))
        .with_for_update(key_share=True)
    )


def wait(
    execution_id: int, token: uuid.UUID, event: str, *, available_at: datetime, deadline: datetime | None
) -> ReturningUpdate[int]:
    """Suspend the execution until the event arrives or the deadline passes."""
    return (
        _suspend(execution_id, token, available_at=available_at)
        .values(waiting_for=event, wait_deadline_at=deadline)
        .returning(WorkflowExecution.id)
    )


def target(execution_id: int) -> Select[WorkflowExecutionStatus]:
    """Lock the execution that an event is delivered to, and select its status.

    The lock serialises delivery and wait: either the wait sees the event, or the delivery sees the waiting
    execution.
    """
    return (
        select(WorkflowExecution.status)
        .where(WorkflowExecution.id == execution_id)
        .with_for_update(key_share=True)
    )


def deliver(execution_id: int, name: str, payload: str | None) -> ReturningInsert[str]:
    """Insert an event, unless the execution already has one with this name."""
    return (
        insert(WorkflowEvent)
        .values(
            execution_id=literal(execution_id, BigInteger), name=literal(name, Text), payload=jsonb(payload)
        )
        .on_conflict_do_nothing()
        .returning(WorkflowEvent.name)
    )


def wake(execution_id: int, event: str) -> ReturningUpdate[int]:
    """Make an execution that waits for this event available."""
    return (
        update(WorkflowExecution)
        .where(
            WorkflowExecution.id == execution_id,
            WorkflowExecution.status == WorkflowExecutionStatus.PENDING,
            WorkflowExecution.waiting_for == event,
        )
        # From now on it can be claimed. The next holder finds the event, because its row is already written.
        .values(
            waiting_for=None,
            available_at=func.least(WorkflowExecution.available_at, func.statement_timestamp()),
        )
        .returning(WorkflowExecution.id)
    )


def event(execution_id: int, name: str) -> Select[WorkflowEvent]:
    """Select an event of an execution by its name."""
    return select(WorkflowEvent).where(WorkflowEvent.execution_id == execution_id, WorkflowEvent.name == name)


def events(execution_id: int) -> Select[WorkflowEvent]:
    """Select the events of an execution, oldest first."""
    return (
        select(WorkflowEvent)
        .where(WorkflowEvent.execution_id == execution_id)
        .order_by(WorkflowEvent.created_at, WorkflowEvent.name)
    )


def _insert(
    execution_id: ColumnElement[int], values: Mapping[str, ColumnElement[Any]]
) -> ReturningInsert[int]:
    steps = table_of(WorkflowStep)
    return (
        insert(steps)
        .from_select(["execution_id", *values], select(execution_id, *values.values()))
        .on_conflict_do_nothing()
        .returning(steps.c.execution_id)
    )


def _progress(executions: ReadOnlyColumnCollection[str, Any], seq: ColumnElement[int]) -> dict[str, Any]:
    """The columns for the progress of an execution. A new step resets the retry counts."""
    new, zero = executions.current_step <= seq, literal_column("0", Integer)
    return {
        "current_step": func.greatest(executions.current_step, seq + literal_column("1", Integer)),
        "retry_count": case((new, zero), else_=executions.retry_count),
        "crash_count": case((new, zero), else_=executions.crash_count),
    }


def _suspend(execution_id: int, token: uuid.UUID, *, available_at: datetime) -> Update:
    """Suspend an execution until a time.

    The lease ends and the token stays, so that a holder who repeats the call is recognised.
    """
    return (
        update(WorkflowExecution)
        .where(held(EXECUTIONS, execution_id, token))
        .values(
            status=WorkflowExecutionStatus.PENDING,
            available_at=available_at,
            **EXECUTIONS.progress,
            **given_up(),
        )
    )
