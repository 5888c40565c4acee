"""`alfred-db tasks`: list, requeue and cancel tasks, and show the health of the queue."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .choices import TASK_STATUSES
from .databases import opened
from .groups import Group
from .options import after_option, json_option, schema_option, url_option
from .output import print_result
from .progress import counted
from .tables import as_dict, one_line, print_one, print_page

if TYPE_CHECKING:
    from ..models import Task, TaskStatus
    from ..repositories import TaskRepository, UnitOfWork

__all__ = ["tasks"]


@click.group(cls=Group)
def tasks() -> None:
    """List, requeue and cancel tasks, and show the health of the queue. TASK is a `task_id` or an `id`."""


@tasks.command("list")
@click.option("--status", type=click.Choice(TASK_STATUSES))
@click.option("--queue")
@click.option("--intent")
@click.option("--assigned-to", metavar="AGENT")
@click.option("--limit", default=50, show_default=True, help="Rows per page.")
@after_option
@url_option
@schema_option
@json_option
def list_(
    status: str | None,
    queue: str | None,
    intent: str | None,
    assigned_to: str | None,
    limit: int,
    after: str | None,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """List tasks, the latest first."""
    from ..models import TaskStatus

    with opened(url, schema) as database, database.begin() as uow:
        page = uow.tasks.list(
            status=None if status is None else TaskStatus(status),
            queue=queue,
            intent=intent,
            assigned_to=assigned_to,
            after=after,
            limit=limit,
        )
        rows = [as_dict(task) for task in page.items]
    columns = ("task_id", "intent", "status", "queue", "priority", "retry_count", "created_at", "error_code")
    print_page("tasks", columns, rows, next=page.next, as_json=as_json)


@tasks.command()
@click.argument("task")
@url_option
@schema_option
@json_option
def show(task: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Show a task, its progress and its results."""
    with opened(url, schema) as database, database.begin() as uow:
        found = _found(uow.tasks, task)
        values = as_dict(found)
        values["waits for"] = [
            {"task_id": other.task_id, "status": other.status} for other in uow.tasks.dependencies(found.id)
        ]
        progress = uow.tasks.batch_progress(found.id)
        if progress.total:
            values["waits for batch"] = asdict(progress)
        report = uow.tasks.get_progress(found.id)
        values["progress"] = None if report is None else as_dict(report)
        values["results"] = [as_dict(result) for result in uow.tasks.results(found.id)]
    if as_json:
        print_one(values, as_json=True)
        return
    for name, value in values.items():
        if value is not None and name not in ("progress", "results", "waits for"):
            click.echo(f"{name:<20}  {one_line(value)}")
    if report is not None:
        noted = "" if not report.note else f", {one_line(report.note)}"
        click.echo(f"{'progress':<20}  {report.fraction:.0%}{noted} ({report.reported_at})")
    for other in values["waits for"]:
        click.echo(f"{'waits for':<20}  {one_line(other['task_id'])}, {other['status']}")
    for result in values["results"]:
        click.echo(f"{'result':<20}  {result['result_type']} {one_line(result['content'])}")


@tasks.command()
@click.argument("task", required=False)
@click.option("--failed", is_flag=True, help="Requeue all failed tasks instead, the oldest first.")
@click.option("--queue", help="Only failed tasks of this queue.")
@click.option("--intent", help="Only failed tasks of this intent.")
@click.option("--limit", default=1000, show_default=True, help="The most tasks to requeue.")
@url_option
@schema_option
@json_option
def requeue(
    task: str | None,
    failed: bool,
    queue: str | None,
    intent: str | None,
    limit: int,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Requeue a failed or cancelled task, as if it had never been tried."""
    if failed == (task is not None) or ((queue or intent) is not None and not failed):
        raise click.UsageError("pass either a TASK, or --failed and perhaps --queue and --intent")
    with opened(url, schema, notify=True) as database, database.begin() as uow:
        if task is None:
            count = len(uow.tasks.requeue_failed(queue=queue, intent=intent, limit=limit))
        else:
            count = 1
            uow.tasks.requeue(_found(uow.tasks, task).id)
    print_result({"requeued": count}, f"requeued: {count}", as_json=as_json)


@tasks.command()
@click.argument("task")
@click.option("--children/--no-children", default=True, help="Whether its child tasks are cancelled too.")
@url_option
@schema_option
@json_option
def cancel(task: str, children: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Cancel a task; the worker of one that runs is asked to stop."""
    from ..models import TaskStatus

    statuses: list[TaskStatus] = []
    with opened(url, schema) as database:
        with database.begin() as uow:
            id = _found(uow.tasks, task).id

        def cancel_some(uow: UnitOfWork, limit: int) -> int:
            found = uow.tasks.cancel(id, children=children, limit=limit)
            statuses.extend(found.values())
            return len(found)

        with counted("cancelled") as progress:
            database.in_chunks(cancel_some, progress=progress)
    asked = statuses.count(TaskStatus.PROCESSING)
    cancelled = len(statuses) - asked
    line = f"cancelled: {cancelled}, workers asked to stop: {asked}"
    print_result({"cancelled": cancelled, "asked_to_stop": asked}, line, as_json=as_json)


@tasks.command()
@url_option
@schema_option
@json_option
def health(url: str | None, schema: str | None, as_json: bool) -> None:
    """Show the health of the queue.

    Exit status: 0 healthy, 1 leases have expired and no worker takes the tasks back.
    """
    with opened(url, schema) as database, database.begin() as uow:
        found = uow.tasks.queue_health()
    lines = [f"{name:<28}  {'-' if value is None else value}" for name, value in asdict(found).items()]
    print_result(asdict(found), *lines, as_json=as_json)
    click.get_current_context().exit(1 if found.expired else 0)


def _found(repository: TaskRepository, name: str) -> Task:
    from ..errors import NotFoundError

    task = repository.get_by_task_id(name)
    if task is None:
        try:
            task = repository.get(uuid.UUID(name))
        except ValueError:
            task = None
    if task is None:
        raise NotFoundError(f"task {name!r}: not found; pass the task_id or the id of a task")
    return task
