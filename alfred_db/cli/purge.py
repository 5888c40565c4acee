"""`alfred-db purge`: deletes what a retention policy does not keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from .choices import AGES, PURGED, PURGED_AT_ONCE
from .databases import opened
from .options import confirm, json_option, schema_option, url_option, yes_option
from .output import note, print_result
from .progress import progress

__all__ = ["purge", "retention_option"]


def _age(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    from ..errors import InvalidInputError
    from ..retention.policy import seconds_of

    try:
        seconds_of(str(parameter.name), value)
    except InvalidInputError as error:
        raise click.BadParameter(str(error), context, parameter) from None
    return value


def _age_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each age of a policy."""
    for name in reversed(AGES):
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
@click.option("--only", type=click.Choice(PURGED), multiple=True, help="Only this kind; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Print how many rows would be deleted, and delete nothing.")
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=PURGED_AT_ONCE,
    show_default=True,
    help="Rows per transaction.",
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
    from ..retention import RetentionPolicy
    from ..retention import purge as purge_by_policy

    given: dict[str, Any] = {name: age for name, age in ages.items() if age is not None}
    if expired is not None:
        given["expired"] = expired
    wanted = replace(RetentionPolicy() if policy is None else RetentionPolicy.from_file(policy), **given)
    if not dry_run:
        confirm("Delete what the policy does not keep?", yes)
    with opened(url, schema, application_name="alfred-db purge") as database, progress() as report:
        done = purge_by_policy(
            database,
            wanted,
            only=only or None,
            dry_run=dry_run,
            batch=batch,
            progress=lambda so_far: report(so_far.kind, so_far.rows, None),
        )
    errors = {one.kind: str(one.error) for one in done if one.error is not None}
    values = {"dry_run": dry_run, "rows": {one.kind: one.rows for one in done}, "errors": errors}
    word = "would be deleted" if dry_run else "deleted"
    print_result(values, *(f"{one.kind:<16}{one.rows:>14,} {word}" for one in done), as_json=as_json)
    for kind, error in errors.items():
        note(f"{kind}: {error}")
    click.get_current_context().exit(1 if any(one.error is not None for one in done) else 0)
