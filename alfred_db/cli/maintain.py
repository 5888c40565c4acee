"""`alfred-db maintain`: the monthly partitions of the broker's request log and of the events."""

from __future__ import annotations

import click

from ..config import migration_url
from ..database import Database
from ..errors import ConflictError, NotFoundError
from ..execution._sync.partitions import Partitions
from ..repositories import BrokerRequestRepository, EventRepository
from .options import migration_url_option, schema_option

__all__ = ["maintain"]

LOGS: dict[str, type[Partitions]] = {
    "requests": BrokerRequestRepository,
    "events": EventRepository,
}


@click.command()
@migration_url_option
@schema_option
@click.option("--only", type=click.Choice(list(LOGS)), help="Maintain only one of the two logs.")
@click.option(
    "--months-ahead", default=3, show_default=True, help="Create partitions for this number of coming months."
)
@click.option(
    "--keep-months", type=int, help="Detach what is older than this number of months before the current one."
)
@click.option("--drop", is_flag=True, help="Drop what is older, with its rows, instead of detaching it.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--schedule", metavar="CRON", help="Have pg_cron run it at these times, and do nothing now.")
@click.pass_context
def maintain(
    context: click.Context,
    url: str | None,
    schema: str | None,
    only: str | None,
    months_ahead: int,
    keep_months: int | None,
    drop: bool,
    dry_run: bool,
    schedule: str | None,
) -> None:
    """Create the coming partitions of the broker's request log and of the events, and detach or drop old ones.

    Partitions with events that a consumer has still to read are kept; the command reports them and exits with status 1.
    """
    if drop and keep_months is None:
        raise click.UsageError("--drop needs --keep-months")
    logs = LOGS.items() if only is None else [(only, LOGS[only])]
    made = kept = 0
    with Database(migration_url(url), schema=schema) as database:
        if schedule is not None:
            for _, log in logs:
                _schedule(database, log, schedule, months_ahead, keep_months, drop)
            return
        for name, log in logs:
            try:
                made += _make(database, log, months_ahead, dry_run)
            except ConflictError as error:  # a lock on one log: the other is not to wait for it
                click.echo(f"{name}: {error}", err=True)
                kept += 1
        if not made and not kept:
            click.echo("nothing to make")
        for name, log in logs:
            if keep_months is not None:
                kept += _take_away(database, log, keep_months, drop, dry_run)
            with database.begin() as uow:
                left = log(uow.session).count_default()
            if left:
                message = (
                    f"{left} rows are in the default partition of {name}: their months have no partition"
                )
                click.echo(message, err=True)
    context.exit(1 if kept else 0)


def _schedule(
    database: Database,
    log: type[Partitions],
    schedule: str,
    months_ahead: int,
    keep_months: int | None,
    drop: bool,
) -> None:
    with database.begin() as uow:
        job = log(uow.session).schedule_maintenance(
            months_ahead=months_ahead, keep_months=keep_months, drop=drop, schedule=schedule
        )
    click.echo(f"pg_cron runs it as job {job}")


def _make(database: Database, log: type[Partitions], months_ahead: int, dry_run: bool) -> int:
    with database.begin() as uow:
        partitioned = log(uow.session)
        due = partitioned.due_partitions(months_ahead)
        if due and not dry_run:
            made = partitioned.make_partitions(months_ahead)
            due = due[len(due) - made :]  # the first ones, when another was making some too
    for name in due:
        click.echo(f"{'would make' if dry_run else 'made'} {name}")
    return len(due)


def _take_away(database: Database, log: type[Partitions], keep_months: int, drop: bool, dry_run: bool) -> int:
    """Detach or drop old partitions, one transaction each, and return how many are kept."""
    kept = 0
    with database.begin() as uow:
        old = log(uow.session).old_partitions(keep_months)
    for part in old:
        try:
            # In a separate transaction: to hold the partition while waiting for the table would be a deadlock.
            with database.begin() as uow:
                readers = log(uow.session).partition_readers(part.name)
            if readers:
                click.echo(f"kept {part.name}: still to be read by {', '.join(readers)}", err=True)
                kept += 1
                continue
            if not dry_run:
                with database.begin() as uow:
                    log(uow.session).detach_partition(part.name, drop=drop)
        except NotFoundError:
            click.echo(f"{part.name} no longer exists")
            continue
        except ConflictError as error:  # a reader, or a lock: the others are not to wait for it
            click.echo(f"kept {part.name}: {error}", err=True)
            kept += 1
            continue
        done = ("would drop", "dropped") if drop else ("would detach", "detached")
        click.echo(f"{done[not dry_run]} {part.name}, {part.size:,} bytes")
    return kept
