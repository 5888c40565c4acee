"""What the tests of the scheduler start from: tasks that are due, and executions that are claimed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import (
    ScheduledExecution,
    ScheduledTask,
)
from alfred_db.repositories._async.scheduler import AsyncSchedulerRepository


async def task_due(
    scheduler: AsyncSchedulerRepository, ago: timedelta = timedelta(seconds=1), **settings: Any
) -> ScheduledTask:
    """A task whose slot was a while ago; `0 0 29 2 *` is years away, so it has no other."""
    settings = {"schedule": "0 0 29 2 *", **settings}
    task, _ = await scheduler.create("report", "report.run", **settings)
    await set_next_run(scheduler._session, task.id, ago)
    found = await scheduler.get(task.id)
    assert found is task
    return task


async def set_next_run(session: AsyncSession, task_id: int, ago: timedelta) -> datetime:
    slot = await session.scalar(
        update(ScheduledTask)
        .where(ScheduledTask.id == task_id)
        .values(next_run_at=func.date_trunc("second", func.now()) - ago)
        .returning(ScheduledTask.next_run_at),
        execution_options={"synchronize_session": False},
    )
    assert slot is not None
    return slot


async def all_executions(session: AsyncSession) -> Sequence[ScheduledExecution]:
    statement = select(ScheduledExecution).order_by(ScheduledExecution.scheduled_at)
    return (await session.scalars(statement, execution_options={"populate_existing": True})).all()


async def executions_of(scheduler: AsyncSchedulerRepository) -> Sequence[ScheduledExecution]:
    return await all_executions(scheduler._session)
