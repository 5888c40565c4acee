"""Statements that enqueue, select, cancel and requeue tasks."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    DateTime,
    Insert,
    Select,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    column,
    false,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import INTERVAL, JSONB
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.types import TypeEngine

from ..checks import aware, one_of
from ..models import Task, TaskResult, TaskStatus
from ..models.base import table_of
from ..types import Text
from . import lease_endings
from . import task_waits as waits
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, constant, hashed, in_queue, materialized, number
from .shapes.paging import page
from .task_leases import TASKS

LIST_KEY = ("id",)

LIVE = (TaskStatus.PENDING, TaskStatus.PROCESSING)

COLUMNS = (
    "id",
    "task_id",
    "intent",
    "content",
    "priority",
    "created_by",
    "assigned_to",
    "parent_task_id",
    "max_retries",
    "timeout_seconds",
    "metadata_",
    "available_at",
    "dedupe_key",
    "queue",
    "concurrency_key",
)
"""Attributes that an enqueued task is inserted with; the others have their defaults."""

WAITS = ("ordering_key", "awaits_turn", "waits_for", "awaited_by", "batch_id")
"""Attributes that a task which may wait for others, or be waited for, is inserted with as well."""

FIELDS: Sequence[str] = Task.__mapper__.columns.keys()
"""All attributes of a task."""

_t = table_of(Task).c
_live = _t.status.in_([constant(status) for status in LIVE])
_deduplicating = and_(_live, _t.cancel_requested_at.is_(None))
"""Tasks that hold their `dedupe_key`.

A task whose cancellation was requested has released it: its holder will end it, and a new task with the key
must not be dropped.
"""


_GIVEN: dict[str, TypeEngine[Any]] = {
    **{name: _t[name.rstrip("_")].type for name in COLUMNS},
    "content": Text(),
    "metadata_": Text(),
    "delay": INTERVAL(),
}
_WAITING: dict[str, TypeEngine[Any]] = {**_GIVEN, **{name: _t[name].type for name in WAITS}}


@driver_statement
def enqueue(*, child: bool = False, ordered: bool = False) -> ReturningInsert[*tuple[Any, ...]]:
    """Insert a task, unless its `task_id` is taken, or its `dedupe_key` by a live task.

    Returns all attributes, as `FIELDS`. Parameters of the statement: `COLUMNS` by attribute, with `content`
    and `metadata_` as JSON text, and the interval `delay`.

    Args:
        child: Whether the task has a parent. It is not inserted either if the parent is being cancelled; see
            `lock_parents`.
        ordered: Whether the task has an `ordering_key`, a further parameter. It is not inserted either if the first
            task of the key ends meanwhile.
    """
    given: dict[str, ColumnElement[Any]] = {
        name: bindparam(name, type_=type_) for name, type_ in _GIVEN.items()
    }
    parent = _t.id == given["parent_task_id"] if child else None
    key = bindparam("ordering_key", type_=Text)
    return _filing(given, parent, key if ordered else None, alone=True).returning(*Task.__mapper__.columns)


@driver_statement
def enqueue_many(*, children: bool = False, waits: bool = False) -> ReturningInsert[uuid.UUID]:
    """Insert several tasks, as `enqueue`, and return the ids of the inserted ones.

    Each parameter is an array. Arrays need a hundredth of the text of a VALUES list with a parameter for each
    value, in the driver and on the server.

    Args:
        children: Whether some tasks have parents. If one of the parents is being cancelled, no task is
            inserted.
        waits: Whether the parameters include the attributes of `WAITS`.
    """
    types = _WAITING if waits else _GIVEN
    given = (
        func.unnest(*(bindparam(name, type_=ARRAY(type_)) for name, type_ in types.items()))
        .table_valued(*(column(name, type_) for name, type_ in types.items()))
        .render_derived("given")
    )
    parents = _t.id == func.any(bindparam("parent_task_id", type_=ARRAY(Uuid)))
    return _filing(dict(given.c.items()), parents if children else None).returning(_t.id)


def standing(task_id: str, dedupe_key: str | None) -> Select[Task]:
    """Select the existing task that an enqueue conflicted with."""
    if dedupe_key is None:
        return select(Task).where(Task.task_id == task_id)
    taken = or_(Task.task_id == task_id, _deduplicating & (Task.dedupe_key == dedupe_key))
    return select(Task).where(taken).order_by((Task.task_id == task_id).desc()).limit(1)


def known(task_ids: Sequence[str]) -> Select[uuid.UUID, str]:
    """Select id and `task_id` of existing tasks."""
    return select(_t.id, _t.task_id).where(_t.task_id == func.any(literal(list(task_ids), ARRAY(Text))))


def deduplicated(dedupe_keys: Sequence[str]) -> Select[uuid.UUID, str | None]:
    """Select id and `dedupe_key` of the live tasks that hold one of these keys."""
    keys = func.any(literal(list(dedupe_keys), ARRAY(Text)))
    return select(_t.id, _t.dedupe_key).where(
        _t.dedupe_key == keys, _t.dedupe_key.is_not(None), _deduplicating
    )


def now() -> Select[datetime]:
    """Select the time of the database."""
    return select(func.statement_timestamp(type_=DateTime(timezone=True)))


def add_results() -> Insert:
    """Insert results.

    Run it with a list of mappings of `task_id`, `result_type`, `content` and `metadata`.
    """
    return insert(table_of(TaskResult))


def get(id: uuid.UUID) -> Select[Task]:
    """Select a task by its id."""
    return select(Task).where(Task.id == id)


def get_by_task_id(task_id: str) -> Select[Task]:
    """Select a task by its `task_id`."""
    return select(Task).where(Task.task_id == task_id)


def results(id: uuid.UUID) -> Select[TaskResult]:
    """Select the results of a task, oldest first."""
    return select(TaskResult).where(TaskResult.task_id == id).order_by(TaskResult.created_at, TaskResult.id)


def list_(
    *,
    status: TaskStatus | None = None,
    queue: str | None = None,
    intent: str | None = None,
    assigned_to: str | None = None,
    parent: uuid.UUID | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    after: str | None,
    limit: int,
) -> Select[Task]:
    """Select a page of tasks, newest first.

    The order is that of the ids, which the library generates in ascending order; it needs no other index.
    """
    filters = _matching(status, queue, intent, assigned_to, parent, created_after, created_before)
    return page(select(Task).where(*filters), [Task.id], after=after, limit=limit, newest_first=True)


def count(
    *,
    up_to: int | None,
    status: TaskStatus | None = None,
    queue: str | None = None,
    intent: str | None = None,
    assigned_to: str | None = None,
    parent: uuid.UUID | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Select[int]:
    """Count the tasks that match all filters that are not None, and stop after one more than `up_to`."""
    filters = _matching(status, queue, intent, assigned_to, parent, created_after, created_before)
    if up_to is None:
        return select(func.count()).select_from(Task).where(*filters)
    found = select(_t.id).where(*filters).limit(up_to + 1).subquery("found")
    return select(func.count()).select_from(found)


def _matching(
    status: TaskStatus | None,
    queue: str | None,
    intent: str | None,
    assigned_to: str | None,
    parent: uuid.UUID | None,
    created_after: datetime | None,
    created_before: datetime | None,
) -> list[ColumnElement[bool]]:
    filters: list[ColumnElement[bool]] = []
    if status is not None:
        filters.append(Task.status == constant(one_of(TaskStatus, status)))
    if queue is not None:
        filters += in_queue(_t.queue, queue)
    if intent is not None:
        filters += hashed(_t.intent, intent, seed=1)
    if assigned_to is not None:
        filters += hashed(_t.assigned_to, assigned_to, seed=1)
    if parent is not None:
        filters.append(Task.parent_task_id == parent)
    if created_after is not None:
        filters.append(Task.created_at >= aware("created_after", created_after))
    if created_before is not None:
        filters.append(Task.created_at < aware("created_before", created_before))
    return filters


def lock_parents(ids: Sequence[uuid.UUID]) -> Select[uuid.UUID, bool]:
    """Lock tasks, and select for each whether it accepts no more children.

    That is the case if the task is cancelled or a cancellation was requested. For a task that completed or
    failed, its ancestors are checked too, up to the first live one.

    The lock is that of a foreign key: the holders of the tasks are not blocked, and a cancellation waits
    until the children are visible.
    """
    return _locked_line(_t.id == func.any(literal(list(ids), ARRAY(Uuid))))


def _locked_line(parents: ColumnElement[bool]) -> Select[uuid.UUID, bool]:
    tasks, above = table_of(Task), table_of(Task).alias("above")
    line = (
        select(_t.id.label("origin"), _t.id, _t.parent_task_id, _t.status)
        .where(parents)
        .cte("line", recursive=True)
    )
    ended = line.c.status.in_([constant(TaskStatus.COMPLETED), constant(TaskStatus.FAILED)])
    line = line.union(
        select(line.c.origin, above.c.id, above.c.parent_task_id, above.c.status)
        .join_from(line, above, above.c.id == line.c.parent_task_id)
        .where(ended)
    )
    dying = or_(_t.status == constant(TaskStatus.CANCELLED), and_(_live, _t.cancel_requested_at.is_not(None)))
    return (
        select(line.c.origin, dying.label("dying"))
        .join_from(line, tasks, _t.id == line.c.id)
        .order_by(_t.id)
        .with_for_update(read=True, key_share=True, of=tasks)
    )


def cancel(id: uuid.UUID, *, children: bool, limit: int | None = None) -> ReturningUpdate[*tuple[Any, ...]]:
    """Cancel a pending task; request the cancellation of a running one.

    The tasks are locked in the order of their ids, so that two calls do not deadlock. The lock waits for
    transactions that are enqueueing children of these tasks: run it again to see those.

    Args:
        id: The task.
        children: Whether all descendants are cancelled too.
        limit: Maximum number of tasks, without those whose cancellation was requested before; None for all.
    """
    tree = _tree(id, children=children)
    chosen: list[ColumnElement[bool]] = [_t.id.in_(select(tree.c.id)), _live]
    if limit is not None:
        fresh = select(_t.id).where(*chosen, _t.cancel_requested_at.is_(None))
        some = materialized(fresh.order_by(_t.id).limit(number(limit)), "some")
        chosen = [among(_t.id, some), _deduplicating]
    return lease_endings.cancel(
        TASKS,
        select(_t.id).where(*chosen).order_by(_t.id).with_for_update(of=table_of(Task)),
        waits_for=number(0),
        awaits_turn=false(),
    )


def cancelled_parts(id: uuid.UUID) -> Select[uuid.UUID]:
    """Select a descendant of a task that is cancelled, or whose cancellation is requested."""
    tree = _tree(id, children=True)
    dying = or_(_t.status == constant(TaskStatus.CANCELLED), and_(_live, _t.cancel_requested_at.is_not(None)))
    return select(_t.id).where(_t.id.in_(select(tree.c.id)), dying).limit(number(1))


def _tree(id: uuid.UUID, *, children: bool) -> CTE:
    tree = select(_t.id).where(_t.id == id).cte("tree", recursive=children)
    if not children:
        return tree
    child = table_of(Task).alias("child")
    return tree.union(select(child.c.id).join(tree, child.c.parent_task_id == tree.c.id))


def requeue(id: uuid.UUID) -> ReturningUpdate[Task]:
    """Requeue a failed or cancelled task as if it had never been attempted."""
    again = Task.status.in_([constant(TaskStatus.FAILED), constant(TaskStatus.CANCELLED)])
    return update(Task).where(Task.id == id, again).values(**_renewed()).returning(Task)


def requeue_failed(
    *, queue: str | None = None, intent: str | None, limit: int
) -> ReturningUpdate[uuid.UUID, str | None, uuid.UUID | None]:
    """Requeue failed tasks, the oldest first.

    Of several tasks with the same `dedupe_key` only one is requeued, and none if a live task holds the key.
    """
    failed = _t.status == constant(TaskStatus.FAILED)
    other = table_of(Task).alias("other")
    live = other.c.status.in_([constant(status) for status in LIVE])
    beside = select(other.c.id).where(
        other.c.dedupe_key == _t.dedupe_key,
        other.c.dedupe_key.is_not(None),
        live,
        other.c.cancel_requested_at.is_(None),
    )
    oldest = select(_t.id, _t.dedupe_key, _t.failed_at).where(failed, ~beside.exists())
    if queue is not None:
        oldest = oldest.where(_t.queue == queue)
    if intent is not None:
        oldest = oldest.where(_t.intent == intent)
    locked = materialized(
        oldest.order_by(_t.failed_at)
        .limit(number(limit))
        .with_for_update(key_share=True, skip_locked=True, of=table_of(Task)),
        "locked",
    )
    key = func.coalesce(locked.c.dedupe_key, cast(locked.c.id, Text))
    chosen = (
        select(locked.c.id).ext(postgresql.distinct_on(key)).order_by(key, locked.c.failed_at).cte("chosen")
    )
    return (
        update(table_of(Task))
        .where(among(_t.id, chosen))
        .values(**_renewed())
        .returning(_t.id, _t.ordering_key, _t.batch_id)
    )


def _renewed() -> dict[str, Any]:
    return {
        "status": constant(TaskStatus.PENDING),
        # Of an ordering key, at the earliest when its turn comes: `open_turns` sees to that.
        "available_at": func.greatest(
            func.statement_timestamp(), case((_t.ordering_key.is_not(None), waits.forever()))
        ),
        "awaits_turn": _t.ordering_key.is_not(None),
        "waits_for": 0,
        "not_before": None,
        "retry_count": 0,
        "crash_count": 0,
        "lease_token": None,
        "failed_at": None,
        "cancelled_at": None,
        "cancel_requested_at": None,
    }


def _turn(key: ColumnElement[Any]) -> tuple[CTE, CTE]:
    """Select the first task of an ordering key, and mark it; see `task_waits`."""
    first = materialized(select(waits.first_of_key(key).label("id")), "first")
    live = materialized(
        select(_t.id).where(_t.id == first.c.id, _live).with_for_update(key_share=True, of=table_of(Task)),
        "its_turn",
    )
    return first, waits.mark(_t.id == live.c.id).returning(_t.id).cte("turn")


def _filing(
    row: Mapping[str, ColumnElement[Any]],
    parents: ColumnElement[bool] | None,
    key: ColumnElement[Any] | None = None,
    *,
    alone: bool = False,
) -> postgresql.Insert:
    """Build the INSERT of tasks.

    The parents are locked and checked in the same statement. With autocommit, a lock of an earlier statement
    would be gone before the children are inserted.

    Args:
        row: The value of each of `COLUMNS`, JSON as text, and `delay`.
        parents: Selects the parents; None if no task has one.
        key: The ordering key of the task; the first task of the key is marked.
        alone: Whether the values are parameters, of one task, and not those of several rows.
    """
    values = {name: row[name] for name in (*COLUMNS, *WAITS) if name in row}
    waiting: list[ColumnElement[bool]] = [row[name] for name in ("awaits_turn",) if name in row]
    first, turn = (None, None) if key is None else _turn(key)
    if key is not None and turn is not None:
        waiting = [select(turn.c.id).exists()]
        values |= {"ordering_key": key, "awaits_turn": waiting[0]}
    if "waits_for" in row:
        waiting.append(row["waits_for"] > number(0))
    available_at = func.greatest(row["available_at"], func.statement_timestamp() + row["delay"])
    values["available_at"] = available_at
    if waiting:
        values["available_at"] = case((or_(*waiting), waits.forever()), else_=available_at)
        values["not_before"] = case((or_(*waiting), available_at))
    for name in ("content", "metadata_"):
        values[name] = cast(row[name], JSONB)
    values = {name.rstrip("_"): value for name, value in values.items()}
    statement = postgresql.insert(table_of(Task))
    if parents is None and key is None and alone:
        # Citus sends VALUES to the worker as they are. The rows of a SELECT it collects first, with a commit in two phases.
        return statement.values(values).on_conflict_do_nothing()
    source = select(*values.values())
    if parents is not None:
        locked = materialized(_locked_line(parents), "locked")
        source = source.where(~select(locked.c.origin).where(locked.c.dying).exists())
    if first is not None and turn is not None:
        # If the first task has just ended, its end passes the turn on, and the next attempt sees to which task.
        none = ~select(first.c.id).where(first.c.id.is_not(None)).exists()
        source = source.where(or_(select(turn.c.id).exists(), none))
    return statement.from_select([*values], source).on_conflict_do_nothing()
