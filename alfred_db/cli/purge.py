"""`alfred-db purge`: deletes what a retention policy does not keep."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from ..config import database_url
from ..database import Database
from ..errors import InvalidInputError
from ..retention import BATCH, KINDS, PurgeResult, RetentionPolicy
from ..retention import purge as purge_by_policy
from ..retention.policy import seconds_of
from .options import confirm, json_option, schema_option, url_option, yes_option

__all__ = ["purge", "retention_option"]

REPORTED_EVERY = 5.0
"""Seconds between two lines about the progress of one kind."""


def _age(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    try:
        seconds_of(str(parameter.name), value)
    except InvalidInputError as error:
        raise click.BadParameter(str(error), context, parameter) from None
    return value


def _age_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each age of a policy."""
    for name in reversed(RetentionPolicy.ages()):
        words = f"Delete {name} that are older, such as 30d; units: s, m, h, d, w, y."
        command = click.option(f"--{name}", metavar="AGE", callback=_age, help=words)(command)
    return command


def retention_option(name: str, words: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option that takes the file of a policy."""
    return click.option(name, metavar="FILE", help=words)


@click.command()
@retention_option("--policy", 'A TOML file with lines such as tasks = "30d".')
@_age_options
@click.option(
    "--expired/--no-expired",
    default=None,
    help="Whether to delete what has passed its own time, such as memories and cached values; default: yes.",
)
@click.option(
    "--only", type=click.Choice(list(KINDS)), multiple=True, help="Only this kind; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Print how many rows would be deleted, and delete nothing.")
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=BATCH, show_default=True, help="Rows per transaction."
)
@yes_option
@url_option
@schema_option
@json_option
def purge(
    policy: str | None,
    expired: bool | None,
    only: tuple[str, ...],
    dry_run: bool,
    batch: int,
    yes: bool,
    url: str | None,
    schema: str | None,
    as_json: bool,
    **ages: str | None,
) -> None:
    """Delete what is older than a retention policy allows, or has expired, in batches.

    Without an age, only what has expired is deleted. Exit status: 1 if a kind could not be purged to its end.
    """
    given: dict[str, Any] = {name: age for name, age in ages.items() if age is not None}
    if expired is not None:
        given["expired"] = expired
    wanted = replace(RetentionPolicy() if policy is None else RetentionPolicy.from_file(policy), **given)
    if not dry_run:
        confirm("Delete what the policy does not keep?", yes)
    with Database(database_url(url), schema=schema, application_name="alfred-db purge") as database:
        done = purge_by_policy(
            database, wanted, only=only or None, dry_run=dry_run, batch=batch, progress=_reporter()
        )
    if as_json:
        rows = {one.kind: one.rows for one in done}
        errors = {one.kind: str(one.error) for one in done if one.error is not None}
        click.echo(json.dumps({"dry_run": dry_run, "rows": rows, "errors": errors}, indent=2))
    else:
        for one in done:
            click.echo(f"{one.kind:<16}{one.rows:>14,} {'would be deleted' if dry_run else 'deleted'}")
        for one in done:
            if one.error is not None:
                click.echo(f"{one.kind}: {one.error}", err=True)
    click.get_current_context().exit(1 if any(one.error is not None for one in done) else 0)


def _reporter() -> Callable[[PurgeResult], None]:
    """Return a function that reports long purges on standard error."""
    last = time.monotonic()

    def report(so_far: PurgeResult) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORTED_EVERY:
            last = time.monotonic()
            click.echo(f"{so_far.kind}: {so_far.rows:,} so far", err=True)

    return report
