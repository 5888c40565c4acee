"""`alfred-db memories`: what the banks hold."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..config import command, database_url
from ..database import Database
from ..errors import NotFoundError
from ..models import MemoryBank
from ..repositories import UnitOfWork
from .groups import Group
from .options import after_option, confirm, json_option, limit_option, schema_option, url_option, yes_option
from .tables import as_dict, print_page

__all__ = ["memories"]


@click.group(cls=Group)
def memories() -> None:
    """Memories: list banks and what they hold, and forget."""


@memories.command()
@limit_option
@after_option
@url_option
@schema_option
@json_option
def banks(limit: int, after: str | None, url: str | None, schema: str | None, as_json: bool) -> None:
    """List the banks with the number of their memories."""
    with Database(database_url(url), schema=schema) as database, database.begin() as uow:
        page = uow.memory_banks.list(limit=limit, after=after)
        rows = [asdict(bank) for bank in page.items]
    columns = ("id", "name", "memories", "description", "created_at")
    print_page("banks", columns, rows, next=page.next, as_json=as_json)


@memories.command("list")
@click.argument("bank")
@limit_option
@after_option
@url_option
@schema_option
@json_option
def list_(
    bank: str, limit: int, after: str | None, url: str | None, schema: str | None, as_json: bool
) -> None:
    """List the memories of BANK, a name."""
    with Database(database_url(url), schema=schema) as database, database.begin() as uow:
        page = uow.memories.list(_bank(database, uow, bank), limit=limit, after=after)
        rows = [as_dict(memory) for memory in page.items]
    columns = ("id", "importance", "access_count", "created_at", "content")
    print_page("memories", columns, rows, next=page.next, as_json=as_json)


@memories.command()
@click.argument("memory", type=int)
@yes_option
@url_option
@schema_option
def forget(memory: int, yes: bool, url: str | None, schema: str | None) -> None:
    """Delete a memory by its id."""
    confirm(f"Delete the memory {memory}?", yes)
    with Database(database_url(url), schema=schema) as database, database.begin() as uow:
        uow.memories.forget(memory)
    click.echo(f"deleted {memory}")


@memories.command("delete-bank")
@click.argument("bank")
@yes_option
@url_option
@schema_option
def delete_bank(bank: str, yes: bool, url: str | None, schema: str | None) -> None:
    """Delete BANK with all its memories, in batches."""
    with Database(database_url(url), schema=schema) as database:
        with database.begin() as uow:
            id = _bank(database, uow, bank).id
        confirm(f"Delete the bank {bank!r} with all its memories?", yes)
        deleted = database.in_chunks(lambda uow, limit: uow.memory_banks.delete(id, limit=limit))
    click.echo(f"deleted {bank} with {deleted:,} rows")


def _bank(database: Database, uow: UnitOfWork, name: str) -> MemoryBank:
    found = uow.memory_banks.get_by_name(name)
    if found is None:
        listed = command("memories banks", database.url, database.schema)
        raise NotFoundError(f"memory bank {name!r}: not found; {listed} lists them")
    return found
