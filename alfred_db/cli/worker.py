"""`alfred-db worker`: runs tasks with the caller's handlers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from .choices import WORKER_SETTINGS
from .objects import named_object
from .options import pooler_option, schema_option, url_option
from .purge import retention_option

if TYPE_CHECKING:
    from ..durable import WorkflowFunction
    from ..worker.workers import App

__all__ = ["handlers_of", "worker", "workflows_of"]


_HELP = {
    "concurrency": "Tasks at once.",
    "lease": "Seconds after which a silent worker loses its tasks.",
    "grace": "Seconds that running tasks have to end after SIGTERM or SIGINT.",
    "poll": "Longest seconds between two looks for tasks.",
    "upkeep": "Seconds between two looks for vanished workers and due slots.",
    "schedules": "Whether to create the executions of due slots too.",
}


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each setting of a worker, with its default; the back-off is for programs."""
    for name, default in reversed(WORKER_SETTINGS.items()):
        switch = isinstance(default, bool)
        flag = f"--{name}/--no-{name}" if switch else f"--{name}"
        option = click.option(flag, name, help=_HELP[name], default=default, show_default=not switch)
        command = option(command)
    return command


@click.command()
@click.argument("application", metavar="[MODULE:NAME]", required=False)
@click.option(
    "--app",
    metavar="MODULE:NAME",
    help="A mapping from intents to handlers, or an application of decorated tasks (Tasks, AsyncTasks).",
)
@click.option(
    "--workflows",
    metavar="MODULE:NAME",
    help="A list of durable functions, all plain or all async.",
)
@_settings_options
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="QUEUE",
    help="Take tasks from this queue only; may be repeated.",
)
@click.option("--assigned-to", metavar="AGENT", help="Run this agent's tasks only.")
@retention_option("--retention", "A policy as `purge --policy` takes it: delete by it from time to time.")
@click.option("--drain", is_flag=True, help="End when no task can be claimed now and none runs.")
@url_option
@schema_option
@pooler_option
def worker(
    application: str | None,
    app: str | None,
    workflows: str | None,
    retention: str | None,
    drain: bool,
    url: str | None,
    schema: str | None,
    pooler: str | None,
    **settings: Any,
) -> None:
    """Run tasks until SIGINT or SIGTERM; a second signal ends the worker at once.

    MODULE:NAME is the same as --app MODULE:NAME. MODULE is found as Python finds it, and in this folder. Its handlers run in
    this process; what is still running after the grace period is released.
    """
    import asyncio

    from ..config import database_url
    from ..database import AsyncDatabase, Database
    from ..retention import RetentionPolicy
    from ..worker import AsyncWorker, Worker
    from ..worker.workers import App, is_asynchronous

    if application is not None and app is not None:
        raise click.UsageError("pass the application once: as the argument, or as --app")
    named = app if application is None else application
    if named is None and workflows is None:
        raise click.UsageError("pass --app, --workflows, or both")
    handlers: Mapping[str, Callable[..., Any]] | App = {} if named is None else handlers_of(named)
    plainly = handlers.handlers() if isinstance(handlers, App) else handlers
    functions = settings["workflows"] = [] if workflows is None else workflows_of(workflows)
    # Both kinds of workers run both kinds of handlers, and durable functions of one kind.
    asynchronous = (
        any(function.is_asynchronous for function in functions)
        if functions
        else any(is_asynchronous(handler) for handler in plainly.values())
    )
    log = logging.getLogger("alfred_db.worker")
    settings["retention"] = None if retention is None else RetentionPolicy.from_file(retention)
    settings["queues"] = list(settings["queues"]) or None
    database: dict[str, Any] = {"schema": schema, "pooler": pooler}

    def started(name: str) -> None:
        log.info("%s: %s", name, ", ".join([*plainly, *(function.name for function in functions)]))

    async def run() -> None:
        async with AsyncDatabase(database_url(url), **database) as db:
            worker = AsyncWorker(db, handlers, **settings)
            started(worker.name)
            await worker.run(drain=drain)

    if asynchronous:
        asyncio.run(run())
        return
    with Database(database_url(url), **database) as db:
        worker = Worker(db, handlers, **settings)
        started(worker.name)
        worker.run(drain=drain)


def handlers_of(app: str) -> Mapping[str, Callable[..., Any]] | App:
    """Return the mapping or the application that MODULE:NAME names.

    Raises:
        ConfigurationError: The module cannot be imported, or the name is not a mapping of handlers.
    """
    from ..errors import ConfigurationError
    from ..worker.workers import App

    found = named_object("--app", app, "myapp.tasks:handlers", "define it as a dict")
    if isinstance(found, App):
        return found
    if not isinstance(found, Mapping):
        raise ConfigurationError(
            f"--app {app!r}: is {type(found).__name__}; expected a mapping from intents to functions of (task, lease), or an"
            " application (Tasks, AsyncTasks)"
        )
    return cast("Mapping[str, Callable[..., Any]]", found)


def workflows_of(named: str) -> list[WorkflowFunction[..., Any]]:
    """Return the durable functions that MODULE:NAME names.

    Raises:
        ConfigurationError: The module cannot be imported, or the name is not a list of such functions.
    """
    from ..durable.registry import unique
    from ..errors import ConfigurationError

    found = named_object("--workflows", named, "myapp.flows:workflows", "define it as a list")
    if not isinstance(found, list | tuple) or not found:
        raise ConfigurationError(
            f"--workflows {named!r}: is {type(cast('object', found)).__name__}; expected a list of functions decorated with `@workflow`"
        )
    return unique(cast("Sequence[WorkflowFunction[..., Any]]", found))
