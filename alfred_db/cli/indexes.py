"""`alfred-db indexes`: indexes of fields in JSON columns, for the range filters of searches."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ..config import database_url, migration_url
from ..engine.pool import passing_engine
from ..errors import translated
from ..indexes import LOCK_TIMEOUT, add_field, drop_field, field_indexes
from .groups import Group
from .options import json_option, migration_url_option, schema_option, url_option

__all__ = ["indexes"]

lock_option = click.option(
    "--lock-timeout", type=float, default=LOCK_TIMEOUT, show_default=True, help="Seconds to wait for others."
)


@click.group(cls=Group)
def indexes() -> None:
    """Indexes of fields in JSON columns: list, add and drop them."""


@indexes.command("list")
@url_option
@schema_option
@json_option
def show(url: str | None, schema: str | None, as_json: bool) -> None:
    """List the fields that have an index."""
    engine = passing_engine(database_url(url), "alfred-db indexes list")
    with translated(), engine.connect() as connection:
        found = field_indexes(connection, schema)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    for one in found:
        state = "" if one.valid else "  invalid: add it again"
        click.echo(
            f"{one.field or '?'}  {one.schema}.{one.name}  {one.size:,} bytes  {one.scans:,} scans{state}"
        )
    if not found:
        click.echo("no field has an index")


@indexes.command()
@click.argument("field")
@migration_url_option
@schema_option
@lock_option
def add(field: str, url: str | None, schema: str | None, lock_timeout: float) -> None:
    """Index FIELD, such as documents.metadata.year, while others read and write."""
    engine = passing_engine(migration_url(url), "alfred-db indexes add")
    made = add_field(engine, field, schema=schema, lock_timeout=lock_timeout)
    click.echo(f"{made.field} has the index {made.schema}.{made.name}, {made.size:,} bytes")


@indexes.command()
@click.argument("field")
@migration_url_option
@schema_option
@lock_option
def drop(field: str, url: str | None, schema: str | None, lock_timeout: float) -> None:
    """Drop the index of FIELD."""
    engine = passing_engine(migration_url(url), "alfred-db indexes drop")
    drop_field(engine, field, schema=schema, lock_timeout=lock_timeout)
    click.echo(f"{field} has no index any more")
