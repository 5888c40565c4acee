"""`alfred-db vectors`: the state of the vector indexes, building and comparing them, and their recall."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .choices import SPACE_INDEXES
from .databases import connected, engine_of, opened
from .groups import Group
from .options import json_option, lock_timeout_option, migration_url_option, schema_option, url_option
from .output import print_result
from .progress import progress, reporter

if TYPE_CHECKING:
    from ..indexes import IndexStatus

__all__ = ["vectors"]

recall_option = click.option("--target", default=0.95, show_default=True, help="The recall to reach.")
k_option = click.option("--k", default=10, show_default=True, help="How many nearest rows a search returns.")
ef_option = click.option(
    "--ef", type=int, multiple=True, help="A value of hnsw.ef_search to try; may be repeated."
)
memory_option = click.option(
    "--maintenance-work-mem", metavar="SIZE", help="Memory to build in, such as 2GB."
)


@click.group(cls=Group)
def vectors() -> None:
    """Vector indexes: show their state, compare kinds of them, build them, and measure their recall."""


@vectors.command("status")
@url_option
@schema_option
@json_option
@click.pass_context
def show(ctx: click.Context, url: str | None, schema: str | None, as_json: bool) -> None:
    """List the vector indexes. Exit status: 0 all are well, 1 one needs care."""
    from ..indexes import status

    with connected(url, "alfred-db vectors status") as connection:
        found = status(connection, schema)
    print_result([one.as_dict() for one in found], _table(found), as_json=as_json)
    ctx.exit(1 if any(one.warnings for one in found) else 0)


def _table(found: list[IndexStatus]) -> str:
    names = [f"{one.schema}.{one.table}" for one in found]
    wide, widest = max(map(len, names)), max(len(one.name) for one in found)
    lines = [f"{'table':<{wide}}  {'index':<{widest}}  {'state':<8}  {'size':>9}  {'rows':>9}  {'scans':>9}"]
    for name, one in zip(names, found, strict=True):
        lines.append(
            f"{name:<{wide}}  {one.name:<{widest}}  {one.state:<8}  {_size(one.size):>9}  {_count(one.rows):>9}"
            f"  {_count(one.scans):>9}{'  unused' if one.unused else ''}"
        )
    since = next((one.since for one in found if one.since), None)
    lines.append(
        f"scans since {'the database was made' if since is None else since.isoformat(' ', 'seconds')}"
    )
    reported: list[str] = []
    for one in found:
        for warning in one.warnings:
            general = warning.startswith("vector ")
            reported.append(warning if general else f"{one.schema}.{one.name}: {warning}")
    return "\n".join([*lines, *(f"warning  {warning}" for warning in dict.fromkeys(reported))])


@vectors.command("rebuild")
@click.option("--index", help="Its name, or that of a partitioned table's; default: all that are invalid.")
@migration_url_option
@schema_option
@memory_option
@lock_timeout_option
@json_option
def build(
    index: str | None,
    url: str | None,
    schema: str | None,
    maintenance_work_mem: str | None,
    lock_timeout: float,
    as_json: bool,
) -> None:
    """Rebuild indexes while others read and write; drop what failed attempts have left."""
    from ..indexes import rebuild

    engine = engine_of(url, "alfred-db vectors rebuild", owner=True)
    with progress(steps=True) as report:
        done = rebuild(
            engine,
            index,
            schema=schema,
            progress=reporter(report),
            maintenance_work_mem=maintenance_work_mem,
            lock_timeout=lock_timeout,
        )
    lines = [
        f"{'dropped' if one.dropped else 'rebuilt'} {one.schema}.{one.name} in {one.seconds:.1f} s, "
        + _size(one.size_before)
        + ("" if one.dropped else f" -> {_size(one.size)}")
        for one in done
    ]
    print_result([asdict(one) for one in done], *(lines or ["nothing to rebuild"]), as_json=as_json)


@vectors.command("recall")
@click.option("--table", required=True, help="A table, or a partition, with a vector index.")
@recall_option
@k_option
@click.option("--samples", default=200, show_default=True, help="How many stored vectors to search for.")
@ef_option
@url_option
@schema_option
@json_option
@click.pass_context
def find(
    ctx: click.Context,
    table: str,
    target: float,
    k: int,
    samples: int,
    ef: tuple[int, ...],
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Measure recall and time by hnsw.ef_search. Exit status: 0 the target is met, 1 by none of the values."""
    from ..indexes import EF, recall

    with opened(url, schema) as database, progress() as show:
        report = recall(
            database.engine,
            table,
            schema=schema,
            target=target,
            k=k,
            samples=samples,
            ef=ef or EF,
            progress=reporter(show),
        )
    print_result(report.as_dict(), report.as_text(), as_json=as_json)
    ctx.exit(1 if report.ef is None else 0)


@vectors.command("advise")
@click.option("--table", help="A table, or a partition, with vectors.")
@click.option("--space", help="An embedding space; pass either this or a table.")
@recall_option
@k_option
@click.option("--samples", default=100, show_default=True, help="How many stored vectors to search for.")
@click.option("--rows", default=50_000, show_default=True, help="How many vectors to build the indexes on.")
@ef_option
@memory_option
@url_option
@schema_option
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    table: str | None,
    space: str | None,
    target: float,
    k: int,
    samples: int,
    rows: int,
    ef: tuple[int, ...],
    maintenance_work_mem: str | None,
    url: str | None,
    schema: str | None,
    as_json: bool,
) -> None:
    """Measure each kind of index on a sample of the rows. Exit status: 0 one meets the target, 1 none does."""
    from ..indexes import EF, advise

    with opened(url, schema) as database, progress() as report:
        found = advise(
            database.engine,
            table,
            space=space,
            schema=schema,
            target=target,
            k=k,
            samples=samples,
            rows=rows,
            ef=ef or EF,
            maintenance_work_mem=maintenance_work_mem,
            progress=reporter(report),
        )
    print_result(found.as_dict(), found.as_text(), as_json=as_json)
    ctx.exit(1 if found.best is None else 0)


@vectors.command("build")
@click.argument("space")
@click.option(
    "--index",
    type=click.Choice(SPACE_INDEXES),
    help="The kind of index; default: that of the space.",
)
@migration_url_option
@schema_option
@memory_option
@lock_timeout_option
@json_option
def build_for(
    space: str,
    index: str | None,
    url: str | None,
    schema: str | None,
    maintenance_work_mem: str | None,
    lock_timeout: float,
    as_json: bool,
) -> None:
    """Build another index for the embedding space SPACE while others read and write, then drop the old one."""
    from ..indexes import build_index

    with opened(url, schema, owner=True) as database, progress(steps=True) as report:
        built = build_index(
            database,
            space,
            index,
            progress=reporter(report),
            maintenance_work_mem=maintenance_work_mem,
            lock_timeout=lock_timeout,
        )
    line = f"{space} has the index {built.value}"
    print_result({"space": space, "index": built.value}, line, as_json=as_json)


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    if value is None:
        return "unknown"
    return f"{value / 2**20:,.1f} MB" if value >= 2**20 else f"{value / 2**10:,.0f} kB"
