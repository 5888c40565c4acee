"""`alfred-db workflows`: list, show, cancel and resume executions of workflows, and show and send their events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .choices import WORKFLOW_STATUSES
from .databases import opened
from .groups import Group
from .options import after_option, json_option, schema_option, url_option
from .output import print_result
from .progress import counted
from .tables import as_dict, one_line, print_one, print_page, table

if TYPE_CHECKING:
    from ..models import WorkflowExecution, WorkflowExecutionStatus
    from ..repositories import UnitOfWork, WorkflowRepository

__all__ = ["workflows"]

_COLUMNS = (
    "id",
    "workflow",
    "version",
    "status",
    "current_step",
    "waiting_for",
    "available_at",
    "error_code",
)
_STEP_COLUMNS = ("seq", "kind", "name", "attempt", "completed_at", "output", "error")


@click.group(cls=Group)
def workflows() -> None:
    """List, show, cancel and resume executions of workflows. EXECUTION is an `id` or an `idempotency_key`."""


@workflows.command("list")
@click.argument("name", required=False)
@click.option("--status", type=click.Choice(WORKFLOW_STATUSES))
@click.option("--limit", default=50, show_default=True, help="Rows per page.")
@after_option
@url_option
@schema_option
@json_option
def list_(
    name: str | None,
    status: str | None,
    limit: int,
    after: str | None,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """List executions, the latest first: of all workflows, or of the workflow NAME."""
    from ..models import WorkflowExecutionStatus

    if name is not None and status is not None:
        raise click.UsageError("pass either a NAME or --status")
    with opened(url, schema) as database, database.begin() as uow:
        if name is None:
            wanted = None if status is None else WorkflowExecutionStatus(status)
            page = uow.workflows.list(status=wanted, after=after, limit=limit)
        else:
            page = uow.workflows.history(name, after=after, limit=limit)
        names: dict[int, str] = {}
        rows = [_row(uow, execution, names) for execution in page.items]
    print_page("executions", _COLUMNS, rows, next=page.next, as_json=as_json)


@workflows.command()
@click.argument("execution")
@url_option
@schema_option
@json_option
def show(execution: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Show an execution, its first 1,000 steps, and the state that it shows."""
    with opened(url, schema) as database, database.begin() as uow:
        found = _found(uow.workflows, execution)
        values = _row(uow, found, {})
        values["state"] = dict(uow.workflows.state(found.id))
        values["steps"] = [as_dict(step) for step in uow.workflows.steps(found.id, limit=1000)]
    if as_json:
        print_one(values, as_json=True)
        return
    for name, value in values.items():
        if value not in (None, {}) and name != "steps":
            click.echo(f"{name:<20}  {one_line(value)}")
    if values["steps"]:
        click.echo(table(_STEP_COLUMNS, values["steps"]))


@workflows.command()
@click.argument("execution")
@url_option
@schema_option
@json_option
def cancel(execution: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Cancel an execution and its children; the worker of one that runs is asked to stop."""
    from ..models import WorkflowExecutionStatus

    statuses: list[WorkflowExecutionStatus] = []
    with opened(url, schema) as database:
        with database.begin() as uow:
            id = _found(uow.workflows, execution).id

        def cancel_some(uow: UnitOfWork, limit: int) -> int:
            found = uow.workflows.cancel(id, limit=limit)
            statuses.extend(found.values())
            return len(found)

        with counted("cancelled") as progress:
            database.in_chunks(cancel_some, progress=progress)
    asked = statuses.count(WorkflowExecutionStatus.RUNNING)
    cancelled = len(statuses) - asked
    line = f"cancelled: {cancelled}, workers asked to stop: {asked}"
    print_result({"cancelled": cancelled, "asked_to_stop": asked}, line, as_json=as_json)


@workflows.command()
@click.argument("execution")
@click.option(
    "--from-step",
    type=click.IntRange(0),
    help="Run the steps from this number on again; default: from the last that failed.",
)
@url_option
@schema_option
@json_option
def resume(execution: str, from_step: int | None, url: str | None, schema: str | None, as_json: bool) -> None:
    """Continue an execution that has failed or was cancelled; its finished steps are not run again."""
    with opened(url, schema, notify=True) as database, database.begin() as uow:
        found = uow.workflows.resume(_found(uow.workflows, execution).id, from_seq=from_step)
        values = {"resumed": found.id, "next_step": found.current_step}
    line = f"resumed {values['resumed']}, next step: {values['next_step']}"
    print_result(values, line, as_json=as_json)


@workflows.command()
@click.argument("execution")
@click.option("--send", metavar="NAME", help="Send this event to the execution.")
@click.option("--payload", metavar="JSON", help="The payload of the event.")
@url_option
@schema_option
@json_option
def events(
    execution: str,
    send: str | None,
    payload: str | None,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """List the events that were sent to an execution, or send one and resume it if it waits for it."""
    if payload is not None and send is None:
        raise click.UsageError("pass --send NAME with --payload")
    with opened(url, schema, notify=True) as database, database.begin() as uow:
        id = _found(uow.workflows, execution).id
        if send is not None:
            sent = uow.workflows.deliver(id, send, _json(payload))
            line = "sent" if sent else "not sent: it has received an event of this name"
            print_result({"sent": sent}, line, as_json=as_json)
            return
        rows = [as_dict(event) for event in uow.workflows.events(id)]
    print_page("events", ("name", "created_at", "payload"), rows, as_json=as_json)


def _found(repository: WorkflowRepository, name: str) -> WorkflowExecution:
    from ..errors import NotFoundError

    execution = repository.get_by_key(name)
    if execution is None and name.isascii() and name.isdecimal() and len(name) < 19:
        execution = repository.get_execution(int(name))
    if execution is None:
        raise NotFoundError(
            f"workflow execution {name!r}: not found; pass the id of an execution, or its idempotency_key"
        )
    return execution


def _row(uow: UnitOfWork, execution: WorkflowExecution, names: dict[int, str]) -> dict[str, Any]:
    """Return the columns of an execution, and the name of its workflow."""
    id = execution.workflow_id
    if id is not None and id not in names:
        found = uow.workflows.get(id)
        names[id] = "-" if found is None else found.name
    values = as_dict(execution)
    first = {
        "id": values.pop("id"),
        "workflow": names.get(id or 0),
        "version": values.pop("workflow_version"),
    }
    return {**first, **values}


def _json(text: str | None) -> Any:
    from ..errors import InvalidInputError

    try:
        return None if text is None else json.loads(text)
    except ValueError:
        raise InvalidInputError("--payload: is no JSON; quote texts, as in '\"yes\"'") from None
