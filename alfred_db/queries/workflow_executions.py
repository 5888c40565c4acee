"""Statements of those who run the executions of workflows."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Double,
    Select,
    and_,
    case,
    cast,
    column,
    literal,
    null,
    select,
    true,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from ..models import Workflow, WorkflowExecution, WorkflowExecutionStatus, WorkflowStep
from ..types import Text
from .shapes.functions import func
from .shapes.literals import constant, jsonb, lease_of, seconds_ahead

MAX_BACK_OFF = 300.0
"""The longest delay, in seconds, that `fail` chooses by itself."""

REACHED = (
    select(func.coalesce(func.max(WorkflowStep.seq) + 1, 0))
    .where(WorkflowStep.execution_id == WorkflowExecution.id)
    .correlate(WorkflowExecution)
    .scalar_subquery()
)
"""How far an execution is by its steps: most checkpoints leave `current_step` to the next write of the row."""

_pending = WorkflowExecution.status == constant(WorkflowExecutionStatus.PENDING)
_running = WorkflowExecution.status == constant(WorkflowExecutionStatus.RUNNING)
_cancelled = literal(WorkflowExecutionStatus.CANCELLED, Text)


def held(execution_id: int, token: uuid.UUID) -> ColumnElement[bool]:
    """What every write of a holder asks for first."""
    return and_(WorkflowExecution.id == execution_id, _running, WorkflowExecution.lease_token == token)


def claim(
    worker_id: str, token: uuid.UUID, workflow_ids: Sequence[int], *, limit: int, lease: float
) -> ReturningUpdate[*tuple[Any, ...]]:
    """The executions of these versions that have waited longest, one version after the other in the order given.

    The columns are in the order of `ClaimedWorkflow`.
    """
    wanted = func.unnest(literal(list(workflow_ids), ARRAY(BigInteger))).table_valued(
        column("id", BigInteger)
    )
    wanted = wanted.render_derived(name="wanted")
    first = (
        select(WorkflowExecution.id, WorkflowExecution.workflow_id, WorkflowExecution.timeout_seconds)
        .where(
            _pending,
            WorkflowExecution.workflow_id == wanted.c.id,
            WorkflowExecution.available_at <= func.statement_timestamp(),
        )
        .order_by(WorkflowExecution.available_at, WorkflowExecution.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("first")
    )
    ready = (
        select(first.c.id, first.c.workflow_id, first.c.timeout_seconds)
        .select_from(wanted)
        .join(first, true())
        .limit(limit)
        .cte("ready")
        .prefix_with("MATERIALIZED")
    )
    taken = (
        select(ready.c.id, Workflow.name, seconds_ahead(ready.c.timeout_seconds).label("deadline"))
        .join(Workflow, Workflow.id == ready.c.workflow_id)
        .cte("taken")
        .prefix_with("MATERIALIZED")
    )
    return (
        update(WorkflowExecution)
        .where(WorkflowExecution.id == taken.c.id)
        .values(
            status=WorkflowExecutionStatus.RUNNING,
            worker_id=worker_id,
            lease_token=token,
            lease_seconds=lease,
            claim_seq=WorkflowExecution.claim_seq + 1,
            lease_expires_at=seconds_ahead(lease),
            attempt_started_at=func.statement_timestamp(),
            attempt_deadline_at=taken.c.deadline,
            started_at=func.least(WorkflowExecution.started_at, func.statement_timestamp()),
            waiting_for=None,
        )
        .returning(
            WorkflowExecution.id,
            WorkflowExecution.workflow_id,
            taken.c.name,
            WorkflowExecution.workflow_version,
            WorkflowExecution.definition,
            WorkflowExecution.input_data,
            WorkflowExecution.current_step,
            WorkflowExecution.lease_token,
            WorkflowExecution.claim_seq,
            WorkflowExecution.lease_expires_at,
            WorkflowExecution.attempt_deadline_at,
            WorkflowExecution.retry_count,
            WorkflowExecution.crash_count,
            WorkflowExecution.max_retries,
            WorkflowExecution.parent_execution_id,
        )
    )


def heartbeat(
    execution_ids: Sequence[int], token: uuid.UUID, *, lease: float | None
) -> ReturningUpdate[*tuple[Any, ...]]:
    """Extend the leases that are still held, locked in the order of their ids; touches no indexed column.

    What another transaction has locked is left out.
    """
    mine = and_(_running, WorkflowExecution.lease_token == token)
    own = (
        select(WorkflowExecution.id, _expiry(lease).label("expires"))
        .where(WorkflowExecution.id == func.any(literal(list(execution_ids), ARRAY(BigInteger))), mine)
        .order_by(WorkflowExecution.id)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("own")
        .prefix_with("MATERIALIZED")
    )
    return (
        update(WorkflowExecution)
        .where(WorkflowExecution.id == own.c.id)
        .values(lease_expires_at=own.c.expires, current_step=REACHED)
        .returning(
            WorkflowExecution.id, WorkflowExecution.lease_expires_at, WorkflowExecution.cancel_requested_at
        )
    )


def _expiry(lease: float | None) -> ColumnElement[Any]:
    return seconds_ahead(lease_of(literal(lease, Double), WorkflowExecution.lease_seconds.expression))


def holding(execution_ids: Sequence[int], token: uuid.UUID) -> Select[*tuple[Any, ...]]:
    """The columns of `heartbeat` of those that are held, told without a lock."""
    return select(
        WorkflowExecution.id, WorkflowExecution.lease_expires_at, WorkflowExecution.cancel_requested_at
    ).where(
        WorkflowExecution.id == func.any(literal(list(execution_ids), ARRAY(BigInteger))),
        _running,
        WorkflowExecution.lease_token == token,
    )


def complete(
    execution_id: int, token: uuid.UUID, output: str | None
) -> ReturningUpdate[WorkflowExecutionStatus]:
    return (
        update(WorkflowExecution)
        .where(held(execution_id, token))
        .values(
            status=WorkflowExecutionStatus.COMPLETED,
            completed_at=func.statement_timestamp(),
            current_step=REACHED,
            output_data=jsonb(output),
            error_message=None,
            error_code=None,
            lease_expires_at=None,
            attempt_deadline_at=None,
        )
        .returning(WorkflowExecution.status)
    )


def release(execution_id: int, token: uuid.UUID) -> ReturningUpdate[WorkflowExecutionStatus]:
    """Let it wait again, or end it when that was asked for."""
    goes_on = WorkflowExecution.cancel_requested_at.is_(None)
    return (
        update(WorkflowExecution)
        .where(held(execution_id, token))
        .values(
            status=case((goes_on, literal(WorkflowExecutionStatus.PENDING, Text)), else_=_cancelled),
            cancelled_at=WorkflowExecution.cancel_requested_at,
            available_at=func.statement_timestamp(),
            current_step=REACHED,
            lease_expires_at=None,
            attempt_deadline_at=None,
        )
        .returning(WorkflowExecution.status)
    )


def fail(
    execution_id: int,
    token: uuid.UUID,
    *,
    error: str,
    code: str,
    retry: bool,
    delay: float | None,
    jitter: float,
) -> ReturningUpdate[WorkflowExecutionStatus]:
    """File it again after a delay, or end it when its retries are used up or it is to be cancelled."""
    retry_at = _back_off(jitter) if delay is None else seconds_ahead(delay)
    lost = _lost(literal(code, Text), retry_at).where(held(execution_id, token))
    outcome = _outcome(lost, retry=retry)
    return (
        update(WorkflowExecution)
        .where(WorkflowExecution.id == outcome.c.id, held(execution_id, token))
        .values(
            **_ending(outcome),
            retry_count=WorkflowExecution.retry_count + outcome.c.filed_again,
            error_message=error,
        )
        .returning(WorkflowExecution.status)
    )


def reap(*, limit: int, jitter: float) -> ReturningUpdate[int, WorkflowExecutionStatus]:
    """Take executions from workers that vanished or exceeded the timeout; what another reaper has is left out."""
    timed_out = WorkflowExecution.attempt_deadline_at <= WorkflowExecution.lease_expires_at
    code = case((timed_out, literal("timeout", Text)), else_=literal("lease_lost", Text))
    expired = func.least(WorkflowExecution.lease_expires_at, WorkflowExecution.attempt_deadline_at)
    lost = (
        _lost(code, _back_off(jitter))
        .where(_running, expired <= func.statement_timestamp())
        .order_by(WorkflowExecution.id)
        .limit(limit)
    )
    outcome = _outcome(lost, skip_locked=True)
    crashed = case((outcome.c.code == "lease_lost", 1), else_=0)
    return (
        update(WorkflowExecution)
        .where(WorkflowExecution.id == outcome.c.id)
        .values(
            **_ending(outcome),
            retry_count=WorkflowExecution.retry_count + outcome.c.filed_again * (1 - crashed),
            crash_count=WorkflowExecution.crash_count + crashed,
            lease_token=None,
        )
        .returning(WorkflowExecution.id, WorkflowExecution.status)
    )


def get(execution_id: int) -> Select[WorkflowExecution]:
    return select(WorkflowExecution).where(WorkflowExecution.id == execution_id)


def _back_off(jitter: float) -> ColumnElement[Any]:
    """1, 2, 4 ... seconds after the attempts so far, within limits, times the jitter."""
    attempts = WorkflowExecution.retry_count + WorkflowExecution.crash_count
    seconds = func.least(MAX_BACK_OFF, func.power(2.0, func.least(attempts, 10)))
    return seconds_ahead(cast(seconds, Double) * jitter)


def _lost(code: ColumnElement[str], retry_at: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    attempts = WorkflowExecution.retry_count + WorkflowExecution.crash_count
    return select(
        WorkflowExecution.id,
        WorkflowExecution.available_at,
        WorkflowExecution.cancel_requested_at,
        (attempts < WorkflowExecution.max_retries).label("again"),
        func.statement_timestamp().label("now"),
        retry_at.label("retry_at"),
        code.label("code"),
    )


def _outcome(lost: Select[*tuple[Any, ...]], *, retry: bool = True, skip_locked: bool = False) -> CTE:
    """What becomes of failed attempts: times are made into columns first, so that a CASE can choose among them."""
    own = (
        lost.with_for_update(key_share=True, skip_locked=skip_locked).cte("lost").prefix_with("MATERIALIZED")
    )
    cancelled = own.c.cancel_requested_at.is_not(None)
    again = and_(own.c.again, ~cancelled, literal(retry))
    failed = and_(~cancelled, ~again)
    return select(
        own.c.id,
        own.c.code,
        case(
            (cancelled, _cancelled),
            (again, literal(WorkflowExecutionStatus.PENDING, Text)),
            else_=literal(WorkflowExecutionStatus.FAILED, Text),
        ).label("status"),
        case((failed, own.c.now), else_=null()).label("failed_at"),
        case((cancelled, own.c.now), else_=null()).label("cancelled_at"),
        case(
            (and_(again, own.c.code == "lease_lost"), own.c.now),
            (again, own.c.retry_at),
            else_=own.c.available_at,
        ).label("available_at"),
        case((again, 1), else_=0).label("filed_again"),
    ).cte("outcome")


def _ending(outcome: CTE) -> dict[str, Any]:
    return {
        "status": outcome.c.status,
        "failed_at": outcome.c.failed_at,
        "cancelled_at": outcome.c.cancelled_at,
        "available_at": outcome.c.available_at,
        "error_code": outcome.c.code,
        "current_step": REACHED,
        "lease_expires_at": None,
        "attempt_deadline_at": None,
    }
