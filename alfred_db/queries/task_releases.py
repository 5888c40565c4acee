"""What the end of a task releases: those that wait for it, the turn of its ordering key, and its batch.

The row of a task shows at its end whether others may wait for it (`task_waits`). `settle` runs only then, in a statement that
begins after the row was locked and therefore sees all of them. `complete` does it in the statement that ends the task, if the
row that it locks has the count that the statement has seen.

Rows of `tasks` are locked after those of `task_dependencies`, and both in the order of their ids.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    false,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)

from ..models import Task, TaskDependency, TaskStatus
from ..models.base import table_of
from ..types import Text
from . import lease_endings
from .leases import owned
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, one_row
from .task_leases import TASKS
from .task_waits import is_live, next_of_key, turn_of_key

__all__ = ["DEPENDENCY_FAILED", "complete", "complete_followed", "open_turns", "settle", "wait_less"]

DEPENDENCY_FAILED = "dependency_failed"
"""The `error_code` of a task that is cancelled because one that it depends on has failed or was cancelled."""

_tasks, _edges = table_of(Task), table_of(TaskDependency)
_t, _d = _tasks.c, _edges.c
_zero, _one = literal_column("0", Integer), literal_column("1", Integer)
_now = func.statement_timestamp


@driver_statement
def settle(*, late: bool = False) -> Select[*tuple[Any, ...]]:
    """Release what waited for the tasks `ids`, each of which has just ended: once for each end.

    With `late`, they had ended before something was made to wait for them: only dependencies are settled.

    Returns the tasks that were changed: id, status, whether it waits no more, its queue and intent, and its `awaited_by`;
    if it was cancelled and the latter is positive, its end is to be settled too. A row whose status is null has the key
    of a turn that could not be passed on, because the next task has just been cancelled: see `open_turns`.
    """
    ended = materialized(
        select(_t.id, _t.task_id, _t.status, _t.batch_id, _t.ordering_key).where(
            _t.id == func.any(bindparam("ids", type_=ARRAY(Uuid))),
            ~is_live(_t),
        ),
        "ended",
    )
    return _settled(ended, late=late)


@driver_statement
def complete() -> Select[*tuple[Any, ...]]:
    """Complete the task `id` with `token`, as `lease_endings.complete` does, and release what waited for it.

    Each row begins with the id, its `awaited_by`, whether what waits was released, and whether `complete_followed` does the same;
    then come the columns of `settle`, NULL if nothing was changed. It was not released if something was made to wait since the
    statement began, which does not see it.
    """
    seen = materialized(select(_t.id, _t.awaited_by).where(owned(TASKS)), "seen")
    columns = (_t.task_id, _t.status, _t.batch_id, _t.ordering_key)
    # A task that something was made to wait for meanwhile is not ended here: what it releases would be another transaction.
    unchanged = _t.awaited_by == select(seen.c.awaited_by).scalar_subquery()
    done = lease_endings.complete(TASKS).built.where(unchanged).returning(*columns).cte("done")
    # `awaited_by` only grows, and the row was locked when it was returned: if it is the same, all that waits was seen.
    same = and_(done.c.awaited_by == seen.c.awaited_by, done.c.awaited_by > _zero)
    ended = materialized(
        select(*(done.c[name] for name in ("id", "task_id", "status", "batch_id", "ordering_key")))
        .select_from(done.join(seen, seen.c.id == done.c.id))
        .where(same),
        "ended",
    )
    found = _settled(ended, still_live=True).subquery("found")
    is_released = select(ended.c.id).exists()
    return select(done.c.id, done.c.awaited_by, is_released, _followed_by_one(done), *found.c).select_from(
        done.outerjoin(found, true())
    )


@driver_statement
def complete_followed() -> Select[*tuple[Any, ...]]:
    """Complete the task `id` with `token` if its end releases one task at most; see `complete`.

    That is the next of its key, or the last of its batch. The rows are those of `complete`. Its plan has a third of the nodes, each of which the server prepares for every call.
    """
    seen = materialized(
        select(_t.id, _t.awaited_by).where(
            owned(TASKS), or_(_t.awaited_by == _zero, _followed_by_one(_tasks))
        ),
        "seen",
    )
    # If it may release more, nothing is seen. Whatever is made to wait meanwhile changes the count.
    unchanged = _t.awaited_by == select(seen.c.awaited_by).scalar_subquery()
    done = (
        lease_endings.complete(TASKS)
        .built.where(unchanged)
        .returning(_t.batch_id, _t.ordering_key)
        .cte("done")
    )
    # The second of the key, if there is one, waits for the first from now on.
    two = next_of_key(_tasks.alias("behind"), done.c.ordering_key, most=2).correlate(done)
    behind = func.array(two.scalar_subquery(), type_=ARRAY(Uuid))
    is_part = done.c.batch_id.is_not(None)
    following = materialized(
        select(
            done.c.batch_id,
            case((~is_part, behind)).label("behind"),
            case((is_part, _one), else_=_zero).label("less"),
            _now().label("now"),
        ).where(done.c.awaited_by > _zero),
        "following",
    )
    less, turn = following.c.less, following.c.batch_id.is_(None)
    next_ = following.c.behind[_one]
    free = and_(_t.waits_for == less, or_(turn, ~_t.awaits_turn))
    followed = case((func.cardinality(following.c.behind) > _one, _one), else_=_zero)
    released = (
        update(_tasks)
        # What another transaction has changed meanwhile is read again before it is written: a part is counted once.
        .where(
            _t.id == func.coalesce(following.c.batch_id, next_),
            _t.status.is_not_distinct_from(constant(TaskStatus.PENDING)),
            case((turn, _t.awaits_turn), else_=_t.waits_for > _zero),
        )
        .values(
            waits_for=_t.waits_for - less,
            awaits_turn=and_(_t.awaits_turn, ~turn),
            awaited_by=_t.awaited_by + followed,
            available_at=case((free, func.greatest(_t.not_before, following.c.now)), else_=_t.available_at),
        )
        .returning(_t.id, _t.status, _t.waits_for, _t.awaits_turn, _t.queue, _t.intent, _t.awaited_by)
        .cte("released")
    )
    is_free = and_(released.c.waits_for == _zero, ~released.c.awaits_turn)
    changed = (released.c.status, is_free, released.c.queue, released.c.intent, released.c.awaited_by)
    # A next task that was not changed has just been cancelled.
    id = func.coalesce(released.c.id, next_)
    return select(
        done.c.id, done.c.awaited_by, true(), true(), id, *changed, done.c.ordering_key
    ).select_from(done.outerjoin(following, true()).outerjoin(released, true()))


def _followed_by_one(ended: FromClause) -> ColumnElement[bool]:
    """Return whether the end of a task releases one other at most."""
    either = or_(ended.c.batch_id.is_(None), ended.c.ordering_key.is_(None))
    edges = select(_d.task_id).where(_d.after_id == ended.c.id).correlate_except(_edges)
    return and_(either, ~edges.exists())


def _settled(ended: CTE, *, late: bool = False, still_live: bool = False) -> Select[*tuple[Any, ...]]:
    """Release what waited for the tasks of `ended`, which are `still_live` to the statement if it ends them itself."""
    open_edges = materialized(
        select(_d.task_id, _d.after_id)
        .join_from(ended, _edges, _d.after_id == ended.c.id)
        .where(~_d.settled, one_row(ended.c.id))
        .order_by(_d.task_id, _d.after_id)
        .with_for_update(of=_edges, key_share=True),
        "open_edges",
    )
    settling = select(*open_edges.c).where(one_row(open_edges.c.task_id)).cte("settling")
    settled = (
        update(_edges)
        .where(and_(_d.task_id == settling.c.task_id, _d.after_id == settling.c.after_id))
        .values(settled=true())
        .returning(_d.task_id, _d.after_id, _d.runs_anyway)
        .cte("settled")
    )
    failed = ended.c.status != constant(TaskStatus.COMPLETED)
    cause = (
        literal_column("'it depends on task '", Text)
        + ended.c.task_id
        + literal_column("', which is '", Text)
    )
    parts = [
        select(
            settled.c.task_id.label("id"),
            _one.label("less"),
            false().label("turn"),
            null().cast(Text).label("ordering_key"),
            and_(~settled.c.runs_anyway, failed).label("doomed"),
            case((and_(~settled.c.runs_anyway, failed), cause + ended.c.status.cast(Text))).label("cause"),
        ).join_from(settled, ended, ended.c.id == settled.c.after_id),
        select(ended.c.batch_id, _one, false(), null().cast(Text), false(), null().cast(Text)).where(
            ended.c.batch_id.is_not(None)
        ),
        _turns(
            select(ended.c.ordering_key).where(ended.c.ordering_key.is_not(None)).distinct().cte("keys"),
            ended if still_live else None,
        ),
    ]
    return _released(union_all(*parts[: 1 if late else None]).subquery("parts"))


@driver_statement
def wait_less() -> Select[*tuple[Any, ...]]:
    """Have the task `id` wait for `less` tasks less; returns rows as `settle` does."""
    return _released(
        select(
            bindparam("id", type_=Uuid).label("id"),
            bindparam("less", type_=Integer).label("less"),
            false().label("turn"),
            null().cast(Text).label("ordering_key"),
            false().label("doomed"),
            null().cast(Text).label("cause"),
        ).subquery("parts")
    )


@driver_statement
def open_turns() -> Select[*tuple[Any, ...]]:
    """Open the next task of each of the ordering keys `keys` whose turn nobody has.

    Returns rows as `settle` does.
    """
    keys = (
        func.unnest(bindparam("keys", type_=ARRAY(Text)))
        .table_valued(column("ordering_key", Text))
        .render_derived("keys")
    )
    return _released(_turns(keys).subquery("parts"))


def _turns(keys: FromClause, ended: CTE | None = None) -> Select[*tuple[Any, ...]]:
    """Select the next task of each key without an open one, as a part of what is released.

    Those of `ended` are not open, though the statement sees them so.
    """
    opened, behind = _tasks.alias("opened"), _tasks.alias("behind")
    following = next_of_key(behind, keys.c.ordering_key).correlate(keys).lateral("following")
    its_turn = turn_of_key(opened, keys.c.ordering_key)
    if ended is not None:
        its_turn = its_turn.where(~select(ended.c.id).where(ended.c.id == opened.c.id).exists())
    return (
        select(
            following.c.id.label("id"),
            _zero.label("less"),
            true().label("turn"),
            keys.c.ordering_key.label("ordering_key"),
            false().label("doomed"),
            null().cast(Text).label("cause"),
        )
        .select_from(keys.join(following, true()))
        .where(~its_turn.exists(), one_row(keys.c.ordering_key))
    )


def _released(parts: FromClause) -> Select[*tuple[Any, ...]]:
    """Write what tasks wait for less; `parts` may have several rows for each."""
    todo = materialized(
        select(
            parts.c.id,
            func.sum(parts.c.less).cast(Integer).label("less"),
            func.bool_or(parts.c.turn).label("turn"),
            func.max(parts.c.ordering_key).label("ordering_key"),
            func.bool_or(parts.c.doomed).label("doomed"),
            func.min(parts.c.cause).label("cause"),
        ).group_by(parts.c.id),
        "todo",
    )
    ordered = select(*todo.c).where(one_row(todo.c.id)).order_by(todo.c.id).subquery("ordered")
    row = (
        select(_t.id, _t.waits_for, _t.awaits_turn, _t.not_before, _t.available_at)
        .where(_t.id == ordered.c.id, _t.status.is_not_distinct_from(constant(TaskStatus.PENDING)))
        .with_for_update(key_share=True)
        .correlate(ordered)
        .lateral("row")
    )
    locked = materialized(
        select(
            row.c.id,
            row.c.waits_for,
            row.c.awaits_turn,
            row.c.not_before,
            row.c.available_at,
            ordered.c.less,
            ordered.c.turn,
            ordered.c.ordering_key,
            ordered.c.doomed,
            ordered.c.cause,
            _now().label("now"),
        ).select_from(ordered.join(row, true())),
        "held",
    )
    outcome = _outcome(locked)
    released = (
        update(_tasks)
        .where(_t.id == outcome.c.id)
        .values(
            waits_for=outcome.c.waits_for,
            awaits_turn=outcome.c.awaits_turn,
            awaited_by=_t.awaited_by + outcome.c.followed,
            available_at=outcome.c.available_at,
            status=outcome.c.status,
            cancelled_at=outcome.c.cancelled_at,
            error_code=func.coalesce(outcome.c.error_code, _t.error_code),
            error_message=func.coalesce(outcome.c.cause, _t.error_message),
        )
        .returning(_t.id, _t.status, _t.waits_for, _t.awaits_turn, _t.queue, _t.intent, _t.awaited_by)
        .cte("released")
    )
    return (
        select(
            todo.c.id,
            released.c.status,
            and_(
                released.c.waits_for == _zero,
                ~released.c.awaits_turn,
                released.c.status == constant(TaskStatus.PENDING),
            ),
            released.c.queue,
            released.c.intent,
            released.c.awaited_by,
            todo.c.ordering_key,
        )
        .select_from(todo.outerjoin(released, released.c.id == todo.c.id))
        .where(or_(released.c.id.is_not(None), todo.c.turn))
    )


def _outcome(locked: CTE) -> CTE:
    """The new state of tasks that wait for less; those that did not wait are left out."""
    counted = and_(locked.c.less > _zero, locked.c.waits_for > _zero)
    its_turn = and_(locked.c.turn, locked.c.awaits_turn)
    doomed = and_(locked.c.doomed, locked.c.waits_for > _zero)
    waits_for = case((doomed, _zero), else_=func.greatest(locked.c.waits_for - locked.c.less, _zero))
    awaits_turn = case((or_(doomed, its_turn), false()), else_=locked.c.awaits_turn)
    more = _tasks.alias("more")
    followed = (
        next_of_key(more, locked.c.ordering_key).where(more.c.id != locked.c.id).correlate(locked).exists()
    )
    return (
        select(
            locked.c.id,
            waits_for.label("waits_for"),
            awaits_turn.label("awaits_turn"),
            case((and_(its_turn, followed), _one), else_=_zero).label("followed"),
            case(
                (doomed, locked.c.now),
                (
                    and_(waits_for == _zero, awaits_turn.is_(false())),
                    func.greatest(locked.c.not_before, locked.c.now),
                ),
                else_=locked.c.available_at,
            ).label("available_at"),
            case((doomed, constant(TaskStatus.CANCELLED)), else_=constant(TaskStatus.PENDING)).label(
                "status"
            ),
            case((doomed, locked.c.now)).label("cancelled_at"),
            case((doomed, literal_column(f"'{DEPENDENCY_FAILED}'", Text))).label("error_code"),
            case((doomed, locked.c.cause)).label("cause"),
        )
        .where(or_(counted, its_turn))
        .cte("outcome")
    )
