"""`alfred-db adopt`: moves the rows of a platform's database into the schema of alfred-db."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .choices import ADOPTED_AT_ONCE
from .options import answerable, confirm, json_option, migration_url_option, schema_option, yes_option
from .output import print_result
from .progress import progress

if TYPE_CHECKING:
    from ..transfer.plans import AdoptedTable, AdoptionPlan

__all__ = ["adopt"]


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
@yes_option
@click.option(
    "--batch",
    type=click.IntRange(1, 100_000),
    default=ADOPTED_AT_ONCE,
    show_default=True,
    help="Rows per transaction.",
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
    from ..transfer.adopting import Adoption

    if not plan_only:
        answerable(yes)
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
    ended = plan_only or plan.done_at is not None
    if ended or not as_json:
        print_result({"plan": asdict(plan)}, _described(plan), as_json=as_json)
    if ended:
        return
    confirm("Adopt these rows?", yes)
    with progress(steps=True) as report:
        adopted = adoption.run(lambda so_far: report(so_far.table, so_far.rows, so_far.total))
    values = {"plan": asdict(plan), "adopted": [asdict(one) for one in adopted]}
    print_result(values, _compared(adopted), as_json=as_json)
    click.get_current_context().exit(0 if all(one.same for one in adopted) else 1)


def _described(plan: AdoptionPlan) -> str:
    from ..transfer.source import LEGACY

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
