"""`alfred-db vectors`: the state of the vector indexes, building and comparing them, and their recall."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import click

from ..config import database_url, migration_url
from ..database import Database
from ..engine.pool import passing_engine
from ..errors import translated
from ..indexes import EF, LOCK_TIMEOUT, IndexStatus, Progress, advise, build_index, rebuild, recall, status
from ..models import SpaceIndex
from .groups import Group
from .options import json_option, migration_url_option, schema_option, url_option

__all__ = ["vectors"]


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
    engine = passing_engine(database_url(url), "alfred-db vectors status")
    with translated(), engine.connect() as connection:
        found = status(connection, schema)
    if as_json:
        click.echo(json.dumps([one.as_dict() for one in found], indent=2))
    else:
        click.echo(_table(found))
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
@click.option("--maintenance-work-mem", metavar="SIZE", help="Memory to build in, such as 2GB.")
@click.option(
    "--lock-timeout", type=float, default=LOCK_TIMEOUT, show_default=True, help="Seconds to wait for others."
)
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
    done = rebuild(
        passing_engine(migration_url(url), "alfred-db vectors rebuild"),
        index,
        schema=schema,
        progress=_progress_printer(),
        maintenance_work_mem=maintenance_work_mem,
        lock_timeout=lock_timeout,
    )
    if as_json:
        click.echo(json.dumps([asdict(one) for one in done], indent=2))
        return
    for one in done:
        did = "dropped" if one.dropped else "rebuilt"
        sizes = _size(one.size_before) + ("" if one.dropped else f" -> {_size(one.size)}")
        click.echo(f"{did} {one.schema}.{one.name} in {one.seconds:.1f} s, {sizes}")
    if not done:
        click.echo("nothing to rebuild")


def _progress_printer() -> Callable[[Progress], None]:
    """Return a callback that prints each new phase, and each tenth of it."""
    last: list[tuple[str, str, int]] = []

    def show(progress: Progress) -> None:
        tenth = int(10 * (progress.fraction or 0))
        if last != [(progress.index, progress.phase, tenth)]:
            last[:] = [(progress.index, progress.phase, tenth)]
            part = "" if progress.fraction is None else f" {progress.fraction:.0%}"
            click.echo(f"{progress.index}: {progress.phase}{part}", err=True)

    return show


@vectors.command("recall")
@click.option("--table", required=True, help="A table, or a partition, with a vector index.")
@click.option("--target", default=0.95, show_default=True, help="The recall to reach.")
@click.option("--k", default=10, show_default=True, help="How many nearest rows a search returns.")
@click.option("--samples", default=200, show_default=True, help="How many stored vectors to search for.")
@click.option("--ef", type=int, multiple=True, help="A value of hnsw.ef_search to try; may be repeated.")
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
    with Database(database_url(url), schema=schema) as database:
        report = recall(
            database.engine, table, schema=schema, target=target, k=k, samples=samples, ef=ef or EF
        )
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.as_text())
    ctx.exit(1 if report.ef is None else 0)


@vectors.command("advise")
@click.option("--table", help="A table, or a partition, with vectors.")
@click.option("--space", help="An embedding space; pass either this or a table.")
@click.option("--target", default=0.95, show_default=True, help="The recall to reach.")
@click.option("--k", default=10, show_default=True, help="How many nearest rows a search returns.")
@click.option("--samples", default=100, show_default=True, help="How many stored vectors to search for.")
@click.option("--rows", default=50_000, show_default=True, help="How many vectors to build the indexes on.")
@click.option("--ef", type=int, multiple=True, help="A value of hnsw.ef_search to try; may be repeated.")
@click.option("--maintenance-work-mem", metavar="SIZE", help="Memory to build in, such as 2GB.")
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
    with Database(database_url(url), schema=schema) as database:
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
        )
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.as_text())
    ctx.exit(1 if found.best is None else 0)


@vectors.command("build")
@click.argument("space")
@click.option(
    "--index",
    type=click.Choice([one.value for one in SpaceIndex]),
    help="The kind of index; default: that of the space.",
)
@migration_url_option
@schema_option
@click.option("--maintenance-work-mem", metavar="SIZE", help="Memory to build in, such as 2GB.")
@click.option(
    "--lock-timeout", type=float, default=LOCK_TIMEOUT, show_default=True, help="Seconds to wait for others."
)
def build_for(
    space: str,
    index: str | None,
    url: str | None,
    schema: str | None,
    maintenance_work_mem: str | None,
    lock_timeout: float,
) -> None:
    """Build another index for the embedding space SPACE while others read and write, then drop the old one."""
    with Database(migration_url(url), schema=schema) as database:
        built = build_index(
            database,
            space,
            index,
            progress=_progress_printer(),
            maintenance_work_mem=maintenance_work_mem,
            lock_timeout=lock_timeout,
        )
    click.echo(f"{space} has the index {built.value}")


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    if value is None:
        return "unknown"
    return f"{value / 2**20:,.1f} MB" if value >= 2**20 else f"{value / 2**10:,.0f} kB"
