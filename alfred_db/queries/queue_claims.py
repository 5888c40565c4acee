"""The statement that claims tasks while queues are paused or limited, within their limits.

    rules     the restricted queues as the statement sees them, with what runs of each, and whether it is open
    slot      if one queue is named: its row, locked
    kinds     else the queues, or the pairs of queue and intent, that may be claimed from; those of closed queues are left out
    tried     the kinds of which a task waits, most urgent first; the row of a limited queue is locked by now
    claimed   their tasks, as many as there is room for
    done      the tasks are taken; `counted` writes what was taken into the rows of the queues

The statement sees the tasks as they were when it began, but a row that it locks as it is then. So `queues.claimed` counts
all claims: what it has grown by in between was claimed by others, and is subtracted from the room. That the others may have
ended some of these again does no harm.

Nothing waits for a lock. A queue whose row another claim has locked is skipped, and `busy` has the caller try again
if nothing was claimed.

Much of the time of a claim is the start of its statement, which grows with its parts. So each statement has only those that the
caller knows to be needed, and claims nothing while a queue needs others: it would pass over the urgent tasks of this queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    cast,
    exists,
    false,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)

from ..models import Queue, Task
from ..models.base import table_of
from ..types import Text
from .leases import taken
from .shapes.claims import (
    CLAIMED,
    deadline,
    given_names,
    has_key_limit,
    hashed_names,
    head_of,
    is_restricted,
    isolated,
    levels,
    named_in,
    of_kind,
    of_names,
    pending,
    waiting,
)
from .shapes.clock import now_us
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import materialized, number, one_row
from .shapes.queue_keys import of_keys
from .shapes.queue_limits import arrival, due, rate, running
from .task_leases import TASKS

__all__ = ["Limits", "claim"]

_queues = table_of(Queue)
_t, _q = table_of(Task).c, _queues.c
_zero, _one = (literal_column(f"bigint '{value}'", BigInteger) for value in (0, 1))
_any = literal_column(f"bigint '{1 << 31}'", BigInteger)
"""The room of a queue without a limit: more than any claim takes."""
_unknown = cast(null(), BigInteger)


class Limits(NamedTuple):
    """The limits that a statement keeps; it claims nothing while a queue has others."""

    running: bool
    """Those of what runs of a queue."""
    rates: bool
    keys: bool
    """Those of what runs of a key."""
    further: bool = False
    """Whether it also finds keys behind many tasks whose keys are at their limit."""

    def are_kept_by(self, others: Limits) -> bool:
        """Return whether a statement for other limits keeps these."""
        return all(mine <= other for mine, other in zip(self[:3], others[:3], strict=True))


@driver_statement
def claim(
    limit: int,
    by_queue: bool,
    by_intent: bool,
    by_agent: bool,
    limits: Limits,
    one_queue: bool = False,
    one_intent: bool = False,
) -> Select[*tuple[Any, ...]]:
    """Claim tasks of queues that are not paused, within the limits of the others.

    Parameters of the statement: those of `task_claims.claim`, and with `limits.further` also `start`, a random number of 64
    bits. Each row begins with whether the transaction may claim, whether a queue has a limit of what runs, a rate, and a limit
    per key (NULL each, if none is restricted), and whether the claim is to be repeated; then come the columns of
    `task_claims.claim`. If nothing is claimed, there is one row, without them.

    Args:
        limit: Maximum number of tasks.
        by_queue: Whether to filter by queue.
        by_intent: Whether to filter by intent.
        by_agent: Whether to filter by `assigned_to`.
        limits: The limits that are kept.
        one_queue: Whether one queue is named; nothing is claimed unless it is restricted.
        one_intent: Whether no more than one intent is named.
    """
    filters = [_t.assigned_to == bindparam("assigned_to", type_=Text)] if by_agent else []
    slot: CTE | None = None
    if one_queue:
        rules = _rules(limits, by_queue=True, waits=_waits(filters, by_intent=by_intent))
        slot = _slot(rules, limits)
        tried = _tried_of(slot, filters, by_intent=by_intent, one_intent=one_intent)
        is_held_up = and_(
            func.bool_or(rules.c.open), ~exists(select(slot.c.rule).where(slot.c.since == _zero))
        )
    else:
        rules = _rules(limits, by_queue=by_queue)
        tried = _tried(_kinds(rules, by_queue=by_queue, by_intent=by_intent), limits, filters)
        is_held_up = exists(select(tried.c.rule).where(tried.c.busy))
    kept = (rules.c.has_running, rules.c.has_rate, rules.c.has_keys)
    others = [has for has, is_kept in zip(kept, limits[:3], strict=True) if not is_kept]
    may = [isolated]
    if others and not one_queue:
        may.append(~exists(select(rules.c.name).where(or_(*others))))
    claimed = _claimed(tried, slot, limit, limits, filters, may)
    if limit > 1 and (slot is None or limits.keys):
        taking = _within_room(claimed, limits, several_queues=slot is None)
    else:
        taking = select(*claimed.c).where(one_row(claimed.c.id)).cte("taking")
    done = (
        update(table_of(Task))
        .where(_t.id == taking.c.id)
        .values(taken(TASKS, taking.c.deadline))
        .returning(*CLAIMED)
        .cte("done")
    )
    # The second part is evaluated only if nothing is claimed, so that everything has been tried by then.
    busy = case((exists(select(claimed.c.id)), false()), else_=is_held_up)
    state = select(isolated.label("isolated"), *map(func.bool_or, kept), busy.label("busy")).select_from(
        rules
    )
    found = state.subquery("state")
    return (
        select(*found.c, *done.c)
        .select_from(found.outerjoin(done, true()))
        .add_cte(_counted(taking, slot, limit, limits).cte("counted"))
    )


def _rules(limits: Limits, *, by_queue: bool, waits: ColumnElement[bool] | None = None) -> CTE:
    """The restricted queues, whether something may be claimed from each, and how much of it runs.

    What runs is counted up to the limit. It is NULL without a limit, and then a limit that is set meanwhile lets nothing be
    claimed. `waits` is a further condition of a queue that is open.
    """
    source: FromClause = _queues
    has_running, has_rate = _q.max_running.is_not(None), _q.rate_jobs.is_not(None)
    number_: ColumnElement[Any] = _unknown
    is_open = [~_q.paused]
    if limits.running:
        held = running(_q.name, None, _q.max_running, has_running, ~_q.paused, beside=[_queues])
        source = _queues.join(held, true())
        number_ = case((has_running, held.c.number))
        is_open.append(or_(~has_running, held.c.number < _q.max_running))
    else:
        is_open.append(~has_running)
    is_open.append(or_(~has_rate, due(*rate()) > _zero) if limits.rates else ~has_rate)
    if not limits.keys:
        is_open.append(~has_key_limit)
    if waits is not None:
        is_open.append(waits)
    conditions = [is_restricted, one_row(_q.name)]
    if by_queue:
        conditions.append(named_in(_q.name, "queues"))
    return materialized(
        select(
            _q.name,
            _q.claimed,
            number_.label("running"),
            and_(*is_open).label("open"),
            has_running.label("has_running"),
            has_rate.label("has_rate"),
            has_key_limit.label("has_keys"),
        )
        .select_from(source)
        .where(*conditions),
        "rules",
    )


def _waits(filters: Sequence[ColumnElement[bool]], *, by_intent: bool) -> ColumnElement[bool]:
    """Whether a task of the queue waits that can be claimed. Without one, the row of the queue is not locked."""
    level = levels()
    names, beside, source = {"queue": _q.name}, [_queues, level], level
    if by_intent:
        intents = given_names("intent", "intents")
        names["intent"] = intents.c.intent
        beside.append(intents)
        source = level.join(intents, true())
    mine = [*of_names(names), -_t.priority == -level.c.priority]
    first = waiting(1, *mine, *filters, beside=beside, lock=False, also=(), name="first")
    return exists(select(first.c.id).select_from(source.join(first, true())).correlate(_queues))


def _locked(seen: FromClause, rule: ColumnElement[str], limits: Limits) -> Any:
    """The row of a queue, locked, with the room that it has. If a limit was set that is not kept, it is left out."""
    since = _q.claimed - seen.c.claimed
    columns: list[ColumnElement[Any]] = [_q.name.label("rule"), since.label("since")]
    conditions: list[ColumnElement[bool]] = [_q.name == rule, ~_q.paused]
    rooms: list[ColumnElement[int]] = [_any]
    if limits.running:
        left = func.coalesce(_q.max_running - seen.c.running - since, _zero)
        rooms.append(case((_q.max_running.is_not(None), left)))
    else:
        conditions.append(_q.max_running.is_(None))
    if limits.rates:
        emission, capacity = rate()
        rooms.append(due(emission, capacity))
        columns += [emission.label("emission"), arrival(capacity).label("tat")]
    else:
        conditions.append(_q.rate_jobs.is_(None))
    if limits.keys:
        columns.append(_q.max_running_per_key.label("per_key"))
    else:
        conditions.append(~has_key_limit)
    room = func.greatest(func.least(*rooms), _zero)
    return (
        select(*columns, room.label("room"))
        .where(*conditions)
        .with_for_update(key_share=True, skip_locked=True)
        .correlate(seen)
        .lateral("locked")
    )


def _slot(rules: CTE, limits: Limits) -> CTE:
    """The row of the one queue, locked if something may be claimed from it."""
    locked = _locked(rules, rules.c.name, limits)
    row = select(rules.c.name.label("queue"), *locked.c).select_from(rules.join(locked, true()))
    return materialized(row.where(rules.c.open, one_row(rules.c.name)), "slot")


def _tried_of(
    slot: CTE, filters: Sequence[ColumnElement[bool]], *, by_intent: bool, one_intent: bool
) -> FromClause:
    """The priorities of the one queue, most urgent first, or the pairs of priority and intent."""
    level = levels()
    kinds: FromClause = slot
    if by_intent:
        intents = given_names("intent", "intents")
        pairs = select(*slot.c, intents.c.intent).select_from(slot.join(intents, true()))
        kinds = pairs.subquery("kinds")
        if not one_intent:
            kinds = head_of(kinds, level, *filters)
    return select(level.c.priority, *kinds.c).select_from(level.join(kinds, true())).subquery("tried")


def _kinds(rules: CTE, *, by_queue: bool, by_intent: bool) -> CTE:
    """What may be claimed: the `queues`, or all that have waiting tasks; with `intents`, the pairs of both.

    Of a paused or full queue nothing is read, however much of it waits.
    """
    queues: Any = given_names("queue", "queues") if by_queue else _waiting_queues()
    columns = [queues.c.queue, rules.c.name.label("rule"), rules.c.claimed, rules.c.running]
    source = queues.outerjoin(rules, rules.c.name == queues.c.queue)
    if by_intent:
        intents = given_names("intent", "intents")
        columns.insert(1, intents.c.intent)
        source = source.join(intents, true())
    conditions = [or_(rules.c.name.is_(None), rules.c.open), one_row(queues.c.queue)]
    return materialized(select(*columns).select_from(source).where(*conditions), "kinds")


def _waiting_queues() -> CTE:
    """The queues that have waiting tasks, read one by one from the index: a backlog of one costs nothing."""
    hashed = hashed_names(_t.queue)
    first = (
        select(hashed.label("hash"), _t.queue)
        .where(pending)
        .order_by(hashed, -_t.priority, _t.available_at, _t.id)
        .limit(number(1))
    )
    queues = select(*first.subquery("first").c).cte("waiting_queues", recursive=True)
    following = first.where(hashed > queues.c.hash).correlate(queues).lateral("following")
    return queues.union_all(select(*following.c).select_from(queues).join(following, true()))


def _tried(kinds: CTE, limits: Limits, filters: Sequence[ColumnElement[bool]]) -> CTE:
    """The kinds of which a task waits, in the order of a claim, each with the room that its queue has.

    The rows of limited queues are locked as the claim comes to them, and it ends when it has enough.
    """
    level = levels()
    heads = head_of(kinds, level, *filters)
    locked = _locked(heads, heads.c.rule, limits)
    is_free = or_(heads.c.rule.is_(None), locked.c.rule.is_not(None))
    room = case((is_free, func.coalesce(locked.c.room, _any)), else_=_zero)
    kind = [heads.c[name] for name in ("queue", "intent") if name in heads.c]
    more = [locked.c[name] for name in ("since", "emission", "tat", "per_key") if name in locked.c]
    is_held_up = and_(heads.c.rule.is_not(None), or_(locked.c.rule.is_(None), locked.c.since > _zero))
    return materialized(
        select(
            level.c.priority, *kind, heads.c.rule, *more, room.label("room"), is_held_up.label("busy")
        ).select_from(level.join(heads, true()).outerjoin(locked, true())),
        "tried",
    )


def _claimed(
    tried: FromClause,
    slot: CTE | None,
    limit: int,
    limits: Limits,
    filters: Sequence[ColumnElement[bool]],
    may: Sequence[ColumnElement[bool]],
) -> CTE:
    """The tasks that are locked, with what is needed to count them; none unless the statement `may` claim."""
    conditions, also = [*of_kind(tried, tried), *filters], [deadline, _t.available_at]
    if limits.keys:
        conditions.append(tried.c.per_key.is_(None))
        also += [cast(null(), Text).label("key"), _unknown.label("key_room")]
    # Of one queue, the room is that of all priorities: the limit of the whole.
    each: Any = tried.c.room if slot is None else limit
    found = waiting(each, *conditions, beside=[tried], lock=True, also=also, name="unkeyed")
    if limits.keys:
        keyed = of_keys(tried, limit, filters, further=limits.further)
        found = union_all(*(select(*arm.c).select_from(arm) for arm in (found, keyed))).lateral("found")
    counts = [tried.c[name] for name in ("rule", "priority", "room", "emission", "tat") if name in tried.c]
    rows = select(*found.c, *counts).select_from(tried.join(found, true())).where(*may)
    if slot is not None:
        rows = rows.where(tried.c.room > _zero)
    rows = rows.limit(number(limit))
    if slot is not None and limit > 1:
        rows = select(*rows.subquery("first").c).limit(select(slot.c.room).scalar_subquery())
    return materialized(rows, "claimed")


def _within_room(claimed: CTE, limits: Limits, *, several_queues: bool) -> CTE:
    """Those of the locked tasks that there is room for, in their queue and among those of their key.

    The room of a queue is for all priorities and intents together. A task may have been found in several ways.
    """
    order = [claimed.c.priority.desc(), claimed.c.available_at, claimed.c.id]
    places: dict[str, ColumnElement[int]] = {}
    if limits.keys:
        places["key_place"] = func.row_number().over(
            partition_by=[claimed.c.rule, claimed.c.key], order_by=order
        )
    if several_queues:
        places["place"] = func.row_number().over(partition_by=[claimed.c.rule], order_by=order)
    if limits.further:
        places["repeated"] = func.row_number().over(partition_by=[claimed.c.id])
    ranked = select(*claimed.c, *(place.label(name) for name, place in places.items())).subquery("ranked")
    conditions = [one_row(ranked.c.id)]
    if limits.keys:
        conditions.append(or_(ranked.c.key.is_(None), ranked.c.key_place <= ranked.c.key_room))
    if several_queues:
        conditions.append(or_(ranked.c.rule.is_(None), ranked.c.place <= ranked.c.room))
    if limits.further:
        conditions.append(ranked.c.repeated == _one)
    return select(*(ranked.c[column.name] for column in claimed.c)).where(*conditions).cte("taking")


def _counted(taking: CTE, slot: CTE | None, limit: int, limits: Limits) -> Any:
    """Write what is claimed from limited queues into their rows, which are locked."""
    more = ("emission", "tat") if limits.rates else ()
    if limit == 1:
        rows = select(taking.c.rule, _one.label("number"), *(taking.c[name] for name in more))
        rows = rows.where(taking.c.rule.is_not(None))
    elif slot is not None:
        number_ = select(func.count().label("number")).select_from(taking).subquery("several")
        rows = select(slot.c.rule, number_.c.number, *(slot.c[name] for name in more))
        rows = rows.select_from(slot.join(number_, number_.c.number > _zero))
    else:
        rows = select(
            taking.c.rule,
            func.count().label("number"),
            *(func.max(taking.c[name]).label(name) for name in more),
        )
        rows = rows.where(taking.c.rule.is_not(None)).group_by(taking.c.rule)
    taken_ = rows.subquery("taken")
    each = [taken_.c.rule, taken_.c.number]
    if limits.rates:
        later = func.greatest(taken_.c.tat, now_us()) + taken_.c.number * taken_.c.emission
        each.append(case((taken_.c.emission.is_(None), taken_.c.tat), else_=later).label("tat"))
    by_rule = select(*each).where(one_row(taken_.c.rule)).cte("by_rule")
    values: dict[str, Any] = {"claimed": _q.claimed + by_rule.c.number}
    if limits.rates:
        values["tat_us"] = by_rule.c.tat
    return update(_queues).where(_q.name == by_rule.c.rule).values(values).returning(_q.name)
