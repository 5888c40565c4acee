"""The lease: how a worker holds a row of a table, and what every write of the holder asks for.

Tasks, the executions of workflows and those of schedules are held in the same way. `Leased` describes such a table, and
the functions below make its statements: they are built once for each table, and take their values as named
parameters when they run.

    pending --claim--> running --complete--> completed
       ^                  |-----fail, reap---> failed
       +--release, fail, reap---+-------------> cancelled

A row is held from its claim until one of these statements ends that. A claim writes a new `lease_token`, and each write
of the holder requires it: whoever lost the row is refused, however late he comes. The token stays on a row that its
holder gave up, so that he can repeat the call after a commit whose answer was lost; `reap` removes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
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
from .shapes.functions import func
from .shapes.literals import among, constant, number, seconds_ahead

__all__ = [
    "HANDLER",
    "LEASE_LOST",
    "TIMEOUT",
    "Leased",
    "complete",
    "complete_many",
    "fail",
    "given_up",
    "heartbeat",
    "held",
    "reap",
    "release",
    "standing",
    "taken",
]

HANDLER, TIMEOUT, LEASE_LOST = "handler", "timeout", "lease_lost"
"""What `error_code` says of an attempt, unless the handler has a code of its own."""

S = TypeVar("S", bound=StrEnum)

_zero, _one = literal_column("0", Integer), literal_column("1", Integer)
# pg_catalog neither adds an integer to a double precision nor takes one from it.
_once, _two = literal_column("float8 '1'", Double), literal_column("float8 '2'", Double)
_second = literal_column("interval '1 second'", Interval)
_now = func.statement_timestamp
_lease = bindparam("lease", type_=INTERVAL)


@dataclass(frozen=True, eq=False, kw_only=True)
class Leased(Generic[S]):
    """A table whose rows are held by leases: where it differs from the others.

    All of them have `id`, `status`, `available_at`, `worker_id`, `lease_token`, `claim_seq`, `lease_expires_at`,
    `attempt_started_at`, `attempt_deadline_at`, `cancel_requested_at`, `retry_count`, `crash_count` and `error_code`,
    and the statuses pending, completed, failed and cancelled.
    """

    noun: str
    """What an error calls a row."""
    key: str = "id"
    """The field of a claimed value by which an error names the row."""
    table: Table
    running: S
    """The status of a row that is held."""
    started_at: str
    """The column with the time of the first attempt; those with the time of the end, for each way to end."""
    completed_at: str
    failed_at: str
    cancelled_at: str
    error: str
    """The column with the text of the last failure."""
    max_retries: ColumnElement[Any]
    """How many failures and crashes are followed by another attempt."""
    parent: tuple[Table, ColumnElement[bool]] | None = None
    """Another table that `max_retries` and `retry_delay` are columns of, and how a row finds its own there."""
    retry_delay: ColumnElement[Any] | None = None
    """The seconds before another attempt; None is a back-off, with the parameters `base`, `cap` and its spread."""
    crash_is_retried_at_once: bool = False
    """Whether no delay follows a crash: the work goes on where it was, so that it cannot do the same again."""
    progress: Mapping[str, ColumnElement[Any]] = field(default_factory=dict[str, ColumnElement[Any]])
    """What each write of a held row brings up to date."""
    on_complete: Mapping[str, ColumnElement[Any]] = field(default_factory=dict[str, ColumnElement[Any]])
    """What else a completion writes; its parameters are the noun's."""
    on_fail: Mapping[str, ColumnElement[Any]] = field(default_factory=dict[str, ColumnElement[Any]])
    """What else a failure writes; its parameters are the noun's."""

    def status(self, value: str) -> S:
        """The member of the table's statuses with this value."""
        return type(self.running)(value)


def held(leased: Leased[Any], id: Any, token: Any) -> ColumnElement[bool]:
    """What every write of a holder asks for: the row is held, and by the claim with this token."""
    own = leased.table.c
    return and_(own.id == id, _is_running(leased), own.lease_token == token)


def taken(leased: Leased[Any], deadline: ColumnElement[Any]) -> dict[str, Any]:
    """What a claim writes. Parameters: `worker`, a new `token`, and the interval `lease`.

    The caller of `claim` holds the row once this is committed, and until the database's clock passes the earlier of
    `lease_expires_at`, which heartbeats move, and `attempt_deadline_at`, which nothing does: from then on `reap` may
    take the row.
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
    """What every write sets that ends a lease. A row has an expiry exactly while it is held: a CHECK says so too."""
    return {"lease_expires_at": null(), "attempt_deadline_at": null()}


@cache
def heartbeat(leased: Leased[Any]) -> ReturningUpdate[*tuple[Any, ...]]:
    """Extend the leases of the rows `ids`, each with its token of `tokens`, by the interval `lease`.

    Touches no indexed column: the row stays on its page. A lease that has expired and that nobody has taken yet is
    still the holder's, so that it is extended too. What another transaction has locked is left out.
    """
    own = leased.table.c
    return (
        update(leased.table)
        .where(among(own.id, _locked(leased)))
        .values(lease_expires_at=_now() + _lease, **leased.progress)
        .returning(own.id, own.lease_expires_at, own.cancel_requested_at)
    )


@cache
def standing(leased: Leased[Any]) -> Select[*tuple[Any, ...]]:
    """The statuses of those of the rows `ids` whose last claim had the token of the same place in `tokens`.

    Read without a lock: of rows that a statement left out, it tells those that another transaction has locked from
    those that the caller ended before, and both from those that are lost, which are missing.
    """
    own, given = leased.table.c, _given(leased)
    mine = and_(own.id == given.c.id, own.lease_token == given.c.token)
    return select(own.id, own.status).join_from(given, leased.table, mine)


@cache
def complete(leased: Leased[Any]) -> ReturningUpdate[*tuple[Any, ...]]:
    """Complete the row `id` of `token`. A cancellation that was asked for comes too late: the work is done."""
    return _completed(leased, _own(leased))


@cache
def complete_many(leased: Leased[Any]) -> ReturningUpdate[*tuple[Any, ...]]:
    """The same for the rows `ids`, each with its token of `tokens`. What another transaction has locked is left out."""
    return _completed(leased, among(leased.table.c.id, _locked(leased)))


@cache
def fail(leased: Leased[Any]) -> ReturningUpdate[*tuple[Any, ...]]:
    """End a failed attempt at the row `id` of `token`: it waits for the next one, or ends.

    Parameters: also `code`, `message`, whether to `retry`, and for a back-off its `base`, `cap` and `spread`.
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
        # The CTE has locked the row, so that the token cannot change; it is asked for again as in every write.
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


@cache
def release(leased: Leased[Any], *, delayed: bool) -> ReturningUpdate[*tuple[Any, ...]]:
    """Return the row `id` of `token` unfinished; it keeps its place, or waits for the interval `delay`.

    It costs no retry. A row whose cancellation was asked for ends here: nobody else is to begin it.
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


@cache
def reap(leased: Leased[Any], limit: int) -> ReturningUpdate[*tuple[Any, ...]]:
    """Take rows from workers that vanished or exceeded the timeout, whichever came first.

    What another reaper has locked is passed over, and so is a row that its holder is just ending. For a back-off
    the parameters are its `base`, `cap` and `jitter`.
    """
    own = leased.table.c
    timed_out = own.attempt_deadline_at <= own.lease_expires_at
    spread = _once + bindparam("jitter", type_=Double) * (_two * func.random(type_=Double) - _once)
    over = func.least(own.lease_expires_at, own.attempt_deadline_at) <= _now()
    code = case((timed_out, _text(TIMEOUT)), else_=_text(LEASE_LOST))
    attempt = _attempt(leased, code=code, again=_retries_left(leased), retry_at=_retry_at(leased, spread))
    attempt = attempt.where(_is_running(leased), over).order_by(own.id).limit(number(limit))
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
            # Unlike a holder, who may repeat his call: whoever held the row is refused from now on.
            lease_token=null(),
            error_code=outcome.c.code,
        )
        .returning(own.id, own.status)
    )


def _is_running(leased: Leased[Any]) -> ColumnElement[bool]:
    return leased.table.c.status == constant(leased.running)


def _own(leased: Leased[Any]) -> ColumnElement[bool]:
    key = bindparam("id", type_=leased.table.c.id.type)
    return held(leased, key, bindparam("token", type_=Uuid))


def _locked(leased: Leased[Any]) -> CTE:
    """The rows of `ids` that are held by the token of the same place in `tokens`, locked in the order of their ids.

    What another transaction has locked is left out: one row must not hold up the others. Whoever waited for a lock
    here would also wait out of that order, and could end in a deadlock.
    """
    own, given = leased.table.c, _given(leased)
    return (
        select(own.id)
        .join_from(given, leased.table, and_(own.id == given.c.id, own.lease_token == given.c.token))
        .where(_is_running(leased))
        .order_by(own.id)
        .with_for_update(key_share=True, skip_locked=True, of=leased.table)
        .cte("held")
    )


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
    """One budget for failures and crashes: work that kills its workers ends too."""
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
    )
    return attempt if leased.parent is None else attempt.join_from(leased.table, *leased.parent)


def _for_update(
    leased: Leased[Any], attempt: Select[*tuple[Any, ...]], *, skip_locked: bool = False
) -> Select[*tuple[Any, ...]]:
    """Lock the rows, but not those of the other table: it is only read."""
    of = None if leased.parent is None else leased.table
    return attempt.with_for_update(key_share=True, skip_locked=skip_locked, of=of)


def _outcome(leased: Leased[Any], attempt: Select[*tuple[Any, ...]], *, reaped: bool = False) -> CTE:
    """What becomes of attempts that end unfinished. Times are columns here, so that a CASE can choose among them."""
    lost = attempt.cte("attempt").prefix_with("MATERIALIZED")
    again = and_(lost.c.again, ~lost.c.cancelled)
    waits = [(again, lost.c.retry_at)]
    if reaped and leased.crash_is_retried_at_once:
        waits.insert(0, (and_(again, lost.c.code == _text(LEASE_LOST)), lost.c.now))
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
    """What an attempt that ends unfinished writes: the lease is over, whether the row waits again or has ended."""
    names = dict.fromkeys(["status", "available_at", leased.cancelled_at, leased.failed_at])
    return {**{name: outcome.c[name] for name in names}, **given_up(), **leased.progress}


def _text(value: str) -> ColumnElement[str]:
    return literal_column(f"'{value}'", Text)
