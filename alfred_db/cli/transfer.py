"""`alfred-db export` and `alfred-db import`: tables as files."""

from __future__ import annotations

import click

from .choices import EXPORTED_AT_ONCE
from .options import confirm, json_option, migration_url_option, schema_option, url_option, yes_option
from .output import print_result
from .progress import progress

__all__ = ["export", "import_"]

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
@click.option(
    "--part", type=click.IntRange(1), default=EXPORTED_AT_ONCE, show_default=True, help="Rows of a file."
)
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
    from ..transfer.exporting import export_tables

    with progress() as report:
        manifest = export_tables(
            folder,
            url,
            schema=schema,
            tables=tables,
            kind=kind,
            part=part,
            progress=lambda so_far: report(so_far.table, so_far.rows, so_far.total),
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
@yes_option
@migration_url_option
@schema_option
@json_option
def import_(
    folder: str,
    tables: tuple[str, ...],
    on_conflict: str,
    yes: bool,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Import the tables of an export; continue an import that was interrupted.

    With `--on-conflict update` it asks first, because rows are overwritten.
    """
    from ..transfer.importing import import_tables

    if on_conflict == "update":
        confirm("Overwrite the rows that exist with other content?", yes)
    with progress() as report:
        rows = import_tables(
            folder,
            url,
            schema=schema,
            tables=tables,
            on_conflict=on_conflict,
            progress=lambda so_far: report(so_far.table, so_far.rows, so_far.total),
        )
    _print("written", rows, as_json)


def _print(what: str, rows: dict[str, int], as_json: bool) -> None:
    lines = [f"{name:<40}{number:>14,}" for name, number in rows.items()]
    lines.append(f"{what}: {sum(rows.values()):,} rows of {len(rows)} tables")
    print_result({what: rows}, *lines, as_json=as_json)
