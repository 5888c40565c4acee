"""`alfred-db cache`: values with a time to live."""

from __future__ import annotations

import sys

import click

from ..config import database_url
from ..database import Database
from ..errors import NotFoundError
from .groups import Group
from .options import confirm, json_option, schema_option, url_option, yes_option
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
    with Database(database_url(url), schema=schema) as database:
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
def set_(key: str, value: str, ttl: float | None, url: str | None, schema: str | None) -> None:
    """Set KEY to VALUE, a text."""
    with Database(database_url(url), schema=schema) as database:
        database.cache.set(key, value.encode(errors="surrogateescape"), ttl)
    click.echo(f"set {key}")


@cache.command()
@click.argument("key")
@url_option
@schema_option
def delete(key: str, url: str | None, schema: str | None) -> None:
    """Delete KEY."""
    with Database(database_url(url), schema=schema) as database:
        deleted = database.cache.delete(key)
    click.echo(f"{'deleted' if deleted else 'not found'} {key}")


@cache.command()
@click.argument("prefix", default="")
@yes_option
@url_option
@schema_option
def clear(prefix: str, yes: bool, url: str | None, schema: str | None) -> None:
    """Delete the keys that begin with PREFIX, or all, in batches."""
    confirm(f"Delete {f'the keys that begin with {prefix!r}' if prefix else 'all keys'}?", yes)
    with Database(database_url(url), schema=schema) as database:
        deleted = database.in_chunks(lambda uow, limit: uow.cache.clear(prefix, limit=limit))
    click.echo(f"deleted {deleted:,}")


@cache.command()
@url_option
@schema_option
@json_option
def size(url: str | None, schema: str | None, as_json: bool) -> None:
    """Show the number and the bytes of the entries."""
    with Database(database_url(url), schema=schema) as database, database.begin() as uow:
        found = uow.cache.size()
    print_one(found, as_json=as_json)
