"""Options that several commands have."""

from __future__ import annotations

import sys

import click

from .choices import LOCK_TIMEOUT

__all__ = [
    "after_option",
    "answerable",
    "confirm",
    "json_option",
    "limit_option",
    "lock_timeout_option",
    "migration_url_option",
    "pooler_option",
    "schema_option",
    "target_option",
    "triggers_option",
    "url_option",
    "yes_option",
]

url_option = click.option("--url", help="Database URL; else ALFRED_DB_URL, DATABASE_URL.")
migration_url_option = click.option(
    "--url", help="Database URL; else ALFRED_DB_MIGRATION_URL, ALFRED_DB_URL, DATABASE_URL."
)
schema_option = click.option("--schema", help="The tenant; default: the default tenant.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
triggers_option = click.option(
    "--triggers/--no-triggers",
    default=True,
    help="Create the updated_at triggers, which Citus cannot distribute.",
)
target_option = click.option(
    "--target",
    type=click.Choice(["broker"]),
    help="What the database has alone: broker is the broker's catalog, which `catalog link` links to others.",
)
pooler_option = click.option(
    "--pooler",
    type=click.Choice(["transaction"]),
    help="The pooler in front of the server; the worker then polls only.",
)
after_option = click.option("--after", metavar="CURSOR", help="The cursor that the previous page ended with.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Rows per page."
)
lock_timeout_option = click.option(
    "--lock-timeout", type=float, default=LOCK_TIMEOUT, show_default=True, help="Seconds to wait for others."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal before something is deleted; exit with status 1 if the answer is no.

    Raises:
        click.UsageError: Nobody can answer, because standard input is no terminal.
    """
    answerable(yes)
    if not yes:
        click.confirm(question, abort=True, err=True)


def answerable(yes: bool) -> None:
    """Raise if there is a question to answer, and nobody who can.

    Raises:
        click.UsageError: Standard input is no terminal, and `--yes` was not passed.
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("this asks for confirmation, and standard input is no terminal; pass --yes")
