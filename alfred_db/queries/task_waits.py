"""What a task waits for, and what its end releases: the turn of an ordering key, dependencies, and batches.

A task waits while `awaits_turn` is true or `waits_for` is above 0. Its `available_at` is then `WAITING`, so that claims
do not look at it. What makes a task wait for another one adds 1 to the `awaited_by` of that one, under its row lock. So
the row of a task shows at its end whether others may wait, and `settle` runs only then, in a statement that begins after
the row was locked and therefore sees all of them. `complete` does it in the statement that ends the task, if the row that it locks
has the count that the statement has seen.

Rows of `tasks` are locked after those of `task_dependencies`, and both in the order of their ids.
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    Boolean,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    Update,
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
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.dml import ReturningUpdate

from ..models import Task, TaskDependency, TaskResult, TaskStatus
from ..models.base import table_of
from ..models.tasks import WAITING
from ..types import Text
from . import lease_endings
from .leases import owned
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, number, one_row
from .task_leases import TASKS

__all__ = [
    "DEPENDENCY_FAILED",
    "batch_progress",
    "complete",
    "dependencies",
    "dependents",
    "first_of_key",
    "forever",
    "known",
    "mark",
    "mark_keys",
    "mark_tasks",
    "mark_waited",
    "open_turns",
    "outcome",
    "outcome_results",
    "settle",
    "wait_after",
    "wait_again",
    "wait_less",
]

DEPENDENCY_FAILED = "dependency_failed"
"""The `error_code` of a task that is cancelled because one that it depends on has failed or was cancelled."""

_tasks, _edges = table_of(Task), table_of(TaskDependency)
_t, _d = _tasks.c, _edges.c
_zero, _one = literal_column("0", Integer), literal_column("1", Integer)
_now = func.statement_timestamp

LIVE = (TaskStatus.PENDING, TaskStatus.PROCESSING)


def forever() -> ColumnElement[Any]:
    """Return the `available_at` of a task that waits for others."""
    return literal_column(f"timestamptz '{WAITING:%Y-%m-%d %H:%M:%S+00}'", DateTime(timezone=True))


def _is_live(task: Any) -> ColumnElement[bool]:
    return task.status.in_([constant(status) for status in LIVE])  # type: ignore[no-any-return]


# Made to wait


def first_of_key(key: ColumnElement[str | None]) -> ColumnElement[uuid.UUID]:
    """Return the first task of an ordering key that has not ended: the one whose turn it is, or else the next."""
    opened, behind = _tasks.alias("opened"), _tasks.alias("behind")
    its_turn = select(opened.c.id).where(
        opened.c.ordering_key == key,
        opened.c.ordering_key.is_not(None),
        ~opened.c.awaits_turn,
        _is_live(opened.c),
    )
    return func.coalesce(its_turn.limit(number(1)).scalar_subquery(), _next(behind, key).scalar_subquery())


def _next(behind: Any, key: ColumnElement[Any]) -> Select[Any]:
    """Select the next task of a key in the order of enqueue.

    The status is compared in a form that fits no partial index: the planner would also read an index of all that waits.
    """
    return (
        select(behind.c.id)
        .where(
            behind.c.ordering_key == key,
            behind.c.awaits_turn,
            behind.c.status.is_not_distinct_from(constant(TaskStatus.PENDING)),
        )
        .order_by(behind.c.id)
        .limit(number(1))
    )


def mark(task: ColumnElement[bool]) -> Update:
    """Have live tasks look, when they end, for what waits for them. Until this transaction ends, they cannot end."""
    return update(_tasks).where(task).values(awaited_by=_t.awaited_by + _one)


@driver_statement
def known() -> Select[uuid.UUID, str]:
    """Select id and `task_id` of the tasks with these `ids` or `keys`, each an array."""
    ids, keys = bindparam("ids", type_=ARRAY(Uuid)), bindparam("keys", type_=ARRAY(Text))
    return select(_t.id, _t.task_id).where(or_(_t.id == func.any(ids), _t.task_id == func.any(keys)))


@driver_statement
def mark_tasks() -> ReturningUpdate[uuid.UUID, str]:
    """Mark the tasks `ids`, whether they have ended or not, and return id and status of each."""
    ids = bindparam("ids", type_=ARRAY(Uuid))
    locked = materialized(
        select(_t.id).where(_t.id == func.any(ids)).order_by(_t.id).with_for_update(key_share=True), "locked"
    )
    return mark(_t.id == locked.c.id).returning(_t.id, _t.status)


@driver_statement
def mark_keys() -> Select[str, bool]:
    """Mark the first task of each of the ordering keys `keys`.

    Returns the keys that have a task which has not ended, and whether it was marked: if not, it has just ended, and the
    statement is to be run again.
    """
    keys = (
        func.unnest(bindparam("keys", type_=ARRAY(Text)))
        .table_valued(column("ordering_key", Text))
        .render_derived("keys")
    )
    firsts = materialized(
        select(keys.c.ordering_key, first_of_key(keys.c.ordering_key).label("id")), "firsts"
    )
    ordered = select(firsts.c.id).where(firsts.c.id.is_not(None)).order_by(firsts.c.id).subquery("ordered")
    row = (
        select(_t.id)
        .where(_t.id == ordered.c.id, _is_live(_t))
        .with_for_update(key_share=True)
        .correlate(ordered)
        .lateral("row")
    )
    locked = materialized(select(row.c.id).select_from(ordered.join(row, true())), "locked")
    marked = mark(_t.id == locked.c.id).returning(_t.id).cte("marked")
    return (
        select(firsts.c.ordering_key, marked.c.id.is_not(None))
        .select_from(firsts.outerjoin(marked, marked.c.id == firsts.c.id))
        .where(firsts.c.id.is_not(None))
    )


@driver_statement
def wait_after() -> postgresql.Insert:
    """Insert dependencies: arrays of `tasks`, of `afters` and of `anyway`, one after the other."""
    names: dict[str, Any] = {"tasks": Uuid(), "afters": Uuid(), "anyway": Boolean()}
    given = (
        func.unnest(*(bindparam(name, type_=ARRAY(type_)) for name, type_ in names.items()))
        .table_valued(*(column(name, type_) for name, type_ in names.items()))
        .render_derived("given")
    )
    source = select(given.c.tasks, given.c.afters, given.c.anyway)
    return (
        postgresql.insert(_edges)
        .from_select(["task_id", "after_id", "runs_anyway"], source)
        .on_conflict_do_nothing()
    )


@driver_statement
def wait_again() -> ReturningUpdate[uuid.UUID]:
    """Have batches that have not ended wait for those of the tasks `ids` that are part of them, and live again."""
    more = materialized(
        select(_t.batch_id, func.count().cast(Integer).label("count"))
        .where(_t.id == func.any(bindparam("ids", type_=ARRAY(Uuid))), _t.batch_id.is_not(None))
        .group_by(_t.batch_id),
        "more",
    )
    ordered = select(more.c.batch_id, more.c.count).order_by(more.c.batch_id).subquery("ordered")
    last = (
        select(_t.id)
        .where(_t.id == ordered.c.batch_id, _t.status.is_not_distinct_from(constant(TaskStatus.PENDING)))
        .with_for_update(key_share=True)
        .correlate(ordered)
        .lateral("last")
    )
    held = materialized(select(last.c.id, ordered.c.count).select_from(ordered.join(last, true())), "held")
    return (
        update(_tasks)
        .where(_t.id == held.c.id)
        .values(waits_for=_t.waits_for + case((_t.waits_for > _zero, held.c.count), else_=_zero))
        .returning(_t.id)
    )


# Released


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
            _t.status.not_in([constant(one) for one in LIVE]),
        ),
        "ended",
    )
    return _settled(ended, late=late)


@driver_statement
def complete() -> Select[*tuple[Any, ...]]:
    """Complete the task `id` with `token`, as `lease_endings.complete` does, and release what waited for it.

    Each row begins with the id, its `awaited_by`, and whether what waits was released; then come the columns of `settle`, NULL
    if nothing was changed. It was not released if something was made to wait since the statement began, which does not see it.
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
    return select(done.c.id, done.c.awaited_by, is_released, *found.c).select_from(
        done.outerjoin(found, true())
    )


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
    following = _next(behind, keys.c.ordering_key).correlate(keys).lateral("following")
    its_turn = select(opened.c.id).where(
        opened.c.ordering_key == keys.c.ordering_key,
        opened.c.ordering_key.is_not(None),
        ~opened.c.awaits_turn,
        _is_live(opened.c),
    )
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
    followed = _next(more, locked.c.ordering_key).where(more.c.id != locked.c.id).correlate(locked).exists()
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


# Seen


@driver_statement
def mark_waited() -> ReturningUpdate[uuid.UUID]:
    """Mark the task `id`, unless it has ended, so that its end is notified."""
    return mark(and_(_t.id == bindparam("id", type_=Uuid), _is_live(_t))).returning(_t.id)


@driver_statement
def outcome() -> Select[uuid.UUID, str, str, str | None, str | None]:
    """Select how the task `id` has ended."""
    own = _t.id == bindparam("id", type_=Uuid)
    return select(_t.id, _t.task_id, _t.status, _t.error_code, _t.error_message).where(own)


@driver_statement
def outcome_results() -> Select[str, dict[str, Any]]:
    """Select type and content of the results of the task `id`, oldest first."""
    result = table_of(TaskResult).c
    own = result.task_id == bindparam("id", type_=Uuid)
    return select(result.result_type, result.content).where(own).order_by(result.created_at, result.id)


def dependencies(id: uuid.UUID) -> Select[Task]:
    """Select the tasks that a task waits for or has waited for."""
    return (
        select(Task)
        .join(TaskDependency, TaskDependency.after_id == Task.id)
        .where(TaskDependency.task_id == id)
        .order_by(Task.id)
    )


def dependents(id: uuid.UUID) -> Select[Task]:
    """Select the tasks that wait for a task or have waited for it."""
    return (
        select(Task)
        .join(TaskDependency, TaskDependency.task_id == Task.id)
        .where(TaskDependency.after_id == id)
        .order_by(Task.id)
    )


def batch_progress(batch_id: uuid.UUID) -> Select[str, int]:
    """Count the tasks of a batch by their status."""
    return (
        select(_t.status, func.count())
        .where(_t.batch_id == batch_id, _t.batch_id.is_not(None))
        .group_by(_t.status)
    )
