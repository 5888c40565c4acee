"""What a task waits for: the turn of an ordering key, dependencies, and batches.

A task waits while `awaits_turn` is true or `waits_for` is above 0. Its `available_at` is then `WAITING`, so that claims
do not look at it. What makes a task wait for another one adds 1 to the `awaited_by` of that one, under its row lock. So
the row of a task shows at its end whether others may wait. What its end releases is in `task_releases`.

Rows of `tasks` are locked after those of `task_dependencies`, and both in the order of their ids.
"""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.dml import ReturningUpdate

from ..models import Task, TaskDependency, TaskResult, TaskStatus
from ..models.base import table_of
from ..models.tasks import WAITING
from ..types import Text
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, number

__all__ = [
    "batch_progress",
    "dependencies",
    "dependents",
    "first_of_key",
    "forever",
    "is_live",
    "known",
    "mark",
    "mark_keys",
    "mark_tasks",
    "mark_waited",
    "next_of_key",
    "outcome",
    "outcome_results",
    "turn_of_key",
    "wait_after",
    "wait_again",
]

_tasks, _edges = table_of(Task), table_of(TaskDependency)
_t = _tasks.c
_zero, _one = literal_column("0", Integer), literal_column("1", Integer)


def forever() -> ColumnElement[Any]:
    """Return the `available_at` of a task that waits for others."""
    return literal_column(f"timestamptz '{WAITING:%Y-%m-%d %H:%M:%S+00}'", DateTime(timezone=True))


def is_live(task: Any) -> ColumnElement[bool]:
    """Whether a task has not ended."""
    live = (TaskStatus.PENDING, TaskStatus.PROCESSING)
    return task.status.in_([constant(status) for status in live])  # type: ignore[no-any-return]


# Made to wait


def first_of_key(key: ColumnElement[str | None]) -> ColumnElement[uuid.UUID]:
    """Return the first task of an ordering key that has not ended: the one whose turn it is, or else the next."""
    opened, behind = _tasks.alias("opened"), _tasks.alias("behind")
    its_turn = turn_of_key(opened, key).limit(number(1))
    return func.coalesce(its_turn.scalar_subquery(), next_of_key(behind, key).scalar_subquery())


def turn_of_key(opened: Any, key: ColumnElement[Any]) -> Select[Any]:
    """Select the task of a key whose turn it is."""
    return select(opened.c.id).where(
        opened.c.ordering_key == key,
        opened.c.ordering_key.is_not(None),
        ~opened.c.awaits_turn,
        is_live(opened.c),
    )


def next_of_key(behind: Any, key: ColumnElement[Any], *, most: int = 1) -> Select[Any]:
    """Select the next task of a key in the order of enqueue, or as many as `most`.

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
        .limit(number(most))
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
        .where(_t.id == ordered.c.id, is_live(_t))
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


# Seen


@driver_statement
def mark_waited() -> ReturningUpdate[uuid.UUID]:
    """Mark the task `id`, unless it has ended, so that its end is notified."""
    return mark(and_(_t.id == bindparam("id", type_=Uuid), is_live(_t))).returning(_t.id)


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
