"""`alfred-db memories`: what the banks hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .databases import opened
from .groups import Group
from .options import after_option, confirm, json_option, limit_option, schema_option, url_option, yes_option
from .output import print_result
from .progress import counted
from .tables import as_dict, print_page

if TYPE_CHECKING:
    from ..database import Database
    from ..models import MemoryBank
    from ..repositories import UnitOfWork

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
    with opened(url, schema) as database, database.begin() as uow:
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
    with opened(url, schema) as database, database.begin() as uow:
        page = uow.memories.list(_bank(database, uow, bank), limit=limit, after=after)
        rows = [as_dict(memory) for memory in page.items]
    columns = ("id", "importance", "access_count", "created_at", "content")
    print_page("memories", columns, rows, next=page.next, as_json=as_json)


@memories.command()
@click.argument("memory", type=int)
@yes_option
@url_option
@schema_option
@json_option
def forget(memory: int, yes: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Delete a memory by its id."""
    confirm(f"Delete the memory {memory}?", yes)
    with opened(url, schema) as database, database.begin() as uow:
        uow.memories.forget(memory)
    print_result({"deleted": memory}, f"deleted {memory}", as_json=as_json)


@memories.command("delete-bank")
@click.argument("bank")
@yes_option
@url_option
@schema_option
@json_option
def delete_bank(bank: str, yes: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Delete BANK with all its memories, in batches."""
    confirm(f"Delete the bank {bank!r} with all its memories?", yes)
    with opened(url, schema) as database, counted("deleted") as progress:
        with database.begin() as uow:
            id = _bank(database, uow, bank).id
        deleted = database.in_chunks(
            lambda uow, limit: uow.memory_banks.delete(id, limit=limit), progress=progress
        )
    print_result({"deleted": bank, "rows": deleted}, f"deleted {bank} with {deleted:,} rows", as_json=as_json)


def _bank(database: Database, uow: UnitOfWork, name: str) -> MemoryBank:
    from ..config import command
    from ..errors import NotFoundError

    found = uow.memory_banks.get_by_name(name)
    if found is None:
        listed = command("memories banks", database.url, database.schema)
        raise NotFoundError(f"memory bank {name!r}: not found; {listed} lists them")
    return found
