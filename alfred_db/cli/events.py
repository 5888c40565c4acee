"""`alfred-db events`: the log of events, and what its consumers have still to read."""

from __future__ import annotations

from dataclasses import asdict

import click

from .databases import opened
from .enqueue import object_of
from .groups import Group
from .options import after_option, json_option, limit_option, schema_option, url_option
from .output import print_result
from .tables import as_dict, print_page

__all__ = ["events"]


@click.group(cls=Group)
def events() -> None:
    """Events: list and publish them, and show the consumers."""


@events.command("list")
@click.argument("topic")
@limit_option
@after_option
@url_option
@schema_option
@json_option
def list_(
    topic: str, limit: int, after: str | None, url: str | None, schema: str | None, as_json: bool
) -> None:
    """List the events of TOPIC, the oldest first."""
    with opened(url, schema) as database, database.begin() as uow:
        page = uow.events.list(topic, after=after, limit=limit)
        rows = [as_dict(event) for event in page.items]
    columns = ("id", "created_at", "type", "key", "payload")
    print_page("events", columns, rows, next=page.next, as_json=as_json)


@events.command()
@click.argument("topic")
@click.argument("payload", default="{}")
@click.option("--type", "type_", help="What happened.")
@click.option("--key", help="What it happened to.")
@url_option
@schema_option
@json_option
def publish(
    topic: str,
    payload: str,
    type_: str | None,
    key: str | None,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Publish an event of TOPIC with PAYLOAD, a JSON object."""
    given = object_of("PAYLOAD", payload)
    with opened(url, schema) as database, database.begin() as uow:
        id = uow.events.publish(topic, given, type=type_, key=key).id
    print_result({"id": id}, f"published {id}", as_json=as_json)


@events.command()
@url_option
@schema_option
@json_option
def consumers(url: str | None, schema: str | None, as_json: bool) -> None:
    """Show what each consumer has still to read."""
    with opened(url, schema) as database, database.begin() as uow:
        rows = [asdict(one) for one in uow.events.consumers()]
    print_page("consumers", tuple(rows[0]) if rows else (), rows, as_json=as_json)
