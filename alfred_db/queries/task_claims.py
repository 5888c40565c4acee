"""The statement that claims tasks: by queue, by intent, by both or by neither, each served by its index.

It claims nothing while a queue that it concerns is restricted. `queue_claims` has the statement for those.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Boolean, ColumnElement, FromClause, Select, bindparam, select, true, update
from sqlalchemy.sql.dml import ReturningUpdate

from ..models import Queue, Task
from ..models.base import table_of
from ..types import Text
from . import leases
from .leases import taken
from .shapes.claims import (
    CLAIMED,
    ISOLATION,
    deadline,
    given_names,
    has_key_limit,
    head_of,
    is_restricted,
    isolated,
    isolation_level,
    levels,
    named_in,
    of_kind,
    restricted,
    waiting,
)
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import materialized, number, one_row
from .task_leases import TASKS

__all__ = ["ISOLATION", "again", "claim", "look", "ready", "standing"]

_t, _q = table_of(Task).c, table_of(Queue).c


@driver_statement
def standing(*, by_queue: bool) -> Select[*tuple[Any, ...]]:
    """Read the isolation level, and which limits restrict the `queues`, or any; NULL each, if none is restricted."""
    return _standing(by_queue=by_queue)


def _standing(*, by_queue: bool) -> Select[*tuple[Any, ...]]:
    limits = {
        "running": _q.max_running.is_not(None),
        "rates": _q.rate_jobs.is_not(None),
        "keys": has_key_limit,
    }
    any_of_them = [func.bool_or(limit, type_=Boolean).label(name) for name, limit in limits.items()]
    rows = select(isolation_level.label("level"), *any_of_them).where(is_restricted)
    return rows.where(named_in(_q.name, "queues")) if by_queue else rows


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
    level = levels()
    found = waiting(each, _t.priority == level.c.priority, *conditions, beside=[level], lock=lock, also=also)
    return select(*found.c).select_from(level.join(found, true()))


@driver_statement
def claim(
    limit: int, by_queue: bool, by_intent: bool, by_agent: bool, single: bool = False
) -> ReturningUpdate[*tuple[Any, ...]]:
    """Claim tasks, unless one of the `queues`, or of all queues without them, is restricted.

    This is the statement of a worker that is busy: `look` also returns why nothing was claimed.

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
    return _claim(limit, by_queue, by_intent, by_agent, single)


@driver_statement
def look(
    limit: int, by_queue: bool, by_intent: bool, by_agent: bool, single: bool = False
) -> Select[*tuple[Any, ...]]:
    """Claim tasks as `claim` does, with the columns of `standing` before the others.

    If nothing is claimed, there is one row, without the others. An idle worker looks with one statement.
    """
    done = _claim(limit, by_queue, by_intent, by_agent, single).cte("done")
    state = _standing(by_queue=by_queue).subquery("state")
    return select(*state.c, *done.c).select_from(state.outerjoin(done, true()))


def _claim(
    limit: int, by_queue: bool, by_intent: bool, by_agent: bool, single: bool
) -> ReturningUpdate[*tuple[Any, ...]]:
    filters: list[ColumnElement[bool]] = []
    if by_agent:
        filters.append(_t.assigned_to == bindparam("assigned_to", type_=Text))
    if by_queue or by_intent:
        kinds = _kinds(by_queue=by_queue, by_intent=by_intent)
        found = _ready_of(kinds, limit, *filters, also=[deadline], single=single)
    else:
        found = ready(limit, *filters, lock=True, also=[deadline])
    # Both conditions are of the statement, not of a row: they are checked once, before anything is read.
    free = ~restricted(by_queue=by_queue)
    claimed = materialized(found.where(isolated, free).limit(number(limit)), "claimed")
    taking = select(*claimed.c).where(one_row(claimed.c.id)).cte("taking")
    return (
        update(table_of(Task))
        .where(_t.id == taking.c.id)
        .values(taken(TASKS, taking.c.deadline))
        .returning(*CLAIMED)
    )


def again(token: uuid.UUID, known: Sequence[uuid.UUID]) -> Select[*tuple[Any, ...]]:
    """The same columns of what a claim has taken, without the tasks that are known."""
    return leases.again(TASKS, CLAIMED, token, known)


def _ready_of(
    kinds: FromClause, each: int, *conditions: ColumnElement[bool], also: Sequence[Any], single: bool
) -> Select[*tuple[Any, ...]]:
    """The tasks of some kinds that can be claimed: one range of the index for each kind and priority.

    Within a priority the kind whose first task has waited longest comes first, so that no kind starves the
    others.
    """
    level = levels()
    ordered = kinds if single else head_of(kinds, level, *conditions)
    mine = of_kind(ordered, level)
    found = waiting(each, *mine, *conditions, beside=[level, ordered], lock=True, also=also)
    return select(*found.c).select_from(level.join(ordered, true()).join(found, true()))


def _kinds(*, by_queue: bool, by_intent: bool) -> Any:
    """The queues, the intents, or the pairs of both."""
    queues, intents = given_names("queue", "queues"), given_names("intent", "intents")
    if not (by_queue and by_intent):
        return queues if by_queue else intents
    pairs = select(queues.c.queue, intents.c.intent).select_from(queues.join(intents, true()))
    return pairs.subquery("kinds")
