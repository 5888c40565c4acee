"""`alfred-db worker`: runs tasks with the caller's handlers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import click

from ..config import database_url
from ..database import AsyncDatabase, Database
from ..errors import ConfigurationError
from ..worker import AsyncWorker, Worker
from ..worker.workers import is_asynchronous
from .objects import named_object
from .options import pooler_option, schema_option, url_option

__all__ = ["handlers_of", "worker"]


@click.command()
@click.option(
    "--app",
    required=True,
    metavar="MODULE:NAME",
    help="A mapping from intents to handlers, all plain or all async.",
)
@click.option("--concurrency", default=4, show_default=True, help="Tasks at once.")
@click.option(
    "--lease", default=60.0, show_default=True, help="Seconds after which a silent worker loses its tasks."
)
@click.option(
    "--grace",
    default=25.0,
    show_default=True,
    help="Seconds that running tasks have to end after SIGTERM or SIGINT.",
)
@click.option("--poll", default=5.0, show_default=True, help="Longest seconds between two looks for tasks.")
@click.option(
    "--upkeep",
    default=5.0,
    show_default=True,
    help="Seconds between two looks for vanished workers and due slots.",
)
@click.option(
    "--schedules/--no-schedules", default=True, help="Whether to create the executions of due slots too."
)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="QUEUE",
    help="Take tasks from this queue only; may be repeated.",
)
@click.option("--assigned-to", metavar="AGENT", help="Run this agent's tasks only.")
@click.option("--drain", is_flag=True, help="End when no task can be claimed now and none runs.")
@url_option
@schema_option
@pooler_option
def worker(
    app: str,
    concurrency: int,
    lease: float,
    grace: float,
    poll: float,
    upkeep: float,
    schedules: bool,
    queues: tuple[str, ...],
    assigned_to: str | None,
    drain: bool,
    url: str | None,
    schema: str | None,
    pooler: str | None,
) -> None:
    """Run tasks until SIGINT or SIGTERM; a second signal ends the worker at once.

    MODULE is found as Python finds it, and in this folder. Its handlers run in this process; what is still running
    after the grace period is released.
    """
    handlers = handlers_of(app)
    asynchronous = any(is_asynchronous(handler) for handler in handlers.values())
    log = logging.getLogger("alfred_db.worker")
    options: dict[str, Any] = {
        "concurrency": concurrency,
        "lease": lease,
        "grace": grace,
        "poll": poll,
        "upkeep": upkeep,
        "schedules": schedules,
        "queues": list(queues) or None,
        "assigned_to": assigned_to,
    }
    database: dict[str, Any] = {"schema": schema, "pooler": pooler}
    if asynchronous:
        unlike = AsyncWorker(AsyncDatabase(database_url(url), **database), handlers, **options)
        log.info("%s: %s", unlike.name, ", ".join(handlers))
        asyncio.run(unlike.run(drain=drain))
    else:
        plain = Worker(Database(database_url(url), **database), handlers, **options)
        log.info("%s: %s", plain.name, ", ".join(handlers))
        plain.run(drain=drain)


def handlers_of(app: str) -> Mapping[str, Callable[..., Any]]:
    """Return the mapping that MODULE:NAME names.

    Raises:
        ConfigurationError: The module cannot be imported, or the name is not a mapping of handlers.
    """
    found = named_object("--app", app, "myapp.tasks:handlers", "define it as a dict")
    if not isinstance(found, Mapping):
        raise ConfigurationError(
            f"--app {app!r}: is {type(found).__name__}; expected a mapping from intents to functions of (task, lease)"
        )
    return cast("Mapping[str, Callable[..., Any]]", found)
