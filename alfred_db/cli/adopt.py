"""`alfred-db adopt`: moves the rows of a platform's database into the schema of alfred-db."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict

import click

from ..transfer.adopting import BATCH, Adoption
from ..transfer.plans import AdoptedTable, AdoptionPlan, AdoptionProgress
from ..transfer.source import LEGACY
from .options import json_option, migration_url_option, schema_option

__all__ = ["adopt"]

REPORTED_EVERY = 2.0
"""Seconds between two lines about the progress of one table."""


@click.command()
@migration_url_option
@click.option("--from", "source", metavar="URL", help="The platform's database; default: the same one.")
@click.option("--from-schema", metavar="NAME", help="The schema that has all of the platform's tables.")
@schema_option
@click.option("--table", "only", multiple=True, metavar="NAME", help="Only this table; may be repeated.")
@click.option(
    "--time-zone", metavar="NAME", help="Of times without one; default: what the platform's server is set to."
)
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--batch", type=click.IntRange(1, 100_000), default=BATCH, show_default=True, help="Rows per transaction."
)
@json_option
def adopt(
    url: str | None,
    source: str | None,
    from_schema: str | None,
    schema: str | None,
    only: tuple[str, ...],
    time_zone: str | None,
    plan_only: bool,
    yes: bool,
    batch: int,
    as_json: bool,
) -> None:
    """Move the rows of a platform's database into the library's schema.

    Tables of the platform in the same database are moved to the schema `legacy`, then the schema of alfred-db is
    created, and the rows are copied. A run that was interrupted is continued by the next one. Stop what writes first.

    Exit status: 1 if a table has other rows than the platform's.
    """
    adoption = Adoption(
        url,
        source=source,
        source_schema=from_schema,
        schema=schema,
        only=only,
        zone=time_zone,
        batch=batch,
    )
    plan = adoption.plan()
    if not as_json:
        click.echo(_described(plan))
    elif plan_only or plan.done_at is not None:
        click.echo(json.dumps({"plan": asdict(plan)}, indent=2, default=str))
    if plan_only or plan.done_at is not None:
        return
    if not yes:
        click.confirm("Adopt these rows?", abort=True, err=True)
    adopted = adoption.run(_reporter())
    if as_json:
        click.echo(
            json.dumps(
                {"plan": asdict(plan), "adopted": [asdict(one) for one in adopted]}, indent=2, default=str
            )
        )
    else:
        click.echo(_compared(adopted))
    click.get_current_context().exit(0 if all(one.same for one in adopted) else 1)


def _described(plan: AdoptionPlan) -> str:
    if plan.done_at is not None:
        when = plan.done_at.isoformat(" ", "seconds")
        return f"nothing to adopt: {plan.rows:,} rows of {len(plan.tables)} tables were adopted from {plan.source}, by {when}"
    wide = max(len(table.table) for table in plan.tables)
    lines = [f"{'table':<{wide}}  {'rows':>12}  from"]
    for table in plan.tables:
        done = f" ({table.done:,} are adopted already)" if table.done else ""
        lines.append(f"{table.table:<{wide}}  {table.rows:>12,}  {table.source}{done}")
        lines += [f"{'':<{wide}}  {number:>12,}  {what}" for what, number in table.changes.items()]
        lines += [f"{'':<{wide}}  {number:>12,}  NOT KEPT: {what}" for what, number in table.losses.items()]
    if plan.moved:
        lines.append(f"moved to the schema {LEGACY} first: {', '.join(plan.moved)}")
    lines += [f"left alone: {name}: {why}" for name, why in plan.left.items()]
    lines.append(f"times without a time zone are read in {plan.zone}")
    return "\n".join(lines)


def _compared(adopted: list[AdoptedTable]) -> str:
    wide = max(len(one.table) for one in adopted)
    lines = [f"{'table':<{wide}}  {'rows':>12}  {'adopted':>12}  checksums"]
    for one in adopted:
        same = "same" if one.same else "DIFFERENT"
        lines.append(f"{one.table:<{wide}}  {one.rows:>12,}  {one.adopted:>12,}  {same}")
    return "\n".join(lines)


def _reporter() -> Callable[[AdoptionProgress], None]:
    """Return a function that reports on standard error: each table at its end, and a long one now and then."""
    last = time.monotonic()

    def report(so_far: AdoptionProgress) -> None:
        nonlocal last
        if so_far.rows >= so_far.total or time.monotonic() - last >= REPORTED_EVERY:
            last = time.monotonic()
            click.echo(f"{so_far.table}: {so_far.rows:,} of {so_far.total:,}", err=True)

    return report
