"""`alfred-db agents`: who is registered, and who is alive."""

from __future__ import annotations

import click

from .databases import opened
from .groups import Group
from .options import after_option, json_option, limit_option, schema_option, url_option
from .tables import as_dict, print_one, print_page

__all__ = ["agents"]


@click.group(cls=Group)
def agents() -> None:
    """Agents: list and show them."""


@agents.command("list")
@click.option("--alive", type=float, metavar="SECONDS", help="Only those with a heartbeat within this time.")
@limit_option
@after_option
@url_option
@schema_option
@json_option
def list_(
    alive: float | None, limit: int, after: str | None, url: str | None, schema: str | None, as_json: bool
) -> None:
    """List agents in the order of their names, or those that are alive."""
    with opened(url, schema) as database, database.begin() as uow:
        if alive is None:
            page = uow.agents.list(after=after, limit=limit)
        else:
            page = uow.agents.list_alive(within=alive, after=after, limit=limit)
        rows = [as_dict(agent) for agent in page.items]
    columns = ("name", "type", "version", "status", "last_heartbeat")
    print_page("agents", columns, rows, next=page.next, as_json=as_json)


@agents.command()
@click.argument("name")
@url_option
@schema_option
@json_option
def show(name: str, url: str | None, schema: str | None, as_json: bool) -> None:
    """Show an agent."""
    from ..config import command
    from ..errors import NotFoundError

    with opened(url, schema) as database, database.begin() as uow:
        found = uow.agents.get_by_name(name)
        if found is None:
            listed = command("agents list", database.url, schema)
            raise NotFoundError(f"agent {name!r}: not found; {listed} lists their names")
        values = as_dict(found)
    print_one(values, as_json=as_json)
