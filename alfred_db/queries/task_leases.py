"""Statements about tasks that a worker holds: claimed, kept, finished, given back, taken away.

Those in a cache are built once and take their values as named parameters when they run.
"""

from __future__ import annotations

import uuid
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    Boolean,
    ColumnElement,
    Double,
    Integer,
    Interval,
    Select,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.sql.dml import ReturningUpdate

from ..models import Task, TaskStatus
from ..models.base import table_of
from ..types import Text
from .shapes.functions import func
from .shapes.literals import among, constant, number

HANDLER, TIMEOUT, LEASE_LOST = "handler", "timeout", "lease_lost"
"""What `error_code` says of an attempt, unless the handler has a code of its own."""

_t = table_of(Task).c
_processing = _t.status == constant(TaskStatus.PROCESSING)
_zero, _one = literal_column("0", Integer), literal_column("1", Integer)
_two = literal_column("float8 '2'", Double)
_second = literal_column("interval '1 second'", Interval)
_now = func.statement_timestamp
_lease = bindparam("lease", type_=INTERVAL)
_own = and_(
    _t.id == bindparam("id", type_=Uuid), _processing, _t.lease_token == bindparam("token", type_=Uuid)
)


@cache
def heartbeat() -> ReturningUpdate[*tuple[Any, ...]]:
    """Extend the lease of the task `id` of `token`. Touches no indexed column: the row stays on its page."""
    return _extended(update(table_of(Task)).where(_own))


@cache
def heartbeat_many() -> ReturningUpdate[*tuple[Any, ...]]:
    """The same for the tasks `ids`, each with its token of `tokens`."""
    return _extended(update(table_of(Task)).where(among(_t.id, _held())))


@cache
def holding() -> Select[uuid.UUID]:
    """Which of the tasks `ids` are held by their tokens, told without a lock."""
    given = _given()
    mine = and_(_t.id == given.c.id, _t.lease_token == given.c.token)
    return select(_t.id).join_from(given, table_of(Task), mine).where(_processing)


@cache
def complete() -> ReturningUpdate[*tuple[Any, ...]]:
    """Finish the task `id` of `token`; it need not know of a cancellation that was asked for."""
    return update(table_of(Task)).where(_own).values(**_completed()).returning(_t.id)


@cache
def complete_many() -> ReturningUpdate[*tuple[Any, ...]]:
    """The same for the tasks `ids`, each with its token of `tokens`."""
    return update(table_of(Task)).where(among(_t.id, _held())).values(**_completed()).returning(_t.id)


@cache
def fail() -> ReturningUpdate[*tuple[Any, ...]]:
    """File the task `id` of `token` again, or end it. Parameters: also `code`, `message`, whether to `retry`, and
    the back-off's `base`, `cap` and `spread`."""
    attempt = _attempt(
        code=bindparam("code", type_=Text),
        again=and_(bindparam("retry", type_=Boolean), _retries_left()),
        retry_at=_retry_at(bindparam("spread", type_=Double)),
    )
    outcome = _outcome(attempt.where(_own).with_for_update(key_share=True))
    return (
        update(table_of(Task))
        .where(_t.id == outcome.c.id, _own)
        .values(
            **_ended(outcome),
            retry_count=_t.retry_count + outcome.c.again,
            error_code=bindparam("code", type_=Text),
            error_message=bindparam("message", type_=Text),
        )
        .returning(_t.status)
    )


@cache
def release(*, delayed: bool) -> ReturningUpdate[*tuple[Any, ...]]:
    """Give the task `id` of `token` back; it keeps its place in the queue, or waits for the interval `delay`."""
    later = _now() + bindparam("delay", type_=INTERVAL)
    attempt = _attempt(
        code=_t.error_code,
        again=true(),
        retry_at=func.greatest(_t.available_at, later) if delayed else _t.available_at,
    )
    outcome = _outcome(attempt.where(_own).with_for_update(key_share=True))
    return (
        update(table_of(Task))
        .where(_t.id == outcome.c.id, _own)
        .values(**_ended(outcome))
        .returning(_t.status)
    )


@cache
def reap(limit: int) -> ReturningUpdate[*tuple[Any, ...]]:
    """Take tasks from workers that vanished or exceeded the timeout, whichever came first; what another reaper has
    is passed over. Parameters: the back-off's `base`, `cap` and `jitter`."""
    timed_out = _t.attempt_deadline_at <= _t.lease_expires_at
    spread = _one + bindparam("jitter", type_=Double) * (_two * func.random(type_=Double) - _one)
    over = func.least(_t.lease_expires_at, _t.attempt_deadline_at) <= _now()
    code = case((timed_out, _text(TIMEOUT)), else_=_text(LEASE_LOST))
    attempt = _attempt(code=code, again=_retries_left(), retry_at=_retry_at(spread))
    outcome = _outcome(
        attempt.where(_processing, over)
        .order_by(_t.id)
        .limit(number(limit))
        .with_for_update(key_share=True, skip_locked=True)
    )
    crashed = outcome.c.code == _text(LEASE_LOST)
    return (
        update(table_of(Task))
        .where(_t.id == outcome.c.id)
        .values(
            **_ended(outcome),
            retry_count=_t.retry_count + case((crashed, _zero), else_=outcome.c.again),
            crash_count=_t.crash_count + case((crashed, _one), else_=_zero),
            lease_token=null(),
            error_code=outcome.c.code,
            error_message=case(
                (crashed, _text("the worker fell silent and its lease expired")),
                else_=_text("the attempt took longer than timeout_seconds"),
            ),
        )
        .returning(_t.id, _t.status)
    )


def _extended(statement: Update) -> ReturningUpdate[*tuple[Any, ...]]:
    return statement.values(lease_expires_at=_now() + _lease).returning(
        _t.id, _t.lease_expires_at, _t.cancel_requested_at
    )


def _held() -> CTE:
    """The tasks of `ids` that are still held by the token of the same place in `tokens`, locked in one order.

    What another transaction has locked is left out: one row must not hold up the others.
    """
    given = _given()
    return (
        select(_t.id)
        .join_from(given, table_of(Task), and_(_t.id == given.c.id, _t.lease_token == given.c.token))
        .where(_processing)
        .order_by(_t.id)
        .with_for_update(key_share=True, skip_locked=True, of=table_of(Task))
        .cte("held")
    )


def _given() -> Any:
    return (
        func.unnest(bindparam("ids", type_=ARRAY(Uuid)), bindparam("tokens", type_=ARRAY(Uuid)))
        .table_valued(column("id", Uuid), column("token", Uuid))
        .render_derived("given")
    )


def _completed() -> dict[str, Any]:
    return {
        "status": constant(TaskStatus.COMPLETED),
        "completed_at": _now(),
        "lease_expires_at": null(),
        "attempt_deadline_at": null(),
    }


def _retries_left() -> ColumnElement[bool]:
    """One budget for failures and crashes: a task that kills its workers ends too."""
    return _t.retry_count + _t.crash_count < _t.max_retries


def _retry_at(spread: ColumnElement[Any]) -> ColumnElement[Any]:
    attempts = func.least(_t.retry_count + _t.crash_count, literal_column("30"))
    wait = func.least(
        bindparam("cap", type_=Double), bindparam("base", type_=Double) * func.power(_two, attempts)
    )
    return _now() + wait * spread * _second


def _attempt(
    *, code: ColumnElement[Any], again: ColumnElement[bool], retry_at: ColumnElement[Any]
) -> Select[*tuple[Any, ...]]:
    return select(
        _t.id,
        _t.available_at,
        _t.cancel_requested_at.is_not(None).label("cancelled"),
        again.label("again"),
        retry_at.label("retry_at"),
        _now().label("now"),
        code.label("code"),
    )


def _outcome(attempt: Select[*tuple[Any, ...]]) -> CTE:
    """What becomes of attempts that end unfinished. Times are columns here, so that a CASE can choose among them."""
    lost = attempt.cte("attempt").prefix_with("MATERIALIZED")
    again = and_(lost.c.again, ~lost.c.cancelled)
    return select(
        lost.c.id,
        lost.c.code,
        case(
            (lost.c.cancelled, constant(TaskStatus.CANCELLED)),
            (again, constant(TaskStatus.PENDING)),
            else_=constant(TaskStatus.FAILED),
        ).label("status"),
        case((again, lost.c.retry_at), else_=lost.c.available_at).label("available_at"),
        case((lost.c.cancelled, lost.c.now)).label("cancelled_at"),
        case((or_(again, lost.c.cancelled), null()), else_=lost.c.now).label("failed_at"),
        case((again, _one), else_=_zero).label("again"),
    ).cte("outcome")


def _ended(outcome: CTE) -> dict[str, Any]:
    return {
        "status": outcome.c.status,
        "available_at": outcome.c.available_at,
        "cancelled_at": outcome.c.cancelled_at,
        "failed_at": outcome.c.failed_at,
        "lease_expires_at": null(),
        "attempt_deadline_at": null(),
    }


def _text(value: str) -> ColumnElement[str]:
    return literal_column(f"'{value}'", Text)
