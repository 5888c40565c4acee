"""Options that several commands have."""

from __future__ import annotations

import click

__all__ = [
    "after_option",
    "json_option",
    "migration_url_option",
    "pooler_option",
    "schema_option",
    "triggers_option",
    "url_option",
]

url_option = click.option("--url", help="Database URL; else ALFRED_DB_URL, DATABASE_URL.")
migration_url_option = click.option(
    "--url", help="Database URL; else ALFRED_DB_MIGRATION_URL, ALFRED_DB_URL, DATABASE_URL."
)
schema_option = click.option(
    "--schema", help="The tenant whose tables are meant; default: the unqualified ones."
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
triggers_option = click.option(
    "--triggers/--no-triggers", default=True, help="Leave out the triggers, which Citus cannot distribute."
)
pooler_option = click.option(
    "--pooler", type=click.Choice(["transaction"]), help="What stands before the server: polls only."
)
after_option = click.option("--after", metavar="CURSOR", help="The next page: what the last one ended with.")
