"""The statement that claims tasks: by queue, by intent, by both or by neither, each served by its index."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    Interval,
    Select,
    bindparam,
    cast,
    column,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from ..models import Task, TaskStatus
from ..models.base import table_of
from ..types import Text
from . import leases
from .leases import taken
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, number, one_row
from .task_leases import TASKS

__all__ = ["ISOLATION", "again", "claim", "isolation", "ready"]

ISOLATION = "read committed"
"""The isolation level of a claim.

At other levels two workers that compete for a task would fail with a serialization error instead of skipping
it.
"""

_t = table_of(Task).c
_pending = _t.status == constant(TaskStatus.PENDING)
_second = literal_column("interval '1 second'", Interval)
_now = func.statement_timestamp
_CLAIMED: Sequence[ColumnElement[Any]] = (
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
_isolation = func.current_setting(literal_column("'transaction_isolation'"), type_=Text)


@driver_statement
def isolation() -> Select[str]:
    """Read the isolation level of the transaction."""
    return select(_isolation)


def ready(
    each: int, *conditions: ColumnElement[bool], lock: bool, also: Sequence[Any] = ()
) -> Select[*tuple[Any, ...]]:
    """Select at most `each` tasks of every priority that can be claimed, in the order of a claim.

    The order is most urgent first, then longest waiting. The statement reads one range of the index for each
    priority, from 5 down to 1; tasks that become available later are not in it. LATERAL enforces a nested
    loop, which determines the order; a LIMIT ends the loop before it reaches the less urgent tasks.

    Args:
        each: Maximum number of tasks of a priority.
        conditions: Further conditions.
        lock: Whether the rows are locked; locked rows are skipped.
        also: Further columns.
    """
    level = _levels()
    found = _waiting(each, _t.priority == level.c.priority, *conditions, beside=[level], lock=lock, also=also)
    return select(*found.c).select_from(level.join(found, true()))


@driver_statement
def claim(
    limit: int, by_queue: bool, by_intent: bool, by_agent: bool, single: bool = False
) -> ReturningUpdate[*tuple[Any, ...]]:
    """Claim tasks.

    Parameters of the statement: `worker`, `token`, the interval `lease`, and `queues`, `intents` and
    `assigned_to` as selected by the arguments. The rows hold the fields of `ClaimedTask` up to
    `lease_expires_at`, and the queue, in no order.

    Args:
        limit: Maximum number of tasks.
        by_queue: Whether to filter by queue.
        by_intent: Whether to filter by intent.
        by_agent: Whether to filter by `assigned_to`. It is not in an index: the claim reads and skips the
            tasks of others.
        single: Whether there is only one queue or intent, or one of each.
    """
    filters: list[ColumnElement[bool]] = []
    if by_agent:
        filters.append(_t.assigned_to == bindparam("assigned_to", type_=Text))
    deadline = (_now() + cast(_t.timeout_seconds, Double) * _second).label("deadline")
    if by_queue or by_intent:
        kinds = _kinds(by_queue=by_queue, by_intent=by_intent)
        found = _ready_of(kinds, limit, *filters, also=[deadline], single=single)
    else:
        found = ready(limit, *filters, lock=True, also=[deadline])
    claimed = materialized(
        found.where(_isolation == literal_column(f"'{ISOLATION}'", Text)).limit(number(limit)), "claimed"
    )
    taking = select(*claimed.c).where(one_row(claimed.c.id)).cte("taking")
    return (
        update(table_of(Task))
        .where(_t.id == taking.c.id)
        .values(taken(TASKS, taking.c.deadline))
        .returning(*_CLAIMED)
    )


def again(token: uuid.UUID, known: Sequence[uuid.UUID]) -> Select[*tuple[Any, ...]]:
    """The same columns of what a claim has taken, without the tasks that are known."""
    return leases.again(TASKS, _CLAIMED, token, known)


def _levels() -> Any:
    """The priorities, most urgent first."""
    levels = func.generate_series(*(number(value) for value in (5, 1, -1)))
    return levels.table_valued(column("priority", Integer)).render_derived("level")


def _waiting(
    each: int,
    *conditions: ColumnElement[bool],
    beside: Sequence[FromClause],
    lock: bool,
    also: Sequence[Any],
    name: str = "waiting",
) -> Any:
    """At most `each` of the tasks that can be claimed, the longest waiting first.

    `beside` are the FROM clauses that the conditions refer to.
    """
    waiting = (
        select(_t.id, *also)
        .where(_pending, *conditions, _t.available_at <= _now())
        .order_by(_t.available_at, _t.id)
        .limit(number(each))
        .correlate(*beside)
    )
    if lock:
        waiting = waiting.with_for_update(key_share=True, skip_locked=True)
    return waiting.lateral(name)


def _ready_of(
    kinds: FromClause, each: int, *conditions: ColumnElement[bool], also: Sequence[Any], single: bool
) -> Select[*tuple[Any, ...]]:
    """The tasks of some kinds that can be claimed: one range of the index for each kind and priority.

    Within a priority the kind whose first task has waited longest comes first, so that no kind starves the
    others.
    """
    level = _levels()
    if single:
        mine = _of_kind(kinds, level)
        found = _waiting(each, *mine, *conditions, beside=[level, kinds], lock=True, also=also)
        return select(*found.c).select_from(level.join(kinds, true()).join(found, true()))
    age = [_t.available_at]
    mine = _of_kind(kinds, level)
    head = _waiting(1, *mine, *conditions, beside=[level, kinds], lock=False, also=age, name="head")
    heads = (
        select(*kinds.c).select_from(kinds.join(head, true())).order_by(head.c.available_at, head.c.id)
    ).lateral("heads")
    mine = _of_kind(heads, level)
    found = _waiting(each, *mine, *conditions, beside=[level, heads], lock=True, also=also)
    return select(*found.c).select_from(level.join(heads, true()).join(found, true()))


def _of_kind(kind: FromClause, level: FromClause) -> list[ColumnElement[bool]]:
    """The conditions for a kind and a priority, written as the expressions of the index.

    The indexes hold hashes instead of names, which makes them smaller and faster to write. Two names may have
    the same hash, so that the names are compared too.
    """
    keys = [name for name in ("queue", "intent") if name in kind.c]
    same = [_t[name] == kind.c[name] for name in keys]
    return [
        _hash(*(_t[name] for name in keys)) == _hash(*(kind.c[name] for name in keys)),
        *same,
        -_t.priority == -level.c.priority,
    ]


def _hash(*names: ColumnElement[str]) -> ColumnElement[int]:
    """One hash of several names: the hash of a name is the seed of the next."""
    hashed: ColumnElement[int] = literal_column("0", BigInteger)
    for name in names:
        hashed = func.hashtextextended(name, hashed, type_=BigInteger)
    return hashed


def _kinds(*, by_queue: bool, by_intent: bool) -> Any:
    """The queues, the intents, or the pairs of both."""
    queues, intents = _given("queue", "queues"), _given("intent", "intents")
    if not (by_queue and by_intent):
        return queues if by_queue else intents
    pairs = select(queues.c.queue, intents.c.intent).select_from(queues.join(intents, true()))
    return pairs.subquery("kinds")


def _given(name: str, parameter: str) -> Any:
    # A sub-select hides the length of the array; otherwise PostgreSQL would plan each call for its length.
    values = func.unnest(select(bindparam(parameter, type_=ARRAY(Text))).scalar_subquery())
    return values.table_valued(column(name, Text)).render_derived(parameter)
