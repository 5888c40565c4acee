"""Statements that end a lease: by its holder, by a cancellation, or by the reaper."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Double,
    Integer,
    Interval,
    Select,
    and_,
    bindparam,
    case,
    literal_column,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.sql.dml import ReturningUpdate

from ..types import Text
from .leases import LEASE_LOST, TIMEOUT, Leased, expired, given_up, held, locked, owned
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, number, seconds_ahead

_zero, _one = literal_column("0", Integer), literal_column("1", Integer)
# pg_catalog has no operators of double precision and integer.
_once, _two = literal_column("float8 '1'", Double), literal_column("float8 '2'", Double)
_second = literal_column("interval '1 second'", Interval)
_now = func.statement_timestamp


def set_aside(
    leased: Leased[Any], id: Any, token: uuid.UUID, *, code: str, message: str
) -> ReturningUpdate[*tuple[Any, ...]]:
    """Have a row fail that was just claimed, as if it had not been."""
    own = leased.table.c
    return (
        update(leased.table)
        .where(held(leased, id, token))
        .values(
            **{leased.failed_at: _now(), leased.error: message},
            status=constant(leased.status("failed")),
            error_code=code,
            claim_seq=own.claim_seq - _one,
            **given_up(),
        )
        .returning(own.id, *leased.awaited)
    )


@driver_statement
def complete(leased: Leased[Any], *, alone: bool = False) -> ReturningUpdate[*tuple[Any, ...]]:
    """Complete the row `id` with `token`.

    A requested cancellation has no effect any more, because the work is done.

    Args:
        leased: The table.
        alone: Whether to leave out a row whose end releases others, as this is to be done in the same transaction.
    """
    return _completed(leased, and_(owned(leased), *_unawaited(leased, alone)))


@driver_statement
def complete_many(leased: Leased[Any], *, alone: bool = False) -> ReturningUpdate[*tuple[Any, ...]]:
    """Complete the rows `ids`, each with its token of `tokens`; locked rows are skipped. For `alone` see `complete`."""
    held = locked(leased, *_unawaited(leased, alone))
    return _completed(leased, leased.table.c.id == held.c.id)


@driver_statement
def fail(leased: Leased[Any], *, alone: bool = False) -> ReturningUpdate[*tuple[Any, ...]]:
    """End a failed attempt at the row `id` with `token`: the row waits for its next attempt, or ends.

    Parameters of the statement: also `code`, `message`, `retry` (whether to retry), and for a back-off
    `base`, `cap` and `spread`. For `alone` see `complete`.
    """
    own = leased.table.c
    attempt = _attempt(
        leased,
        code=bindparam("code", type_=Text),
        again=and_(bindparam("retry", type_=Boolean), _retries_left(leased)),
        retry_at=_retry_at(leased, bindparam("spread", type_=Double)),
    )
    attempt = attempt.where(owned(leased), *_unawaited(leased, alone))
    outcome = _outcome(leased, _for_update(leased, attempt))
    return (
        update(leased.table)
        # The CTE has locked the row, so that the token cannot change; it is compared again, as in every write.
        .where(own.id == outcome.c.id, owned(leased))
        .values(
            **{leased.error: bindparam("message", type_=Text)},
            **_ended(leased, outcome),
            retry_count=own.retry_count + outcome.c.again,
            error_code=bindparam("code", type_=Text),
            **leased.on_fail,
        )
        .returning(own.status, *leased.awaited)
    )


@driver_statement
def release(leased: Leased[Any], *, delayed: bool, alone: bool = False) -> ReturningUpdate[*tuple[Any, ...]]:
    """Release the row `id` with `token` unfinished, without counting a retry.

    The row keeps its place, or if `delayed` waits for the interval `delay`. A row whose cancellation was
    requested is cancelled instead, so that no other worker starts it. For `alone` see `complete`.
    """
    own = leased.table.c
    later = _now() + bindparam("delay", type_=INTERVAL)
    attempt = _attempt(
        leased,
        code=own.error_code,
        again=true(),
        retry_at=func.greatest(own.available_at, later) if delayed else own.available_at,
    )
    attempt = attempt.where(owned(leased), *_unawaited(leased, alone))
    outcome = _outcome(leased, _for_update(leased, attempt))
    return (
        update(leased.table)
        .where(own.id == outcome.c.id, owned(leased))
        .values(**_ended(leased, outcome))
        .returning(own.status, *leased.awaited)
    )


def cancel(
    leased: Leased[Any], chosen: Select[*tuple[Any, ...]], **also: Any
) -> ReturningUpdate[*tuple[Any, ...]]:
    """Cancel rows that wait, and request the cancellation of held ones; return the id and status of each.

    A waiting row has no holder, so that it ends here. A running row belongs to its holder: only the holder or
    a reaper ends it, and either cancels it unless the work has been completed by then.

    Args:
        leased: The table.
        chosen: Selects the `id` of live rows, in the order of their ids, and locks them.
        also: Further columns that are written.
    """
    own = leased.table.c
    live = materialized(chosen.add_columns(own.status, _now().label("now")), "live")
    waits = live.c.status == constant(leased.status("pending"))
    values = {
        "status": case((waits, constant(leased.status("cancelled"))), else_=live.c.status),
        leased.cancelled_at: case((waits, live.c.now), else_=null()),
        "cancel_requested_at": func.least(own.cancel_requested_at, live.c.now),
    }
    return (
        update(leased.table)
        .where(own.id == live.c.id)
        .values(values | also)
        .returning(own.id, own.status, *leased.awaited)
    )


@driver_statement
def notify() -> Select[*tuple[Any, ...]]:
    """Notify a `channel` of a `payload`, when the transaction commits."""
    return select(func.pg_notify(bindparam("channel", type_=Text), bindparam("payload", type_=Text)))


@driver_statement
def reap(leased: Leased[Any], limit: int) -> ReturningUpdate[*tuple[Any, ...]]:
    """Take rows from workers that vanished or exceeded the timeout, whichever came first.

    Locked rows are skipped: another reaper handles them, or their holder is ending them. For a back-off the
    parameters of the statement are `base`, `cap` and `jitter`.
    """
    own = leased.table.c
    timed_out = own.attempt_deadline_at <= own.lease_expires_at
    spread = _once + bindparam("jitter", type_=Double) * (_two * func.random(type_=Double) - _once)
    code = case((timed_out, _text(TIMEOUT)), else_=_text(LEASE_LOST))
    attempt = _attempt(leased, code=code, again=_retries_left(leased), retry_at=_retry_at(leased, spread))
    # An expression, so that the planner cannot read all rows in the order of the key instead of the index of held ones.
    key = func.coalesce(own.id, own.id)
    attempt = attempt.where(expired(leased)).order_by(key).limit(number(limit))
    outcome = _outcome(leased, _for_update(leased, attempt, skip_locked=True), reaped=True)
    crashed = outcome.c.code == _text(LEASE_LOST)
    return (
        update(leased.table)
        .where(own.id == outcome.c.id)
        .values(
            **{
                leased.error: case(
                    (crashed, _text("the worker fell silent and its lease expired")),
                    else_=_text("the attempt took longer than its timeout"),
                )
            },
            **_ended(leased, outcome),
            retry_count=own.retry_count + case((crashed, _zero), else_=outcome.c.again),
            crash_count=own.crash_count + case((crashed, _one), else_=_zero),
            # A holder may repeat its own call with the token. After a reap the previous holder is refused.
            lease_token=null(),
            error_code=outcome.c.code,
        )
        .returning(own.id, own.status, *leased.awaited)
    )


def _unawaited(leased: Leased[Any], alone: bool) -> list[ColumnElement[bool]]:
    """Return the condition of a row whose end releases nothing."""
    return [column == _zero for column in leased.awaited if alone]


def _completed(leased: Leased[Any], rows: ColumnElement[bool]) -> ReturningUpdate[*tuple[Any, ...]]:
    values = {
        "status": constant(leased.status("completed")),
        leased.completed_at: _now(),
        **given_up(),
        **leased.progress,
        **leased.on_complete,
    }
    return update(leased.table).where(rows).values(values).returning(leased.table.c.id, *leased.awaited)


def _retries_left(leased: Leased[Any]) -> ColumnElement[bool]:
    """Failures and crashes share one limit, so that work that kills its workers ends too."""
    own = leased.table.c
    return own.retry_count + own.crash_count < leased.max_retries


def _retry_at(leased: Leased[Any], spread: ColumnElement[Any]) -> ColumnElement[Any]:
    if leased.retry_delay is not None:
        return seconds_ahead(leased.retry_delay)
    own = leased.table.c
    attempts = func.least(own.retry_count + own.crash_count, literal_column("30"))
    wait = func.least(
        bindparam("cap", type_=Double), bindparam("base", type_=Double) * func.power(_two, attempts)
    )
    return _now() + wait * spread * _second


def _attempt(
    leased: Leased[Any],
    *,
    code: ColumnElement[Any],
    again: ColumnElement[bool],
    retry_at: ColumnElement[Any],
) -> Select[*tuple[Any, ...]]:
    own = leased.table.c
    attempt = select(
        own.id,
        own.available_at,
        own.cancel_requested_at.is_not(None).label("cancelled"),
        again.label("again"),
        retry_at.label("retry_at"),
        _now().label("now"),
        code.label("code"),
        own.crash_count.label("crashes"),
    )
    return attempt if leased.parent is None else attempt.join_from(leased.table, *leased.parent)


def _for_update(
    leased: Leased[Any], attempt: Select[*tuple[Any, ...]], *, skip_locked: bool = False
) -> Select[*tuple[Any, ...]]:
    """Lock the rows, but not those of the parent table, which is only read."""
    of = None if leased.parent is None else leased.table
    return attempt.with_for_update(key_share=True, skip_locked=skip_locked, of=of)


def _outcome(leased: Leased[Any], attempt: Select[*tuple[Any, ...]], *, reaped: bool = False) -> CTE:
    """The new state of attempts that end unfinished.

    Times are columns here, so that a CASE can select among them.
    """
    lost = materialized(attempt, "attempt")
    again = and_(lost.c.again, ~lost.c.cancelled)
    waits = [(again, lost.c.retry_at)]
    if reaped and leased.crash_is_retried_at_once:
        waits.insert(0, (and_(again, lost.c.code == _text(LEASE_LOST)), lost.c.now))
    elif reaped:
        # The first crash is the worker's, as when it was replaced. Work that kills its workers does so again.
        waits.insert(0, (and_(again, lost.c.code == _text(LEASE_LOST), lost.c.crashes == _zero), lost.c.now))
    if leased.cancelled_at == leased.failed_at:
        ends = [case((again, null()), else_=lost.c.now).label(leased.failed_at)]
    else:
        ends = [
            case((lost.c.cancelled, lost.c.now)).label(leased.cancelled_at),
            case((or_(again, lost.c.cancelled), null()), else_=lost.c.now).label(leased.failed_at),
        ]
    return select(
        lost.c.id,
        lost.c.code,
        case(
            (lost.c.cancelled, constant(leased.status("cancelled"))),
            (again, constant(leased.status("pending"))),
            else_=constant(leased.status("failed")),
        ).label("status"),
        case(*waits, else_=lost.c.available_at).label("available_at"),
        *ends,
        case((again, _one), else_=_zero).label("again"),
    ).cte("outcome")


def _ended(leased: Leased[Any], outcome: CTE) -> dict[str, Any]:
    """The columns that an attempt writes when it ends unfinished.

    The lease ends, whether the row waits for another attempt or has ended.
    """
    names = dict.fromkeys(["status", "available_at", leased.cancelled_at, leased.failed_at])
    return {**{name: outcome.c[name] for name in names}, **given_up(), **leased.progress}


def _text(value: str) -> ColumnElement[str]:
    return literal_column(f"'{value}'", Text)
