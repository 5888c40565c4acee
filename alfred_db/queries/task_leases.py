"""How tasks are leased; `leases` builds the statements."""

from __future__ import annotations

from ..models import Task, TaskStatus
from ..models.base import table_of
from .leases import Leased

TASKS = Leased(
    noun="task",
    key="task_id",
    table=table_of(Task),
    running=TaskStatus.PROCESSING,
    started_at="started_at",
    completed_at="completed_at",
    failed_at="failed_at",
    cancelled_at="cancelled_at",
    error="error_message",
    max_retries=table_of(Task).c.max_retries,
    awaited=(table_of(Task).c.awaited_by,),
)
