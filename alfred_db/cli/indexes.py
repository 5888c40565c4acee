"""`alfred-db indexes`: indexes of fields in JSON columns, for the range filters of searches."""

from __future__ import annotations

from dataclasses import asdict

import click

from .databases import connected, engine_of
from .groups import Group
from .options import (
    confirm,
    json_option,
    lock_timeout_option,
    migration_url_option,
    schema_option,
    url_option,
    yes_option,
)
from .output import print_result
from .progress import progress, reporter

__all__ = ["indexes"]


@click.group(cls=Group)
def indexes() -> None:
    """Indexes of fields in JSON columns: list, add and drop them."""


@indexes.command("list")
@url_option
@schema_option
@json_option
def show(url: str | None, schema: str | None, as_json: bool) -> None:
    """List the fields that have an index."""
    from ..indexes import field_indexes

    with connected(url, "alfred-db indexes list") as connection:
        found = field_indexes(connection, schema)
    lines = [
        f"{one.field or '?'}  {one.schema}.{one.name}  {one.size:,} bytes  {one.scans:,} scans"
        + ("" if one.valid else "  invalid: add it again")
        for one in found
    ]
    print_result([asdict(one) for one in found], *(lines or ["no field has an index"]), as_json=as_json)


@indexes.command()
@click.argument("field")
@migration_url_option
@schema_option
@lock_timeout_option
@json_option
def add(field: str, url: str | None, schema: str | None, lock_timeout: float, as_json: bool) -> None:
    """Index FIELD, such as documents.metadata.year, while others read and write."""
    from ..indexes import add_field

    engine = engine_of(url, "alfred-db indexes add", owner=True)
    with progress(steps=True) as report:
        made = add_field(engine, field, schema=schema, progress=reporter(report), lock_timeout=lock_timeout)
    line = f"{made.field} has the index {made.schema}.{made.name}, {made.size:,} bytes"
    print_result(asdict(made), line, as_json=as_json)


@indexes.command()
@click.argument("field")
@yes_option
@migration_url_option
@schema_option
@lock_timeout_option
@json_option
def drop(
    field: str, yes: bool, url: str | None, schema: str | None, lock_timeout: float, as_json: bool
) -> None:
    """Drop the index of FIELD."""
    from ..indexes import drop_field

    confirm(f"Drop the index of {field}?", yes)
    engine = engine_of(url, "alfred-db indexes drop", owner=True)
    drop_field(engine, field, schema=schema, lock_timeout=lock_timeout)
    print_result({"dropped": field}, f"{field} has no index any more", as_json=as_json)
