"""`alfred-db maintain`: the monthly partitions of the broker's request log and of the events."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import click

from .choices import LOGS
from .databases import opened
from .options import confirm, json_option, migration_url_option, schema_option, yes_option
from .output import as_json_text, note

if TYPE_CHECKING:
    from ..database import Database
    from ..execution._sync.partitions import Partitions

__all__ = ["maintain"]


@dataclass(slots=True)
class _Done:
    """What was done, or would be; it is printed as it happens, or at the end as JSON."""

    dry_run: bool
    as_json: bool
    made: list[str] = field(default_factory=list[str])
    detached: list[str] = field(default_factory=list[str])
    dropped: list[str] = field(default_factory=list[str])
    kept: dict[str, str] = field(default_factory=dict[str, str])
    """Why a partition is kept, or a log was left, by its name."""
    jobs: list[int] = field(default_factory=list[int])
    """The jobs of pg_cron."""

    def say(self, line: str) -> None:
        if not self.as_json:
            click.echo(line)

    def keep(self, name: str, why: str, line: str) -> None:
        self.kept[name] = why
        note(line)


@click.command()
@migration_url_option
@schema_option
@click.option("--only", type=click.Choice(LOGS), help="Maintain only one of the two logs.")
@click.option(
    "--months-ahead", default=3, show_default=True, help="Create partitions for this number of coming months."
)
@click.option(
    "--keep-months", type=int, help="Detach what is older than this number of months before the current one."
)
@click.option("--drop", is_flag=True, help="Drop what is older, with its rows, instead of detaching it.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--schedule", metavar="CRON", help="Have pg_cron run it at these times, and do nothing now.")
@yes_option
@json_option
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
    yes: bool,
    as_json: bool,
) -> None:
    """Create the coming partitions of the broker's request log and of the events, and detach or drop old ones.

    Partitions with events that a consumer has still to read are kept; the command reports them and exits with status 1.
    """
    if drop and keep_months is None:
        raise click.UsageError("--drop needs --keep-months")
    if drop and not dry_run:
        confirm(f"Drop the partitions that are older than {keep_months} months, with their rows?", yes)
    done = _Done(dry_run, as_json)
    with opened(url, schema, owner=True) as database:
        logs = {name: log for name, log in _logs().items() if only in (None, name)}
        for name, log in logs.items():
            if schedule is not None:
                _schedule(database, log, schedule, months_ahead, keep_months, drop, done)
            else:
                _make(database, name, log, months_ahead, done)
        if schedule is None:
            if not done.made and not done.kept:
                done.say("nothing to make")
            for name, log in logs.items():
                if keep_months is not None:
                    _take_away(database, log, keep_months, drop, done)
                with database.begin() as uow:
                    left = log(uow.session).count_default()
                if left:
                    note(
                        f"{left} rows are in the default partition of {name}: their months have no partition"
                    )
    if as_json:
        values = asdict(done)
        del values["as_json"]
        click.echo(as_json_text(values))
    context.exit(1 if done.kept else 0)


def _logs() -> dict[str, type[Partitions]]:
    from ..repositories import BrokerRequestRepository, EventRepository

    return dict(zip(LOGS, (BrokerRequestRepository, EventRepository), strict=True))


def _schedule(
    database: Database,
    log: type[Partitions],
    schedule: str,
    months_ahead: int,
    keep_months: int | None,
    drop: bool,
    done: _Done,
) -> None:
    with database.begin() as uow:
        job = log(uow.session).schedule_maintenance(
            months_ahead=months_ahead, keep_months=keep_months, drop=drop, schedule=schedule
        )
    done.jobs.append(job)
    done.say(f"pg_cron runs it as job {job}")


def _make(database: Database, name: str, log: type[Partitions], months_ahead: int, done: _Done) -> None:
    from ..errors import ConflictError

    try:
        with database.begin() as uow:
            partitioned = log(uow.session)
            due = partitioned.due_partitions(months_ahead)
            if due and not done.dry_run:
                made = partitioned.make_partitions(months_ahead)
                due = due[len(due) - made :]  # the first ones, when another was making some too
    except ConflictError as error:  # a lock on one log: the other is not to wait for it
        done.keep(name, str(error), f"{name}: {error}")
        return
    for partition in due:
        done.made.append(partition)
        done.say(f"{'would make' if done.dry_run else 'made'} {partition}")


def _take_away(database: Database, log: type[Partitions], keep_months: int, drop: bool, done: _Done) -> None:
    """Detach or drop old partitions, one transaction each."""
    from ..errors import ConflictError, NotFoundError

    with database.begin() as uow:
        old = log(uow.session).old_partitions(keep_months)
    for part in old:
        try:
            # In a separate transaction: to hold the partition while waiting for the table would be a deadlock.
            with database.begin() as uow:
                readers = log(uow.session).partition_readers(part.name)
            if readers:
                why = f"still to be read by {', '.join(readers)}"
                done.keep(part.name, why, f"kept {part.name}: {why}")
                continue
            if not done.dry_run:
                with database.begin() as uow:
                    log(uow.session).detach_partition(part.name, drop=drop)
        except NotFoundError:
            done.say(f"{part.name} no longer exists")
            continue
        except ConflictError as error:  # a reader, or a lock: the others are not to wait for it
            done.keep(part.name, str(error), f"kept {part.name}: {error}")
            continue
        (done.dropped if drop else done.detached).append(part.name)
        words = ("would drop", "dropped") if drop else ("would detach", "detached")
        done.say(f"{words[not done.dry_run]} {part.name}, {part.size:,} bytes")
