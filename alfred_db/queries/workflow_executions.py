"""Statements of the workers that run workflow executions."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Double,
    Integer,
    Select,
    bindparam,
    cast,
    column,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.dml import ReturningUpdate

from ..models import Workflow, WorkflowExecution, WorkflowExecutionStatus, WorkflowStep
from ..models.base import table_of
from ..types import Text
from . import lease_endings, leases
from .leases import Leased, taken
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, constant, materialized, number, one_row, seconds_ahead

_executions, _workflows = table_of(WorkflowExecution), table_of(Workflow)
_e, _w = _executions.c, _workflows.c
_steps = table_of(WorkflowStep).c

REACHED = (
    select(func.coalesce(func.max(_steps.seq) + literal_column("1", Integer), literal_column("0", Integer)))
    .where(_steps.execution_id == _e.id)
    .correlate(_executions)
    .scalar_subquery()
)
"""The number of the next step, computed from the stored steps.

Most checkpoints do not update `current_step`; the next write of the row does.
"""

EXECUTIONS = Leased(
    noun="workflow execution",
    table=_executions,
    running=WorkflowExecutionStatus.RUNNING,
    started_at="started_at",
    completed_at="completed_at",
    failed_at="failed_at",
    cancelled_at="cancelled_at",
    error="error_message",
    max_retries=_e.max_retries,
    crash_is_retried_at_once=True,
    progress={"current_step": REACHED},
    on_complete={
        "output_data": cast(bindparam("output", type_=Text), JSONB),
        "error_message": null(),
        "error_code": null(),
    },
)
"""How workflow executions are leased; `leases` builds the statements."""


@driver_statement
def claim(*, limit: int) -> ReturningUpdate[*tuple[Any, ...]]:
    """Claim the executions of the versions `workflow_ids` that have waited longest.

    Executions of versions that are earlier in the array are claimed first. Further parameters of the statement: those of
    `leases.taken`, and the seconds of the lease as `seconds`. The columns are those of `ClaimedWorkflow`, up to `lease`.

    Args:
        limit: Maximum number of executions.
    """
    wanted = func.unnest(bindparam("workflow_ids", type_=ARRAY(BigInteger))).table_valued(
        column("id", BigInteger)
    )
    wanted = wanted.render_derived(name="wanted")
    first = (
        select(_e.id, _e.workflow_id, _e.timeout_seconds)
        .where(
            _e.status == constant(WorkflowExecutionStatus.PENDING),
            _e.workflow_id == wanted.c.id,
            _e.available_at <= func.statement_timestamp(),
        )
        .order_by(_e.available_at, _e.id)
        .limit(number(limit))
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("first")
    )
    ready = materialized(
        select(first.c.id, first.c.workflow_id, first.c.timeout_seconds)
        .select_from(wanted)
        .join(first, true())
        .limit(number(limit)),
        "ready",
    )
    chosen = materialized(
        select(ready.c.id, _w.name, seconds_ahead(ready.c.timeout_seconds).label("deadline"))
        .join(_workflows, _w.id == ready.c.workflow_id)
        .where(one_row(ready.c.id)),
        "chosen",
    )
    return (
        update(_executions)
        .where(_e.id == chosen.c.id)
        # The event that it waited for has arrived, or the wait has timed out; the next wait sets `waiting_for` again.
        .values(
            **taken(EXECUTIONS, chosen.c.deadline),
            lease_seconds=bindparam("seconds", type_=Double),
            waiting_for=null(),
        )
        .returning(*_claimed(chosen.c.name))
    )


@driver_statement
def reap(limit: int) -> Select[*tuple[Any, ...]]:
    """Take executions as `lease_endings.reap` does, and resume the parents that wait for one that has ended.

    It is one statement, so that a parent never stays suspended because its worker was killed between two. A parent that
    another transaction has locked is left out: waiting for it would be out of the order of the ids. It looks again by
    itself, and so does one that begins to wait at the same time.
    """
    reaped = lease_endings.reap(EXECUTIONS, limit).built.returning(_e.parent_execution_id).cte("reaped")
    ended = (
        select(reaped.c.id, reaped.c.parent_execution_id)
        .where(
            reaped.c.status != constant(WorkflowExecutionStatus.PENDING),
            reaped.c.parent_execution_id.is_not(None),
            one_row(reaped.c.id),
        )
        .order_by(reaped.c.parent_execution_id)
        .subquery("ended")
    )
    parent = (
        select(_e.id)
        .where(
            _e.id == ended.c.parent_execution_id,
            _e.status.is_not_distinct_from(constant(WorkflowExecutionStatus.PENDING)),
            _e.waiting_for == func.concat(literal_column("text 'child '", Text), ended.c.id, type_=Text),
        )
        .with_for_update(key_share=True, skip_locked=True)
        .correlate(ended)
        .lateral("parent")
    )
    waiting = materialized(select(parent.c.id).select_from(ended.join(parent, true())), "waiting")
    now = func.statement_timestamp()
    resumed = (
        update(_executions)
        .where(among(_e.id, waiting))
        .values(waiting_for=null(), available_at=func.least(_e.available_at, now))
        .cte("resumed")
    )
    return select(reaped.c.id, reaped.c.status).add_cte(resumed)


def again(token: uuid.UUID, known: Sequence[int]) -> Select[*tuple[Any, ...]]:
    """The same columns of what a claim has taken, without the executions that are known."""
    rows = leases.again(EXECUTIONS, _claimed(_w.name), token, known)
    return rows.join(_workflows, _w.id == _e.workflow_id)


def _claimed(name: ColumnElement[str]) -> Sequence[ColumnElement[Any]]:
    return [
        _e.id,
        _e.workflow_id,
        name,
        _e.workflow_version,
        _e.definition,
        _e.input_data,
        _e.current_step,
        _e.lease_token,
        _e.claim_seq,
        _e.lease_expires_at,
        _e.attempt_deadline_at,
        _e.retry_count,
        _e.crash_count,
        _e.max_retries,
        _e.parent_execution_id,
    ]


def get(execution_id: int) -> Select[WorkflowExecution]:
    """Select an execution by its id."""
    return select(WorkflowExecution).where(WorkflowExecution.id == execution_id)
