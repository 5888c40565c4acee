"""`alfred-db export` and `alfred-db import`: tables as files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import click

from ..transfer.exporting import PART, TransferProgress, export_tables
from ..transfer.importing import import_tables
from .options import json_option, migration_url_option, schema_option, url_option

__all__ = ["export", "import_"]

REPORTED_EVERY = 2.0
"""Seconds between two lines about the progress of one table."""

table_option = click.option(
    "--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be repeated."
)


@click.command()
@click.argument("folder")
@table_option
@click.option(
    "--format",
    "kind",
    type=click.Choice(["jsonl", "parquet"]),
    default="jsonl",
    show_default=True,
    help="JSON lines with vectors as .npy, or Parquet.",
)
@click.option("--part", type=click.IntRange(1), default=PART, show_default=True, help="Rows of a file.")
@url_option
@schema_option
@json_option
def export(
    folder: str,
    tables: tuple[str, ...],
    kind: str,
    part: int,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Export tables to FOLDER; continue an export that was interrupted."""
    manifest = export_tables(
        folder, url, schema=schema, tables=tables, kind=kind, part=part, progress=_reporter()
    )
    rows = {name: table.rows for name, table in manifest.tables.items()}
    _print("exported", rows, as_json)


@click.command("import")
@click.argument("folder")
@table_option
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "skip", "update"]),
    default="error",
    show_default=True,
    help="What happens to a row that exists with other content.",
)
@migration_url_option
@schema_option
@json_option
def import_(
    folder: str, tables: tuple[str, ...], on_conflict: str, url: str | None, schema: str | None, as_json: bool
) -> None:
    """Import the tables of an export; continue an import that was interrupted."""
    rows = import_tables(
        folder, url, schema=schema, tables=tables, on_conflict=on_conflict, progress=_reporter()
    )
    _print("written", rows, as_json)


def _print(what: str, rows: dict[str, int], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({what: rows}, indent=2))
        return
    for name, number in rows.items():
        click.echo(f"{name:<40}{number:>14,}")
    click.echo(f"{what}: {sum(rows.values()):,} rows of {len(rows)} tables")


def _reporter() -> Callable[[TransferProgress], None]:
    """Return a function that reports on standard error, now and then."""
    last = time.monotonic()

    def report(so_far: TransferProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORTED_EVERY:
            last = time.monotonic()
            total = "" if so_far.total is None else f" of {so_far.total:,}"
            click.echo(f"{so_far.table}: {so_far.rows:,}{total}", err=True)

    return report
