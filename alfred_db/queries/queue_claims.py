"""The statement that claims tasks while queues are paused or limited, within their limits.

    rules     the restricted queues as the statement sees them, with what runs of each, and whether it is open
    kinds     the queues, or the pairs of queue and intent, that may be claimed from; those of closed queues are left out
    tried     the kinds of which a task waits, most urgent first; the row of a limited queue is locked here
    claimed   their tasks, as many as there is room for
    done      the tasks are taken; `counted` writes what was taken into the rows of the queues

The statement sees the tasks as they were when it began, but a row that it locks as it is then. So `queues.claimed` counts
all claims: what it has grown by in between was claimed by others, and is subtracted from the room. That the others may have
ended some of these again does no harm.

Nothing waits for a lock. A queue whose row another claim has locked is skipped, and `busy` has the caller try again
if nothing was claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Double,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    cast,
    column,
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
from sqlalchemy.dialects.postgresql import array

from ..models import Queue, Task, TaskStatus
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
    pending,
    waiting,
)
from .shapes.clock import now_us
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, number, one_row
from .task_leases import TASKS

__all__ = ["claim"]

LOOK = 32
"""How many of the first waiting tasks of a queue with a limit per key are looked at, whose keys may all be at it."""

MOST_LOOKED_AT = 1000
"""How many further keys are looked at, and how many further tasks for one without a key."""

_FIRST, _LAST = (literal_column(f"{bound}", BigInteger) for bound in (-(1 << 63) + 1, (1 << 63) - 1))
_t, _q = table_of(Task).c, table_of(Queue).c
_zero, _one = (literal_column(f"bigint '{value}'", BigInteger) for value in (0, 1))
_any = literal_column(f"bigint '{1 << 31}'", BigInteger)
"""The room of a queue without a limit: more than any claim takes."""
_now = func.statement_timestamp
_minute = literal_column("bigint '60000000'", BigInteger)
_million = literal_column("1000000.0::double precision", Double)


@driver_statement
def claim(
    limit: int, by_queue: bool, by_intent: bool, by_agent: bool, keyed: bool
) -> Select[*tuple[Any, ...]]:
    """Claim tasks of queues that are not paused, within the limits of the others.

    Parameters of the statement: those of `task_claims.claim`, and if `keyed` also `start`, a random number of 64 bits. Each
    row begins with whether a queue is restricted, whether one has a limit per key, and whether the claim is to be repeated;
    then come the columns of `task_claims.claim`. If nothing is claimed, there is one row, without them.

    Args:
        limit: Maximum number of tasks.
        by_queue: Whether to filter by queue.
        by_intent: Whether to filter by intent.
        by_agent: Whether to filter by `assigned_to`.
        keyed: Whether to claim from queues with a limit per key too. The statement is half as long without.
    """
    filters = [_t.assigned_to == bindparam("assigned_to", type_=Text)] if by_agent else []
    rules = _rules(by_queue=by_queue, keyed=keyed)
    tried = _tried(_kinds(rules, by_queue=by_queue, by_intent=by_intent), filters)
    claimed, taking = _claimed(tried, limit, filters, keyed=keyed)
    done = (
        update(table_of(Task))
        .where(_t.id == taking.c.id)
        .values(taken(TASKS, taking.c.deadline))
        .returning(*CLAIMED)
        .cte("done")
    )
    # The second part is evaluated only if nothing is claimed, so that everything has been tried by then.
    busy = case(
        (exists(select(claimed.c.id)), false()), else_=exists(select(tried.c.rule).where(tried.c.busy))
    )
    state = select(
        exists(select(rules.c.name)).label("restricted"),
        exists(select(rules.c.name).where(rules.c.keyed)).label("keyed"),
        busy.label("busy"),
    ).subquery("state")
    return (
        select(*state.c, *done.c)
        .select_from(state.outerjoin(done, true()))
        .add_cte(_counted(taking).cte("counted"))
    )


def _rules(*, by_queue: bool, keyed: bool) -> CTE:
    """The restricted queues, whether something may be claimed from each, and how much of it runs.

    What runs is counted up to the limit. It is NULL without a limit, and then a limit that is set meanwhile lets nothing be
    claimed.
    """
    limited = (_q.max_running.is_not(None), ~_q.paused)
    running = _running(_q.name, None, _q.max_running, *limited, beside=table_of(Queue))
    emission, capacity = _rate()
    conditions = [is_restricted, one_row(_q.name)]
    if by_queue:
        conditions.append(named_in(_q.name, "queues"))
    is_open = and_(
        ~_q.paused,
        or_(_q.max_running.is_(None), running.c.number < _q.max_running),
        or_(_q.rate_jobs.is_(None), _due(emission, capacity) > _zero),
    )
    if not keyed:
        is_open = and_(is_open, ~has_key_limit)
    return materialized(
        select(
            _q.name,
            _q.claimed,
            case((_q.max_running.is_not(None), running.c.number)).label("running"),
            is_open.label("open"),
            has_key_limit.label("keyed"),
        )
        .select_from(table_of(Queue).join(running, true()))
        .where(*conditions),
        "rules",
    )


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


def _tried(kinds: CTE, filters: Sequence[ColumnElement[bool]]) -> CTE:
    """The kinds of which a task waits, in the order of a claim, each with the room that its queue has.

    The rows of limited queues are locked as the claim comes to them, and it ends when it has enough.
    """
    level = levels()
    heads = head_of(kinds, level, *filters)
    emission, capacity = _rate()
    since = _q.claimed - heads.c.claimed
    left = case((_q.max_running.is_not(None), func.coalesce(_q.max_running - heads.c.running - since, _zero)))
    slot = (
        select(
            _q.name,
            _q.max_running_per_key.label("per_key"),
            since.label("since"),
            func.least(left, _due(emission, capacity)).label("room"),
            emission.label("emission"),
            _arrival(capacity).label("tat"),
        )
        .where(_q.name == heads.c.rule, ~_q.paused)
        .with_for_update(key_share=True, skip_locked=True)
        .correlate(heads)
        .lateral("slot")
    )
    is_free = or_(heads.c.rule.is_(None), slot.c.name.is_not(None))
    room = case((is_free, func.greatest(func.least(slot.c.room, _any), _zero)), else_=_zero)
    kind = [heads.c[name] for name in ("queue", "intent") if name in heads.c]
    return materialized(
        select(
            level.c.priority,
            *kind,
            heads.c.rule,
            slot.c.per_key,
            slot.c.since,
            slot.c.emission,
            slot.c.tat,
            room.label("room"),
            and_(
                heads.c.rule.is_not(None),
                or_(slot.c.name.is_(None), slot.c.since > _zero),
            ).label("busy"),
        ).select_from(level.join(heads, true()).outerjoin(slot, true())),
        "tried",
    )


def _claimed(
    tried: CTE, limit: int, filters: Sequence[ColumnElement[bool]], *, keyed: bool
) -> tuple[CTE, CTE]:
    """The tasks that are locked, and those of them that there is room for."""
    found = waiting(
        tried.c.room,
        *of_kind(tried, tried),
        *filters,
        tried.c.per_key.is_(None),
        beside=[tried],
        lock=True,
        also=[
            deadline,
            _t.available_at,
            cast(null(), Text).label("key"),
            cast(null(), BigInteger).label("key_room"),
        ],
        name="unkeyed",
    )
    if keyed:
        arms = [select(*arm.c).select_from(arm) for arm in (found, _keyed(tried, limit, filters))]
        found = union_all(*arms).lateral("found")
    columns = [
        found.c.id,
        found.c.deadline,
        tried.c.rule,
        tried.c.emission,
        tried.c.tat,
    ]
    claimed = materialized(
        select(
            *columns,
            tried.c.priority,
            tried.c.room,
            found.c.available_at,
            found.c.key,
            found.c.key_room,
        )
        .select_from(tried.join(found, true()))
        .where(isolated)
        .limit(number(limit)),
        "claimed",
    )
    kept: Any = claimed
    conditions = [one_row(claimed.c.id)]
    if limit > 1:
        kept = _ranked(claimed)
        conditions = [
            one_row(kept.c.id),
            kept.c.repeated == _one,
            or_(kept.c.rule.is_(None), kept.c.place <= kept.c.room),
            or_(kept.c.key.is_(None), kept.c.key_place <= kept.c.key_room),
        ]
    names_ = [column_.name for column_ in columns]
    return claimed, select(*(kept.c[name] for name in names_)).where(*conditions).cte("taking")


def _ranked(claimed: CTE) -> Any:
    """The tasks with their places in their queue and among those of their key.

    The room of a queue is for all priorities and intents together.
    """
    order = [claimed.c.priority.desc(), claimed.c.available_at, claimed.c.id]
    place = func.row_number().over(partition_by=[claimed.c.rule], order_by=order)
    key_place = func.row_number().over(partition_by=[claimed.c.rule, claimed.c.key], order_by=order)
    repeated = func.row_number().over(partition_by=[claimed.c.id])
    return select(
        *claimed.c, place.label("place"), key_place.label("key_place"), repeated.label("repeated")
    ).subquery("ranked")


def _keyed(tried: CTE, limit: int, filters: Sequence[ColumnElement[bool]]) -> Any:
    """The tasks of a kind whose queue has a limit per key: those that wait longest, of keys that are below it.

    The candidates are read without a lock, which the row of the queue stands for, and are locked one by one.
    """
    mine = [*of_kind(tried, tried), *filters, tried.c.per_key.is_not(None)]
    size = LOOK + 4 * (limit - 1)
    look = waiting(
        size, *mine, beside=[tried], lock=False, also=[_t.concurrency_key, _t.available_at], name="look"
    )
    candidates = [
        _below(look, tried, ranked=limit > 1),
        _behind(tried, mine, size),
        _without_key(tried, mine, size),
    ]
    candidate = union_all(*candidates).lateral("candidate")
    locked = (
        select(_t.id, deadline, _t.available_at)
        .where(_t.id == candidate.c.id, pending, _t.available_at <= _now())
        .with_for_update(key_share=True, skip_locked=True)
        .correlate(candidate)
        .lateral("locked")
    )
    return (
        select(
            locked.c.id,
            locked.c.deadline,
            locked.c.available_at,
            candidate.c.concurrency_key.label("key"),
            candidate.c.key_room,
        )
        .select_from(candidate.join(locked, true()))
        .limit(tried.c.room)
        .correlate(tried)
        .lateral("keyed")
    )


def _below(look: Any, tried: CTE, *, ranked: bool) -> Select[*tuple[Any, ...]]:
    """Those of some tasks whose keys are below the limit; `ranked` is whether several are to be claimed."""
    running = _running(tried.c.queue, look.c.concurrency_key, tried.c.per_key, beside=tried, beside_key=look)
    left = tried.c.per_key - running.c.number - tried.c.since
    room = case((look.c.concurrency_key.is_(None), _any), else_=left)
    rows = (
        select(look.c.id, look.c.concurrency_key, room.label("key_room"))
        .select_from(look.join(running, true()))
        .where(room > _zero)
        .correlate(tried)
    )
    if not ranked:
        return rows
    place = func.row_number().over(
        partition_by=[look.c.concurrency_key], order_by=[look.c.available_at, look.c.id]
    )
    all_ = rows.add_columns(look.c.available_at, place.label("place")).subquery("below")
    return (
        select(all_.c.id, all_.c.concurrency_key, all_.c.key_room)
        .where(all_.c.place <= all_.c.key_room)
        .order_by(all_.c.available_at, all_.c.id)
    )


def _behind(tried: CTE, mine: Sequence[ColumnElement[bool]], size: int) -> Select[*tuple[Any, ...]]:
    """The first tasks of further keys, if there are more tasks than were looked at.

    The index has the keys of a kind and a priority side by side, so that each key costs one look, however many of its tasks
    wait. They are read from `start` to the end, and then from the beginning to `start`: no key is always first.
    """
    start = select(bindparam("start", type_=BigInteger)).scalar_subquery()
    ranges = (
        func.unnest(array([start, _FIRST]), array([_LAST, start]))
        .table_valued(column("low", BigInteger), column("high", BigInteger))
        .render_derived("ranges")
    )
    hashed = func.hashtextextended(_t.concurrency_key, literal_column("0", BigInteger), type_=BigInteger)
    own = [pending, _t.concurrency_key.is_not(None), *mine, hashed < ranges.c.high]
    first = (
        select(hashed.label("hash"), _t.concurrency_key)
        .where(*own, hashed >= ranges.c.low)
        .order_by(hashed, _t.available_at, _t.id)
        .limit(number(1))
        .correlate(tried, ranges)
        .subquery("first")
    )
    keys = select(*first.c, _one.label("step")).cte("keys", recursive=True, nesting=True)
    following = (
        select(hashed.label("hash"), _t.concurrency_key)
        .where(*own, hashed > keys.c.hash, keys.c.step < number(MOST_LOOKED_AT))
        .order_by(hashed, _t.available_at, _t.id)
        .limit(number(1))
        .correlate(tried, ranges, keys)
        .lateral("following")
    )
    keys = keys.union_all(
        select(*following.c, (keys.c.step + _one).label("step")).select_from(keys.join(following, true()))
    )
    running = _running(tried.c.queue, keys.c.concurrency_key, tried.c.per_key, beside=tried, beside_key=keys)
    left = tried.c.per_key - running.c.number - tried.c.since
    head = (
        select(_t.id)
        .where(
            pending,
            _t.concurrency_key.is_not(None),
            *mine,
            hashed == keys.c.hash,
            _t.concurrency_key == keys.c.concurrency_key,
            _t.available_at <= _now(),
        )
        .order_by(_t.available_at, _t.id)
        .limit(number(1))
        .correlate(tried, keys)
        .lateral("head")
    )
    found = (
        select(head.c.id, keys.c.concurrency_key, left.label("key_room"))
        .select_from(keys.join(running, true()).join(head, true()))
        .where(left > _zero)
        .correlate(tried, ranges)
        .lateral("behind")
    )
    more = exists(_more(tried, mine, size))
    return select(*found.c).select_from(ranges.join(found, true())).where(more).correlate(tried)


def _without_key(tried: CTE, mine: Sequence[ColumnElement[bool]], size: int) -> Select[*tuple[Any, ...]]:
    """Tasks without a key among the next ones; no index finds further ones."""
    following = _more(tried, mine, size, number(MOST_LOOKED_AT)).lateral("others")
    return (
        select(following.c.id, following.c.concurrency_key, _one.label("key_room"))
        .where(following.c.concurrency_key.is_(None))
        .correlate(tried)
    )


def _more(
    tried: CTE, mine: Sequence[ColumnElement[bool]], size: int, most: ColumnElement[int] | None = None
) -> Select[*tuple[Any, ...]]:
    """The tasks behind those that were looked at."""
    return (
        select(_t.id, _t.concurrency_key)
        .where(pending, *mine, _t.available_at <= _now())
        .order_by(_t.available_at, _t.id)
        .offset(number(size))
        .limit(number(1) if most is None else most)
        .correlate(tried)
    )


def _running(
    queue: ColumnElement[str],
    key: ColumnElement[str] | None,
    most: ColumnElement[Any],
    *conditions: ColumnElement[bool],
    beside: FromClause,
    beside_key: FromClause | None = None,
) -> Any:
    """The number of held tasks of a queue, or of a queue and a key, up to `most`."""
    held = table_of(Task).alias("held")
    zero = literal_column("0", BigInteger)
    same = [
        held.c.status == constant(TaskStatus.PROCESSING),
        hashed_names(held.c.queue) == hashed_names(queue),
        held.c.queue == queue,
    ]
    if key is not None:
        hashes = [func.hashtextextended(one, zero, type_=BigInteger) for one in (held.c.concurrency_key, key)]
        same += [hashes[0] == hashes[1], held.c.concurrency_key == key]
    others = [beside] if beside_key is None else [beside, beside_key]
    rows = select(_one.label("one")).select_from(held).where(*same, *conditions).limit(most)
    counted = rows.correlate(*others).subquery("counted")
    return select(func.count().label("number")).select_from(counted).correlate(*others).lateral("running")


def _rate() -> tuple[ColumnElement[int], ColumnElement[int]]:
    """The microseconds for which one claim counts, and those that may be used at once; NULL without a rate.

    In a span of `rate_period` that begins with all of the burst, `rate_jobs - rate_burst` more become due.
    """
    tenth = func.greatest(_q.rate_jobs // number(10), number(1))
    burst = func.coalesce(_q.rate_burst, tenth)
    steps = cast(_q.rate_jobs - burst + number(1), Double)
    emission = cast(func.ceil(_q.rate_period * _million / steps), BigInteger)
    return emission, cast(burst, BigInteger) * emission


def _arrival(capacity: ColumnElement[int]) -> ColumnElement[int]:
    """The theoretical arrival time of the rate.

    One that is far ahead is not of this rate or of this clock, which was set back: it is dropped, or nothing would be claimed
    until then. Claims that overlap read the clock at different times, but not by as much.
    """
    ahead = capacity + func.greatest(cast(_q.rate_period * _million, BigInteger), _minute)
    return case((_q.tat_us > now_us() + ahead, now_us()), else_=_q.tat_us)


def _due(emission: ColumnElement[int], capacity: ColumnElement[int]) -> ColumnElement[int]:
    """How many tasks may be claimed now by the rate."""
    used = func.greatest(_arrival(capacity) - now_us(), _zero)
    return (capacity - used) // emission


def _counted(taking: CTE) -> Any:
    """Write what is claimed from limited queues into their rows, which are locked."""
    taken_ = (
        select(
            taking.c.rule,
            func.count().label("number"),
            func.max(taking.c.emission).label("emission"),
            func.max(taking.c.tat).label("tat"),
        )
        .where(taking.c.rule.is_not(None))
        .group_by(taking.c.rule)
        .subquery("taken")
    )
    later = func.greatest(taken_.c.tat, now_us()) + taken_.c.number * taken_.c.emission
    each = select(
        taken_.c.rule,
        taken_.c.number,
        case((taken_.c.emission.is_(None), taken_.c.tat), else_=later).label("tat"),
    ).cte("by_rule")
    return (
        update(table_of(Queue))
        .where(_q.name == each.c.rule)
        .values(claimed=_q.claimed + each.c.number, tat_us=each.c.tat)
        .returning(_q.name)
    )
