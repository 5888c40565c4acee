"""`alfred-db schedule`: scheduled tasks, and when they are due."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import click

from .choices import MISFIRE_POLICIES, OVERLAP_POLICIES
from .databases import opened
from .groups import Group
from .options import after_option, confirm, json_option, schema_option, url_option, yes_option
from .output import print_result
from .progress import counted
from .tables import as_dict, print_page, table

if TYPE_CHECKING:
    from ..repositories import SchedulerRepository

__all__ = ["schedule"]


@click.group(cls=Group)
def schedule() -> None:
    """Scheduled tasks. TASK is the id of one, or its key."""


@schedule.command("list")
@click.option("--limit", default=100, show_default=True, help="Rows per page.")
@after_option
@url_option
@schema_option
@json_option
def list_(limit: int, after: str | None, url: str | None, schema: str | None, as_json: bool) -> None:
    """List scheduled tasks in the order in which they were added."""
    with opened(url, schema) as database, database.begin() as uow:
        page = uow.scheduler.list(limit=limit, after=after)
        rows = [as_dict(task) for task in page.items]
    columns = (
        *("id", "schedule_key", "name", "command", "intent", "schedule", "timezone"),
        *("is_active", "next_run_at", "owner"),
    )
    lines = [table(columns, rows) if rows else "no scheduled tasks"]
    lines += [] if page.next is None else [f"more: --after {page.next}"]
    print_result({"tasks": rows, "next": page.next}, *lines, as_json=as_json)


@schedule.command()
@click.argument("name")
@click.argument("cron_expression", metavar="CRON", required=False)
@click.option("--task", "intent", metavar="INTENT", help="Enqueue a task with this intent for each slot.")
@click.option("--command", help="Have a worker's handler of this command run each slot instead.")
@click.option("--content", metavar="JSON", help="The content of the tasks, a JSON object.")
@click.option("--queue", default="default", show_default=True, help="The queue of the tasks.")
@click.option("--priority", default=1, show_default=True, help="The priority of the tasks, 1 to 5.")
@click.option("--dedupe-key", help="Skip a slot while a live task has this key.")
@click.option(
    "--timezone", default="UTC", show_default=True, help="IANA name of the zone that CRON is read in."
)
@click.option("--key", help="A unique key; adding a task with an existing key changes that task.")
@click.option("--max-retries", default=3, show_default=True)
@click.option("--retry-delay", default=60, show_default=True, help="Seconds between attempts.")
@click.option("--timeout", default=300, show_default=True, help="Seconds that an attempt may take.")
@click.option(
    "--misfire",
    type=click.Choice(MISFIRE_POLICIES),
    default="latest",
    show_default=True,
    help="Which missed slots are run later.",
)
@click.option(
    "--overlap",
    type=click.Choice(OVERLAP_POLICIES),
    default="allow",
    show_default=True,
    help="Whether a slot is run while an earlier one is still running.",
)
@click.option("--paused", is_flag=True, help="Add the task paused.")
@url_option
@schema_option
@json_option
def add(
    name: str,
    cron_expression: str | None,
    intent: str | None,
    command: str | None,
    content: str | None,
    queue: str,
    priority: int,
    dedupe_key: str | None,
    timezone: str,
    key: str | None,
    max_retries: int,
    retry_delay: int,
    timeout: int,
    misfire: str,
    overlap: str,
    paused: bool,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Add the schedule NAME, which enqueues a task or runs a command at the times of CRON (five fields).

    Without CRON only `trigger` runs it. A worker's handler of the intent runs the tasks, and its handler of the command the executions.
    """
    from ..models import MisfirePolicy, OverlapPolicy

    if (intent is None) == (command is None):
        raise click.UsageError("pass either --task or --command")
    if intent is None and content is not None:
        raise click.UsageError("--content is that of a task; pass --task")
    with opened(url, schema) as database, database.begin() as uow:
        task, outcome = uow.scheduler.create(
            name,
            command,
            cron_expression,
            intent=intent,
            content=None if content is None else _object(content),
            queue=queue,
            priority=priority,
            dedupe_key=dedupe_key,
            timezone=timezone,
            schedule_key=key,
            is_active=False if paused else None,
            max_retries=max_retries,
            retry_delay=retry_delay,
            timeout=timeout,
            misfire_policy=MisfirePolicy(misfire),
            overlap_policy=OverlapPolicy(overlap),
        )
    due = "-" if task.next_run_at is None else task.next_run_at.isoformat(" ", "seconds")
    done = "added" if outcome else str(outcome)
    values = {"id": task.id, "outcome": done, "next_run_at": task.next_run_at}
    print_result(values, f"{done} {task.id}, next run: {due}", as_json=as_json)


@schedule.command()
@click.argument("task")
@url_option
@schema_option
@json_option
def pause(task: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Run no further slots of a task, not even one that is due."""
    with opened(url, schema) as database, database.begin() as uow:
        paused = uow.scheduler.pause(_id_of(uow.scheduler, task))
    print_result({"paused": paused.id}, f"paused {paused.id}", as_json=as_json)


@schedule.command()
@click.argument("task")
@url_option
@schema_option
@json_option
def resume(task: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Resume a task with the first slot from now."""
    with opened(url, schema) as database, database.begin() as uow:
        found = uow.scheduler.resume(_id_of(uow.scheduler, task))
    due = "-" if found.next_run_at is None else found.next_run_at.isoformat(" ", "seconds")
    values = {"resumed": found.id, "next_run_at": found.next_run_at}
    print_result(values, f"resumed {found.id}, next run: {due}", as_json=as_json)


@schedule.command()
@click.argument("task")
@url_option
@schema_option
@json_option
def trigger(task: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Run a task now, also while it is paused."""
    with opened(url, schema, notify=True) as database, database.begin() as uow:
        execution = uow.scheduler.trigger(_id_of(uow.scheduler, task))
    enqueued = execution.enqueued_task_id
    line = f"triggered {execution.id}" + ("" if enqueued is None else f", task: {enqueued}")
    print_result({"triggered": execution.id, "task": enqueued}, line, as_json=as_json)


@schedule.command()
@click.argument("task")
@yes_option
@url_option
@schema_option
@json_option
def delete(task: str, yes: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Delete a task and its history. Tasks that it has enqueued stay."""
    confirm(f"Delete the scheduled task {task!r} and its history?", yes)
    with opened(url, schema) as database, counted("deleted") as progress:
        with database.begin() as uow:
            id = _id_of(uow.scheduler, task)
        rows = database.in_chunks(lambda uow, limit: uow.scheduler.delete(id, limit=limit), progress=progress)
    print_result({"deleted": id, "executions": rows}, f"deleted {id}, executions: {rows}", as_json=as_json)


@schedule.command()
@click.argument("task")
@click.option("--limit", default=20, show_default=True, help="Rows per page.")
@after_option
@url_option
@schema_option
@json_option
def history(
    task: str, limit: int, after: str | None, url: str | None, schema: str | None, as_json: bool
) -> None:
    """List the executions of a task, by their slots, the latest first."""
    with opened(url, schema) as database, database.begin() as uow:
        page = uow.scheduler.history(_id_of(uow.scheduler, task), limit=limit, after=after)
        rows = [as_dict(execution) for execution in page.items]
    columns = (
        *("id", "scheduled_at", "status", "start_time", "end_time"),
        *("retry_count", "missed_slots", "error_code", "enqueued_task_id"),
    )
    print_page("executions", columns, rows, next=page.next, as_json=as_json)


@schedule.command()
@click.argument("task", required=False)
@click.option(
    "--cron", "expression", metavar="CRON", help="Preview this expression instead; needs no database."
)
@click.option("--timezone", default="UTC", show_default=True, help="The zone that CRON is read in.")
@click.option("--count", default=5, show_default=True)
@url_option
@schema_option
@json_option
def preview(
    task: str | None,
    expression: str | None,
    timezone: str,
    count: int,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Print the next slots of a task, or of an expression, in UTC."""
    from .. import cron

    if (task is None) == (expression is None):
        raise click.UsageError("pass either a TASK or --cron")
    if expression is not None:
        slots = list(cron.next_runs(expression, timezone, after=datetime.now(UTC), count=count))
    else:
        with opened(url, schema) as database, database.begin() as uow:
            slots = list(uow.scheduler.next_runs(_id_of(uow.scheduler, task or ""), count=count))
    lines = [slot.isoformat(" ", "seconds") for slot in slots]
    print_result([slot.isoformat() for slot in slots], *lines, as_json=as_json)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.UsageError("--content: expected a JSON object, such as '{\"days\": 7}'")
    return cast("dict[str, Any]", found)


def _id_of(scheduler: SchedulerRepository, name: str) -> int:
    from ..errors import NotFoundError

    known = scheduler.get_by_key(name)
    if known is None and name.isdecimal():
        known = scheduler.get(int(name))
    if known is None:
        raise NotFoundError(
            f"scheduled task {name!r}: not found; pass the id of a scheduled task, or its key"
        )
    return known.id
