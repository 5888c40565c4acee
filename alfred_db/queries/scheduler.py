"""Statements about scheduled tasks and their slots: the times at which they are due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    column,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy import (
    delete as sql_delete,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import load_only
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..cron import Slot
from ..models import ExecutionStatus, OverlapPolicy, ScheduledExecution, ScheduledTask
from ..types import Text
from .shapes.functions import func
from .shapes.literals import materialized
from .shapes.paging import page

LIST_KEY = ("id",)

_Time = DateTime(timezone=True)
_FIRST = datetime(2, 1, 1, tzinfo=UTC)
PLANNED = (
    ScheduledTask.id,
    ScheduledTask.schedule,
    ScheduledTask.timezone,
    ScheduledTask.next_run_at,
    ScheduledTask.misfire_policy,
    ScheduledTask.misfire_grace_seconds,
    ScheduledTask.max_catchup,
    ScheduledTask.overlap_policy,
    ScheduledTask.intent,
)


# Tasks


def create(values: Mapping[str, Any]) -> ReturningInsert[ScheduledTask]:
    """Insert a scheduled task, unless its key is taken."""
    statement = insert(ScheduledTask).values(dict(values))
    return statement.on_conflict_do_nothing(index_elements=[ScheduledTask.schedule_key]).returning(
        ScheduledTask
    )


def now() -> Select[datetime]:
    """Select the time of the database."""
    return select(func.statement_timestamp())


def get(task_id: int) -> Select[ScheduledTask]:
    """Select a scheduled task by its id."""
    return select(ScheduledTask).where(ScheduledTask.id == task_id)


def get_by_key(schedule_key: str) -> Select[ScheduledTask]:
    """Select a scheduled task by its key."""
    return select(ScheduledTask).where(ScheduledTask.schedule_key == schedule_key)


def timed(task_id: int) -> Select[ScheduledTask, datetime]:
    """Select a scheduled task and the time of the database."""
    return select(ScheduledTask, func.statement_timestamp()).where(ScheduledTask.id == task_id)


def locked_by_key(schedule_key: str) -> Select[ScheduledTask, datetime]:
    """Select a scheduled task by its key, and the time of the database.

    The row is locked, so that no scheduler plans the task until the transaction ends.
    """
    return (
        select(ScheduledTask, func.statement_timestamp())
        .where(ScheduledTask.schedule_key == schedule_key)
        .with_for_update(key_share=True, of=ScheduledTask)
    )


def locked(task_id: int) -> Select[ScheduledTask, datetime]:
    """Select a scheduled task by its id, and the time of the database.

    The row is locked, so that no scheduler plans the task until the transaction ends.
    """
    return timed(task_id).with_for_update(key_share=True, of=ScheduledTask)


def change(task_id: int, values: Mapping[str, Any]) -> ReturningUpdate[ScheduledTask]:
    """Update columns of a scheduled task."""
    return (
        update(ScheduledTask).where(ScheduledTask.id == task_id).values(dict(values)).returning(ScheduledTask)
    )


def declared(owner: str) -> Select[str | None, datetime]:
    """Select the keys of the tasks that an application has declared, and the time of the database.

    The rows are locked in the order of their keys, so that two processes of it that start do not deadlock.
    """
    return (
        select(ScheduledTask.schedule_key, func.statement_timestamp())
        .where(ScheduledTask.owner == owner)
        .order_by(ScheduledTask.schedule_key)
        .with_for_update(key_share=True)
    )


def withdraw(owner: str, keys: Sequence[str]) -> ReturningUpdate[str | None]:
    """Pause the active tasks that an application has declared under other keys than these."""
    others = ScheduledTask.schedule_key != func.all(literal(list(keys), ARRAY(Text)))
    return (
        update(ScheduledTask)
        .where(ScheduledTask.owner == owner, ScheduledTask.is_active, others)
        .values(is_active=False, next_run_at=None, withdrawn_at=func.statement_timestamp())
        .returning(ScheduledTask.schedule_key)
    )


def hold(task_id: int) -> Select[int]:
    """Lock a scheduled task that is to be deleted: no execution of it is created any more."""
    return select(ScheduledTask.id).where(ScheduledTask.id == task_id).with_for_update()


def delete(task_id: int) -> ReturningDelete[int]:
    """Delete a scheduled task whose executions are deleted."""
    return sql_delete(ScheduledTask).where(ScheduledTask.id == task_id).returning(ScheduledTask.id)


def unrun(commands: Sequence[str]) -> Select[int, str, str]:
    """Select `id`, `name` and `command` of the active tasks whose command is none of these, ordered by id."""
    return (
        select(ScheduledTask.id, ScheduledTask.name, ScheduledTask.command)
        .where(
            ScheduledTask.is_active,
            ScheduledTask.schedule.is_not(None),
            ScheduledTask.intent.is_(None),
            ScheduledTask.command != func.all(literal(list(commands), ARRAY(Text))),
        )
        .order_by(ScheduledTask.id)
        .limit(100)
    )


def list_(*, after: str | None, limit: int) -> Select[ScheduledTask]:
    """Select a page of scheduled tasks, ordered by id."""
    return page(select(ScheduledTask), [ScheduledTask.id], after=after, limit=limit)


# Slots


def due(
    *, limit: int, after: ScheduledTask | None, without: Sequence[int] = ()
) -> Select[ScheduledTask, datetime]:
    """Select and lock the tasks whose next slot is due, with the time of the database.

    Tasks that another scheduler has locked are skipped. A slot before the range of `datetime` is left out: it
    cannot be read, and would always come first.

    Args:
        limit: Maximum number of tasks.
        after: The last task of the previous call, in the order of slots; None for the first call.
        without: Ids of tasks that cannot be read, which are left out.
    """
    key = ScheduledTask.next_run_at, ScheduledTask.id
    statement = _scheduled(limit, without).where(
        ScheduledTask.next_run_at <= func.statement_timestamp(),
        ScheduledTask.next_run_at >= literal(_FIRST, _Time),
    )
    if after is not None:
        last = literal(after.next_run_at, _Time), literal(after.id, BigInteger)
        statement = statement.where(tuple_(*key) > tuple_(*last))
    return statement.order_by(*key)


def unscheduled(
    *, limit: int, after: ScheduledTask | None, without: Sequence[int] = ()
) -> Select[ScheduledTask, datetime]:
    """Select and lock the active tasks without a next slot, with the time of the database.

    Such tasks were not created by this library. The arguments are those of `due`.
    """
    statement = _scheduled(limit, without).where(ScheduledTask.next_run_at.is_(None))
    if after is not None:
        statement = statement.where(ScheduledTask.id > after.id)
    return statement.order_by(ScheduledTask.id)


def active(*, after: int, limit: int) -> Select[int, str | None, str]:
    """Select `id`, `schedule` and `timezone` of the tasks that have slots, ordered by id."""
    return (
        select(ScheduledTask.id, ScheduledTask.schedule, ScheduledTask.timezone)
        .where(ScheduledTask.is_active, ScheduledTask.schedule.is_not(None), ScheduledTask.id > after)
        .order_by(ScheduledTask.id)
        .limit(limit)
    )


def _scheduled(limit: int, without: Sequence[int]) -> Select[ScheduledTask, datetime]:
    """Select the columns that planning needs.

    No other column can then make a row unreadable.
    """
    return (
        select(ScheduledTask, func.statement_timestamp())
        .options(load_only(*PLANNED))
        .where(ScheduledTask.is_active, ScheduledTask.schedule.is_not(None), *_left_out(without))
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True, of=ScheduledTask)
    )


def _left_out(without: Sequence[int]) -> list[ColumnElement[bool]]:
    if not without:
        return []
    return [ScheduledTask.id != func.all(literal(list(without), ARRAY(BigInteger)))]


def create_executions(slots: Sequence[Slot]) -> ReturningInsert[int, int | None, datetime]:
    """Insert an execution for each slot that has none.

    An exclusive slot is skipped if its task has an execution that is pending or running.
    """
    rows = func.unnest(
        literal([slot.task_id for slot in slots], ARRAY(BigInteger)),
        literal([slot.scheduled_at for slot in slots], ARRAY(_Time)),
        literal([slot.missed_slots for slot in slots], ARRAY(Integer)),
        literal([slot.exclusive for slot in slots], ARRAY(Boolean)),
        literal([_status(slot) for slot in slots], ARRAY(Text)),
        literal([slot.skipped_at for slot in slots], ARRAY(_Time)),
    ).table_valued(
        column("task_id", BigInteger),
        column("scheduled_at", _Time),
        column("missed_slots", Integer),
        column("exclusive", Boolean),
        column("status", Text),
        column("end_time", _Time),
    )
    rows = rows.render_derived(name="slot")
    return (
        insert(ScheduledExecution)
        .from_select([*rows.c.keys()], select(*rows.c))
        .on_conflict_do_nothing()
        .returning(ScheduledExecution.id, ScheduledExecution.task_id, ScheduledExecution.scheduled_at)
    )


def _status(slot: Slot) -> str:
    return ExecutionStatus.PENDING if slot.skipped_at is None else ExecutionStatus.SKIPPED


def advance(
    task_ids: Sequence[int], seen: Sequence[datetime | None], following: Sequence[datetime | None]
) -> ReturningUpdate[int]:
    """Move tasks to their next slots, unless their slot has changed since it was read."""
    rows = func.unnest(
        literal(list(task_ids), ARRAY(BigInteger)),
        literal(list(seen), ARRAY(_Time)),
        literal(list(following), ARRAY(_Time)),
    ).table_valued(column("id", BigInteger), column("seen", _Time), column("following", _Time))
    rows = rows.render_derived(name="moved")
    return (
        update(ScheduledTask)
        .where(ScheduledTask.id == rows.c.id, ScheduledTask.next_run_at.is_not_distinct_from(rows.c.seen))
        .values(next_run_at=rows.c.following)
        .returning(ScheduledTask.id)
    )


def intent_of(task_id: int) -> Select[str]:
    """Select the intent of a scheduled task, or an empty text if it has none."""
    return select(func.coalesce(ScheduledTask.intent, literal("", Text))).where(ScheduledTask.id == task_id)


def trigger(task_id: int) -> ReturningInsert[ScheduledExecution]:
    """Insert an execution that is due now."""
    exclusive = ScheduledTask.overlap_policy == OverlapPolicy.SKIP
    task = select(ScheduledTask.id, exclusive.label("exclusive")).where(ScheduledTask.id == task_id)
    return (
        insert(ScheduledExecution)
        .from_select(["task_id", "exclusive"], select(*materialized(task, "task").c))
        .on_conflict_do_nothing()
        .returning(ScheduledExecution)
    )
