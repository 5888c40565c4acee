"""Statements about the progress of tasks: reported by their holders, read by anybody.

The row of a task is read and never waited for. It is locked as a foreign key does, once, and only if nobody else has
locked it: from then on the report is deleted with the task.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Double, Select, Uuid, and_, bindparam, column, literal, select, true
from sqlalchemy.dialects import postgresql

from ..models import Task, TaskProgress, TaskStatus
from ..models.base import table_of
from ..types import Text
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import constant, materialized, one_row

__all__ = ["progress", "report"]

_tasks, _reports = table_of(Task), table_of(TaskProgress)
_t, _r = _tasks.c, _reports.c


@driver_statement
def report() -> Any:
    """Store the progress of the tasks `ids`, each held with its token of `tokens`: their `fractions` and `notes`.

    A token that is not that of the holder any more stores nothing, and a late report never replaces one of a later claim.
    Returns the tasks whose progress was stored.
    """
    names: dict[str, Any] = {"ids": Uuid(), "tokens": Uuid(), "fractions": Double(), "notes": Text()}
    given = (
        func.unnest(*(bindparam(name, type_=ARRAY(type_)) for name, type_ in names.items()))
        .table_valued(*(column(name, type_) for name, type_ in names.items()))
        .render_derived("given")
    )
    ordered = select(*given.c).where(one_row(given.c.ids)).order_by(given.c.ids).subquery("mine")
    row = (
        select(_t.id, _t.claim_seq)
        .where(
            _t.id == ordered.c.ids,
            _t.lease_token == ordered.c.tokens,
            _t.status.is_not_distinct_from(constant(TaskStatus.PROCESSING)),
        )
        .correlate(ordered)
        .lateral("row")
    )
    held = materialized(
        select(
            row.c.id,
            row.c.claim_seq,
            ordered.c.fractions,
            ordered.c.notes,
            func.statement_timestamp().label("reported_at"),
        ).select_from(ordered.join(row, true())),
        "held",
    )
    bound = _reports.alias("bound")
    loose = (
        select(held.c.id)
        .where(
            ~select(bound.c.task_id)
            .where(bound.c.task_id == held.c.id, bound.c.deleted_with.is_not(None))
            .exists()
        )
        .order_by(held.c.id)
        .subquery("loose")
    )
    free = (
        select(_t.id)
        .where(_t.id == loose.c.id)
        .with_for_update(read=True, key_share=True, skip_locked=True)
        .correlate(loose)
        .lateral("free")
    )
    locked = materialized(select(free.c.id).select_from(loose.join(free, true())), "locked")
    source = (
        select(
            held.c.id,
            held.c.fractions,
            held.c.notes,
            held.c.claim_seq,
            held.c.reported_at,
            locked.c.id,
        )
        .select_from(held.outerjoin(locked, locked.c.id == held.c.id))
        .order_by(held.c.id)
    )
    written = postgresql.insert(_reports).from_select(
        ["task_id", "fraction", "note", "claim_seq", "reported_at", "deleted_with"], source
    )
    new = written.excluded
    return written.on_conflict_do_update(
        index_elements=[_r.task_id],
        set_={
            "fraction": new.fraction,
            "note": new.note,
            "claim_seq": new.claim_seq,
            "reported_at": new.reported_at,
            "deleted_with": func.coalesce(_r.deleted_with, new.deleted_with),
        },
        where=_r.claim_seq <= new.claim_seq,
    ).returning(_r.task_id)


def progress(ids: Sequence[uuid.UUID]) -> Select[TaskProgress]:
    """Select what the last attempts at these tasks have reported."""
    wanted = TaskProgress.task_id == func.any(literal(list(ids), ARRAY(Uuid)))
    same = and_(Task.id == TaskProgress.task_id, Task.claim_seq == TaskProgress.claim_seq)
    return select(TaskProgress).join(Task, same).where(wanted)
