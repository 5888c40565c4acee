"""What the tests of tasks start from: tasks that are held, that have failed, whose lease has run out."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import Task, TaskStatus
from alfred_db.repositories._async.tasks import AsyncTaskRepository
from alfred_db.values.tasks import ClaimedTask


async def claimed(tasks: AsyncTaskRepository, **settings: Any) -> ClaimedTask:
    """A new task that `w` holds."""
    task, _ = await tasks.enqueue("x", priority=5, **settings)
    (held,) = await tasks.claim(worker="w")
    assert held.id == task.id
    return held


async def failed(tasks: AsyncTaskRepository, **settings: Any) -> uuid.UUID:
    """The id of a new task that has failed for good."""
    held = await claimed(tasks, **settings)
    assert await tasks.fail(held, "no", retry=False) is TaskStatus.FAILED
    return held.id


async def set_columns(session: AsyncSession, id: uuid.UUID, **values: Any) -> None:
    await session.execute(update(Task).where(Task.id == id).values(**values))


async def ago(session: AsyncSession, seconds: float) -> datetime:
    """The database's time, so many seconds ago."""
    now = await session.scalar(select(func.statement_timestamp()))
    assert isinstance(now, datetime)
    return now - timedelta(seconds=seconds)


async def found(tasks: AsyncTaskRepository, id: uuid.UUID) -> Task:
    task = await tasks.get(id)
    assert task is not None
    return task


async def expire(tasks: AsyncTaskRepository, task: ClaimedTask) -> None:
    """Have the lease run out."""
    await set_columns(tasks._session, task.id, lease_expires_at=await ago(tasks._session, 1))


async def run_out(tasks: AsyncTaskRepository, task: ClaimedTask) -> None:
    """Have the attempt use up its timeout, while heartbeats keep the lease."""
    await set_columns(tasks._session, task.id, attempt_deadline_at=await ago(tasks._session, 1))


async def reclaimed(tasks: AsyncTaskRepository) -> ClaimedTask:
    """The task, whatever its back-off."""
    await tasks._session.execute(update(Task).values(available_at=await ago(tasks._session, 1)))
    (held,) = await tasks.claim(worker="v")
    return held
