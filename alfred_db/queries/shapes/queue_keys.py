"""Building blocks of claims from queues with a limit per key: tasks whose keys are below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Select,
    bindparam,
    case,
    column,
    exists,
    literal_column,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import array

from ...models import Task
from ...models.base import table_of
from .claims import deadline, of_kind, pending, waiting
from .functions import func
from .literals import number
from .queue_limits import running as running_of

LOOK = 32
"""How many of the first waiting tasks of a queue with a limit per key are looked at, whose keys may all be at it."""

MOST_LOOKED_AT = 1000
"""How many further keys are looked at, and how many further tasks for one without a key."""

_FIRST, _LAST = (literal_column(f"{bound}", BigInteger) for bound in (-(1 << 63) + 1, (1 << 63) - 1))
_t = table_of(Task).c
_one, _zero = literal_column("bigint '1'", BigInteger), literal_column("bigint '0'", BigInteger)
_any = literal_column(f"bigint '{1 << 31}'", BigInteger)
_now = func.statement_timestamp


def of_keys(tried: FromClause, limit: int, filters: Sequence[ColumnElement[bool]], *, further: bool) -> Any:
    """The tasks of a kind whose queue has a limit per key: those that wait longest, of keys that are below it.

    The candidates are read without a lock, which the row of the queue stands for, and are locked one by one.

    Args:
        tried: What is claimed from, with the columns of a kind, and of its queue `per_key`, `since` and `room`.
        limit: Maximum number of tasks.
        filters: Further conditions.
        further: Whether to look behind the first tasks, whose keys may all be at the limit.
    """
    mine = [*of_kind(tried, tried), *filters, tried.c.per_key.is_not(None)]
    size = LOOK + limit - 1
    also = [_t.concurrency_key, _t.available_at]
    look = waiting(size, *mine, beside=[tried], lock=False, also=also, name="look")
    candidate: Any = (_below if limit == 1 else _several_below)(look, tried)
    if further:
        arms = [candidate, _behind(tried, mine, size), _without_key(tried, mine, size)]
        candidate = union_all(*arms)
    candidate = candidate.lateral("candidate")
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


def _below(look: Any, tried: FromClause) -> Select[*tuple[Any, ...]]:
    """Those of some tasks whose keys are below the limit."""
    running = running_of(tried.c.queue, look.c.concurrency_key, tried.c.per_key, beside=[tried, look])
    left = tried.c.per_key - running.c.number - tried.c.since
    room = case((look.c.concurrency_key.is_(None), _any), else_=left)
    return (
        select(look.c.id, look.c.concurrency_key, room.label("key_room"))
        .select_from(look.join(running, true()))
        .where(room > _zero)
        .correlate(tried)
    )


def _several_below(look: Any, tried: FromClause) -> Select[*tuple[Any, ...]]:
    """The same, no more of a key than there is room for. What runs of a key is counted once, beside its first task."""
    order = [look.c.available_at, look.c.id]
    place = func.row_number().over(partition_by=[look.c.concurrency_key], order_by=order)
    placed = select(*look.c, place.label("place")).select_from(look).correlate(tried).subquery("placed")
    is_first = placed.c.place == _one
    beside = [tried, placed]
    running = running_of(tried.c.queue, placed.c.concurrency_key, tried.c.per_key, is_first, beside=beside)
    number = func.max(running.c.number).over(partition_by=[placed.c.concurrency_key])
    left = tried.c.per_key - number - tried.c.since
    room = case((placed.c.concurrency_key.is_(None), _any), else_=left)
    below = (
        select(*placed.c, room.label("key_room"))
        .select_from(placed.join(running, true()))
        .correlate(tried)
        .subquery("below")
    )
    return (
        select(below.c.id, below.c.concurrency_key, below.c.key_room)
        .where(below.c.place <= below.c.key_room)
        .order_by(below.c.available_at, below.c.id)
        .correlate(tried)
    )


def _behind(tried: FromClause, mine: Sequence[ColumnElement[bool]], size: int) -> Select[*tuple[Any, ...]]:
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
    running = running_of(tried.c.queue, keys.c.concurrency_key, tried.c.per_key, beside=[tried, keys])
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


def _without_key(
    tried: FromClause, mine: Sequence[ColumnElement[bool]], size: int
) -> Select[*tuple[Any, ...]]:
    """Tasks without a key among the next ones; no index finds further ones."""
    following = _more(tried, mine, size, number(MOST_LOOKED_AT)).lateral("others")
    return (
        select(following.c.id, following.c.concurrency_key, _one.label("key_room"))
        .where(following.c.concurrency_key.is_(None))
        .correlate(tried)
    )


def _more(
    tried: FromClause, mine: Sequence[ColumnElement[bool]], size: int, most: ColumnElement[int] | None = None
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
