"""How the tests of durable functions start, run and interrupt executions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, update

from alfred_db import (
    AsyncDatabase,
    AsyncWorkflows,
    WorkflowExecution,
    WorkflowFunction,
    WorkflowOutcome,
    WorkflowStep,
)
from alfred_db.values.workflows import ClaimedWorkflow

Flow = WorkflowFunction[Any, Any]


class Killed(BaseException):
    """Stands for the end of the process."""


async def started(
    db: AsyncDatabase, flow: Flow, input: Mapping[str, Any] | None = None, *others: Flow, **settings: Any
) -> int:
    """Register functions, and start an execution of the first one."""
    flows = AsyncWorkflows([flow, *others])
    async with db.begin() as uow:
        await flows.register(uow)
        execution, _ = await flows.start(uow, flow, input, **settings)
    return execution.id


async def claim(db: AsyncDatabase, *flows: Flow) -> ClaimedWorkflow | None:
    """Claim an execution of these functions, whatever it waits for but events and children."""
    async with db.begin() as uow:
        ids = await AsyncWorkflows(flows).register(uow)
        await uow.session.execute(
            update(WorkflowExecution)
            .where(WorkflowExecution.status == "pending", WorkflowExecution.waiting_for.is_(None))
            .values(available_at=func.statement_timestamp())
        )
    async with db.begin() as uow:
        found = await uow.workflows.claim("worker", ids)
    return found[0] if found else None


async def run(db: AsyncDatabase, *flows: Flow) -> WorkflowOutcome | None:
    """Run one execution once."""
    claimed = await claim(db, *flows)
    return None if claimed is None else await AsyncWorkflows(flows).run(db, claimed)


async def run_all(db: AsyncDatabase, *flows: Flow) -> list[WorkflowOutcome]:
    """Run executions until none is left that can be claimed."""
    outcomes: list[WorkflowOutcome] = []
    while (outcome := await run(db, *flows)) is not None:
        outcomes.append(outcome)
    return outcomes


async def killed(db: AsyncDatabase, *flows: Flow) -> None:
    """Run an execution whose code ends the process, and have it taken back."""
    try:
        await run(db, *flows)
    except Killed:
        pass
    else:
        raise AssertionError("the process was to end")
    await vanish(db)


async def vanish(db: AsyncDatabase) -> None:
    """Take running executions from their workers."""
    async with db.begin() as uow:
        await uow.session.execute(
            update(WorkflowExecution)
            .where(WorkflowExecution.status == "running")
            .values(lease_expires_at=func.statement_timestamp())
        )
        assert await uow.workflows.reap()


async def execution(db: AsyncDatabase, id: int) -> WorkflowExecution:
    async with db.begin() as uow:
        found = await uow.workflows.get_execution(id)
    assert found is not None
    return found


async def steps(db: AsyncDatabase, id: int) -> list[WorkflowStep]:
    async with db.begin() as uow:
        return list((await uow.workflows.steps(id)).items)
