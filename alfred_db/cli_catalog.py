"""`alfred-db catalog`: the catalogs as JSON; `alfred-db maintain`: the monthly partitions of the request log."""

from __future__ import annotations

from typing import TextIO

import click

from .catalog import read, seed, written
from .config import database_url, migration_url
from .database import Database
from .errors import NotFoundError
from .repositories._sync.broker import BrokerCatalogRepository
from .repositories._sync.broker_requests import BrokerRequestRepository
from .repositories._sync.model_registry import ModelRegistryRepository

__all__ = ["catalog", "maintain"]


@click.group()
def catalog() -> None:
    """The catalogs that all tenants share: the broker's, and the model registry."""


@catalog.command()
@click.argument("file", type=click.File(encoding="utf-8"), required=False)
@click.option("--url", help="Database URL; else ALFRED_DB_URL, DATABASE_URL.")
def load(file: TextIO | None, url: str | None) -> None:
    """Load FILE (JSON; `-` for standard input), by default the one that comes with alfred-db.

    Known rows are brought up to date by their codes; what FILE does not name stays.
    """
    document = read(seed() if file is None else file.read())
    with Database(database_url(url)) as database, database.begin() as uow:
        loaded = dict(BrokerCatalogRepository(uow.session).import_catalog(document))
        loaded["registry"] = ModelRegistryRepository(uow.session).import_catalog(document)
    click.echo("loaded " + ", ".join(f"{name} {count}" for name, count in loaded.items()))


@catalog.command()
@click.argument("file", type=click.File("w", encoding="utf-8", atomic=True), default="-")
@click.option("--url", help="Database URL; else ALFRED_DB_URL, DATABASE_URL.")
def export(file: TextIO, url: str | None) -> None:
    """Write both catalogs to FILE, by default to standard output, as `load` reads them."""
    with Database(database_url(url)) as database, database.begin() as uow:
        document = BrokerCatalogRepository(uow.session).export_catalog()
        document |= ModelRegistryRepository(uow.session).export_catalog()
    file.write(written(document))


@click.command()
@click.option("--url", help="Database URL; else ALFRED_DB_MIGRATION_URL, ALFRED_DB_URL, DATABASE_URL.")
@click.option("--schema", help="The tenant whose tables are meant; default: the unqualified ones.")
@click.option("--months-ahead", default=3, show_default=True, help="Coming months to have partitions for.")
@click.option("--keep-months", type=int, help="Detach what is older than so many months before this one.")
@click.option("--drop", is_flag=True, help="Drop what is older, with its rows, instead of detaching it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--schedule", metavar="CRON", help="Have pg_cron do it at these times from now on, and do nothing now."
)
def maintain(
    url: str | None,
    schema: str | None,
    months_ahead: int,
    keep_months: int | None,
    drop: bool,
    dry_run: bool,
    schedule: str | None,
) -> None:
    """Make the coming partitions of the broker's request log, and detach or drop the old ones."""
    if drop and keep_months is None:
        raise click.UsageError("--drop needs --keep-months")
    with Database(migration_url(url), schema=schema) as database:
        if schedule is not None:
            _schedule(database, schedule, months_ahead, keep_months, drop)
            return
        _make(database, months_ahead, dry_run)
        if keep_months is not None:
            _take_away(database, keep_months, drop, dry_run)
        with database.begin() as uow:
            left = BrokerRequestRepository(uow.session).count_default()
        if left:
            click.echo(
                f"{left} rows are in the default partition: their months have none of their own", err=True
            )


def _schedule(
    database: Database, schedule: str, months_ahead: int, keep_months: int | None, drop: bool
) -> None:
    with database.begin() as uow:
        job = BrokerRequestRepository(uow.session).schedule_maintenance(
            months_ahead=months_ahead, keep_months=keep_months, drop=drop, schedule=schedule
        )
    click.echo(f"pg_cron does it as job {job}")


def _make(database: Database, months_ahead: int, dry_run: bool) -> None:
    with database.begin() as uow:
        requests = BrokerRequestRepository(uow.session)
        due = requests.due_partitions(months_ahead)
        if due and not dry_run:
            requests.make_partitions(months_ahead)
    for name in due:
        click.echo(f"{'would make' if dry_run else 'made'} {name}")
    if not due:
        click.echo("nothing to make")


def _take_away(database: Database, keep_months: int, drop: bool, dry_run: bool) -> None:
    """Each in a transaction of its own, so that nobody waits for more than one."""
    with database.begin() as uow:
        old = BrokerRequestRepository(uow.session).old_partitions(keep_months)
    for part in old:
        if dry_run:
            click.echo(f"would {'drop' if drop else 'detach'} {part.name}, {part.size:,} bytes")
            continue
        try:
            with database.begin() as uow:
                BrokerRequestRepository(uow.session).detach_partition(part.name, drop=drop)
            click.echo(f"{'dropped' if drop else 'detached'} {part.name}, {part.size:,} bytes")
        except NotFoundError:
            click.echo(f"{part.name} is gone already")
