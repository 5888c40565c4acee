"""Statements about workflows and their executions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    and_,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import Workflow, WorkflowExecution, WorkflowExecutionStatus, WorkflowStatus, WorkflowStep
from ..models.base import table_of
from ..types import Text
from . import lease_endings
from .shapes import trees
from .shapes.functions import func
from .shapes.literals import among, constant, jsonb, materialized, number, seconds_ago, seconds_ahead
from .shapes.paging import page
from .workflow_executions import EXECUTIONS

HISTORY_KEY = ("id",)

LIVE = (WorkflowExecutionStatus.PENDING, WorkflowExecutionStatus.RUNNING)

_pending = WorkflowExecution.status == constant(WorkflowExecutionStatus.PENDING)
_cancelled = literal(WorkflowExecutionStatus.CANCELLED, Text)


# Executions


def start(
    name: str,
    input_data: str | None,
    *,
    version: int | None,
    idempotency_key: str | None,
    parent_id: int | None,
    delay: float,
    max_retries: int,
    timeout_seconds: int | None,
) -> ReturningInsert[WorkflowExecution]:
    """Insert an execution of the active version, with its definition, unless the idempotency key is taken.

    The parent is locked meanwhile, so that either a cancellation of the parent sees the child, or this
    statement sees the cancellation and inserts nothing.
    """
    values: dict[str, ColumnElement[Any]] = {
        "workflow_id": Workflow.id.expression,
        "workflow_version": Workflow.version.expression,
        "definition": Workflow.definition.expression,
        "input_data": jsonb(input_data),
        "idempotency_key": literal(idempotency_key, Text),
        "available_at": seconds_ahead(delay),
        "max_retries": literal(max_retries, Integer),
        "timeout_seconds": literal(timeout_seconds, Integer),
    }
    wanted = and_(Workflow.name == name, Workflow.status == WorkflowStatus.ACTIVE)
    if version is not None:
        wanted = and_(wanted, Workflow.version == version)
    named = [value.label(name) for name, value in values.items()]
    newest = select(*named).where(wanted).order_by(Workflow.version.desc()).limit(1)
    chosen = materialized(newest, "chosen")
    source = select(*chosen.c)
    if parent_id is not None:
        parent = materialized(
            select(WorkflowExecution.id)
            .where(
                WorkflowExecution.id == parent_id,
                WorkflowExecution.status.in_(LIVE),
                WorkflowExecution.cancel_requested_at.is_(None),
            )
            .with_for_update(read=True),
            "parent",
        )
        source = select(*chosen.c, parent.c.id).select_from(chosen).join(parent, true())
        values["parent_execution_id"] = parent.c.id
    return (
        insert(WorkflowExecution)
        .from_select([*values], source)
        .on_conflict_do_nothing(index_elements=[WorkflowExecution.idempotency_key])
        .returning(WorkflowExecution)
    )


def by_key(idempotency_key: str) -> Select[WorkflowExecution, str]:
    """Select the execution with an idempotency key, and the name of its workflow."""
    return (
        select(WorkflowExecution, Workflow.name)
        .join(Workflow, Workflow.id == WorkflowExecution.workflow_id, isouter=True)
        .where(WorkflowExecution.idempotency_key == idempotency_key)
    )


def waiting(workflow_ids: Sequence[int]) -> Select[*tuple[Any, ...]]:
    """Count the waiting executions of all versions but these, as rows of `WaitingWorkflowVersion`."""
    return (
        select(Workflow.id, Workflow.name, Workflow.version, func.count())
        .join(WorkflowExecution, WorkflowExecution.workflow_id == Workflow.id)
        .where(
            _pending,
            WorkflowExecution.available_at <= func.statement_timestamp(),
            Workflow.id != func.all(literal(list(workflow_ids), ARRAY(BigInteger))),
        )
        .group_by(Workflow.id)
        .order_by(Workflow.name, Workflow.version)
    )


def tree(execution_id: int) -> Select[int, WorkflowExecutionStatus]:
    """Lock an execution and all of its descendants, in the order of their ids."""
    return (
        select(WorkflowExecution.id, WorkflowExecution.status)
        .where(WorkflowExecution.id.in_(select(_family(execution_id).c.id)))
        .order_by(WorkflowExecution.id)
        .with_for_update(key_share=True)
    )


def status(execution_id: int) -> Select[int, WorkflowExecutionStatus]:
    """Select the status of an execution, with its id."""
    return select(WorkflowExecution.id, WorkflowExecution.status).where(WorkflowExecution.id == execution_id)


def _family(execution_id: int) -> CTE:
    members = (
        select(WorkflowExecution.id).where(WorkflowExecution.id == execution_id).cte("family", recursive=True)
    )
    child = aliased(WorkflowExecution)
    return members.union(select(child.id).where(child.parent_execution_id == members.c.id))


def cancel(execution_ids: Sequence[int]) -> ReturningUpdate[*tuple[Any, ...]]:
    """Cancel pending executions; request the cancellation of running ones.

    Executions that have ended are unchanged.
    """
    own = table_of(WorkflowExecution).c
    return _cancelled_ones(own.id == func.any(literal(list(execution_ids), ARRAY(BigInteger))))


def cancel_some(execution_id: int, *, limit: int) -> ReturningUpdate[*tuple[Any, ...]]:
    """Cancel at most `limit` executions of a tree, without those whose cancellation was requested before."""
    own = table_of(WorkflowExecution).c
    fresh = [own.status.in_(LIVE), own.cancel_requested_at.is_(None)]
    some = select(own.id).where(own.id.in_(select(_family(execution_id).c.id)), *fresh)
    chosen = materialized(some.order_by(own.id).limit(number(limit)), "some")
    return _cancelled_ones(among(own.id, chosen), *fresh)


def _cancelled_ones(*chosen: ColumnElement[bool]) -> ReturningUpdate[*tuple[Any, ...]]:
    own = table_of(WorkflowExecution).c
    live = (
        select(own.id).where(*chosen, own.status.in_(LIVE)).order_by(own.id).with_for_update(key_share=True)
    )
    return lease_endings.cancel(EXECUTIONS, live, waiting_for=None)


def children(execution_id: int, *, after: str | None, limit: int) -> Select[WorkflowExecution]:
    """Select a page of the executions that an execution started, ordered by id."""
    statement = select(WorkflowExecution).where(WorkflowExecution.parent_execution_id == execution_id)
    return page(statement, [WorkflowExecution.id], after=after, limit=limit)


def history(name: str, *, after: str | None, limit: int) -> Select[WorkflowExecution]:
    """Select a page of the executions of a workflow, newest first."""
    own = select(WorkflowExecution).where(WorkflowExecution.workflow_id == Workflow.id)
    newest = page(own, [WorkflowExecution.id], after=after, limit=limit, newest_first=True)
    # A page of each version at most: one of all executions would be read to its end for a name with few.
    found = aliased(WorkflowExecution, newest.correlate(Workflow).lateral("newest"))
    statement = select(found).select_from(Workflow).join(found, true()).where(Workflow.name == name)
    return statement.order_by(found.id.desc()).limit(limit + 1)


def list_(
    *, status: WorkflowExecutionStatus | None, after: str | None, limit: int
) -> Select[WorkflowExecution]:
    """Select a page of the executions of all workflows, newest first."""
    statement = select(WorkflowExecution)
    if status is not None:
        statement = statement.where(WorkflowExecution.status == constant(status))
    return page(statement, [WorkflowExecution.id], after=after, limit=limit, newest_first=True)


def resume(execution_id: int) -> ReturningUpdate[WorkflowExecution]:
    """Make an execution that has failed or was cancelled available again, with all its retries."""
    ended = (WorkflowExecutionStatus.FAILED, WorkflowExecutionStatus.CANCELLED)
    return (
        update(WorkflowExecution)
        .where(
            WorkflowExecution.id == execution_id,
            WorkflowExecution.status.in_([constant(status) for status in ended]),
        )
        .values(
            status=constant(WorkflowExecutionStatus.PENDING),
            available_at=func.statement_timestamp(),
            failed_at=None,
            cancelled_at=None,
            cancel_requested_at=None,
            lease_token=None,
            wait_deadline_at=None,
            retry_count=0,
            crash_count=0,
            **EXECUTIONS.progress,
        )
        .returning(WorkflowExecution)
    )


def purge(older_than: float, *, limit: int) -> ReturningDelete[int]:
    """Delete executions that ended more than `older_than` seconds ago, the oldest first.

    An execution is not deleted before its children and forks.
    """
    executions = table_of(WorkflowExecution)
    return trees.purge(executions, _REFERENCES, _over(older_than), _ended(executions.c), limit=limit)


def purgeable(older_than: float) -> Select[int]:
    """Count the executions that calls of `purge` delete in the end."""
    return trees.purgeable(table_of(WorkflowExecution), _REFERENCES, _over(older_than))


_REFERENCES = ("parent_execution_id", "forked_from_id")


def _over(older_than: float) -> trees.Conditions:
    def over(execution: Any) -> list[ColumnElement[bool]]:
        final = [constant(member) for member in WorkflowExecutionStatus if member not in LIVE]
        return [execution.status.in_(final), _ended(execution) < seconds_ago(older_than)]

    return over


def _ended(execution: Any) -> ColumnElement[Any]:
    return func.coalesce(execution.completed_at, execution.failed_at, execution.cancelled_at)


def finished_before(execution_id: int, seq: int) -> Select[int]:
    """Count the finished steps before the step `seq`."""
    return select(func.count()).where(WorkflowStep.execution_id == execution_id, WorkflowStep.seq < seq)


def fork(
    execution_id: int, seq: int, *, workflow_id: int | None, idempotency_key: str | None
) -> ReturningInsert[WorkflowExecution]:
    """Insert an execution that continues another one from the step `seq`.

    It has the version and the definition of the other one, unless a workflow version is passed.
    """
    source = aliased(WorkflowExecution)
    pinned: dict[str, Any] = {
        "workflow_id": source.workflow_id,
        "workflow_version": source.workflow_version,
        "definition": source.definition,
    }
    values: dict[str, Any] = {
        "input_data": source.input_data,
        "current_step": literal(seq, Integer),
        "idempotency_key": literal(idempotency_key, Text),
        "forked_from_id": source.id,
        "forked_from_seq": literal(seq, Integer),
        "max_retries": source.max_retries,
        "timeout_seconds": source.timeout_seconds,
    }
    if workflow_id is None:
        values = {**pinned, **values}
    named = [value.label(name) for name, value in values.items()]
    forked = materialized(select(*named).where(source.id == execution_id), "forked")
    rows = select(*forked.c)
    if workflow_id is not None:
        version = dict(zip(pinned, (Workflow.id, Workflow.version, Workflow.definition), strict=True))
        named = [value.label(name) for name, value in version.items()]
        chosen = materialized(select(*named).where(Workflow.id == workflow_id), "chosen")
        rows = select(*forked.c, *chosen.c).select_from(forked).join(chosen, true())
        values = {**values, **version}
    return (
        insert(WorkflowExecution)
        .from_select([*values], rows)
        .on_conflict_do_nothing(index_elements=[WorkflowExecution.idempotency_key])
        .returning(WorkflowExecution)
    )


def copy_steps(source_id: int, target_id: int, seq: int) -> ReturningInsert[str]:
    """Copy the finished steps of an execution before the step `seq` to another execution."""
    copied = (
        WorkflowStep.step_key,
        WorkflowStep.seq,
        WorkflowStep.name,
        WorkflowStep.attempt,
        WorkflowStep.output,
        WorkflowStep.error,
        WorkflowStep.started_at,
        WorkflowStep.completed_at,
        WorkflowStep.kind,
    )
    steps = select(literal(target_id, BigInteger).label("execution_id"), *copied).where(
        WorkflowStep.execution_id == source_id, WorkflowStep.seq < seq
    )
    return (
        insert(WorkflowStep)
        .from_select(
            ["execution_id", *(attribute.key for attribute in copied)],
            select(*materialized(steps, "steps").c),
        )
        .returning(WorkflowStep.step_key)
    )
