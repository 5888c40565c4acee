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
    literal,
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
from . import leases
from .leases import Leased, taken
from .shapes.functions import func
from .shapes.literals import constant, materialized, one_row, seconds_ahead

_e = table_of(WorkflowExecution).c
_steps = table_of(WorkflowStep).c
_pending = WorkflowExecution.status == constant(WorkflowExecutionStatus.PENDING)

REACHED = (
    select(func.coalesce(func.max(_steps.seq) + literal_column("1", Integer), literal_column("0", Integer)))
    .where(_steps.execution_id == _e.id)
    .correlate(table_of(WorkflowExecution))
    .scalar_subquery()
)
"""The number of the next step, computed from the stored steps.

Most checkpoints do not update `current_step`; the next write of the row does.
"""

EXECUTIONS = Leased(
    noun="workflow execution",
    table=table_of(WorkflowExecution),
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


def claim(workflow_ids: Sequence[int], *, limit: int) -> ReturningUpdate[*tuple[Any, ...]]:
    """Claim the executions of these versions that have waited longest.

    Parameters of the statement: those of `leases.taken`, and the seconds of the lease as `seconds`. The
    columns are those of `ClaimedWorkflow`, up to `lease`.

    Args:
        workflow_ids: Ids of the versions; executions of earlier ones in the sequence are claimed first.
        limit: Maximum number of executions.
    """
    wanted = func.unnest(literal(list(workflow_ids), ARRAY(BigInteger))).table_valued(
        column("id", BigInteger)
    )
    wanted = wanted.render_derived(name="wanted")
    first = (
        select(WorkflowExecution.id, WorkflowExecution.workflow_id, WorkflowExecution.timeout_seconds)
        .where(
            _pending,
            WorkflowExecution.workflow_id == wanted.c.id,
            WorkflowExecution.available_at <= func.statement_timestamp(),
        )
        .order_by(WorkflowExecution.available_at, WorkflowExecution.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("first")
    )
    ready = materialized(
        select(first.c.id, first.c.workflow_id, first.c.timeout_seconds)
        .select_from(wanted)
        .join(first, true())
        .limit(limit),
        "ready",
    )
    chosen = materialized(
        select(ready.c.id, Workflow.name, seconds_ahead(ready.c.timeout_seconds).label("deadline"))
        .join(Workflow, Workflow.id == ready.c.workflow_id)
        .where(one_row(ready.c.id)),
        "chosen",
    )
    return (
        update(WorkflowExecution)
        .where(WorkflowExecution.id == chosen.c.id)
        # The event that it waited for has arrived, or the wait has timed out; the next wait sets `waiting_for` again.
        .values(
            **taken(EXECUTIONS, chosen.c.deadline),
            lease_seconds=bindparam("seconds", type_=Double),
            waiting_for=None,
        )
        .returning(*_claimed(chosen.c.name))
    )


def again(token: uuid.UUID, known: Sequence[int]) -> Select[*tuple[Any, ...]]:
    """The same columns of what a claim has taken, without the executions that are known."""
    name = table_of(Workflow).c.name
    rows = leases.again(EXECUTIONS, _claimed(name), token, known)
    return rows.join(table_of(Workflow), table_of(Workflow).c.id == _e.workflow_id)


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
