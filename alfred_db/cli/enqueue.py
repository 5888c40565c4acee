"""`alfred-db enqueue`: enqueues a task, as from a shell or cron."""

from __future__ import annotations

import json
from typing import Any, cast

import click

from .databases import opened
from .options import json_option, schema_option, url_option
from .output import print_result

__all__ = ["enqueue", "object_of"]


def object_of(name: str, text: str) -> dict[str, Any]:
    """Return the JSON object that an argument holds.

    Raises:
        InvalidInputError: It is not JSON, or not an object.
    """
    from ..errors import InvalidInputError

    try:
        found: object = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{name}: not JSON ({error}); pass an object, such as '{{\"id\": 7}}'"
        ) from None
    if not isinstance(found, dict):
        raise InvalidInputError(f"{name}: expected a JSON object, such as '{{\"id\": 7}}'")
    return cast("dict[str, Any]", found)


@click.command()
@click.argument("intent")
@click.argument("content", default="{}")
@click.option("--queue", default="default", show_default=True)
@click.option("--task-id", help="A unique name; a task that has it already is not changed.")
@click.option(
    "--priority", type=click.IntRange(1, 5), default=1, show_default=True, help="5 is the most urgent."
)
@click.option(
    "--delay", type=float, default=0.0, show_default=True, help="Seconds until a worker may take it."
)
@click.option("--max-retries", type=int, default=3, show_default=True)
@click.option("--timeout", type=int, default=300, show_default=True, help="Seconds that an attempt may take.")
@url_option
@schema_option
@json_option
def enqueue(
    intent: str,
    content: str,
    queue: str,
    task_id: str | None,
    priority: int,
    delay: float,
    max_retries: int,
    timeout: int,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Enqueue a task with INTENT and CONTENT, a JSON object, and wake idle workers."""
    given = object_of("CONTENT", content)
    with opened(url, schema, notify=True) as database, database.begin() as uow:
        task, created = uow.tasks.enqueue(
            intent,
            given,
            queue=queue,
            task_id=task_id,
            priority=priority,
            delay=delay,
            max_retries=max_retries,
            timeout_seconds=timeout,
        )
        found = {"id": str(task.id), "task_id": task.task_id, "created": created, "status": str(task.status)}
    line = f"{'enqueued' if created else 'known'} {found['task_id']}, {found['status']}"
    print_result(found, line, as_json=as_json)
