"""Statements about the executions of scheduled tasks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
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
    delete,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from ..models import ExecutionStatus, ScheduledExecution, ScheduledTask
from ..types import Text
from .shapes.functions import func
from .shapes.literals import among, constant, lease_of, seconds_ago, seconds_ahead
from .shapes.paging import page

HISTORY_KEY = ("scheduled_at",)

LIVE = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING)

_pending = ScheduledExecution.status == constant(ExecutionStatus.PENDING)
_running = ScheduledExecution.status == constant(ExecutionStatus.RUNNING)


def claim(worker_id: str, token: uuid.UUID, *, limit: int, lease: float) -> ReturningUpdate[*tuple[Any, ...]]:
    """The executions that have waited longest, in the order of `ClaimedExecution`; no worker waits for another."""
    ready = (
        select(ScheduledExecution.id, ScheduledExecution.task_id)
        .where(
            _pending,
            ScheduledExecution.available_at <= func.statement_timestamp(),
            ScheduledExecution.task_id.is_not(None),
        )
        .order_by(ScheduledExecution.available_at, ScheduledExecution.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("ready")
        .prefix_with("MATERIALIZED")
    )
    taken = (
        select(
            ready.c.id,
            ScheduledTask.name,
            ScheduledTask.command,
            ScheduledTask.max_retries,
            seconds_ahead(ScheduledTask.timeout).label("deadline"),
        )
        .join(ScheduledTask, ScheduledTask.id == ready.c.task_id)
        .cte("taken")
        .prefix_with("MATERIALIZED")
    )
    return (
        update(ScheduledExecution)
        .where(ScheduledExecution.id == taken.c.id)
        .values(
            status=ExecutionStatus.RUNNING,
            worker_id=worker_id,
            lease_token=token,
            lease_seconds=lease,
            claim_seq=ScheduledExecution.claim_seq + 1,
            lease_expires_at=seconds_ahead(lease),
            attempt_started_at=func.statement_timestamp(),
            attempt_deadline_at=taken.c.deadline,
            start_time=func.least(ScheduledExecution.start_time, func.statement_timestamp()),
        )
        .returning(
            ScheduledExecution.id,
            ScheduledExecution.task_id,
            taken.c.name,
            taken.c.command,
            ScheduledExecution.scheduled_at,
            ScheduledExecution.lease_token,
            ScheduledExecution.claim_seq,
            ScheduledExecution.lease_expires_at,
            ScheduledExecution.attempt_deadline_at,
            ScheduledExecution.retry_count,
            ScheduledExecution.crash_count,
            taken.c.max_retries,
            ScheduledExecution.missed_slots,
        )
    )


def start(execution_id: int, token: uuid.UUID, *, lease: float | None) -> ReturningUpdate[datetime | None]:
    """Count the attempt's time from now."""
    own = (
        select(
            ScheduledExecution.id,
            seconds_ahead(ScheduledTask.timeout).label("deadline"),
            _expiry(lease).label("expires"),
        )
        .join(ScheduledTask, ScheduledTask.id == ScheduledExecution.task_id)
        .where(_held(execution_id, token))
        .with_for_update(key_share=True, of=ScheduledExecution)
        .cte("own")
        .prefix_with("MATERIALIZED")
    )
    return (
        update(ScheduledExecution)
        .where(ScheduledExecution.id == own.c.id, _held(execution_id, token))
        .values(
            attempt_started_at=func.statement_timestamp(),
            attempt_deadline_at=own.c.deadline,
            lease_expires_at=own.c.expires,
        )
        .returning(ScheduledExecution.attempt_deadline_at)
    )


def heartbeat(
    execution_ids: Sequence[int], token: uuid.UUID, *, lease: float | None
) -> ReturningUpdate[*tuple[Any, ...]]:
    """Extend the leases that are still held, locked in the order of their ids; touches no indexed column.

    What another transaction has locked is left out.
    """
    held = and_(_running, ScheduledExecution.lease_token == token)
    own = (
        select(ScheduledExecution.id, _expiry(lease).label("expires"))
        .where(ScheduledExecution.id == func.any(literal(list(execution_ids), ARRAY(BigInteger))), held)
        .order_by(ScheduledExecution.id)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("own")
        .prefix_with("MATERIALIZED")
    )
    return (
        update(ScheduledExecution)
        .where(ScheduledExecution.id == own.c.id)
        .values(lease_expires_at=own.c.expires)
        .returning(
            ScheduledExecution.id, ScheduledExecution.lease_expires_at, ScheduledExecution.cancel_requested_at
        )
    )


def _expiry(lease: float | None) -> ColumnElement[Any]:
    return seconds_ahead(lease_of(literal(lease, Double), ScheduledExecution.lease_seconds.expression))


def holding(execution_ids: Sequence[int], token: uuid.UUID) -> Select[*tuple[Any, ...]]:
    """The columns of `heartbeat` of those that are held, told without a lock."""
    return select(
        ScheduledExecution.id, ScheduledExecution.lease_expires_at, ScheduledExecution.cancel_requested_at
    ).where(
        ScheduledExecution.id == func.any(literal(list(execution_ids), ARRAY(BigInteger))),
        _running,
        ScheduledExecution.lease_token == token,
    )


def finish(
    execution_id: int, token: uuid.UUID, *, output: str | None, error_output: str | None
) -> ReturningUpdate[ExecutionStatus]:
    return (
        update(ScheduledExecution)
        .where(_held(execution_id, token))
        .values(
            status=ExecutionStatus.COMPLETED,
            end_time=func.statement_timestamp(),
            exit_code=0,
            output=output,
            error_output=error_output,
            error_code=None,
            lease_expires_at=None,
        )
        .returning(ScheduledExecution.status)
    )


def fail(
    execution_id: int,
    token: uuid.UUID,
    *,
    code: str,
    exit_code: int | None,
    output: str | None,
    error_output: str | None,
) -> ReturningUpdate[ExecutionStatus]:
    """File it again after the task's delay, or end it when its retries are used up or it is to be cancelled."""
    outcome = _outcome(_settled(literal(code, Text)).where(_held(execution_id, token)))
    return (
        update(ScheduledExecution)
        .where(ScheduledExecution.id == outcome.c.id, _held(execution_id, token))
        .values(
            **_ending(outcome),
            retry_count=ScheduledExecution.retry_count + outcome.c.filed_again,
            exit_code=exit_code,
            output=output,
            error_output=error_output,
        )
        .returning(ScheduledExecution.status)
    )


def release(execution_id: int, token: uuid.UUID) -> ReturningUpdate[ExecutionStatus]:
    """Let it wait again, or end it when that was asked for."""
    goes_on = ScheduledExecution.cancel_requested_at.is_(None)
    return (
        update(ScheduledExecution)
        .where(_held(execution_id, token))
        .values(
            status=case(
                (goes_on, literal(ExecutionStatus.PENDING, Text)),
                else_=literal(ExecutionStatus.CANCELLED, Text),
            ),
            end_time=ScheduledExecution.cancel_requested_at,
            available_at=func.statement_timestamp(),
            lease_expires_at=None,
            attempt_deadline_at=None,
        )
        .returning(ScheduledExecution.status)
    )


def reap(*, limit: int) -> ReturningUpdate[int, ExecutionStatus]:
    """Take executions from workers that vanished or exceeded the timeout; what another reaper has is left out."""
    timed_out = ScheduledExecution.attempt_deadline_at <= ScheduledExecution.lease_expires_at
    code = case((timed_out, literal("timeout", Text)), else_=literal("lease_lost", Text))
    expired = func.least(ScheduledExecution.lease_expires_at, ScheduledExecution.attempt_deadline_at)
    outcome = _outcome(
        _settled(code)
        .where(_running, expired <= func.statement_timestamp())
        .order_by(ScheduledExecution.id)
        .limit(limit),
        skip_locked=True,
    )
    crashed = case((outcome.c.code == "lease_lost", 1), else_=0)
    return (
        update(ScheduledExecution)
        .where(ScheduledExecution.id == outcome.c.id)
        .values(
            **_ending(outcome),
            retry_count=ScheduledExecution.retry_count + outcome.c.filed_again * (1 - crashed),
            crash_count=ScheduledExecution.crash_count + crashed,
            lease_token=None,
        )
        .returning(ScheduledExecution.id, ScheduledExecution.status)
    )


def cancel(execution_id: int) -> ReturningUpdate[ExecutionStatus]:
    """End it if it waits; ask its holder to if it runs."""
    own = (
        select(
            ScheduledExecution.id,
            ScheduledExecution.status,
            func.statement_timestamp().label("now"),
        )
        .where(ScheduledExecution.id == execution_id, ScheduledExecution.status.in_(LIVE))
        .with_for_update(key_share=True)
        .cte("own")
        .prefix_with("MATERIALIZED")
    )
    waits = own.c.status == ExecutionStatus.PENDING
    return (
        update(ScheduledExecution)
        .where(ScheduledExecution.id == own.c.id)
        .values(
            status=case((waits, literal(ExecutionStatus.CANCELLED, Text)), else_=ScheduledExecution.status),
            end_time=case((waits, own.c.now), else_=null()),
            cancel_requested_at=func.least(ScheduledExecution.cancel_requested_at, own.c.now),
        )
        .returning(ScheduledExecution.status)
    )


def get(execution_id: int) -> Select[ScheduledExecution]:
    return select(ScheduledExecution).where(ScheduledExecution.id == execution_id)


def history(task_id: int, *, after: str | None, limit: int) -> Select[ScheduledExecution]:
    statement = select(ScheduledExecution).where(ScheduledExecution.task_id == task_id)
    key = [ScheduledExecution.scheduled_at]
    return page(statement, key, after=after, limit=limit, newest_first=True)


def purge(older_than: float, *, limit: int) -> ReturningDelete[int]:
    """Delete executions that ended so many seconds ago, the oldest first."""
    final = and_(
        ScheduledExecution.status.in_([constant(status) for status in ExecutionStatus if status not in LIVE]),
        ScheduledExecution.end_time < seconds_ago(older_than),
    )
    oldest = (
        select(ScheduledExecution.id)
        .where(final)
        .order_by(ScheduledExecution.end_time)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("oldest")
        .prefix_with("MATERIALIZED")
    )
    return (
        delete(ScheduledExecution)
        .where(among(ScheduledExecution.id, oldest))
        .returning(ScheduledExecution.id)
    )


def _held(execution_id: int, token: uuid.UUID) -> ColumnElement[bool]:
    return and_(ScheduledExecution.id == execution_id, _running, ScheduledExecution.lease_token == token)


def _settled(code: ColumnElement[str]) -> Select[*tuple[Any, ...]]:
    return select(
        ScheduledExecution.id,
        ScheduledExecution.available_at,
        ScheduledExecution.cancel_requested_at,
        (ScheduledExecution.retry_count + ScheduledExecution.crash_count < ScheduledTask.max_retries).label(
            "again"
        ),
        func.statement_timestamp().label("now"),
        seconds_ahead(ScheduledTask.retry_delay).label("retry_at"),
        code.label("code"),
    ).join(ScheduledTask, ScheduledTask.id == ScheduledExecution.task_id)


def _outcome(settled: Select[*tuple[Any, ...]], *, skip_locked: bool = False) -> CTE:
    """What becomes of failed attempts: times are made into columns first, so that a CASE can choose among them."""
    lost = (
        settled.with_for_update(key_share=True, skip_locked=skip_locked, of=ScheduledExecution)
        .cte("lost")
        .prefix_with("MATERIALIZED")
    )
    cancelled = lost.c.cancel_requested_at.is_not(None)
    again = and_(lost.c.again, ~cancelled)
    return select(
        lost.c.id,
        lost.c.code,
        case(
            (cancelled, literal(ExecutionStatus.CANCELLED, Text)),
            (again, literal(ExecutionStatus.PENDING, Text)),
            else_=literal(ExecutionStatus.FAILED, Text),
        ).label("status"),
        case((again, null()), else_=lost.c.now).label("end_time"),
        case((again, lost.c.retry_at), else_=lost.c.available_at).label("available_at"),
        case((again, 1), else_=0).label("filed_again"),
    ).cte("outcome")


def _ending(outcome: CTE) -> dict[str, Any]:
    return {
        "status": outcome.c.status,
        "end_time": outcome.c.end_time,
        "available_at": outcome.c.available_at,
        "error_code": outcome.c.code,
        "lease_expires_at": None,
        "attempt_deadline_at": None,
    }
