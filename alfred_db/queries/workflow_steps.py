"""Statements about the steps of executions, and the events that they wait for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
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
    delete,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import INTERVAL, JSONB, distinct_on, insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import WorkflowEvent, WorkflowExecution, WorkflowExecutionStatus, WorkflowStep, WorkflowStepKind
from ..models.base import table_of
from ..types import Text
from ..values.workflows import child_event
from .leases import given_up, held
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, constant, jsonb, materialized, seconds_ahead
from .shapes.paging import page
from .workflow_executions import EXECUTIONS

STEPS_KEY = ("seq",)


@driver_statement
def checkpoint(*, extending: bool) -> ReturningInsert[int]:
    """Insert a finished step, if the lease is held and no such step exists.

    Parameters of the statement: `execution`, `token`, `key`, `number`, `label`, `result` (JSON text),
    `failure`, `tries`, `began`, `kind`; the interval `lease` if `extending`, otherwise `fresh`: the minimum time that
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
        "kind": bindparam("kind", type_=Text),
    }
    return _insert(own.c.id, values)


def sleep(
    execution_id: int, token: uuid.UUID, step_key: str, *, seq: int, name: str, until: datetime | float
) -> ReturningUpdate[int]:
    """Insert a sleep as a finished step and suspend the execution until then, unless the step exists.

    Args:
        execution_id: The execution.
        token: The token of the claim.
        step_key: The key of the step.
        seq: The number of the step.
        name: The name of the step.
        until: The end of the sleep, or its seconds by the clock of the database.
    """
    end: ColumnElement[Any]
    output: ColumnElement[Any]
    if isinstance(until, datetime):
        end, output = literal(until, DateTime(timezone=True)), jsonb(f'"{until.isoformat()}"')
    else:
        end = seconds_ahead(until)
        output = func.to_jsonb(end, type_=JSONB)
    own = materialized(
        select(WorkflowExecution.id, output.label("output"))
        .where(held(EXECUTIONS, execution_id, token), WorkflowExecution.cancel_requested_at.is_(None))
        .with_for_update(key_share=True),
        "own",
    )
    step = _insert(
        own.c.id,
        {
            "step_key": literal(step_key, Text),
            "seq": literal(seq, Integer),
            "name": literal(name, Text),
            "output": own.c.output,
            "lease_token": literal(token, Uuid),
            "kind": constant(WorkflowStepKind.SLEEP),
        },
    ).cte("step")
    return (
        _suspend(execution_id, token, available_at=end)
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


@driver_statement
def finished() -> Select[*tuple[Any, ...]]:
    """Select all finished steps of the execution `execution`, as rows of `StoredStep`."""
    own = table_of(WorkflowStep).c
    return (
        select(own.seq, own.kind, own.name, own.output, own.error)
        .where(own.execution_id == bindparam("execution", type_=BigInteger))
        .order_by(own.seq)
    )


def state(execution_id: int) -> Select[str, Any]:
    """Select the values that an execution shows, by name: the last one of each."""
    own = WorkflowStep
    return (
        select(own.name, own.output)
        .where(own.execution_id == execution_id, own.kind == constant(WorkflowStepKind.STATE))
        .ext(distinct_on(own.name))
        .order_by(own.name, own.seq.desc())
    )


def forget(execution_id: int, from_seq: int) -> ReturningDelete[int]:
    """Delete the steps of an execution from the step `from_seq` on."""
    own = table_of(WorkflowStep).c
    return (
        delete(table_of(WorkflowStep))
        .where(own.execution_id == execution_id, own.seq >= from_seq)
        .returning(own.seq)
    )


def last_failed(execution_id: int) -> Select[int]:
    """Select the number of the last step that has failed."""
    failed = [WorkflowStep.execution_id == execution_id, WorkflowStep.error.is_not(None)]
    return select(WorkflowStep.seq).where(*failed).order_by(WorkflowStep.seq.desc()).limit(1)


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
        _suspend(execution_id, token, available_at=literal(available_at, DateTime(timezone=True)))
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


def child(parent_id: int, child_id: int) -> Select[*tuple[Any, ...]]:
    """Select the status, the output and the error of a child of an execution."""
    return select(
        WorkflowExecution.status, WorkflowExecution.output_data, WorkflowExecution.error_message
    ).where(WorkflowExecution.id == child_id, WorkflowExecution.parent_execution_id == parent_id)


def waits_for_child(
    execution_id: int, token: uuid.UUID, child_id: int, *, seconds: float
) -> ReturningUpdate[int]:
    """Suspend the execution until the child ends; it looks again after some seconds."""
    return (
        _suspend(execution_id, token, available_at=seconds_ahead(seconds))
        .values(waiting_for=child_event(child_id))
        .returning(WorkflowExecution.id)
    )


def wake_parents(child_ids: Sequence[int]) -> ReturningUpdate[int]:
    """Make the executions available that wait for these children, without those that others have locked.

    Waiting for their locks here would be out of the order of the ids. They look again by themselves.
    """
    part, own = aliased(WorkflowExecution, name="part"), table_of(WorkflowExecution).c
    waiting = materialized(
        select(own.id)
        .join(part, part.parent_execution_id == own.id)
        .where(
            part.id == func.any(literal(list(child_ids), ARRAY(BigInteger))),
            own.status == constant(WorkflowExecutionStatus.PENDING),
            own.waiting_for == func.concat(literal_column("text 'child '", Text), part.id, type_=Text),
        )
        .order_by(own.id)
        .with_for_update(key_share=True, skip_locked=True, of=table_of(WorkflowExecution)),
        "waiting",
    )
    return (
        update(WorkflowExecution)
        .where(among(own.id, waiting))
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


def _suspend(execution_id: int, token: uuid.UUID, *, available_at: ColumnElement[Any]) -> Update:
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
