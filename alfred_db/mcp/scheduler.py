"""The group scheduler: recurring commands and their executions, and the tasks of the queue."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from ..models import ScheduledExecution, ScheduledTask, Task, TaskStatus
from .results import Cursor, Cut, Key, Limit, PageOf, When
from .tools import Tools

__all__ = ["register"]

Cron = Annotated[
    str | None,
    Field(
        description="A cron expression of five fields, such as `0 3 * * *`; null is run by trigger_schedule only.",
        max_length=1_000,
    ),
]


class Schedule(BaseModel):
    """A scheduled command."""

    schedule_id: int
    name: str
    command: str
    cron: str | None
    timezone: str
    is_active: bool
    next_run_at: When | None
    schedule_key: str | None


class SavedSchedule(Schedule):
    """A schedule that was created or updated."""

    outcome: str = Field(description="created, updated or unchanged.")


class SchedulePage(PageOf):
    """A page of schedules."""

    schedules: list[Schedule]


class Execution(BaseModel):
    """One execution of a schedule."""

    execution_id: int
    schedule_id: int | None
    status: str
    scheduled_at: When
    start_time: When | None
    end_time: When | None
    exit_code: int | None
    output: str | None
    error_output: str | None
    error_code: str | None
    retry_count: int


class ExecutionPage(PageOf):
    """A page of executions, the latest first."""

    executions: list[Execution]


class TaskItem(BaseModel):
    """A task of the queue."""

    id: uuid.UUID
    task_id: str
    intent: str
    queue: str
    status: str
    error: str | None
    created_at: When


class TaskPage(PageOf):
    """A page of tasks, the latest first."""

    tasks: list[TaskItem]


def register(tools: Tools) -> None:
    """Register the tools of the group."""
    _register_schedules(tools)
    _register_tasks(tools)


def _register_schedules(tools: Tools) -> None:
    @tools.writes("Create a schedule", destructive=True)
    async def create_schedule(
        name: Annotated[str, Field(min_length=1, max_length=1_000)],
        command: Annotated[
            str,
            Field(description="What a worker runs: the name of a handler.", min_length=1, max_length=100_000),
        ],
        cron: Cron = None,
        timezone: Annotated[str, Field(description="An IANA name.", max_length=100)] = "UTC",
        schedule_key: Annotated[
            str | None,
            Field(description="Your own unique key; it updates the schedule that has it.", max_length=1_000),
        ] = None,
        max_retries: Annotated[int, Field(ge=0, le=10_000)] = 3,
        timeout_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 300,
    ) -> SavedSchedule:
        """Have a worker run a command at the times of a cron expression. The server itself runs nothing."""
        async with tools.writing() as uow:
            task, outcome = await uow.scheduler.create(
                name,
                command,
                cron,
                timezone=timezone,
                schedule_key=schedule_key,
                max_retries=max_retries,
                timeout=timeout_seconds,
            )
            return SavedSchedule(**_schedule(task, Cut(1, "")), outcome=outcome.value)

    @tools.reads("List schedules")
    async def list_schedules(after: Cursor = None, limit: Limit = 50) -> SchedulePage:
        """List the schedules in the order of their creation, with their next time."""
        async with tools.reading() as uow:
            page = await uow.scheduler.list(after=after, limit=limit)
        cut = Cut(len(page), "ask for fewer with `limit`.")
        schedules = [Schedule(**_schedule(task, cut)) for task in page]
        return SchedulePage(schedules=schedules, next=page.next, note=cut.note)

    @tools.writes("Pause a schedule", destructive=True, idempotent=True)
    async def pause_schedule(schedule_id: Key) -> Schedule:
        """Run a schedule no more until resume_schedule; drops a due time, and lets a running execution end."""
        async with tools.writing() as uow:
            return Schedule(**_schedule(await uow.scheduler.pause(schedule_id), Cut(1, "")))

    @tools.writes("Resume a schedule", idempotent=True)
    async def resume_schedule(schedule_id: Key) -> Schedule:
        """Continue a paused schedule with its next time after now."""
        async with tools.writing() as uow:
            return Schedule(**_schedule(await uow.scheduler.resume(schedule_id), Cut(1, "")))

    @tools.writes("Trigger a schedule")
    async def trigger_schedule(schedule_id: Key) -> Execution:
        """Have a schedule run once now, also while it is paused. A worker runs it; see list_executions."""
        async with tools.writing() as uow:
            return _execution(await uow.scheduler.trigger(schedule_id), Cut(1, ""))

    @tools.reads("List executions")
    async def list_executions(schedule_id: Key, after: Cursor = None, limit: Limit = 20) -> ExecutionPage:
        """List the executions of a schedule, the latest first, with output and errors."""
        async with tools.reading() as uow:
            if await uow.scheduler.get(schedule_id) is None:
                raise ToolError(f"schedule {schedule_id}: not found; list_schedules returns the ids")
            page = await uow.scheduler.history(schedule_id, after=after, limit=limit)
        cut = Cut(2 * len(page), "ask for fewer with `limit`.")
        executions = [_execution(execution, cut) for execution in page]
        return ExecutionPage(executions=executions, next=page.next, note=cut.note)


def _register_tasks(tools: Tools) -> None:
    @tools.reads("List tasks")
    async def list_tasks(
        status: Annotated[
            Literal["pending", "processing", "completed", "failed", "cancelled"] | None,
            Field(description="Only tasks with this status."),
        ] = None,
        after: Cursor = None,
        limit: Limit = 20,
    ) -> TaskPage:
        """List tasks of the queue, the latest first. Use status='failed' to see what went wrong."""
        async with tools.reading() as uow:
            page = await uow.tasks.list(
                status=None if status is None else TaskStatus(status), after=after, limit=limit
            )
        cut = Cut(len(page), "ask for fewer with `limit`.")
        return TaskPage(tasks=[_task(task, cut) for task in page], next=page.next, note=cut.note)

    @tools.writes("Requeue a task")
    async def requeue_task(id: uuid.UUID) -> TaskItem:
        """Run a failed or cancelled task again, with no attempts counted. Find out first why it failed."""
        async with tools.writing() as uow:
            return _task(await uow.tasks.requeue(id), Cut(1, ""))


def _schedule(task: ScheduledTask, cut: Cut) -> dict[str, Any]:
    return {
        "schedule_id": task.id,
        "name": cut.required(task.name),
        "command": cut.required(task.command),
        "cron": task.schedule,
        "timezone": task.timezone,
        "is_active": task.is_active,
        "next_run_at": task.next_run_at,
        "schedule_key": task.schedule_key,
    }


def _execution(execution: ScheduledExecution, cut: Cut) -> Execution:
    return Execution(
        execution_id=execution.id,
        schedule_id=execution.task_id,
        status=execution.status.value,
        scheduled_at=execution.scheduled_at,
        start_time=execution.start_time,
        end_time=execution.end_time,
        exit_code=execution.exit_code,
        output=cut.text(execution.output),
        error_output=cut.text(execution.error_output),
        error_code=execution.error_code,
        retry_count=execution.retry_count,
    )


def _task(task: Task, cut: Cut) -> TaskItem:
    return TaskItem(
        id=task.id,
        task_id=task.task_id,
        intent=task.intent,
        queue=task.queue,
        status=task.status.value,
        error=cut.text(task.error_message),
        created_at=task.created_at,
    )
