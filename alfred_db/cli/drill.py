"""`alfred-db drill`: whether the backup of a database can be restored, and answers the same."""

from __future__ import annotations

from dataclasses import asdict

import click

from .options import json_option, migration_url_option, schema_option
from .output import note, print_result

__all__ = ["drill"]


@click.command()
@migration_url_option
@schema_option
@click.option("--into", metavar="URL", help="Make the copy on this server instead, such as a newer one.")
@click.option(
    "--existing",
    is_flag=True,
    help="Restore into the database of --into itself, which is empty, and keep it.",
)
@click.option("--keep", is_flag=True, help="Keep the copy.")
@json_option
@click.pass_context
def drill(
    context: click.Context,
    url: str | None,
    schema: str | None,
    into: str | None,
    existing: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Dump the database, restore it into a new one, and compare what both answer.

    Exit status: 0 the copy answers the same, 1 it differs, 2 the drill failed.
    """
    from ..drill import drill as run_drill

    def show(step: str, seconds: float) -> None:
        note(f"{step:<20} {seconds:8.1f} s")

    report = run_drill(url, into=into, schema=schema, existing=existing, keep=keep, progress=show)
    lines = [
        f"{report.tenants} tenants, {report.rows:,} rows and {report.searches} searches compared,"
        f" {report.renumbered:,} events renumbered, {report.size:,} bytes",
        *(f"differs: {one}" for one in report.differences),
        *([f"kept: database {report.database}"] if report.kept else []),
        "the copy differs" if report.differences else "the copy answers the same",
    ]
    print_result(asdict(report), *lines, as_json=as_json)
    context.exit(1 if report.differences else 0)
