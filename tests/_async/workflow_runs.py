"""What the tests of workflows start from: definitions, and executions that are claimed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import (
    Workflow,
    WorkflowExecution,
    WorkflowExecutionStatus,
)
from alfred_db.repositories._async.workflows import AsyncWorkflowRepository
from alfred_db.values.workflows import ClaimedWorkflow

DEFINITION = {"steps": ["fetch", "sum", "report"]}
PENDING = WorkflowExecutionStatus.PENDING
CANCELLED = WorkflowExecutionStatus.CANCELLED
RUNNING = WorkflowExecutionStatus.RUNNING


async def active(workflows: AsyncWorkflowRepository, name: str = "ingest") -> Workflow:
    workflow, _ = await workflows.define(name, DEFINITION)
    return await workflows.activate(workflow.id)


async def claimed(workflows: AsyncWorkflowRepository, **settings: Any) -> ClaimedWorkflow:
    """An execution of a new workflow that a worker holds."""
    workflow = await active(workflows)
    await workflows.start("ingest", {"n": 1}, **settings)
    (held,) = await workflows.claim("worker", [workflow.id])
    return held


async def again(workflows: AsyncWorkflowRepository, held: ClaimedWorkflow) -> ClaimedWorkflow:
    """The same execution, claimed by another worker after its own vanished."""
    await expire(workflows._session, held.id)
    assert await workflows.reap() == {held.id: PENDING}
    return await next_claim(workflows, held)


async def next_claim(workflows: AsyncWorkflowRepository, held: ClaimedWorkflow) -> ClaimedWorkflow:
    (found,) = await workflows.claim("other", [held.workflow_id])
    assert found.id == held.id
    return found


async def expire(session: AsyncSession, execution_id: int, column: str = "lease_expires_at") -> None:
    await set_columns(session, execution_id, **{column: func.now() - timedelta(seconds=1)})


async def set_columns(session: AsyncSession, execution_id: int, **values: Any) -> None:
    await session.execute(
        update(WorkflowExecution).where(WorkflowExecution.id == execution_id).values(values),
        execution_options={"synchronize_session": False},
    )


async def row(workflows: AsyncWorkflowRepository, execution_id: int) -> WorkflowExecution:
    found = await workflows.get_execution(execution_id)
    assert found is not None
    return found
