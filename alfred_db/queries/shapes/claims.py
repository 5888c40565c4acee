"""Building blocks of the statements that claim tasks: kinds, priorities, and what waits of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    Interval,
    bindparam,
    cast,
    column,
    exists,
    literal_column,
    or_,
    select,
    true,
)

from ...models import Queue, Task, TaskStatus
from ...models.base import table_of
from ...types import Text
from .functions import func
from .literals import constant, number

ISOLATION = "read committed"
"""The isolation level of a claim.

At other levels two workers that compete for a task would fail with a serialization error instead of skipping
it.
"""

_t, _q = table_of(Task).c, table_of(Queue).c
_second = literal_column("interval '1 second'", Interval)
_now = func.statement_timestamp

pending = _t.status == constant(TaskStatus.PENDING)
isolation_level = func.current_setting(literal_column("'transaction_isolation'"), type_=Text)
isolated = isolation_level == literal_column(f"'{ISOLATION}'", Text)
"""The condition of a claim: a transaction of another level claims nothing."""

deadline = (_now() + cast(_t.timeout_seconds, Double) * _second).label("deadline")
"""When the attempt has to end that a claim begins."""

CLAIMED: Sequence[ColumnElement[Any]] = (
    _t.id,
    _t.task_id,
    _t.intent,
    _t.content,
    _t.metadata,
    _t.priority,
    _t.created_by,
    _t.assigned_to,
    _t.parent_task_id,
    _t.available_at,
    _t.retry_count,
    _t.crash_count,
    _t.max_retries,
    _t.attempt_deadline_at,
    _t.claim_seq,
    _t.lease_token,
    _t.lease_expires_at,
    _t.queue,
)
"""The columns that a claim returns: the fields of `ClaimedTask` up to `lease_expires_at`, and the queue."""


is_restricted = or_(
    _q.paused, *(limit.is_not(None) for limit in (_q.max_running, _q.max_running_per_key, _q.rate_jobs))
)
"""The condition of a queue that is paused or has a limit, as the index has it."""


has_key_limit = _q.max_running_per_key.is_not(None)


def restricted(*, by_queue: bool) -> ColumnElement[bool]:
    """Return whether one of the `queues`, or any, is paused or has a limit."""
    rows = select(_q.name).where(is_restricted)
    if by_queue:
        rows = rows.where(named_in(_q.name, "queues"))
    return exists(rows)


def levels() -> Any:
    """The priorities, most urgent first."""
    series = func.generate_series(*(number(value) for value in (5, 1, -1)))
    return series.table_valued(column("priority", Integer)).render_derived("level")


def waiting(
    each: int | ColumnElement[int],
    *conditions: ColumnElement[bool],
    beside: Sequence[FromClause],
    lock: bool,
    also: Sequence[Any],
    name: str = "waiting",
) -> Any:
    """At most `each` of the tasks that can be claimed, the longest waiting first.

    `beside` are the FROM clauses that the conditions refer to.
    """
    rows = (
        select(_t.id, *also)
        .where(pending, *conditions, _t.available_at <= _now())
        .order_by(_t.available_at, _t.id)
        .limit(number(each) if isinstance(each, int) else each)
        .correlate(*beside)
    )
    if lock:
        rows = rows.with_for_update(key_share=True, skip_locked=True)
    return rows.lateral(name)


def of_kind(kind: FromClause, level: FromClause) -> list[ColumnElement[bool]]:
    """The conditions for a kind and a priority, written as the expressions of the index.

    The indexes hold hashes instead of names, which makes them smaller and faster to write. Two names may have
    the same hash, so that the names are compared too.
    """
    names_of = {name: kind.c[name] for name in ("queue", "intent") if name in kind.c}
    return [*of_names(names_of), -_t.priority == -level.c.priority]


def of_names(given: Mapping[str, ColumnElement[str]]) -> list[ColumnElement[bool]]:
    """The conditions for a `queue`, an `intent`, or both."""
    hashed = [hashed_names(*(_t[name] for name in given)), hashed_names(*given.values())]
    return [hashed[0] == hashed[1], *(_t[name] == value for name, value in given.items())]


def hashed_names(*names: ColumnElement[str]) -> ColumnElement[int]:
    """One hash of several names: the hash of a name is the seed of the next."""
    hashed: ColumnElement[int] = literal_column("0", BigInteger)
    for name in names:
        hashed = func.hashtextextended(name, hashed, type_=BigInteger)
    return hashed


def head_of(kinds: FromClause, level: FromClause, *conditions: ColumnElement[bool]) -> Any:
    """The kinds of which a task waits at a priority, that whose first task has waited longest first."""
    mine = of_kind(kinds, level)
    age = [_t.available_at]
    head = waiting(1, *mine, *conditions, beside=[level, kinds], lock=False, also=age, name="head")
    rows = select(*kinds.c).select_from(kinds.join(head, true()))
    return rows.order_by(head.c.available_at, head.c.id).lateral("heads")


def given_names(name: str, parameter: str) -> Any:
    """The names of an array parameter as rows."""
    values = func.unnest(names(parameter))
    return values.table_valued(column(name, Text)).render_derived(parameter)


def named_in(name: ColumnElement[str], parameter: str) -> ColumnElement[bool]:
    """Return whether a name is among those of an array parameter."""
    # The cast makes an array of the sub-select; without it, ANY would compare with its rows.
    return name == func.any(cast(names(parameter), ARRAY(Text)))


def names(parameter: str) -> ColumnElement[Any]:
    """An array parameter.

    A sub-select hides the length of the array; otherwise PostgreSQL would plan each call for its length.
    """
    return select(bindparam(parameter, type_=ARRAY(Text))).scalar_subquery()
