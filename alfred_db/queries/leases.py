"""Leases: how a worker holds a row of a table, and the condition of every write by its holder.

Tasks, workflow executions and executions of schedules are leased in the same way. `Leased` describes such a
table. The functions below, and those of `lease_endings`, build its statements: once for each table, with the
values as named parameters.

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
    ColumnElement,
    Integer,
    Select,
    Table,
    Uuid,
    and_,
    bindparam,
    column,
    literal,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.sql.dml import ReturningUpdate

from ..types import Text
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, one_row

__all__ = [
    "HANDLER",
    "LEASE_LOST",
    "TIMEOUT",
    "UNREADABLE",
    "Leased",
    "again",
    "expired",
    "given_up",
    "heartbeat",
    "held",
    "locked",
    "owned",
    "standing",
    "taken",
]

HANDLER, TIMEOUT, LEASE_LOST = "handler", "timeout", "lease_lost"
"""Values of `error_code` for an attempt, unless the handler sets another code."""

UNREADABLE = "unreadable"
"""The same of work that ends because its row cannot be read."""

StatusT = TypeVar("StatusT", bound=StrEnum)

_one = literal_column("1", Integer)
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

    awaited: Sequence[ColumnElement[Any]] = ()
    """A column that is positive if the end of the row releases others; the statements that end a row return it last."""

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
    own, held = leased.table.c, locked(leased)
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


@driver_statement
def standing(leased: Leased[Any]) -> Select[*tuple[Any, ...]]:
    """Select the statuses of those of the rows `ids` whose last claim had the token in `tokens`.

    Takes no lock. For rows that a statement skipped, it distinguishes those that another transaction has
    locked from those that the caller has ended before. Rows whose lease was lost are missing.
    """
    own, given = leased.table.c, _given(leased)
    mine = and_(own.id == given.c.id, own.lease_token == given.c.token)
    return select(own.id, own.status).join_from(given, leased.table, mine).where(one_row(given.c.id))


def expired(leased: Leased[Any]) -> ColumnElement[bool]:
    """Return the condition of rows whose holder vanished or exceeded the timeout."""
    own = leased.table.c
    over = func.least(own.lease_expires_at, own.attempt_deadline_at) <= _now()
    return and_(_is_running(leased), over)


def _is_running(leased: Leased[Any]) -> ColumnElement[bool]:
    return leased.table.c.status == constant(leased.running)


def owned(leased: Leased[Any]) -> ColumnElement[bool]:
    """Return the same condition with the parameters `id` and `token`."""
    key = bindparam("id", type_=leased.table.c.id.type)
    return held(leased, key, bindparam("token", type_=Uuid))


def locked(leased: Leased[Any], *also: ColumnElement[bool]) -> CTE:
    """Select the rows of `ids` that are held with the corresponding token of `tokens`, and lock them.

    Rows are locked in the order of their ids. Locked rows are skipped: one row must not block the others.
    Waiting for a lock here would also break the order, and could end in a deadlock.

    LATERAL enforces one look-up for each id. The status is compared in a form that fits no partial index:
    under statistics of a time without held rows, the planner would read the whole index of held rows instead.

    Args:
        leased: The table.
        also: Further conditions of a row.
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
            *also,
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
