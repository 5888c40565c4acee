"""Leases: how a worker holds a row of a table, and the condition of every write by its holder.

Tasks, workflow executions and executions of schedules are leased in the same way. `Leased` describes such a
table, and the functions below build its statements: once for each table, with the values as named parameters.

    pending --claim--> running --complete--> completed
       ^                  |-----fail, reap---> failed
       +--release, fail, reap---+-------------> cancelled

A row is held from its claim until one of these statements ends the lease. A claim writes a new `lease_token`,
and each write by the holder requires it (fencing): a worker that lost the row is refused, however late its
write arrives. The token stays on a row that its holder released, so that the holder can repeat the call after
a commit whose response was lost. `reap` removes the token.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    ARRAY,
    CTE,
    Boolean,
    ColumnElement,
    Double,
    Integer,
    Interval,
    Select,
    Table,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    literal,
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
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, number, one_row, seconds_ahead

__all__ = [
    "HANDLER",
    "LEASE_LOST",
    "TIMEOUT",
    "UNREADABLE",
    "Leased",
    "again",
    "cancel",
    "complete",
    "complete_many",
    "expired",
    "fail",
    "given_up",
    "heartbeat",
    "held",
    "reap",
    "release",
    "set_aside",
    "standing",
    "taken",
]

HANDLER, TIMEOUT, LEASE_LOST = "handler", "timeout", "lease_lost"
"""Values of `error_code` for an attempt, unless the handler sets another code."""

UNREADABLE = "unreadable"
"""The same of work that ends because its row cannot be read."""

StatusT = TypeVar("StatusT", bound=StrEnum)

_zero, _one = literal_column("0", Integer), literal_column("1", Integer)
# pg_catalog has no operators of double precision and integer.
_once, _two = literal_column("float8 '1'", Double), literal_column("float8 '2'", Double)
_second = literal_column("interval '1 second'", Interval)
_now = func.statement_timestamp
_lease = bindparam("lease", type_=INTERVAL)


@dataclass(frozen=True, eq=False, kw_only=True)
class Leased(Generic[StatusT]):
    """A table whose rows are leased, described by what differs from the other tables.

    All of them have the columns `id`, `status`, `available_at`, `worker_id`, `lease_token`, `claim_seq`,
    `lease_expires_at`, `attempt_started_at`, `attempt_deadline_at`, `cancel_requested_at`, `retry_count`,
    `crash_count` and `error_code`, and the statuses pending, completed, failed and cancelled.
    """

    noun: str
    """The name of a row in error messages."""
    key: str = "id"
    """The attribute of a claimed row that identifies it in error messages."""
    table: Table
    running: StatusT
    """The status of a held row."""
    started_at: str
    """The column with the time of the first attempt.

    The next three are the columns with the time of each way to end.
    """
    completed_at: str
    failed_at: str
    cancelled_at: str
    error: str
    """The column with the message of the last failure."""
    max_retries: ColumnElement[Any]
    """How many failures and crashes are followed by another attempt."""
    parent: tuple[Table, ColumnElement[bool]] | None = None
    """The table that has the columns `max_retries` and `retry_delay`, and the condition that joins it.

    None if the leased table has them.
    """
    retry_delay: ColumnElement[Any] | None = None
    """Seconds before another attempt.

    None is an exponential back-off, with the parameters `base`, `cap` and its spread.
    """
    crash_is_retried_at_once: bool = False
    """Whether a crash is retried without delay, because the work resumes where it stopped."""
    progress: Mapping[str, ColumnElement[Any]] = field(default_factory=dict[str, ColumnElement[Any]])
    """Columns that each write to a held row updates."""
    on_complete: Mapping[str, ColumnElement[Any]] = field(default_factory=dict[str, ColumnElement[Any]])
    """Further columns that a completion writes; their parameters depend on the table."""
    on_fail: Mapping[str, ColumnElement[Any]] = field(default_factory=dict[str, ColumnElement[Any]])
    """Further columns that a failure writes; their parameters depend on the table."""

    def status(self, value: str) -> StatusT:
        """Return the member of the status enum with this value."""
        return type(self.running)(value)


def held(leased: Leased[Any], id: Any, token: Any) -> ColumnElement[bool]:
    """Return the condition of every write by a holder.

    The row is held, and its token is that of the claim.
    """
    own = leased.table.c
    return and_(own.id == id, _is_running(leased), own.lease_token == token)


def taken(leased: Leased[Any], deadline: ColumnElement[Any]) -> dict[str, Any]:
    """Return the columns that a claim writes.

    Once this is committed, the caller of `claim` holds the row, until the clock of the database passes the
    earlier of `lease_expires_at`, which heartbeats move, and `attempt_deadline_at`, which is fixed. From then
    on `reap` may take the row.

    Parameters of the statement: `worker`, a new `token`, and the interval `lease`.
    """
    own = leased.table.c
    return {
        "status": constant(leased.running),
        "worker_id": bindparam("worker", type_=Text),
        "lease_token": bindparam("token", type_=Uuid),
        "claim_seq": own.claim_seq + _one,
        "lease_expires_at": _now() + _lease,
        "attempt_started_at": _now(),
        "attempt_deadline_at": deadline,
        leased.started_at: func.least(own[leased.started_at], _now()),
    }


def given_up() -> dict[str, Any]:
    """Return the columns that every write sets that ends a lease.

    A row has an expiry exactly while it is held; a CHECK constraint enforces this.
    """
    return {"lease_expires_at": null(), "attempt_deadline_at": null()}


@driver_statement
def heartbeat(leased: Leased[Any]) -> ReturningUpdate[*tuple[Any, ...]]:
    """Extend the leases of the rows `ids`, each with its token of `tokens`, by the interval `lease`.

    No indexed column changes, so the update can be heap-only (HOT). An expired lease that nobody has taken
    yet still belongs to its holder and is extended too. Locked rows are skipped.
    """
    own, held = leased.table.c, _locked(leased)
    return (
        update(leased.table)
        .where(own.id == held.c.id)
        .values(lease_expires_at=_now() + _lease, **leased.progress)
        .returning(own.id, own.lease_expires_at, own.cancel_requested_at.is_not(None))
    )


def again(
    leased: Leased[Any], columns: Sequence[Any], token: uuid.UUID, known: Sequence[Any]
) -> Select[*tuple[Any, ...]]:
    """Columns of what the claim with this token has taken, without the rows of these ids."""
    own = leased.table.c
    others = own.id != func.all(literal(list(known), ARRAY(own.id.type)))
    rows: Select[*tuple[Any, ...]] = select(*columns).select_from(leased.table)
    return rows.where(_is_running(leased), own.lease_token == token, others)


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
        .returning(own.id)
    )


@driver_statement
def standing(leased: Leased[Any]) -> Select[*tuple[Any, ...]]:
    """Select the statuses of those of the rows `ids` whose last claim had the token in `tokens`.

    Takes no lock. For rows that a statement skipped, it distinguishes those that another transaction has
    locked from those that the caller has ended before. Rows whose lease was lost are missing.
    """
    own, given = leased.table.c, _given(leased)
    mine = and_(own.id == given.c.id, own.lease_token == given.c.token)
    return select(own.id, own.status).join_from(given, leased.table, mine).where(one_row(given.c.id))


@driver_statement
def complete(leased: Leased[Any]) -> ReturningUpdate[*tuple[Any, ...]]:
    """Complete the row `id` with `token`.

    A requested cancellation has no effect any more, because the work is done.
    """
    return _completed(leased, _own(leased))


@driver_statement
def complete_many(leased: Leased[Any]) -> ReturningUpdate[*tuple[Any, ...]]:
    """Complete the rows `ids`, each with its token of `tokens`; locked rows are skipped."""
    held = _locked(leased)
    return _completed(leased, leased.table.c.id == held.c.id)


@driver_statement
def fail(leased: Leased[Any]) -> ReturningUpdate[*tuple[Any, ...]]:
    """End a failed attempt at the row `id` with `token`: the row waits for its next attempt, or ends.

    Parameters of the statement: also `code`, `message`, `retry` (whether to retry), and for a back-off
    `base`, `cap` and `spread`.
    """
    own = leased.table.c
    attempt = _attempt(
        leased,
        code=bindparam("code", type_=Text),
        again=and_(bindparam("retry", type_=Boolean), _retries_left(leased)),
        retry_at=_retry_at(leased, bindparam("spread", type_=Double)),
    )
    outcome = _outcome(leased, _for_update(leased, attempt.where(_own(leased))))
    return (
        update(leased.table)
        # The CTE has locked the row, so that the token cannot change; it is compared again, as in every write.
        .where(own.id == outcome.c.id, _own(leased))
        .values(
            **{leased.error: bindparam("message", type_=Text)},
            **_ended(leased, outcome),
            retry_count=own.retry_count + outcome.c.again,
            error_code=bindparam("code", type_=Text),
            **leased.on_fail,
        )
        .returning(own.status)
    )


@driver_statement
def release(leased: Leased[Any], *, delayed: bool) -> ReturningUpdate[*tuple[Any, ...]]:
    """Release the row `id` with `token` unfinished, without counting a retry.

    The row keeps its place, or if `delayed` waits for the interval `delay`. A row whose cancellation was
    requested is cancelled instead, so that no other worker starts it.
    """
    own = leased.table.c
    later = _now() + bindparam("delay", type_=INTERVAL)
    attempt = _attempt(
        leased,
        code=own.error_code,
        again=true(),
        retry_at=func.greatest(own.available_at, later) if delayed else own.available_at,
    )
    outcome = _outcome(leased, _for_update(leased, attempt.where(_own(leased))))
    return (
        update(leased.table)
        .where(own.id == outcome.c.id, _own(leased))
        .values(**_ended(leased, outcome))
        .returning(own.status)
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
    return update(leased.table).where(own.id == live.c.id).values(values | also).returning(own.id, own.status)


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
    attempt = attempt.where(expired(leased)).order_by(own.id).limit(number(limit))
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
        .returning(own.id, own.status)
    )


def expired(leased: Leased[Any]) -> ColumnElement[bool]:
    """Return the condition of rows whose holder vanished or exceeded the timeout."""
    own = leased.table.c
    over = func.least(own.lease_expires_at, own.attempt_deadline_at) <= _now()
    return and_(_is_running(leased), over)


def _is_running(leased: Leased[Any]) -> ColumnElement[bool]:
    return leased.table.c.status == constant(leased.running)


def _own(leased: Leased[Any]) -> ColumnElement[bool]:
    key = bindparam("id", type_=leased.table.c.id.type)
    return held(leased, key, bindparam("token", type_=Uuid))


def _locked(leased: Leased[Any]) -> CTE:
    """Select the rows of `ids` that are held with the corresponding token of `tokens`, and lock them.

    Rows are locked in the order of their ids. Locked rows are skipped: one row must not block the others.
    Waiting for a lock here would also break the order, and could end in a deadlock.

    LATERAL enforces one look-up for each id. The status is compared in a form that fits no partial index:
    under statistics of a time without held rows, the planner would read the whole index of held rows instead.
    """
    own, given = leased.table.c, _given(leased)
    ordered = (
        select(given.c.id, given.c.token).where(one_row(given.c.id)).order_by(given.c.id).subquery("mine")
    )
    row = (
        select(own.id)
        .where(
            own.id == ordered.c.id,
            own.lease_token == ordered.c.token,
            own.status.is_not_distinct_from(constant(leased.running)),
        )
        .with_for_update(key_share=True, skip_locked=True)
        .correlate(ordered)
        .lateral("row")
    )
    return materialized(select(row.c.id).select_from(ordered.join(row, true())), "held")


def _given(leased: Leased[Any]) -> Any:
    key = leased.table.c.id.type
    return (
        func.unnest(bindparam("ids", type_=ARRAY(key)), bindparam("tokens", type_=ARRAY(Uuid)))
        .table_valued(column("id", key), column("token", Uuid))
        .render_derived("given")
    )


def _completed(leased: Leased[Any], rows: ColumnElement[bool]) -> ReturningUpdate[*tuple[Any, ...]]:
    values = {
        "status": constant(leased.status("completed")),
        leased.completed_at: _now(),
        **given_up(),
        **leased.progress,
        **leased.on_complete,
    }
    return update(leased.table).where(rows).values(values).returning(leased.table.c.id)


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
