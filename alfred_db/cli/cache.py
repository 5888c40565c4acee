"""`alfred-db cache`: values with a time to live."""

from __future__ import annotations

import sys

import click

from .databases import opened
from .groups import Group
from .options import confirm, json_option, schema_option, url_option, yes_option
from .output import print_result
from .progress import counted
from .tables import print_one

__all__ = ["cache"]


@click.group(cls=Group)
def cache() -> None:
    """The cache: read, set and delete values, and show its size."""


@cache.command()
@click.argument("key")
@url_option
@schema_option
def get(key: str, url: str | None, schema: str | None) -> None:
    """Write the value of KEY to standard output, unchanged."""
    from ..errors import NotFoundError

    with opened(url, schema) as database:
        value = database.cache.get(key)
    if value is None:
        raise NotFoundError(f"cache key {key!r}: not found, or expired")
    sys.stdout.buffer.write(value)


@cache.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--ttl", type=float, help="Seconds that it is kept; default: for ever.")
@url_option
@schema_option
@json_option
def set_(key: str, value: str, ttl: float | None, url: str | None, schema: str | None, as_json: bool) -> None:
    """Set KEY to VALUE, a text."""
    with opened(url, schema) as database:
        database.cache.set(key, value.encode(errors="surrogateescape"), ttl)
    print_result({"set": key, "ttl": ttl}, f"set {key}", as_json=as_json)


@cache.command()
@click.argument("key")
@yes_option
@url_option
@schema_option
@json_option
def delete(key: str, yes: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Delete KEY."""
    confirm(f"Delete the key {key!r}?", yes)
    with opened(url, schema) as database:
        deleted = database.cache.delete(key)
    line = f"{'deleted' if deleted else 'not found'} {key}"
    print_result({"key": key, "deleted": deleted}, line, as_json=as_json)


@cache.command()
@click.argument("prefix", default="")
@yes_option
@url_option
@schema_option
@json_option
def clear(prefix: str, yes: bool, url: str | None, schema: str | None, as_json: bool) -> None:
    """Delete the keys that begin with PREFIX, or all, in batches."""
    confirm(f"Delete {f'the keys that begin with {prefix!r}' if prefix else 'all keys'}?", yes)
    with opened(url, schema) as database, counted("deleted") as progress:
        deleted = database.in_chunks(
            lambda uow, limit: uow.cache.clear(prefix, limit=limit), progress=progress
        )
    print_result({"deleted": deleted}, f"deleted {deleted:,}", as_json=as_json)


@cache.command()
@url_option
@schema_option
@json_option
def size(url: str | None, schema: str | None, as_json: bool) -> None:
    """Show the number and the bytes of the entries."""
    with opened(url, schema) as database, database.begin() as uow:
        found = uow.cache.size()
    print_one(found, as_json=as_json)
